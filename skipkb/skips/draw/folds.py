"""Folds: blocks that repeat, so that only some of their copies need be drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from skipkb.skips.draw.arcs import Arc, Look, find_arcs
from skipkb.skips.graph import SkipGraph

FOLD_ABOVE = 96
"""Layers a line may have before repeated blocks are folded."""
FOLD_TIMES = 4
"""Repetitions that make folding worth its mark."""
UNFOLD_BELOW = 50
"""Layers below which a folded line shows more of what it repeats."""
FOLDS = 4
"""Folds a line may have."""
LEAST_HIDDEN = 8
"""Layers a fold must save."""
LONGEST_BLOCK = 128
"""Layers of the longest block that is looked for."""

Span = tuple[int, int, Look | None]
"""From where to where, and as what."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A block that repeats: ``times`` copies of ``period`` layers, of which the outer ones are drawn."""

    start: int
    period: int
    times: int
    keep: int = 1
    """Copies drawn on either side."""

    @property
    def hidden(self) -> range:
        """Layers left out."""
        return range(self.start + self.keep * self.period, self.stop - self.keep * self.period)

    @property
    def stop(self) -> int:
        """End of the last copy."""
        return self.start + self.times * self.period

    def hides(self, arc: Arc) -> bool:
        """Whether the arc belongs to a copy that is left out."""
        low, high = self.hidden.start, self.hidden.stop
        inside = low <= arc.start and arc.end <= high and arc.start < high
        return inside and not (arc.start == low and arc.end == high)

    def fits(self, other: Fold) -> bool:
        """Whether both can be folded: apart, or this one within a copy that the other leaves to be seen."""
        drawn = (
            (0, other.start),
            (other.start, other.hidden.start),
            (other.hidden.stop, other.stop),
            (other.stop, self.stop),
        )
        return any(low <= self.start and self.stop <= high for low, high in drawn)


def find_folds(graph: SkipGraph, *, above: int = FOLD_ABOVE) -> list[Fold]:
    """Repetitions to fold until the line is short enough, the most rewarding first; in order of the line.

    Blocks are equal if their layers (class, channels, resolution) and the arcs within them are. No arc may lead from
    a block that is left out to another block, so that every arc that is not drawn has its like in one that is.
    """
    signs = [(layer.type, layer.kind, layer.channels, layer.size, layer.places) for layer in graph.layers]
    folds: list[Fold] = []
    length = len(signs)
    if length <= above:
        return folds
    spans: list[Span] = [(arc.start, arc.end, arc.look) for arc in find_arcs(graph)]
    spans += [(min(merge.start, merge.end), merge.end, None) for merge in graph.multi_branch]
    for fold in sorted(_repetitions(signs, spans), key=lambda fold: (-len(fold.hidden), fold.period, fold.start)):
        enough = length <= above or len(folds) == FOLDS or len(fold.hidden) < LEAST_HIDDEN
        if not enough and all(fold.fits(other) for other in folds):
            folds.append(fold)
            length -= len(fold.hidden)
    if len(folds) == 1 and length < UNFOLD_BELOW:  # nothing but this block: show enough of it to see the pattern
        fold = folds[0]
        keep = 1 + (UNFOLD_BELOW - length) // (2 * fold.period)
        folds[0] = replace(fold, keep=max(1, min(keep, (fold.times - 2) // 2)))
    return sorted(folds, key=lambda fold: (fold.start, -fold.stop))


def _repetitions(signs: Sequence[object], spans: Sequence[Span]) -> Iterable[Fold]:
    """The longest repetition of each period and phase in each run of layers that has the period."""
    for period in range(1, min(len(signs) // FOLD_TIMES, LONGEST_BLOCK) + 1):
        k = 0
        while k + period < len(signs):
            if signs[k] != signs[k + period]:
                k += 1
                continue
            begin = k
            while k + period < len(signs) and signs[k] == signs[k + period]:
                k += 1
            for start in range(begin, min(begin + period, k + period)):
                copies = (k + period - start) // period
                if copies >= FOLD_TIMES:
                    yield from _equal_copies(start, period, copies, spans)


def _equal_copies(start: int, period: int, copies: int, spans: Sequence[Span]) -> Iterable[Fold]:
    """Runs among the copies with like spans within, which no span ties to one another."""
    stop = start + copies * period
    inner: list[Counter[object]] = [Counter() for _ in range(copies)]
    tied: set[int] = set()
    for leave, meet, look in spans:
        if start <= leave < stop:
            copy = (leave - start) // period
            origin = start + copy * period
            if meet <= origin + period:
                inner[copy][leave - origin, meet - origin, look] += 1
                continue
        tied.update(place for place in (leave, meet) if start < place < stop)
    first = 0
    for last in range(1, copies + 1):
        middle = range(start + (first + 1) * period + 1, start + (last - 1) * period)
        if last < copies and inner[last] == inner[first] and not _within(tied, start, period, first, last + 1):
            continue
        if last - first >= FOLD_TIMES and middle:
            yield Fold(start + first * period, period, last - first)
        first = last if last < copies and inner[last] != inner[first] else max(first + 1, last - 1)


def _within(tied: set[int], start: int, period: int, first: int, last: int) -> bool:
    """Whether an arc from elsewhere ends in what would be left out of the copies first..last."""
    low, high = start + (first + 1) * period, start + (last - 1) * period
    return any(low < place < high for place in tied)

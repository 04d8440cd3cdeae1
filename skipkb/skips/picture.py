"""The fingerprint of a network: its layers on a line, an arc for every shortcut, as one small SVG.

The line is a skyline: its height is the resolution, so an encoder-decoder is a valley and a classifier a staircase.
Arcs run from where the paths part to where they meet: solid for an identity, dashed where the shortcut does something,
dotted where it is gated, filled where it joins two ends of a valley. Gates hang below the line.

A fingerprint is drawn from plain data, without torch. The same graph always gives the same bytes.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import pairwise
from typing import Literal

from skipkb.skips.graph import KINDS, SHORTCUTS, Edge, Kind, Shape, Shortcut, Skip, SkipGraph

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
LONGEST_ASIDE = 12
"""Layers of the longest block within which a lower resolution is not a stage of its own."""
ARCS = 600, 240
"""Arcs drawn at most, in the picture and in its thumbnail; a denser net is thinned evenly."""

LIGHT = {"add": "#4c63d2", "concat": "#d8572a", "gate": "#12836f", "multiply": "#9a6700"}
DARK = {"add": "#93a5ff", "concat": "#ff9466", "gate": "#45c9ae", "multiply": "#e0b04a"}
NOUNS = {"add": "addition", "concat": "concatenation", "gate": "gate", "multiply": "product"}

Stroke = Literal["solid", "dashed", "dotted"]
Look = tuple[bool, bool, bool, int, Stroke]
Span = tuple[int, int, Look | None]
"""From where to where, and as what."""
_CRAMPED = 200
"""Arcs above which they are drawn as hairlines."""


def fingerprint(
    graph: SkipGraph, *, title: str | None = None, width: int | None = None, thumbnail: bool = False
) -> str:
    """The picture as SVG text.

    ``title`` defaults to the class of the model. ``width`` is in CSS pixels: 720, or 220 for a thumbnail, which has
    a fixed shape and no visible text. Inline in a page the picture takes the page's text colour; as a file of its own
    it follows the reader's colour scheme.
    """
    width = (220 if thumbnail else 720) if width is None else width
    if width < 60:
        raise ValueError(f"a fingerprint needs a width of at least 60 pixels, not {width}")
    title = _clean(graph.model if title is None else title).strip() or "Unnamed network"
    folds = find_folds(graph)
    arcs = [arc for arc in _arcs(graph) if not any(fold.hides(arc) for fold in folds)]
    drawn = thinned(arcs, ARCS[thumbnail])
    body, height = _Drawing(graph, drawn, folds, width, thumbnail).draw(title)
    description = describe(graph, folds)
    if len(drawn) < len(arcs):
        description += f" Too dense to draw: {len(drawn)} of {len(arcs)} arcs are shown."
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "network"
    name = f"fp-{slug}-{zlib.crc32('|'.join((title, description, *body)).encode()):08x}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" id="{name}" role="img" aria-labelledby="{name}-t" '
        f'aria-describedby="{name}-d" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'fill="none" font-family="system-ui,sans-serif" font-size="12">',
        f'<title id="{name}-t">{escape(title)}</title>',
        f'<desc id="{name}-d">{escape(description)}</desc>',
        f"<style>{_style(name, body)}</style>",
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def describe(graph: SkipGraph, folds: Sequence[Fold] = ()) -> str:
    """What the picture shows, in sentences: its alternative text."""
    counts = graph.counts()
    skips = counts["add"] + counts["concat"]
    said = [f"{_many(len(graph.layers), 'weighted layer')} in order of execution"]
    ladder = [stage for stage in find_stages(graph) if stage.places > 1]
    if ladder:
        high = max(ladder, key=lambda stage: stage.places)
        low = min(ladder, key=lambda stage: stage.places)
        same = high.places == low.places
        said[0] += f" at {_size(high.size)}" if same else f", between {_size(high.size)} and {_size(low.size)}"
    if skips:
        kinds = _listed(_many(counts[kind], NOUNS[kind]) for kind in ("add", "concat") if counts[kind])
        edges = sum(not edge.partial for skip in graph.skips if not skip.partial for edge in skip.edges)
        said.append(f"{_many(skips, 'skip connection')}: {kinds}" + (f", with {edges} shortcuts" * (edges != skips)))
        said.append("On the shortcut: " + _listed(f"{counts[name]} {name}" for name in SHORTCUTS if counts[name]))
        said.append(f"{counts['long']} long, {counts['cross_scale']} across scales")
    else:
        said.append("No skip connection")
    for kind in ("gate", "multiply"):
        if counts[kind]:
            said.append(_many(counts[kind], NOUNS[kind]))
    partial = sum(skip.partial for skip in (*graph.skips, *graph.gates))
    if partial:
        said.append(f"{_many(partial, 'partial skip')}, drawn thin")
    if graph.weak:
        said.append(f"{_many(len(graph.weak), 'weak skip')} around a norm or a scale only, drawn thin")
    if graph.multi_branch:
        said.append(f"{_many(len(graph.multi_branch), 'merge')} of equal branches, which are no skips")
    if graph.lost:
        said.append(f"{_many(len(graph.lost), 'place')} where the trace lost the data")
    for fold in folds:
        drawn = "the first and the last" if fold.keep == 1 else f"the first {fold.keep} and the last {fold.keep}"
        said.append(f"Folded: of {fold.times} equal blocks of {_many(fold.period, 'layer')} only {drawn} are drawn")
    return ". ".join(said) + "."


# What is drawn ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arc:
    """One shortcut, reduced to what its line looks like."""

    start: int
    end: int
    kind: Kind
    stroke: Stroke
    thin: bool
    """Partial or weak: not among the counts."""
    filled: bool
    """Leaves the resolution and comes back."""
    below: bool
    """A gate."""
    source_shape: Shape = field(compare=False)
    shape: Shape = field(compare=False)

    @property
    def look(self) -> Look:
        """Arcs of one look share a path. Sorts from back to front."""
        return self.below, not self.thin, not self.filled, KINDS.index(self.kind), self.stroke


def _arcs(graph: SkipGraph) -> tuple[Arc, ...]:
    def arc(skip: Skip, edge: Edge, *, weak: bool = False, below: bool = False) -> Arc:
        return Arc(
            start=min(edge.start, skip.end),
            end=skip.end,
            kind=skip.kind,
            stroke=_stroke(edge.shortcut),
            thin=weak or edge.partial,
            filled=edge.cross_scale and not below and not edge.partial,
            below=below,
            source_shape=edge.source_shape,
            shape=skip.shape,
        )

    return (
        *(arc(skip, edge) for skip in graph.skips for edge in skip.edges),
        *(arc(skip, edge, weak=True) for skip in graph.weak for edge in skip.edges),
        *(arc(gate, edge, below=True) for gate in graph.gates for edge in gate.edges),
    )


def _stroke(shortcut: Shortcut) -> Stroke:
    return "solid" if shortcut == "identity" else "dotted" if shortcut == "gated" else "dashed"


def thinned(arcs: Sequence[Arc], most: int) -> list[Arc]:
    """Every nth source and nth merge of a net too dense to tell its arcs apart, so that the pattern stays."""
    kept = list(arcs)
    n = 1
    while len(kept) > most:
        n += 1
        groups: dict[Look, list[Arc]] = defaultdict(list)
        for arc in arcs:
            groups[arc.look].append(arc)
        kept = []
        for group in groups.values():
            sparse = len(group) * 8 <= most
            sources = {place: k for k, place in enumerate(sorted({arc.start for arc in group}))}
            merges = {place: k for k, place in enumerate(sorted({arc.end for arc in group}))}
            kept += [arc for arc in group if sparse or (sources[arc.start] + merges[arc.end]) % n == 0]
    return kept


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of layers at one resolution."""

    start: int
    end: int
    places: int
    size: Shape
    aside: frozenset[int]
    """Layers in between that work on a pooled copy: squeeze-and-excitation."""


def find_stages(graph: SkipGraph) -> list[Stage]:
    """The line cut where the resolution changes by more than a border's worth; what steps aside cuts nothing."""
    layers = graph.layers
    apart = _aside(graph)
    stages: list[Stage] = []
    run: list[int] = []

    def close() -> None:
        sizes = [layers[k].size for k in run if k not in apart]
        convs = {layers[k].size for k in run if layers[k].kind == "conv"}
        rank = Counter(sizes)
        size = max(rank, key=lambda size: (size in convs, rank[size], -sizes.index(size)))
        stages.append(Stage(run[0], run[-1] + 1, layers[run[0]].places, size, apart & {*run}))
        run.clear()

    for k, layer in enumerate(layers):
        if run and k not in apart and not _alike(layer.places, layers[run[0]].places):
            close()
        if not run:
            apart -= {k}
        run.append(k)
    if run:
        close()
    return stages


def _aside(graph: SkipGraph) -> frozenset[int]:
    """Layers on a smaller copy that comes back: squeeze-and-excitation, pooled keys, a shortcut computed first.

    That is: on the way to a gate, or lower than what follows in a block that ends no higher than it began. The floor
    of an encoder-decoder is none of these: its shortcuts cross scales.
    """
    places = [max(layer.places, 1) for layer in graph.layers]
    wide = max((k for k, number in enumerate(places) if number > 1), default=-1)
    found = {k for k in range(1, wide) if places[k] == 1 and any(number > 1 for number in places[:k])}
    for gate in graph.gates:
        for edge in gate.edges:
            before = places[max(edge.start - 1, 0)]
            for k in range(edge.start, gate.end):
                size = graph.layers[k].size
                if places[k] * 1.5 < before and not (size and _has(gate.shape, size)):
                    found.add(k)
    blocks = {(edge.start, skip.end) for skip in graph.skips for edge in skip.edges if not edge.cross_scale}
    blocks |= {(merge.start, merge.end) for merge in graph.multi_branch}
    for start, end in blocks:
        if end - start <= LONGEST_ASIDE:
            high = 0
            for k in reversed(range(start, end)):
                if places[k] * 1.5 < high:
                    found.add(k)
                high = max(high, places[k])
    return frozenset(found)


def _alike(places: int, others: int) -> bool:
    """Up to a border."""
    return 1 / 1.5 <= max(places, 1) / max(others, 1) <= 1.5


# Folding ------------------------------------------------------------------------------------------------------------


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
    spans: list[Span] = [(arc.start, arc.end, arc.look) for arc in _arcs(graph)]
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


# Drawing ------------------------------------------------------------------------------------------------------------

Point = tuple[float, int]


@dataclass(frozen=True, slots=True)
class _Measure:
    """Pixels that differ between the picture and its thumbnail."""

    margin: int
    gap: int
    """Width of a fold."""
    sky: int
    """Height of the skyline at most, at the lowest resolution, of a single position, and per octave at most."""
    floor: int
    head: int
    octave: int
    arch: float
    """Height of an arc across the whole picture, as a share of the width."""
    hang: int
    """How far gates hang down at most."""
    line: float


_LARGE = _Measure(margin=10, gap=40, sky=66, floor=14, head=7, octave=11, arch=0.27, hang=10, line=1.6)
_SMALL = _Measure(margin=4, gap=22, sky=26, floor=7, head=3, octave=5, arch=0.4, hang=6, line=1.2)


class _Drawing:
    """Geometry of one picture. y counts downwards from the skyline's ground, so what stands on it is negative."""

    def __init__(self, graph: SkipGraph, arcs: Sequence[Arc], folds: Sequence[Fold], width: int, small: bool) -> None:
        self.graph = graph
        self.folds = folds
        self.width = width
        self.small = small
        self.size = _SMALL if small else _LARGE
        self.stages = find_stages(graph)
        self.hidden = {k for fold in folds for k in fold.hidden}
        self.visible = [k for k in range(len(graph.layers)) if k not in self.hidden]
        self.x = self._positions()
        self.level = self._levels()
        self.top = max(self.level, default=self.size.floor)
        self.arcs = arcs
        self.arch = self.size.arch * width
        reach = max((self._rise(arc) - self._foot(arc) for arc in self.arcs if not arc.below), default=0)
        self.height = round(0.45 * width) if small else 0
        """Of a thumbnail: fixed, so that a gallery is even."""
        if small and reach > self.height - 8:
            self.arch *= max(self.height - 8 - self.top, 8) / max(reach - self.top, 1)

    def _positions(self) -> dict[int, float]:
        """x of every position on the line that is not folded away."""
        room = self.width - 2 * self.size.margin
        gaps = {fold.hidden.start: fold.hidden.stop for fold in self.folds}
        pitch = (room - self.size.gap * len(gaps)) / max(len(self.visible), 1)
        grain = (
            1 if pitch >= 20 else 0.5 if pitch >= 4 else 0.1 if pitch >= 1.5 else 0.01
        )  # round numbers make short paths
        self.pitch = max(math.floor(pitch / grain) * grain, 0.05)
        used = self.pitch * len(self.visible) + self.size.gap * len(gaps)
        x = self.size.margin + max(room - used, 0) // 2
        places: dict[int, float] = {0: x}
        for k in range(len(self.graph.layers)):
            if k in gaps:
                x += self.size.gap
                places[gaps[k]] = round(x, 1)
            if k not in self.hidden:
                x += self.pitch
                places[k + 1] = round(x, 1)
        return places

    def _levels(self) -> list[int]:
        """Height of the skyline over each layer: the logarithm of the resolution."""
        size = self.size
        octaves = [math.log2(max(stage.places, 1)) / 2 for stage in self.stages]
        wide = [octave for octave in octaves if octave > 0]
        low, high = (min(wide), max(wide)) if wide else (0.0, 0.0)
        step = min(size.octave, (size.sky - size.floor) / (high - low)) if high > low else 0.0
        heights: list[int] = []
        for stage, octave in zip(self.stages, octaves, strict=True):
            height = round(size.floor + (octave - low) * step) if octave > 0 or not wide else size.head
            heights += [height] * (stage.end - stage.start)
        return heights

    def _ground(self, position: int, shape: Shape) -> int:
        """y of the skyline at a position; where it steps, the side whose resolution the tensor has."""
        layers = self.graph.layers
        sides = [k for k in (position - 1, position) if 0 <= k < len(layers)]
        known = [k for k in sides if layers[k].size and _has(shape, layers[k].size)]
        return -self.level[(known or sides)[0]] if sides else -self.top

    def _ends(self, arc: Arc) -> tuple[Point, Point]:
        return (
            (self.x[arc.start], self._ground(arc.start, arc.source_shape)),
            (self.x[arc.end], self._ground(arc.end, arc.shape)),
        )

    def _foot(self, arc: Arc) -> float:
        """y of the higher end."""
        return min(y for _, y in self._ends(arc))

    def _rise(self, arc: Arc) -> int:
        """Height of an arc above its higher end: grows with its width, though less."""
        width = self.x[arc.end] - self.x[arc.start] or 3 * self.size.hang  # a loop where nothing lies between
        return max(round(self.arch * math.pow(width / self.width, 0.72)), 4)

    def _curves(self, arcs: Sequence[Arc]) -> list[_Curve]:
        """The arcs of one look; those between the same two points are spread."""
        seen: Counter[tuple[int, int]] = Counter()
        curves = []
        for arc in arcs:
            start, end = self._ends(arc)
            nth = min(seen[arc.start, arc.end], 3)
            seen[arc.start, arc.end] += 1
            if arc.below:
                peak = max(start[1], end[1]) + self._hang(start, end)
            else:
                peak = min(start[1], end[1]) - self._rise(arc) - 3 * nth
            curves.append(_Curve(start, end, peak, brief=self._cramped(arcs)))
        return curves

    def _cramped(self, arcs: Sequence[object]) -> bool:
        """More than a dozen pixels hold apart."""
        return len(arcs) * 720 > _CRAMPED * self.width

    def _hang(self, start: Point, end: Point) -> int:
        """How far a gate hangs down, without leaving the skyline."""
        room = -max(start[1], end[1]) - 3
        return round(max(3, min(self.size.hang, room, 0.6 * (end[0] - start[0]))))

    # What is on the picture, from back to front

    def draw(self, title: str) -> tuple[list[str], int]:
        """The elements and the height of the picture."""
        crown = max((self._rise(arc) - self._foot(arc) for arc in self.arcs if not arc.below), default=0)
        crown = math.ceil(max(crown, self.top)) + 5
        head: list[str] = []
        above = 0
        if self.small:
            ground = self.height - 4
        else:
            head, above = self._header(title)
            ground = above + max(crown, self.top + 24)
        marks = [] if self.small else self._brackets()
        body = [
            f'<g transform="translate(0 {ground})">',
            *self._skyline(),
            *marks,
            *self._branches(),
            *self._shortcuts(),
            *self._repeats(),
            "</g>",
        ]
        return [*head, *body], self.height if self.small else ground + (24 if marks else 8)

    def _runs(self) -> Iterator[tuple[Stage, int, int]]:
        """Neighbouring visible layers of one stage: stage, first position, last position."""
        for stage in self.stages:
            seen = [k for k in range(stage.start, stage.end) if k not in self.hidden]
            breaks = [i for i in range(1, len(seen)) if seen[i] != seen[i - 1] + 1]
            for low, high in pairwise([0, *breaks, len(seen)]):
                if seen:
                    yield stage, seen[low], seen[high - 1] + 1

    def _left(self, position: int) -> float:
        """x where the layer behind a position begins: right of a fold that ends there."""
        return round(self.x[position + 1] - self.pitch, 1)

    def _skyline(self) -> list[str]:
        """Ground, one cell a layer, and the line on top."""
        cells: list[str] = []
        tops: list[str] = []
        joints: list[str] = []
        before: tuple[int, float] | None = None
        for stage, start, end in self._runs():
            height = self.level[start]
            left, right = self._left(start), self.x[end]
            for low, high, aside in _blocks(start, end, stage.aside):
                across = round(self.x[high] - self._left(low), 1)
                cells.append(f"M{_n(self._left(low))} 0v{-3 if aside else -height}h{_n(across)}V0z")
            joined = before == (start, left)
            tops.append(f"V{-height}H{_n(right)}" if joined else f"M{_n(left)} {-height}H{_n(right)}")
            before = (end, right)
            if self.pitch >= (3 if self.small else 6):
                for k in range(start + 1, end):
                    joints.append(f"M{_n(self.x[k])} 0v{-3 if {k - 1, k} & stage.aside else -height}")
        if not tops:
            tops = [f"M{self.size.margin} {-self.size.floor}H{self.width - self.size.margin}"]
        return [
            *_path(cells, fill="currentColor", fill_opacity=0.13),
            *_path(joints, stroke="currentColor", stroke_opacity=0.22, stroke_width=0.7),
            *_path(tops, stroke="currentColor", stroke_opacity=0.6, stroke_width=self.size.line * 0.75),
        ]

    def _brackets(self) -> list[str]:
        """Under the ground: from where to where a resolution holds."""
        lines: list[str] = []
        labels: list[str] = []
        for stage in self.stages:
            seen = [k for k in range(stage.start, stage.end) if k not in self.hidden]
            if stage.places <= 1 or not seen:
                continue
            left, right = self._left(seen[0]) + 1, self.x[seen[-1] + 1] - 1
            if right - left < 2:
                continue
            lines.append(f"M{_n(left)} 4v3H{_n(right)}v-3")
            fitting = [text for text in _labels(stage.size) if len(text) * 6 <= right - left - 2]
            if fitting:
                labels.append(f'<text x="{_n((left + right) / 2)}" y="18">{fitting[0]}</text>')
        if not lines:
            return []
        return [
            *_path(lines, stroke="currentColor", stroke_opacity=0.5, stroke_width=0.8),
            '<g fill="currentColor" fill-opacity=".75" font-size="10" text-anchor="middle">',
            *labels,
            "</g>",
        ]

    def _branches(self) -> list[str]:
        """Merges of equal branches: grey and below the line, to be told from skips."""
        path = []
        for merge in self.graph.multi_branch:
            start, end = min(merge.start, merge.end), merge.end
            if start in self.x and end in self.x and start != end:
                ends = (self.x[start], self._ground(start, ())), (self.x[end], self._ground(end, merge.shape))
                path.append(_Curve(*ends, max(y for _, y in ends) + self._hang(*ends)).drawn())
        return _path(path, stroke="currentColor", stroke_opacity=0.55, stroke_width=self.size.line * 0.6)

    def _shortcuts(self) -> list[str]:
        """One path for each look."""
        looks: dict[Look, list[Arc]] = defaultdict(list)
        for arc in self.arcs:
            looks[arc.look].append(arc)
        ink: list[str] = []
        dots: dict[Kind, set[Point]] = defaultdict(set)
        for look in sorted(looks):
            arc, curves = looks[look][0], self._curves(looks[look])
            width, opacity = self.size.line, 1.0
            if self._cramped(looks[look]):
                width, opacity = width * 0.55, 0.7
            if arc.thin:
                width, opacity = self.size.line * 0.55, 0.7
            elif arc.filled:
                width *= 1.2
                fills = [f"{curve.drawn()}{self._valley(arc)}" for curve, arc in zip(curves, looks[look], strict=True)]
                ink = [*_path(fills, fill=LIGHT[arc.kind], fill_opacity=0.1), *ink]
            elif arc.below:
                width *= 0.8
            if arc.stroke == "dotted":
                width *= 1.3
            ink += _path(
                _trail(curves) if arc.stroke == "solid" else [curve.drawn() for curve in curves],
                kind=arc.kind,
                stroke_width=width,
                stroke_opacity=None if opacity == 1 else opacity,
                **_dash(arc.stroke, self.small),
            )
            if not (arc.thin or arc.below or self._cramped(curves)):
                dots[arc.kind] |= {curve.end for curve in curves}
        if self.pitch >= 4 and not self.small:
            for kind, points in sorted(dots.items()):
                spots = [f"M{_n(x)} {_n(y)}h0" for x, y in sorted(points)]
                ink += _path(spots, kind=kind, stroke_width=4.5, stroke_linecap="round")
        return ink

    def _valley(self, arc: Arc) -> str:
        """From an arc's end back to its start along the skyline."""
        runs = [(max(start, arc.start), min(end, arc.end), self.level[start]) for _, start, end in self._runs()]
        return (
            "".join(f"V{-level}H{_n(self._left(start))}" for start, end, level in reversed(runs) if start < end) + "z"
        )

    def _repeats(self) -> list[str]:
        """What stands for the copies that are left out."""
        ink = []
        for fold in self.folds:
            low, high = fold.hidden.start, fold.hidden.stop
            if low not in self.x or high not in self.x:
                continue
            left, right = self.x[low], self._left(high)
            y1, y2 = -self.level[low - 1], -self.level[high]
            line = f"M{_n(left + 3)} {y1}L{_n(right - 1)} {y2}"
            ink += _path(
                [line],
                stroke="currentColor",
                stroke_opacity=0.6,
                stroke_width=1.5,
                stroke_linecap="round",
                stroke_dasharray="0 4",
            )
            ink.append(
                f'<text x="{_n((left + right) / 2)}" y="{min(y1, y2) - (4 if self.small else 7)}" fill="currentColor" '
                f'text-anchor="middle" font-weight="600" font-size="{9 if self.small else 12}">×{fold.times}</text>'
            )
        return ink

    def _header(self, title: str) -> tuple[list[str], int]:
        """Title and legend; the height they take."""
        limit = int((self.width - 2 * self.size.margin) / 8.5)
        shown = title if len(title) <= limit else title[: limit - 1] + "…"
        margin = self.size.margin
        ink = [f'<text x="{margin}" y="20" fill="currentColor" font-size="15" font-weight="600">{escape(shown)}</text>']
        x, y = float(margin), 40
        for text, kind, stroke, thin in self._legend():
            width = len(text) * 6.6 + (40 if kind else 16)
            if x > margin and x + width > self.width:
                x, y = float(margin), y + 18
            if kind:
                hang = kind in ("gate", "multiply")
                path = f"M{_n(x + 1)} {y - 9}c0 10 18 10 18 0" if hang else f"M{_n(x + 1)} {y}c0-11 18-11 18 0"
                width_of = self.size.line * (0.55 if thin else 1)
                ink += _path([path], kind=kind, stroke_width=width_of, **_dash(stroke, self.small))
            ink.append(f'<text x="{_n(x + (25 if kind else 0))}" y="{y}" fill="currentColor">{text}</text>')
            x += width
        return ink, y + 8

    def _legend(self) -> Iterator[tuple[str, Kind | None, Stroke, bool]]:
        graph = self.graph
        found: Counter[tuple[Kind, Shortcut]] = Counter(
            (skip.kind, skip.shortcut) for skip in graph.skips if not skip.partial
        )
        for (kind, shortcut), number in sorted(
            found.items(), key=lambda item: (KINDS.index(item[0][0]), SHORTCUTS.index(item[0][1]))
        ):
            yield f"{number} {kind}, {shortcut}", kind, _stroke(shortcut), False
        gates: Counter[Kind] = Counter(gate.kind for gate in graph.gates if not gate.partial)
        for kind, number in sorted(gates.items()):
            yield f"{number} {kind}", kind, "solid", False
        for word, some in (
            ("partial", [s for s in (*graph.skips, *graph.gates) if s.partial]),
            ("weak", list(graph.weak)),
        ):
            if some:
                yield f"{len(some)} {word}", some[0].kind, "solid", True
        yield _many(len(graph.layers), "layer") + ", repeats folded" * bool(self.folds), None, "solid", False


@dataclass(frozen=True, slots=True)
class _Curve:
    """An arch from one point to another."""

    start: Point
    end: Point
    peak: int
    """y of its highest point, or of its lowest if it hangs; exact where both ends are level."""
    brief: bool = False
    """A parabola, which takes two thirds of the bytes, in place of near an ellipse."""

    def bow(self, *, back: bool = False) -> str:
        """The relative curve command, in either direction. One ``c`` or ``q`` is one arc."""
        (x1, y1), (x2, y2) = (self.end, self.start) if back else (self.start, self.end)
        level = (max if self.peak > y1 else min)(y1, y2)
        if self.brief and x1 != x2:
            return _command("q", (x2 - x1) / 2, level - y1 + 2 * (self.peak - level), x2 - x1, y2 - y1)
        bend = level - y1 + round(4 / 3 * (self.peak - level))
        if x1 == x2:  # nothing on the line in between: a small loop
            return _command("c", -6, bend, 6, bend, 0, y2 - y1)
        return _command("c", 0, bend, x2 - x1, bend, x2 - x1, y2 - y1)

    def drawn(self) -> str:
        """As a path of its own."""
        return f"{_command('M', *self.start)}{self.bow()}"


def _trail(curves: Sequence[_Curve]) -> Iterator[str]:
    """All curves with the pen lifted as rarely as easily done: half the bytes for a dense block."""
    at: dict[Point, list[int]] = defaultdict(list)
    for k, curve in enumerate(curves):
        at[curve.start].append(k)
        at[curve.end].append(k)
    for ks in at.values():
        ks.reverse()
    done: set[int] = set()
    pen: Point | None = None
    for k in range(len(curves)):
        step: int | None = k
        while step is not None:
            if step not in done:
                curve = curves[step]
                if pen not in (curve.start, curve.end):
                    yield _command("M", *curve.start)
                    pen = curve.start
                yield curve.bow(back=pen != curve.start)
                pen = curve.end if pen == curve.start else curve.start
                done.add(step)
            assert pen is not None
            while at[pen] and at[pen][-1] in done:
                at[pen].pop()
            step = at[pen][-1] if at[pen] else None


def _blocks(start: int, end: int, aside: frozenset[int]) -> Iterator[tuple[int, int, bool]]:
    """Positions start..end cut where layers step aside."""
    cuts = [start, *(k for k in range(start + 1, end) if (k in aside) != (k - 1 in aside)), end]
    for low, high in pairwise(cuts):
        yield low, high, low in aside


def _path(pieces: Iterable[str], *, kind: Kind | None = None, **attributes: str | float | None) -> list[str]:
    """A path element, or none if there is nothing to draw. In the light colours; ``_style`` has the dark."""
    d = "".join(pieces)
    if not d:
        return []
    if kind is not None:
        attributes = {"class": kind, "stroke": LIGHT[kind], **attributes}
    words = [
        f'{name.replace("_", "-")}="{value if isinstance(value, str) else f"{value:.2g}".removeprefix("0")}"'
        for name, value in attributes.items()
        if value is not None
    ]
    return [f'<path {" ".join(words)} d="{d}"/>']


def _style(name: str, body: Iterable[str]) -> str:
    """Colours on dark. As an image or a file of its own the picture also needs light text there."""
    text = "".join(body)
    used = [kind for kind in KINDS if f'class="{kind}"' in text]
    alone = "".join(f"#{name}:root .{kind}{{stroke:{DARK[kind]}}}" for kind in used)
    inline = "".join(f'[data-md-color-scheme="slate"] #{name} .{kind}{{stroke:{DARK[kind]}}}' for kind in used)
    return f"@media(prefers-color-scheme:dark){{#{name}:root{{color-scheme:dark;color:#e3e5ea}}{alone}}}{inline}"


def _dash(stroke: Stroke, small: bool) -> dict[str, str]:
    if stroke == "solid":
        return {}
    if stroke == "dotted":
        return {"stroke_linecap": "round", "stroke_dasharray": "0 3" if small else "0 4"}
    return {"stroke_dasharray": "3 2" if small else "5 3"}


def _command(letter: str, *numbers: float) -> str:
    text = letter
    for number in numbers:
        shown = _n(number)
        text += shown if text == letter or shown.startswith("-") else " " + shown
    return text


def _n(number: float) -> str:
    """At most one digit after the point, no superfluous character."""
    text = f"{round(number, 1):g}"
    return "0" if text == "-0" else text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _has(shape: Shape, size: Shape) -> bool:
    """Whether ``size`` stands somewhere in ``shape``."""
    return any(shape[k : k + len(size)] == size for k in range(1, len(shape) - len(size) + 1))


# Words --------------------------------------------------------------------------------------------------------------


def _size(size: Shape) -> str:
    return "×".join(map(str, size)) if size else "1"


def _labels(size: Shape) -> list[str]:
    """From best to shortest."""
    return [_size(size), str(size[0])] if len(size) > 1 and len(set(size)) == 1 else [_size(size)]


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)

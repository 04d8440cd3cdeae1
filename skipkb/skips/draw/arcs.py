"""Arcs: the shortcuts of a graph, each reduced to what its line looks like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from skipkb.skips.graph import KINDS, Edge, Kind, Shape, Skip, SkipGraph
from skipkb.vocabulary import Shortcut

Stroke = Literal["solid", "dashed", "dotted"]
Look = tuple[bool, bool, bool, int, Stroke]


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


def find_arcs(graph: SkipGraph) -> tuple[Arc, ...]:
    """One arc for every shortcut of skips, weak skips and gates."""

    def arc(skip: Skip, edge: Edge, *, weak: bool = False, below: bool = False) -> Arc:
        return Arc(
            start=min(edge.start, skip.end),
            end=skip.end,
            kind=skip.kind,
            stroke=stroke_of(edge.shortcut),
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


def stroke_of(shortcut: Shortcut) -> Stroke:
    """How a shortcut of this class is drawn."""
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

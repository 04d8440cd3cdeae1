"""Stages: the line cut into runs of layers at one resolution."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from skipkb.skips.graph import Shape, SkipGraph

LONGEST_ASIDE = 12
"""Layers of the longest block within which a lower resolution is not a stage of its own."""


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
    of an encoder-decoder is not one of these: its shortcuts cross scales.
    """
    places = [max(layer.places, 1) for layer in graph.layers]
    wide = max((k for k, number in enumerate(places) if number > 1), default=-1)
    found = {k for k in range(1, wide) if places[k] == 1 and any(number > 1 for number in places[:k])}
    levels = {(edge.start, skip.end) for skip in graph.skips for edge in skip.edges if edge.cross_scale}
    for gate in graph.gates:
        for edge in gate.edges:
            if any(start == edge.start and gate.end <= end for start, end in levels):
                continue  # on the shortcut of an encoder-decoder: between lies its valley
            before = places[max(edge.start - 1, 0)]
            for k in range(edge.start, gate.end):
                size = graph.layers[k].size
                if places[k] * 1.5 < before and not (size and has_size(gate.shape, size)):
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


def has_size(shape: Shape, size: Shape) -> bool:
    """Whether ``size`` stands somewhere in ``shape``."""
    return any(shape[k : k + len(size)] == size for k in range(1, len(shape) - len(size) + 1))

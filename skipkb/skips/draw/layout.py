"""Where everything lies on one picture, in pixels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from skipkb.skips.draw.arcs import Arc
from skipkb.skips.draw.curves import Curve, Point
from skipkb.skips.draw.folds import Fold
from skipkb.skips.draw.stages import Stage, find_stages, has_size
from skipkb.skips.graph import Shape, SkipGraph

_CRAMPED = 200
"""Arcs above which they are drawn as hairlines."""


@dataclass(frozen=True, slots=True)
class Measure:
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


_LARGE = Measure(margin=10, gap=40, sky=66, floor=14, head=7, octave=11, arch=0.27, hang=10, line=1.6)
_SMALL = Measure(margin=4, gap=22, sky=26, floor=7, head=3, octave=5, arch=0.4, hang=6, line=1.2)


class Layout:
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
        reach = self.reach()
        self.height = round(0.45 * width) if small else 0
        """Of a thumbnail: fixed, so that a gallery is even."""
        if small and reach > self.height - 8:
            self.arch *= max(self.height - 8 - self.top, 8) / max(reach - self.top, 1)

    def _positions(self) -> dict[int, float]:
        """x of every position on the line that is not folded away."""
        room = self.width - 2 * self.size.margin
        gaps = {fold.hidden.start: fold.hidden.stop for fold in self.folds}
        pitch = (room - self.size.gap * len(gaps)) / max(len(self.visible), 1)
        # Round numbers make short paths.
        grain = 1 if pitch >= 20 else 0.5 if pitch >= 4 else 0.1 if pitch >= 1.5 else 0.01
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

    def ground(self, position: int, shape: Shape) -> int:
        """y of the skyline at a position; where it steps, the side whose resolution the tensor has."""
        layers = self.graph.layers
        sides = [k for k in (position - 1, position) if 0 <= k < len(layers)]
        known = [k for k in sides if layers[k].size and has_size(shape, layers[k].size)]
        return -self.level[(known or sides)[0]] if sides else -self.top

    def _ends(self, arc: Arc) -> tuple[Point, Point]:
        return (
            (self.x[arc.start], self.ground(arc.start, arc.source_shape)),
            (self.x[arc.end], self.ground(arc.end, arc.shape)),
        )

    def reach(self) -> float:
        """How far the highest arc stands above the ground."""
        return max((self._rise(arc) - self._foot(arc) for arc in self.arcs if not arc.below), default=0)

    def _foot(self, arc: Arc) -> float:
        """y of the higher end."""
        return min(y for _, y in self._ends(arc))

    def _rise(self, arc: Arc) -> int:
        """Height of an arc above its higher end: grows with its width, though less."""
        width = self.x[arc.end] - self.x[arc.start] or 3 * self.size.hang  # a loop where nothing lies between
        return max(round(self.arch * math.pow(width / self.width, 0.72)), 4)

    def curves(self, arcs: Sequence[Arc]) -> list[Curve]:
        """The arcs of one look; those between the same two points are spread."""
        seen: Counter[tuple[int, int]] = Counter()
        curves = []
        for arc in arcs:
            start, end = self._ends(arc)
            nth = min(seen[arc.start, arc.end], 3)
            seen[arc.start, arc.end] += 1
            if arc.below:
                peak = max(start[1], end[1]) + self.hang(start, end)
            else:
                peak = min(start[1], end[1]) - self._rise(arc) - 3 * nth
            curves.append(Curve(start, end, peak, brief=self.cramped(arcs)))
        return curves

    def cramped(self, arcs: Sequence[object]) -> bool:
        """More than a dozen pixels hold apart."""
        return len(arcs) * 720 > _CRAMPED * self.width

    def hang(self, start: Point, end: Point) -> int:
        """How far a gate hangs down, without leaving the skyline."""
        room = -max(start[1], end[1]) - 3
        return round(max(3, min(self.size.hang, room, 0.6 * (end[0] - start[0]))))

    def runs(self) -> Iterator[tuple[Stage, int, int]]:
        """Neighbouring visible layers of one stage: stage, first position, last position."""
        for stage in self.stages:
            seen = [k for k in range(stage.start, stage.end) if k not in self.hidden]
            breaks = [i for i in range(1, len(seen)) if seen[i] != seen[i - 1] + 1]
            for low, high in pairwise([0, *breaks, len(seen)]):
                if seen:
                    yield stage, seen[low], seen[high - 1] + 1

    def left(self, position: int) -> float:
        """x where the layer behind a position begins: right of a fold that ends there."""
        return round(self.x[position + 1] - self.pitch, 1)

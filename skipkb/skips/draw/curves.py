"""Arches from point to point, and the path commands that draw them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skipkb.skips.draw.svg import command

Point = tuple[float, int]


@dataclass(frozen=True, slots=True)
class Curve:
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
            return command("q", (x2 - x1) / 2, level - y1 + 2 * (self.peak - level), x2 - x1, y2 - y1)
        bend = level - y1 + round(4 / 3 * (self.peak - level))
        if x1 == x2:  # nothing on the line in between: a small loop
            return command("c", -6, bend, 6, bend, 0, y2 - y1)
        return command("c", 0, bend, x2 - x1, bend, x2 - x1, y2 - y1)

    def drawn(self) -> str:
        """As a path of its own."""
        return f"{command('M', *self.start)}{self.bow()}"


def trail(curves: Sequence[Curve]) -> Iterator[str]:
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
                    yield command("M", *curve.start)
                    pen = curve.start
                yield curve.bow(back=pen != curve.start)
                pen = curve.end if pen == curve.start else curve.start
                done.add(step)
            assert pen is not None
            while at[pen] and at[pen][-1] in done:
                at[pen].pop()
            step = at[pen][-1] if at[pen] else None

"""What is on the picture, element by element, from back to front."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from html import escape
from itertools import pairwise

from skipkb.skips.draw.arcs import Arc, Look, Stroke, stroke_of
from skipkb.skips.draw.curves import Curve, Point, trail
from skipkb.skips.draw.description import many, size_text
from skipkb.skips.draw.layout import Layout
from skipkb.skips.draw.svg import dashes, path_element, short
from skipkb.skips.graph import KINDS, SHORTCUTS, Kind, Shape
from skipkb.vocabulary import MERGES, Shortcut


def draw(layout: Layout, title: str) -> tuple[list[str], int]:
    """The elements and the height of the picture."""
    crown = math.ceil(max(layout.reach(), layout.top)) + 5
    head: list[str] = []
    above = 0
    if layout.small:
        ground = layout.height - 4
    else:
        head, above = _header(layout, title)
        ground = above + max(crown, layout.top + 24)
    marks = [] if layout.small else _brackets(layout)
    body = [
        f'<g transform="translate(0 {ground})">',
        *_skyline(layout),
        *marks,
        *_branches(layout),
        *_shortcuts(layout),
        *_repeats(layout),
        "</g>",
    ]
    return [*head, *body], layout.height if layout.small else ground + (24 if marks else 8)


def _skyline(layout: Layout) -> list[str]:
    """Ground, one cell a layer, and the line on top."""
    cells: list[str] = []
    tops: list[str] = []
    joints: list[str] = []
    before: tuple[int, float] | None = None
    for stage, start, end in layout.runs():
        height = layout.level[start]
        left, right = layout.left(start), layout.x[end]
        for low, high, aside in _blocks(start, end, stage.aside):
            across = round(layout.x[high] - layout.left(low), 1)
            cells.append(f"M{short(layout.left(low))} 0v{-3 if aside else -height}h{short(across)}V0z")
        joined = before == (start, left)
        tops.append(f"V{-height}H{short(right)}" if joined else f"M{short(left)} {-height}H{short(right)}")
        before = (end, right)
        if layout.pitch >= (3 if layout.small else 6):
            for k in range(start + 1, end):
                joints.append(f"M{short(layout.x[k])} 0v{-3 if {k - 1, k} & stage.aside else -height}")
    if not tops:
        tops = [f"M{layout.size.margin} {-layout.size.floor}H{layout.width - layout.size.margin}"]
    return [
        *path_element(cells, fill="currentColor", fill_opacity=0.13),
        *path_element(joints, stroke="currentColor", stroke_opacity=0.22, stroke_width=0.7),
        *path_element(tops, stroke="currentColor", stroke_opacity=0.6, stroke_width=layout.size.line * 0.75),
    ]


def _brackets(layout: Layout) -> list[str]:
    """Under the ground: from where to where a resolution holds."""
    lines: list[str] = []
    labels: list[str] = []
    for stage in layout.stages:
        seen = [k for k in range(stage.start, stage.end) if k not in layout.hidden]
        if stage.places <= 1 or not seen:
            continue
        left, right = layout.left(seen[0]) + 1, layout.x[seen[-1] + 1] - 1
        if right - left < 2:
            continue
        lines.append(f"M{short(left)} 4v3H{short(right)}v-3")
        fitting = [text for text in _labels(stage.size) if len(text) * 6 <= right - left - 2]
        if fitting:
            labels.append(f'<text x="{short((left + right) / 2)}" y="18">{fitting[0]}</text>')
    if not lines:
        return []
    return [
        *path_element(lines, stroke="currentColor", stroke_opacity=0.5, stroke_width=0.8),
        '<g fill="currentColor" fill-opacity=".75" font-size="10" text-anchor="middle">',
        *labels,
        "</g>",
    ]


def _branches(layout: Layout) -> list[str]:
    """Merges of equal branches: grey and below the line, to be told from skips."""
    path = []
    for merge in layout.graph.multi_branch:
        start, end = min(merge.start, merge.end), merge.end
        if start in layout.x and end in layout.x and start != end:
            ends = (layout.x[start], layout.ground(start, ())), (layout.x[end], layout.ground(end, merge.shape))
            path.append(Curve(*ends, max(y for _, y in ends) + layout.hang(*ends)).drawn())
    return path_element(path, stroke="currentColor", stroke_opacity=0.55, stroke_width=layout.size.line * 0.6)


def _shortcuts(layout: Layout) -> list[str]:
    """One path for each look."""
    looks: dict[Look, list[Arc]] = defaultdict(list)
    for arc in layout.arcs:
        looks[arc.look].append(arc)
    ink: list[str] = []
    dots: dict[Kind, set[Point]] = defaultdict(set)
    for look in sorted(looks):
        arc, curves = looks[look][0], layout.curves(looks[look])
        width, opacity = layout.size.line, 1.0
        if layout.cramped(looks[look]):
            width, opacity = width * 0.55, 0.7
        if arc.thin:
            width, opacity = layout.size.line * 0.55, 0.7
        elif arc.filled:
            width *= 1.2
            fills = [f"{curve.drawn()}{_valley(layout, arc)}" for curve, arc in zip(curves, looks[look], strict=True)]
            ink = [*path_element(fills, fill=MERGES[arc.kind].light, fill_opacity=0.1), *ink]
        elif arc.below:
            width *= 0.8
        if arc.stroke == "dotted":
            width *= 1.3
        ink += path_element(
            trail(curves) if arc.stroke == "solid" else [curve.drawn() for curve in curves],
            kind=arc.kind,
            stroke_width=width,
            stroke_opacity=None if opacity == 1 else opacity,
            **dashes(arc.stroke, layout.small),
        )
        if not (arc.thin or arc.below or layout.cramped(curves)):
            dots[arc.kind] |= {curve.end for curve in curves}
    if layout.pitch >= 4 and not layout.small:
        for kind, points in sorted(dots.items()):
            spots = [f"M{short(x)} {short(y)}h0" for x, y in sorted(points)]
            ink += path_element(spots, kind=kind, stroke_width=4.5, stroke_linecap="round")
    return ink


def _valley(layout: Layout, arc: Arc) -> str:
    """From an arc's end back to its start along the skyline."""
    runs = [(max(start, arc.start), min(end, arc.end), layout.level[start]) for _, start, end in layout.runs()]
    return (
        "".join(f"V{-level}H{short(layout.left(start))}" for start, end, level in reversed(runs) if start < end) + "z"
    )


def _repeats(layout: Layout) -> list[str]:
    """What stands for the copies that are left out."""
    ink = []
    for fold in layout.folds:
        low, high = fold.hidden.start, fold.hidden.stop
        if low not in layout.x or high not in layout.x:
            continue
        left, right = layout.x[low], layout.left(high)
        y1, y2 = -layout.level[low - 1], -layout.level[high]
        line = f"M{short(left + 3)} {y1}L{short(right - 1)} {y2}"
        ink += path_element(
            [line],
            stroke="currentColor",
            stroke_opacity=0.6,
            stroke_width=1.5,
            stroke_linecap="round",
            stroke_dasharray="0 4",
        )
        ink.append(
            f'<text x="{short((left + right) / 2)}" y="{min(y1, y2) - (4 if layout.small else 7)}" fill="currentColor" '
            f'text-anchor="middle" font-weight="600" font-size="{9 if layout.small else 12}">×{fold.times}</text>'
        )
    return ink


def _header(layout: Layout, title: str) -> tuple[list[str], int]:
    """Title and legend; the height they take."""
    limit = int((layout.width - 2 * layout.size.margin) / 8.5)
    shown = title if len(title) <= limit else title[: limit - 1] + "…"
    margin = layout.size.margin
    ink = [f'<text x="{margin}" y="20" fill="currentColor" font-size="15" font-weight="600">{escape(shown)}</text>']
    x, y = float(margin), 40
    for text, kind, stroke, thin in _legend(layout):
        width = len(text) * 6.6 + (40 if kind else 16)
        if x > margin and x + width > layout.width:
            x, y = float(margin), y + 18
        if kind:
            hang = kind in ("gate", "multiply")
            path = f"M{short(x + 1)} {y - 9}c0 10 18 10 18 0" if hang else f"M{short(x + 1)} {y}c0-11 18-11 18 0"
            width_of = layout.size.line * (0.55 if thin else 1)
            ink += path_element([path], kind=kind, stroke_width=width_of, **dashes(stroke, layout.small))
        ink.append(f'<text x="{short(x + (25 if kind else 0))}" y="{y}" fill="currentColor">{text}</text>')
        x += width
    return ink, y + 8


def _legend(layout: Layout) -> Iterator[tuple[str, Kind | None, Stroke, bool]]:
    """What there is and how much of it: words, kind, stroke, whether thin."""
    graph = layout.graph
    found: Counter[tuple[Kind, Shortcut]] = Counter(
        (skip.kind, skip.shortcut) for skip in graph.skips if not skip.partial
    )
    for (kind, shortcut), number in sorted(
        found.items(), key=lambda item: (KINDS.index(item[0][0]), SHORTCUTS.index(item[0][1]))
    ):
        yield f"{number} {kind}, {shortcut}", kind, stroke_of(shortcut), False
    gates: Counter[Kind] = Counter(gate.kind for gate in graph.gates if not gate.partial)
    for kind, number in sorted(gates.items()):
        yield f"{number} {kind}", kind, "solid", False
    for word, some in (
        ("partial", [s for s in (*graph.skips, *graph.gates) if s.partial]),
        ("weak", list(graph.weak)),
    ):
        if some:
            yield f"{len(some)} {word}", some[0].kind, "solid", True
    yield many(len(graph.layers), "layer") + ", repeats folded" * bool(layout.folds), None, "solid", False


def _blocks(start: int, end: int, aside: frozenset[int]) -> Iterator[tuple[int, int, bool]]:
    """Positions start..end cut where layers step aside."""
    cuts = [start, *(k for k in range(start + 1, end) if (k in aside) != (k - 1 in aside)), end]
    for low, high in pairwise(cuts):
        yield low, high, low in aside


def _labels(size: Shape) -> list[str]:
    """From best to shortest."""
    return [size_text(size), str(size[0])] if len(size) > 1 and len(set(size)) == 1 else [size_text(size)]

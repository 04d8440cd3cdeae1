"""Who extends, uses and explains whom: one picture of all works, and a small one for each.

The full picture has a column for each year, and `extends` decides the layout. The lines from one work to those
that extend it share a trunk, so that a work with many successors does not hide the rest; a line within a year is
a bow left of its column. `uses` and `explains` are drawn too, and shown for the work that a reader picks
(docs/assets/family.js).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

from skipkb.catalog.entry import RelationType, Work
from skipkb.catalog.loading import Catalogue
from skipkb.site.rows import Row, rows_script
from skipkb.site.text import escape, table
from skipkb.site.timeline import DENSE, in_order, short_label, text_width
from skipkb.vocabulary import MERGES

ROW, TRUNK, DOT = 18, 7, 9  # height of a work, of a trunk that passes a column; width of a merge's dot
GAP, LABEL, TOP = 44, 104, 34  # between columns, most width of a label, height of the axis
SWEEPS = 24

Slot = tuple[str, bool]
"""A place in a column: a work, or (where True) the trunk of the work that passes there."""
Place = tuple[int, Slot]
"""A slot and the number of its column."""
Line = tuple[Place, Place]


@dataclass
class Column:
    """A year; ``loose`` are works without any `extends`, listed below the others."""

    year: int
    slots: list[Slot] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    x: float = 0.0
    width: float = 0.0


@dataclass(frozen=True)
class Layout:
    """Where everything stands: ``column`` and ``y`` by work, ``trunk`` by column and work."""

    columns: list[Column]
    column: dict[str, int]
    y: dict[str, float]
    trunk: dict[tuple[int, str], float]
    divide: float
    """Height at which the works without any `extends` begin."""
    height: float


def layout(works: Sequence[Work]) -> Layout:
    """Order with few crossings, heights near those of the neighbours; ``works`` come in order of year."""
    years = sorted({_column_year(work) for work in works})
    columns = [Column(year) for year in years]
    column = {work.key: years.index(_column_year(work)) for work in works}
    pairs = [(r.to, work.key) for work in works for r in work.relations if r.type == "extends"]
    # a work may extend one whose record is younger than its own; the line goes from left to right all the same
    pairs = [(a, b) if column[a] <= column[b] else (b, a) for a, b in pairs]
    joined = {key for pair in pairs for key in pair}
    for key, index in column.items():
        if key in joined:
            columns[index].slots.append((key, False))
        else:
            columns[index].loose.append(key)
    lines = _trunks(columns, column, pairs)
    _order(columns, lines)
    heights = _heights(columns, lines)
    divide = max(heights.values(), default=TOP) + ROW
    y = {key: heights[index, (key, False)] for key, index in column.items() if key in joined}
    for one in columns:
        y |= {key: divide + ROW * (2 + row) for row, key in enumerate(one.loose)}
    by_key, x = {work.key: work for work in works}, GAP / 2
    for one in columns:
        keys = [*(key for key, passing in one.slots if not passing), *one.loose]
        one.x, one.width = x, max(_width(by_key[key]) for key in keys)
        x += one.width + GAP
    trunk = {(index, key): height for (index, (key, passing)), height in heights.items() if passing}
    return Layout(columns, column, y, trunk, divide, max(y.values(), default=TOP) + ROW)


def _column_year(work: Work) -> int:
    """The year, or the last of the early ones, which share a column."""
    return max(work.year, DENSE - 1)


def _trunks(columns: Sequence[Column], column: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> list[Line]:
    """Put trunks into the columns they pass; the lines between neighbouring columns and within columns."""
    lines: dict[Line, None] = {}
    for a, b in pairs:
        here = (column[a], (a, False))
        for index in range(column[a] + 1, column[b]):
            passing = (index, (a, True))
            if passing[1] not in columns[index].slots:
                columns[index].slots.append(passing[1])
            lines[here, passing] = None
            here = passing
        lines[here, (column[b], (b, False))] = None
    return list(lines)


def _order(columns: Sequence[Column], lines: Sequence[Line]) -> None:
    """Order each column by the mean place of its neighbours, to and fro, and keep the order with fewest crossings."""
    best = (_crossings(columns, lines), [list(one.slots) for one in columns])
    for sweep in range(SWEEPS):
        ahead = 1 if sweep % 2 == 0 else -1
        for index in range(len(columns))[::ahead]:
            place = {
                (near, slot): number / max(1, len(columns[near].slots) - 1)
                for near in (index - ahead, index)
                if 0 <= near < len(columns)
                for number, slot in enumerate(columns[near].slots)
            }
            found = {slot: [place[index, slot]] if sweep == 0 else [] for slot in columns[index].slots}
            for line in lines:
                for here, there in (line, line[::-1]):
                    if here[0] == index and there in place:
                        found[here[1]].append(place[there])
            mean = {slot: sum(some) / len(some) if some else place[index, slot] for slot, some in found.items()}
            columns[index].slots.sort(key=mean.__getitem__)
        count = _crossings(columns, lines)
        if count < best[0]:
            best = (count, [list(one.slots) for one in columns])
    for one, slots in zip(columns, best[1], strict=True):
        one.slots = slots


def _crossings(columns: Sequence[Column], lines: Sequence[Line]) -> int:
    """How often lines between neighbouring columns cross."""
    rank = {(index, slot): n for index, one in enumerate(columns) for n, slot in enumerate(one.slots)}
    ends: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for a, b in lines:
        if a[0] != b[0]:
            ends[a[0]].append((rank[a], rank[b]))
    return sum((a - c) * (b - d) < 0 for some in ends.values() for (a, b), (c, d) in combinations(some, 2))


def _heights(columns: Sequence[Column], lines: Sequence[Line]) -> dict[Place, float]:
    """Heights in the given order, each as near to the mean of its neighbours' as the order allows."""
    neighbours: dict[Place, list[Place]] = defaultdict(list)
    for a, b in lines:
        neighbours[a].append(b)
        neighbours[b].append(a)
    y = {(index, slot): float(ROW * n) for index, one in enumerate(columns) for n, slot in enumerate(one.slots)}
    for sweep in range(SWEEPS):
        for index in range(len(columns))[:: 1 if sweep % 2 == 0 else -1]:
            places = [(index, slot) for slot in columns[index].slots]
            wanted = [sum(y[n] for n in neighbours[p]) / len(neighbours[p]) for p in places]
            sizes = [TRUNK if passing else ROW for _, (_, passing) in places]
            y |= zip(places, _apart(wanted, sizes), strict=True)
    top = min(y.values(), default=0.0)
    return {place: round(height - top + TOP + ROW, 1) for place, height in y.items()}


def _apart(wanted: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """The places nearest to the wanted ones (least squares) that keep the order and give each its size."""
    offsets = [0.0]
    for above, below in pairwise(sizes):
        offsets.append(offsets[-1] + (above + below) / 2)
    blocks: list[tuple[float, int]] = []  # mean and number of places that lie close together
    for want, offset in zip(wanted, offsets, strict=False):
        mean, number = want - offset, 1
        while blocks and blocks[-1][0] >= mean:
            other, count = blocks.pop()
            mean, number = (mean * number + other * count) / (number + count), number + count
        blocks.append((mean, number))
    means = [mean for mean, number in blocks for _ in range(number)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]


def _width(work: Work) -> float:
    return _dots_width(work) + text_width(short_label(work.name, LABEL), bold=work.runs)


def _dots_width(work: Work) -> int:
    return DOT * max(1, len(work.merges)) + 4


def family_svg(works: Sequence[Work]) -> str:
    """The picture of all works; a link for each, and a path with its two ends for each relation."""
    place = layout(works)
    width = place.columns[-1].x + place.columns[-1].width + 8
    parts = [
        f'<svg id="skb-family" class="skb-timeline" width="{width:.0f}" height="{place.height:.0f}" '
        f'viewBox="0 0 {width:.0f} {place.height:.0f}" xmlns="http://www.w3.org/2000/svg" role="group" '
        f'aria-labelledby="family-title"><title id="family-title">Who extends whom: {len(works)} works</title>',
        *_axis(place, works[0].year, width),
        '<g class="skb-edges">',
    ]
    by_key = {work.key: work for work in works}
    for work in works:
        for relation in work.relations:
            other = by_key[relation.to]
            path = _trunk_path if relation.type == "extends" else _direct_path
            parts.append(
                f'<path class="skb-{relation.type}" data-from="{work.key}" data-to="{other.key}" '
                f'd="{path(place, *sorted((other, work), key=lambda w: place.column[w.key]))}"/>'
            )
    parts.append("</g>")
    parts += [_node(work, place.columns[place.column[work.key]].x, place.y[work.key]) for work in works]
    return "".join([*parts, "</svg>"])


def _axis(place: Layout, first: int, width: float) -> list[str]:
    parts = []
    for one in place.columns:
        words = f"{first} to {one.year}" if one.year < DENSE else str(one.year)
        parts.append(f'<text class="skb-year" x="{one.x:g}" y="18">{words}</text>')
    y = place.divide
    parts.append(f'<line class="skb-rule" x1="0" y1="{y:g}" x2="{width:.0f}" y2="{y:g}"/>')
    parts.append(
        f'<text class="skb-year" x="{GAP / 2:g}" y="{y + 18:g}">These neither extend a work here nor are '
        "extended by one</text>"
    )
    return parts


def _trunk_path(place: Layout, older: Work, newer: Work) -> str:
    """Along the trunk of ``older`` to the column before ``newer``."""
    start, end = place.column[older.key], place.column[newer.key]
    column, y = place.columns[start], place.y[older.key]
    if start == end:
        return _bow(column.x - 5, y, place.y[newer.key])
    path = f"M{column.x + _width(older) + 3:g} {y:g}H{column.x + column.width + 5:g}"
    for index in range(start + 1, end + 1):
        before, column = column.x + column.width + 5, place.columns[index]
        goal = place.y[newer.key] if index == end else place.trunk[index, older.key]
        middle = (before + column.x - 5) / 2
        path += f"C{middle:g} {y:g} {middle:g} {goal:g} {column.x - 5:g} {goal:g}"
        if index < end:
            path += f"H{column.x + column.width + 5:g}"
        y = goal
    return path


def _bow(x: float, y: float, goal: float) -> str:
    """A bow to the left, wider where it spans more."""
    side = x - min(34.0, 8 + abs(goal - y) / 5)
    return f"M{x:g} {y:g}C{side:.1f} {y:g} {side:.1f} {goal:g} {x:g} {goal:g}"


def _direct_path(place: Layout, older: Work, newer: Work) -> str:
    start, end = place.columns[place.column[older.key]], place.columns[place.column[newer.key]]
    y, goal = place.y[older.key], place.y[newer.key]
    if start is end:
        return _bow(start.x - 5, y, goal)
    x, to = start.x + _width(older) + 3, end.x - 5
    bend = min(90.0, (to - x) / 2)
    return f"M{x:g} {y:g}C{x + bend:g} {y:g} {to - bend:g} {goal:g} {to:g} {goal:g}"


def _node(work: Work, x: float, y: float) -> str:
    weight = ' class="skb-runs"' if work.runs else ""
    dots = (
        "".join(
            f'<circle class="skb-{merge}" cx="{x + 4 + DOT * number:g}" cy="{y:g}" r="4"/>'
            for number, merge in enumerate(work.merges)
        )
        or f'<circle class="skb-none" cx="{x + 4:g}" cy="{y:g}" r="3"/>'
    )
    title = f"{work.name} ({work.year}), {', '.join(work.merges) or 'no skip of its own'}: {work.contribution}"
    return (
        f'<a class="skb-node" id="{work.key}" href="methods/{work.key}.html"><title>{escape(title)}</title>'
        f'<rect x="{x - 3:g}" y="{y - 8:g}" width="{_width(work) + 5:g}" height="16" rx="8"/>{dots}'
        f'<text{weight} x="{x + _dots_width(work):g}" y="{y + 4:g}">{escape(short_label(work.name, LABEL))}</text></a>'
    )


def family_page(catalogue: Catalogue) -> str:
    """The picture with its controls and, below it, the relations as a table."""
    works = in_order(catalogue)
    by_name = sorted(works, key=lambda work: (work.name.casefold(), work.key))
    options = "".join(f'<option value="{w.key}">{escape(w.name)} ({w.year})</option>' for w in by_name)
    rows = [
        [
            f'<td class="skb-number">{work.year}</td>',
            f'<a href="methods/{work.key}.html">{escape(work.name)}</a>',
            relation.type,
            f'<a href="methods/{relation.to}.html">{escape(catalogue.entries[relation.to].name)}</a>',
            f'<td class="skb-text">{escape(relation.how)}</td>',
        ]
        for work in works
        for relation in work.relations
    ]
    facets = [
        Row("", {"Type": [r.type], "Work": [work.name], "To": [catalogue.entries[r.to].name]}, {"Year": work.year})
        for work in works
        for r in work.relations
    ]
    headers = ("Year", "Work", "Type", "To", "How")
    return f"""---
title: Family
hide: [navigation, toc]
---

# Family

<p>Which work extends which, from left to right in order of year; lines from one work share a trunk. Pick a work to
see what it goes back to, what came of it, and also what it uses or explains and what uses or explains it.
<a href="#as-a-table">All {len(rows)} relations</a> stand below as a table.</p>

{_legend()}

<form id="skb-family-tools" class="skb-tools" hidden>
<div><label for="skb-family-work">Work</label><select id="skb-family-work"><option value="">all</option>{options}\
</select></div>
<div><button type="reset" class="skb-button">Show all</button></div>
<p id="skb-family-text" aria-live="polite"></p>
</form>

<div class="skb-scroll skb-picture" tabindex="0" role="region" aria-label="Family graph">{family_svg(works)}</div>

## As a table

{table(headers, rows, caption="Relations between the works", interactive="relations")}
{rows_script(facets, choices=("Type", "Work", "To"), downloads=("CSV",))}"""


_STYLES: dict[RelationType, str] = {"extends": "solid", "uses": "dashed", "explains": "dotted"}


def _legend() -> str:
    items = [
        f'<span><svg class="skb-timeline" width="36" height="10" aria-hidden="true"><path class="skb-{name}" '
        f'd="M0 5H36"/></svg> {name} ({style})</span>'
        for name, style in _STYLES.items()
    ]
    dots: list[tuple[str, str]] = [
        (f'<circle class="skb-{merge}" cx="4.5" cy="4.5" r="4"/>', merge) for merge in MERGES
    ]
    dots.append(('<circle class="skb-none" cx="4.5" cy="4.5" r="3"/>', "no skip of its own"))
    items += [
        f'<span><svg class="skb-timeline" width="9" height="9" aria-hidden="true">{dot}</svg> {words}</span>'
        for dot, words in dots
    ]
    items.append("<span><strong>bold</strong> runs here</span>")
    return f'<p class="skb-legend">{" ".join(items)}</p>'


MOST = 10  # works on either side of the small picture
NAME, REACH = 150, 64  # most width of a name there, width of the lines


def family_figure(work: Work, catalogue: Catalogue) -> str:
    """The works directly related to ``work``: what it builds on at the left, what builds on it at the right."""
    before: dict[str, list[RelationType]] = defaultdict(list)
    after: dict[str, list[RelationType]] = defaultdict(list)
    for relation in work.relations:
        before[relation.to].append(relation.type)
    for other in in_order(catalogue):
        for relation in other.relations:
            if relation.to == work.key:
                after[other.key].append(relation.type)
    if not before and not after:
        return ""
    sides = [_foremost(side, catalogue) for side in (before, after)]
    height = 22 * max(map(len, sides)) + 8
    left, right = (max((text_width(_dated(other)) for other, _ in side), default=0) + 8 for side in sides)
    label = short_label(work.name, NAME)
    box = text_width(label, bold=True) + 20
    start, middle = left + (REACH if left > 8 else 0), height / 2
    width = start + box + (REACH + right if right > 8 else 0)
    drawn = _side(sides[0], start, -1, middle) + _side(sides[1], start + box, 1, middle)
    hidden = len(before) + len(after) - sum(map(len, sides))
    more = f"{hidden} more, and the" if hidden else "The"
    return (
        f'<figure class="skb-family"><div class="skb-scroll"><svg class="skb-timeline" width="{width:.0f}" '
        f'height="{height}" viewBox="0 0 {width:.0f} {height}" xmlns="http://www.w3.org/2000/svg" role="group" '
        f'aria-label="{escape(f"Family of {work.name}")}">{drawn}'
        f'<rect class="skb-self" x="{start + 1:.1f}" y="{middle - 11:g}" width="{box - 2:.1f}" height="22" rx="11"/>'
        f'<text class="skb-runs" x="{start + box / 2:.1f}" y="{middle + 4:g}" text-anchor="middle">{escape(label)}'
        "</text></svg></div><figcaption>Left what it builds on, right what builds on it: extends (solid), uses "
        f'(dashed), explains (dotted). <a href="../family.html#{work.key}">{more} whole family</a>.</figcaption>'
        "</figure>\n"
    )


Related = Sequence[tuple[Work, Sequence[RelationType]]]


def _dated(work: Work) -> str:
    return f"{short_label(work.name, NAME)} {work.year}"


def _side(side: Related, x: float, sign: int, middle: float) -> str:
    """The works on one side (``sign`` -1: left), each with a line to the box, which ends at ``x``."""
    outer, bend = x + sign * REACH, x + sign * REACH / 2
    anchor = "end" if sign < 0 else "start"
    parts = []
    for number, (other, types) in enumerate(side):
        y = middle + 22 * (number - (len(side) - 1) / 2)
        for line, name in enumerate(types):
            start, end = middle + 4 * line, y + 4 * line
            curve = f"M{x:.1f} {start:g}C{bend:.1f} {start:g} {bend:.1f} {end:g} {outer:.1f} {end:g}"
            parts.append(f'<path class="skb-{name}" d="{curve}"/>')
        title = f"{other.name} ({other.year}): {', '.join(types)}"
        words = escape(_dated(other).removesuffix(str(other.year)))
        parts.append(
            f'<a href="{other.key}.html"><title>{escape(title)}</title><text x="{outer + 5 * sign:.1f}" y="{y + 4:g}" '
            f'text-anchor="{anchor}">{words} <tspan class="skb-faint">{other.year}</tspan></text></a>'
        )
    return "".join(parts)


def _foremost(related: Mapping[str, Sequence[RelationType]], catalogue: Catalogue) -> Related:
    """At most MOST of the related works: those that extend or are extended first, then by year."""
    rank = list(_STYLES)
    found = [(catalogue.entries[key], types) for key, types in related.items()]
    found.sort(key=lambda one: (min(map(rank.index, one[1])), one[0].year, one[0].name.casefold()))
    return found[:MOST]

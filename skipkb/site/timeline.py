"""The works from 1948 on as one picture: years along, a lane for each part of the catalogue.

Everything is laid out in pixels by estimated text widths, so that the same catalogue gives the same
picture and no label lies on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipkb.catalog.entry import FOLDERS, Work
from skipkb.catalog.loading import Catalogue
from skipkb.site.groups import CHOICES
from skipkb.site.rows import Row, rows_script, work_facets
from skipkb.site.text import escape, table
from skipkb.vocabulary import MERGES, Merge

LANES = (
    "precursors",
    *(folder for folder in FOLDERS if folder not in ("precursors", "beyond", "theory")),
    "theory",
    "beyond",
)

DENSE = 2012  # from here on each year has a column; the decades before are squeezed together
MARK, ROW, GAP = 13, 17, 8  # width of a mark, height of a row, least space between two works
LEFT, EARLY, YEAR = 8, 216, 76  # margin, width of all years before DENSE, width of a year from then on
LABEL, LAST = 130, 118  # most width of a label, and of a work in the last year
TOP, HEAD = 30, 22  # height of the axis, of a lane's title


@dataclass(frozen=True)
class Box:
    """Where a work stands: its marks, and right of them its label."""

    work: Work
    x: float
    y: float
    width: float
    label: str


@dataclass(frozen=True)
class Lane:
    """One part of the catalogue: ``top`` is where its title stands."""

    name: str
    top: int
    height: int
    boxes: list[Box]


def text_width(text: str, *, bold: bool = False) -> float:
    """Width in pixels at 11 px, not less than what common sans-serif fonts need."""
    width = sum(3.4 if c in "ijlIft.,:;'()|- " else 9.4 if c in "mwMW@%" else 7.7 if c.isupper() else 6.3 for c in text)
    return width * (1.06 if bold else 1.0)


def short_label(name: str, width: float = LABEL) -> str:
    """The name, cut where it is wider than ``width`` pixels."""
    if text_width(name) <= width:
        return name
    while text_width(name + "…") > width:
        name = name[:-1]
    return name.rstrip(" -(") + "…"


def marks(work: Work, x: float, y: float) -> str:
    """A disc for each kind of merge, with its sign; an open ring where the work has no skip of its own."""
    discs = [_disc(merge, x + 6 + MARK * number, y) for number, merge in enumerate(work.merges)]
    return "".join(discs) or _ring(x + 6, y)


def _disc(merge: Merge, x: float, y: float) -> str:
    return (
        f'<circle class="skb-disc skb-{merge}" cx="{x:g}" cy="{y:g}" r="6"/>'
        f'<text class="skb-disc-sign" x="{x:g}" y="{y + 3.5:g}">{MERGES[merge].sign}</text>'
    )


def _ring(x: float, y: float) -> str:
    return f'<circle class="skb-none" cx="{x:g}" cy="{y:g}" r="4"/>'


def marks_width(work: Work) -> int:
    """How much room ``marks`` takes, with the space before the label."""
    return MARK * max(1, len(work.merges)) + 3


def in_order(catalogue: Catalogue) -> list[Work]:
    """The works by year and name."""
    return sorted(catalogue.entries.values(), key=lambda work: (work.year, work.name.casefold(), work.key))


def layout(works: Sequence[Work]) -> list[Lane]:
    """Each work in the topmost row of its lane where neither marks nor label touch another's.

    Args:
        works: in order of year.
    """
    lanes = []
    top = TOP
    first, last = works[0].year, works[-1].year
    for name in LANES:
        ends: list[float] = []  # of the last work in each row
        boxes = []
        for work in (work for work in works if work.folder == name):
            x = _place(work.year, first)
            room = LAST - 4 - marks_width(work) if work.year == last else LABEL
            label = short_label(work.name, room)
            width = marks_width(work) + text_width(label, bold=work.runs)
            row = next((row for row, end in enumerate(ends) if end + GAP <= x), len(ends))
            ends[row:] = [x + width, *ends[row + 1 :]]
            boxes.append(Box(work, x, top + HEAD + ROW * row + ROW / 2, width, label))
        if boxes:
            height = HEAD + ROW * len(ends) + 6
            lanes.append(Lane(name, top, height, boxes))
            top += height
    return lanes


def _place(year: int, first: int) -> float:
    """Left end of a year's works."""
    if year >= DENSE:
        return LEFT + EARLY + YEAR * (year - DENSE) + 4
    return LEFT + (EARLY - 60) * (year - first) / max(1, DENSE - 1 - first)


def timeline_svg(works: Sequence[Work]) -> str:
    """The picture; it takes its colours from the page."""
    lanes = layout(works)
    first, last = works[0].year, works[-1].year
    bottom = lanes[-1].top + lanes[-1].height
    width = _place(last, first) + LAST
    parts = [
        f'<svg class="skb-timeline" width="{width:.0f}" height="{bottom + TOP}" viewBox="0 0 {width:.0f} '
        f'{bottom + TOP}" xmlns="http://www.w3.org/2000/svg" role="group" aria-labelledby="timeline-title">'
        f'<title id="timeline-title">{len(works)} works from {first} to {last}</title>',
        f'<rect class="skb-early" x="0" y="{TOP}" width="{LEFT + EARLY - 4}" height="{bottom - TOP}"/>',
    ]
    for year in range(DENSE, last + 1):
        x = _place(year, first) - 4
        parts.append(f'<line class="skb-rule" x1="{x:g}" y1="{TOP}" x2="{x:g}" y2="{bottom}"/>')
    for y in (TOP - 10, bottom + 18):
        parts += [_year(year, _place(year, first), y) for year in range(DENSE, last + 1)]
        parts += [_year(year, _place(year, first), y) for year in (first, *range(first // 20 * 20 + 40, DENSE, 20))]
    for lane in lanes:
        parts.append(f'<line class="skb-rule" x1="0" y1="{lane.top}" x2="{width:.0f}" y2="{lane.top}"/>')
        parts += [_link(box) for box in lane.boxes]
    return "".join([*parts, "</svg>"])


def _year(year: int, x: float, y: float) -> str:
    return f'<text class="skb-year" x="{x:g}" y="{y:g}">{year}</text>'


def _link(box: Box) -> str:
    work = box.work
    merges = ", ".join(work.merges) or "no skip of its own"
    title = f"{work.name} ({work.year}), {merges}: {work.contribution}"
    weight = ' class="skb-runs"' if work.runs else ""
    return (
        f'<a href="methods/{work.key}.html"><title>{escape(title)}</title>{marks(work, box.x, box.y)}'
        f'<text{weight} x="{box.x + marks_width(work):g}" y="{box.y + 4:g}">{escape(box.label)}</text></a>'
    )


def legend() -> str:
    """What the marks mean."""

    def sample(drawing: str, words: str) -> str:
        return (
            f'<span><svg class="skb-timeline" width="13" height="13" aria-hidden="true">{drawing}</svg> {words}</span>'
        )

    items = [sample(_disc(merge, 6.5, 6.5), merge) for merge in MERGES]
    items += [sample(_ring(6.5, 6.5), "no skip of its own"), "<span><strong>bold</strong> runs here</span>"]
    return f'<p class="skb-legend">{" ".join(items)}</p>'


def timeline_page(catalogue: Catalogue) -> str:
    """The picture and, below it, the same as a list."""
    works = in_order(catalogue)
    lanes = layout(works)
    titles = "".join(f'<span style="top: {lane.top + 3}px">{escape(lane.name)}</span>' for lane in lanes)
    rows = [
        [
            f'<td class="skb-number">{work.year}</td>',
            f'<a href="methods/{work.key}.html">{escape(work.name)}</a>',
            escape(work.folder),
            escape(", ".join(work.merges)),
            f'<td class="skb-text">{escape(work.contribution)}</td>',
        ]
        for work in works
    ]
    headers = ("Year", "Work", "Lane", "Merge", "What it changed")
    return f"""---
title: Timeline
hide: [navigation, toc]
---

# Timeline

<p>{len(works)} works from {works[0].year} to {works[-1].year}, each a link to its page. The shaded years before {DENSE}
are squeezed together; from {DENSE} on every year has the same width. Long names are cut short.
<a href="#as-a-list">The same as a list</a> stands below.</p>

{legend()}

<div class="skb-scroll skb-picture" tabindex="0" role="region" aria-label="Timeline"><div class="skb-lanes" \
aria-hidden="true">{titles}</div>{timeline_svg(works)}</div>

## As a list

{table(headers, rows, caption="All works in order of year", interactive="timeline")}
{rows_script([_lane_row(work) for work in works], choices=("Lane", *CHOICES))}"""


def _lane_row(work: Work) -> Row:
    return Row(work.key, {"Lane": [work.folder], **work_facets(work)}, {"Year": work.year})

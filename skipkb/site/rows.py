"""What the browser must know of each row of a table to filter it, count it and hand it out as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skipkb.catalog.entry import Explanation, Theme, Work
from skipkb.catalog.facets import FACETS

Facets = dict[str, list[str]]


@dataclass(frozen=True)
class Row:
    """One row, in the order of the table on the page."""

    key: str
    """The entry, for its BibTeX record; empty where the row belongs to none."""
    facets: Facets
    numbers: dict[str, float] = field(default_factory=dict)
    """What can be limited to a range; a number that is not known is left out."""
    cells: Sequence[str] | None = None
    """The row in a downloaded file; None where that is the text on the page."""


def rows_script(
    rows: Sequence[Row],
    *,
    choices: Sequence[str],
    ranges: Sequence[str] = ("Year",),
    labels: Mapping[str, Mapping[str, str]] | None = None,
    columns: Sequence[str] | None = None,
    downloads: Sequence[str] = ("CSV", "LaTeX", "BibTeX"),
) -> str:
    """The rows as JSON for the interactive table that stands before it on the page.

    Args:
        choices: facets to choose by; one with a single value is not offered.
        ranges: numbers to limit.
        labels: words for the values of a facet, where the values do not speak for themselves.
        columns: header of a downloaded file, where the rows give their cells.
    """
    data = {
        "choices": list(choices),
        "ranges": list(ranges),
        "labels": dict(labels or {}),
        "columns": columns,
        "downloads": list(downloads),
        "rows": [
            {"key": row.key, "facets": {name: row.facets[name] for name in choices}, "numbers": row.numbers}
            | ({"cells": list(row.cells)} if row.cells else {})
            for row in rows
        ],
    }
    return f'<script type="application/json" data-skb-rows>{safe_json(data)}</script>\n'


def safe_json(data: object) -> str:
    """JSON that may stand in a script: a script ends at "</", and in old browsers a line at U+2028."""
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def numbered(sections: Mapping[Theme, str] | Mapping[Explanation, str]) -> dict[str, str]:
    """Sections of the survey by number, each with its number and title: ``IV.A From short to long ...``."""
    return {number: f"{number} {title}" for number, title in sections.items()}


def work_row(work: Work, cells: Sequence[str] | None = None, *, table: str = "") -> Row:
    """The row of an entry in a list of entries, or in one of the survey's tables."""
    return Row(work.key, work_facets(work, table), {"Year": work.year}, cells)


def work_facets(work: Work, table: str = "") -> Facets:
    """Everything an entry can be chosen by, under the words of the pages."""
    return {facet.head: facet.values(work, table) for facet in FACETS.values()}

"""What works can be chosen by: filters of queries, command line and Python, choices on the pages."""

from __future__ import annotations

import re

from skipkb.catalog.columns import COLUMNS, Column, amount


def _whether(column: Column) -> Column:
    """Yes where the column has something to say, or counts something; else no."""
    return Column(column.head, lambda work, table: ["yes" if any(column.values(work, table)) else "no"])


_WORDS = (
    *("task", "merge", "span", "theme", "explanation", "dataset", "table", "folder", "kind"),
    *("venue", "author", "framework", "licence", "runs"),
)
WHETHER = ("official", "errata", "notes")
FACETS = {name: COLUMNS[name] for name in _WORDS} | {name: _whether(COLUMNS[name]) for name in WHETHER}
"""Words to choose by."""
NUMBERS = {name: COLUMNS[name] for name in ("year", "params", "macs")}
"""A filter asks for a span, and one number inside it is enough."""


_LESS, _MORE = "under|below|less than|fewer than", "over|above|more than"
PHRASES = (
    (r"\b(?:between|from) ([0-9]{4}) (?:and|to) ([0-9]{4})\b", "year", "{1}..{2}"),
    (r"\bbefore ([0-9]{4})\b", "year", "<{1}"),
    (r"\b(?:until|up to) ([0-9]{4})\b", "year", "<={1}"),
    (r"\bafter ([0-9]{4})\b", "year", ">{1}"),
    (r"\bsince ([0-9]{4})\b", "year", ">={1}"),
    *(
        (pattern.format(words=words, unit=unit), facet, f"{sign}{{1}}")
        for facet, unit in (("params", "param(?:eter)?s"), ("macs", "macs"))
        for sign, words in (("<", _LESS), (">", _MORE))
        for pattern in (
            r"\b{unit} (?:{words}) ([0-9.]+ ?[kmgbt]?)\b",
            r"\b(?:{words}) ([0-9.]+ ?[kmgbt]?) {unit}\b",
        )
    ),
)
"""Filters in plain words, where case is the same: what says so, the filter, and its value from the groups. The search
page reads them too, so they are written for JavaScript as well."""


def spoken(text: str) -> tuple[str, list[tuple[str, str]]]:
    """``text`` without filters that are said in words, and these: "papers before 1990" has the year ``<1990``."""
    filters = []
    for pattern, facet, value in PHRASES:
        for found in re.finditer(pattern, text, re.IGNORECASE):
            filters.append((facet, value.format(*found.group(0, *range(1, found.re.groups + 1)))))
        text = re.sub(pattern, " ", text, flags=re.IGNORECASE)
    return text, filters


_AMOUNT = r"([0-9]{1,15}(?:\.[0-9]{1,9})?|(?<![.])\.[0-9]{1,9})([kKmMgGbBtT]?)"


def span(text: str) -> tuple[float, float]:
    """First and last number of ``2015``, ``2015..2018``, ``..5M``, ``<5M``, ``>=1.5G``; both are inside.

    Raises:
        ValueError: the text is not one of these.
    """
    plain = "".join(text.split())
    if found := re.fullmatch(rf"(<=?|>=?){_AMOUNT}", plain):
        bound = amount(found[2], found[3])
        first, last = (0.0, bound) if found[1].startswith("<") else (bound, float("inf"))
        if len(found[1]) == 1:  # the bound itself is outside; figures are whole numbers, or printed to three places
            first, last = (first, last - 1e-3) if found[1] == "<" else (first + 1e-3, last)
        return first, last
    found = re.fullmatch(rf"(?:{_AMOUNT})?(\.\.(?!\.))?(?:(?<=\.\.){_AMOUNT})?", plain)
    if not found or not plain or plain == "..":
        raise ValueError(f"{text!r} is neither a number nor a span such as 2015..2018, <5M or 1M..")
    first = amount(found[1], found[2]) if found[1] else 0.0
    last = amount(found[4], found[5]) if found[4] else float("inf")
    return (first, last) if found[3] else (first, first)

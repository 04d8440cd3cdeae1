"""What works can be chosen by, each once: filters of queries, command line and Python, choices on the pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipkb.vocabulary import dataset_name, framework_names

if TYPE_CHECKING:
    from skipkb.catalog.entry import Repository, Work


@dataclass(frozen=True)
class Facet:
    """Words that a work has."""

    label: str
    values: Callable[[Work], Iterable[str]]
    part: bool = False
    """Whether a part of a word is enough in a filter."""


@dataclass(frozen=True)
class Number:
    """Numbers that a work has; a filter asks for a span, and one number inside it is enough."""

    label: str
    values: Callable[[Work], Iterable[float]]


def official(work: Work) -> list[Repository]:
    """Code of the authors. Frameworks and licences are those of official code."""
    return [repository for repository in work.code if repository.role == "official"]


FACETS = {
    "task": Facet("Task", lambda work: work.tasks),
    "merge": Facet("Merge", lambda work: work.merges),
    "span": Facet("Span", lambda work: [skip.span for skip in work.skips]),
    "theme": Facet("Theme", lambda work: work.themes),
    "explanation": Facet("Explanation", lambda work: work.explanations),
    "dataset": Facet("Data set", lambda work: map(dataset_name, work.datasets), part=True),
    "table": Facet("Table", lambda work: [row.table for row in work.survey.rows]),
    "folder": Facet("Folder", lambda work: [work.folder]),
    "kind": Facet("Kind", lambda work: [work.kind]),
    "venue": Facet("Venue", lambda work: [work.venue], part=True),
    "author": Facet("Author", lambda work: work.authors, part=True),
    "framework": Facet(
        "Framework", lambda work: [name for code in official(work) for name in framework_names(code.framework)]
    ),
    "licence": Facet("Licence", lambda work: [code.licence or "unknown" for code in official(work)]),
    "official": Facet("Official code", lambda work: ["yes" if official(work) else "no"]),
    "runs": Facet("Runs here", lambda work: ["yes" if work.runs else "no"]),
    "errata": Facet("Errata", lambda work: ["yes" if work.errata else "no"]),
    "notes": Facet("Notes", lambda work: ["yes" if work.notes else "no"]),
}
NUMBERS = {
    "year": Number("Year", lambda work: [work.year]),
    "params": Number("Parameters", lambda work: _sizes(work, "parameters")),
    "macs": Number("MACs", lambda work: _sizes(work, "macs")),
}


def values(facet: str, work: Work) -> list[str]:
    """The words of ``work`` under ``facet``, each once."""
    return list(dict.fromkeys(FACETS[facet].values(work)))


def _sizes(work: Work, field: str) -> list[float]:
    """Of every model: exact where it is built here, else as printed where that is a number."""
    exact: list[float] = [getattr(variant, field) for variant in work.variants]
    read = printed_number if field == "parameters" else printed_macs
    printed = [read(getattr(configuration, field)) for configuration in work.configurations]
    return exact + [number for number in printed if number is not None]


_UNITS = {
    "": 1.0,
    **dict.fromkeys(("k", "K"), 1e3),
    **dict.fromkeys(("m", "M", "million"), 1e6),
    **dict.fromkeys(("g", "G", "b", "B", "billion"), 1e9),
    **dict.fromkeys(("t", "T", "trillion"), 1e12),
}


def printed_number(text: str | None) -> float | None:
    """``25.6M`` and ``~26 million`` as a number; None for what is not a total, such as ``+10.0M``."""
    pattern = r"~?\s*([\d,]+(?:\.\d+)?)\s*(k|K|M|G|B|T|million|billion|trillion)?(?![\d.])\b"
    found = re.match(pattern, text or "")
    return round(float(found[1].replace(",", "")) * _UNITS[found[2] or ""], 3) if found else None


def printed_macs(text: str | None) -> float | None:
    """Like :func:`printed_number`; None too where the source says that it counts two for each."""
    doubled = re.search(r"2 per multiply|counted separately", text or "")
    return None if doubled else printed_number((text or "").replace("GFLOPs", "G").replace("MFLOPs", "M"))


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
        ValueError: the text is none of these.
    """
    plain = "".join(text.split())
    if found := re.fullmatch(rf"(<=?|>=?){_AMOUNT}", plain):
        amount = _amount(found[2], found[3])
        first, last = (0.0, amount) if found[1].startswith("<") else (amount, float("inf"))
        if len(found[1]) == 1:  # the bound itself is outside; figures are whole numbers, or printed to three places
            first, last = (first, last - 1e-3) if found[1] == "<" else (first + 1e-3, last)
        return first, last
    found = re.fullmatch(rf"(?:{_AMOUNT})?(\.\.(?!\.))?(?:(?<=\.\.){_AMOUNT})?", plain)
    if not found or not plain or plain == "..":
        raise ValueError(f"{text!r} is neither a number nor a span such as 2015..2018, <5M or 1M..")
    first = _amount(found[1], found[2]) if found[1] else 0.0
    last = _amount(found[4], found[5]) if found[4] else float("inf")
    return (first, last) if found[3] else (first, first)


def _amount(digits: str, unit: str) -> float:
    return float(digits) * _UNITS[unit]

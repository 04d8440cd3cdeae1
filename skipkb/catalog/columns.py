"""What a list can say of a work, each once: columns of tables and files, filters, choices on the pages, the index."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skipkb.vocabulary import dataset_name, framework_names

if TYPE_CHECKING:
    from skipkb.catalog.entry import Claim, Repository, Row, Work


def _joined(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


@dataclass(frozen=True)
class Column:
    """One of the things that can be said.

    The key of one of the survey's tables asks for what counts in a row of that table; "" asks for the work at large.
    """

    head: str
    read: Callable[[Work, Any], Iterable[Any]]
    words: Callable[[Sequence[Any]], str] = _joined
    part: bool = False
    """Whether a part of a word is enough in a filter."""
    about: str = ""
    """What a number means."""

    def values(self, work: Work, table: str = "") -> list[Any]:
        """Words, or numbers with the main one first; each once."""
        return list(dict.fromkeys(self.read(work, table)))

    def text(self, work: Work, table: str = "") -> str:
        """The values as one cell of a table."""
        return self.words(self.values(work, table))


def official(work: Work) -> list[Repository]:
    """Code of the authors. Frameworks and licences are those of official code."""
    return [repository for repository in work.code if repository.role == "official"]


def claim_text(claim: Claim) -> str:
    """The verified value where there is one, else the survey's, marked as such."""
    if claim.verified is None:
        return f"{claim.survey} (as in the survey, unverified)"
    return ", ".join(claim.verified) + (" (unverified)" if claim.source.checked == "unverified" else "")


def _rows(work: Work, table: str) -> list[Row]:
    return [row for row in work.survey.rows if row.table == table]


def _models(work: Work, table: Any) -> list[Any]:
    return work.models_for(table) if table else work.variants


def _sizes(field: str) -> Callable[[Work, Any], list[float]]:
    """Of every model: exact where it is built here, else as printed where that is a number. In a table of the survey,
    of the models that do what it is about, in order of size."""

    def read(work: Work, table: Any) -> list[float]:
        exact: list[float] = [getattr(variant, field) for variant in _models(work, table)]
        if table:
            return sorted(exact)
        printed = [printed_size(field, getattr(configuration, field)) for configuration in work.configurations]
        return exact + [number for number in printed if number is not None]

    return read


def _range(sizes: Sequence[float]) -> str:
    return " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1]))) if sizes else ""


COLUMNS = {
    "key": Column("Key", lambda work, _: [work.key]),
    "name": Column("Method", lambda work, _: [work.name]),
    "reference": Column("Ref.", lambda work, _: [f"[{number}]" for number in [work.survey.reference] if number]),
    "year": Column("Year", lambda work, _: [work.year], about="year of publication"),
    "group": Column("Group", lambda work, table: [row.group for row in _rows(work, table) if row.group]),
    "title": Column("Title", lambda work, _: [work.title]),
    "author": Column("Author", lambda work, _: work.authors, part=True),
    "venue": Column("Venue", lambda work, _: [work.venue], part=True),
    "doi": Column("DOI", lambda work, _: [work.doi or ""]),
    "arxiv": Column("arXiv", lambda work, _: [work.arxiv or ""]),
    "folder": Column("Folder", lambda work, _: [work.folder]),
    "kind": Column("Kind", lambda work, _: [work.kind]),
    "table": Column("Table", lambda work, _: [row.table for row in work.survey.rows]),
    "task": Column("Task", lambda work, _: work.tasks),
    "theme": Column("Theme", lambda work, _: work.themes),
    "explanation": Column("Explanation", lambda work, _: work.explanations),
    "dataset": Column(
        "Data set",
        lambda work, table: (
            [claim_text(row.datasets) for row in _rows(work, table)] if table else map(dataset_name, work.datasets)
        ),
        part=True,
    ),
    "code": Column(
        "Code",
        lambda work, table: (
            [claim_text(row.code) for row in _rows(work, table)] if table else [code.url for code in work.code]
        ),
    ),
    "merge": Column("Merge", lambda work, _: work.merges),
    "span": Column("Span", lambda work, _: [skip.span for skip in work.skips]),
    "official": Column("Official code", lambda work, _: [code.url for code in official(work)]),
    "framework": Column(
        "Framework", lambda work, _: [name for code in official(work) for name in framework_names(code.framework)]
    ),
    "licence": Column("Licence", lambda work, _: [code.licence or "unknown" for code in official(work)]),
    "runs": Column("Runs here", lambda work, table: ["yes" if _models(work, table) else "no"]),
    "variant": Column("Models", lambda work, table: [variant.name for variant in _models(work, table)]),
    "params": Column(
        "Parameters",
        _sizes("parameters"),
        words=_range,
        about="of the first model built here (exact), else of the first configuration printed (as printed)",
    ),
    "macs": Column(
        "MACs",
        _sizes("macs"),
        words=_range,
        about="multiply-accumulates, of the first model built here (exact), else as printed; papers that write FLOPs "
        "mostly mean these, and figures that are said to count two for each are left out",
    ),
    "errata": Column("Errata", lambda work, _: [len(work.errata)], about="of the survey about this work"),
    "notes": Column("Notes", lambda work, _: [len(work.notes)], about="that add to what the survey says of it"),
    "contribution": Column("Contribution", lambda work, _: [work.contribution]),
}


_UNITS = {
    "": 1.0,
    **dict.fromkeys(("k", "K"), 1e3),
    **dict.fromkeys(("m", "M", "million"), 1e6),
    **dict.fromkeys(("g", "G", "b", "B", "billion"), 1e9),
    **dict.fromkeys(("t", "T", "trillion"), 1e12),
}


def amount(digits: str, unit: str) -> float:
    """``25.6`` and ``M`` as a number."""
    return round(float(digits.replace(",", "")) * _UNITS[unit], 3)


def printed_size(field: str, text: str | None) -> float | None:
    """``25.6M`` and ``~26 million`` as a number; None for what is not a total, such as ``+10.0M``, and for MACs of
    which the source says that it counts two for each."""
    text = text or ""
    if field == "macs":
        if re.search(r"2 per multiply|counted separately", text):
            return None
        text = text.replace("GFLOPs", "G").replace("MFLOPs", "M")
    pattern = r"~?\s*([\d,]+(?:\.\d+)?)\s*(k|K|M|G|B|T|million|billion|trillion)?(?![\d.])\b"
    found = re.match(pattern, text)
    return amount(found[1], found[2] or "") if found else None

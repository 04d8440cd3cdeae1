"""The survey's four tables, generated from the entries, in six formats."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from skipkb.catalog.columns import COLUMNS
from skipkb.catalog.index import query
from skipkb.catalog.problems import UnknownNameError

if TYPE_CHECKING:
    from skipkb.catalog.entry import SurveyTable


CHOSEN = (
    *("name", "reference", "year", "group", "dataset", "code", "merge", "span"),
    *("runs", "params", "licence", "errata", "notes"),
)
"""The columns of a table."""
TableRow = Mapping[str, str]
"""Column and text; an empty text stands for "not known"."""


def survey_tables() -> list[SurveyTable]:
    """The four tables and their rows, as survey.yaml lists them."""
    from skipkb.catalog.entry import SurveyFile

    ((text,),) = query("SELECT value FROM meta WHERE key = 'survey'")
    return SurveyFile.model_validate_json(text).tables


def table(key: str, format: str = "md") -> str:
    """One of the survey's tables as text.

    Args:
        key: classification, detection, segmentation or reconstruction, or the survey's number I to IV.
        format: md, csv, tsv, html, latex (booktabs) or json.

    Raises:
        UnknownNameError: for a table the survey does not have.
        ValueError: for another format.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; formats: {', '.join(FORMATS)}")
    found = find_table(key)
    return FORMATS[format](table_rows(found))


def find_table(key: str) -> SurveyTable:
    """The table with this key or Roman number.

    Raises:
        UnknownNameError: when the survey has no such table.
    """
    tables = survey_tables()
    for candidate in tables:
        if key.lower() == candidate.key or key.upper() == candidate.number:
            return candidate
    raise UnknownNameError("table", key, [candidate.key for candidate in tables])


def table_rows(table: SurveyTable) -> list[TableRow]:
    """The rows in the survey's order."""
    from skipkb.catalog.search import get

    return [{name: COLUMNS[name].text(get(key), table.key) for name in CHOSEN} for key in table.rows]


def _used_columns(rows: Sequence[TableRow]) -> list[str]:
    return [name for name in CHOSEN if name != "group" or any(row[name] for row in rows)]


def _grid(rows: Sequence[TableRow]) -> list[list[str]]:
    columns = _used_columns(rows)
    return [
        [COLUMNS[c].head for c in columns],
        *([" ".join(row[c].split()) for c in columns] for row in rows),
    ]


def _markdown(rows: Sequence[TableRow]) -> str:
    def escaped(cell: str) -> str:
        return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", cell)

    header, *body = [[escaped(cell) for cell in line] for line in _grid(rows)]
    lines = [header, ["---"] * len(header), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _separated(delimiter: str) -> Callable[[Sequence[TableRow]], str]:
    def write(rows: Sequence[TableRow]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(_grid(rows))
        return text.getvalue()

    return write


def _html(rows: Sequence[TableRow]) -> str:
    header, *body = [[html.escape(cell) for cell in line] for line in _grid(rows)]
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = ["".join(f"<td>{cell}</td>" for cell in line) for line in body]
    text = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f"<table>\n<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{text}</tbody>\n</table>\n"


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def _latex(rows: Sequence[TableRow]) -> str:
    header, *body = [["".join(_LATEX.get(c, c) for c in cell) for cell in line] for line in _grid(rows)]
    lines = [
        "\\begin{tabular}{" + "l" * len(header) + "}",
        "\\toprule",
        " & ".join(header) + r" \\",
        "\\midrule",
    ]
    lines += [" & ".join(line) + r" \\" for line in body]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}\n"])


def _json(rows: Sequence[TableRow]) -> str:
    return json.dumps(list(rows), indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Sequence[TableRow]], str]] = {
    "md": _markdown,
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "html": _html,
    "latex": _latex,
    "json": _json,
}

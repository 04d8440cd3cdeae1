"""One page of all errata, sortable and filterable, with the notes apart, and both as files to download."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

from skipkb.catalog.entry import Erratum, Note
from skipkb.catalog.loading import Catalogue
from skipkb.site.rows import Row, rows_script
from skipkb.site.text import escape, source_mark, table


@dataclass(frozen=True)
class Line:
    """One erratum as plain text; an empty string stands for "none"."""

    key: str
    """The entry; empty for an erratum of the survey that belongs to no entry."""
    work: str
    number: int
    """Among the errata of the entry, as in the address of its place on the entry's page."""
    place: str
    """What part of the survey it is in."""
    where: str
    column: str
    type: str
    says: str
    truth: str
    status: str
    checked: str
    source_where: str
    source_url: str
    source_date: str


@dataclass(frozen=True)
class NoteLine:
    """One note as plain text; an empty string stands for "none"."""

    key: str
    """The entry; empty for a note that belongs to no entry."""
    work: str
    number: int
    """Among the notes of the entry, as in the address of its place on the entry's page."""
    place: str
    where: str
    column: str
    says: str
    adds: str
    checked: str
    source_where: str
    source_url: str
    source_date: str


def errata_page(catalogue: Catalogue) -> str:
    """The Markdown page of everything the survey or its project page gives differently from what was found."""
    rows, data = [], []
    for line, erratum in _errata(catalogue):
        own = f'<a href="methods/{line.key}.html#erratum-{line.number}">{escape(line.work)}</a>' if line.key else ""
        status = f"{escape(line.status)} {source_mark(erratum.evidence)}"
        rows.append([own, escape(line.where), escape(line.type), escape(line.says), escape(line.truth), status])
        facets = {"Place": [line.place], "Type": [line.type], "Status": [line.status]}
        data.append(Row(line.key, facets, cells=[str(value) for value in asdict(line).values()]))
    notes = [
        [
            f'<a href="methods/{line.key}.html#note-{line.number}">{escape(line.work)}</a>' if line.key else "",
            escape(line.where),
            (f"{escape(line.says)}<br>" if line.says else "") + escape(line.adds),
            source_mark(note.evidence),
        ]
        for line, note in _notes(catalogue)
    ]
    headers = ("Work", "Where", "Type", "The survey says", "What we found", "Status")
    columns = [field.name for field in fields(Line)]
    choices = ("Place", "Type", "Status")
    return f"""---
title: Errata
hide: [toc, navigation]
---

# Errata of the survey

<p>{len(rows)} places where the survey or its project page differs from what we found, each with its evidence. The
list is meant as help: a survey of two hundred works cannot be without slips, and a reader should meet the right
value in the place where the slip stands. Corrections of our corrections are welcome. Only what somebody has read up
is listed. What is true but worth adding to is not an erratum: it is a <a href="#notes">note</a>, and there are
{len(notes)} of them.</p>

{table(headers, rows, caption="Errata", interactive="errata")}
{rows_script(data, choices=choices, ranges=(), columns=columns, downloads=("CSV",))}
<p class="skb-downloads">Download the whole list: <a href="errata.csv" download>CSV</a> ·
<a href="errata.json" download>JSON</a></p>

## Notes {{#notes}}

<p>Here the survey is right, or leaves it open, and something is worth adding: another data set that the paper
evaluates on, whose code a link leads to, the year of the printed issue.</p>

{table(("Work", "Where", "Note", "Source"), notes, caption="Notes")}
<p class="skb-downloads">Download the whole list: <a href="notes.csv" download>CSV</a> ·
<a href="notes.json" download>JSON</a></p>
"""


def errata_files(catalogue: Catalogue) -> dict[str, str]:
    """All errata, and apart from them all notes, as files to download, by file name."""
    return _files("errata", Line, [line for line, _ in _errata(catalogue)]) | _files(
        "notes", NoteLine, [line for line, _ in _notes(catalogue)]
    )


def _files(stem: str, kind: type[Line | NoteLine], lines: Sequence[Line | NoteLine]) -> dict[str, str]:
    objects = [asdict(line) for line in lines]
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(objects)
    return {f"{stem}.csv": text.getvalue(), f"{stem}.json": json.dumps(objects, indent=1, ensure_ascii=False) + "\n"}


def place(where: str) -> str:
    """The part of the survey that ``where`` lies in: "IV.A and Fig. 6" is in section IV."""
    patterns = {
        r"(Table [IVX]+)\b": r"\1",
        r"project page": "Project page",
        r"Ref": "Reference list",
        r"Fig": "Figures",
        r"([IVX]+)\b": r"Section \1",
    }
    for pattern, name in patterns.items():
        if found := re.match(pattern, where):
            return found.expand(name)
    return "Elsewhere"


def _errata(catalogue: Catalogue) -> Iterator[tuple[Line, Erratum]]:
    for work in catalogue.entries.values():
        for number, erratum in enumerate(work.errata, start=1):
            yield _line(erratum, work.key, work.name, number), erratum
    for number, erratum in enumerate(catalogue.survey.errata, start=1):
        yield _line(erratum, "", "", number), erratum


def _notes(catalogue: Catalogue) -> Iterator[tuple[NoteLine, Note]]:
    for work in catalogue.entries.values():
        for number, note in enumerate(work.notes, start=1):
            yield _note_line(note, work.key, work.name, number), note
    for number, note in enumerate(catalogue.survey.notes, start=1):
        yield _note_line(note, "", "", number), note


def _note_line(note: Note, key: str, name: str, number: int) -> NoteLine:
    source = note.evidence
    return NoteLine(
        key=key,
        work=name,
        number=number,
        place=place(note.where),
        where=note.where,
        column=note.column or "",
        says=note.says or "",
        adds=note.adds,
        checked=source.checked,
        source_where=source.where or "",
        source_url=source.url or "",
        source_date=source.date.isoformat() if source.date else "",
    )


def _line(erratum: Erratum, key: str, name: str, number: int) -> Line:
    source = erratum.evidence
    return Line(
        key=key,
        work=name,
        number=number,
        place=place(erratum.where),
        where=erratum.where,
        column=erratum.column or "",
        type=erratum.type,
        says=erratum.says,
        truth=erratum.truth,
        status=erratum.status,
        checked=source.checked,
        source_where=source.where or "",
        source_url=source.url or "",
        source_date=source.date.isoformat() if source.date else "",
    )

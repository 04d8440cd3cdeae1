"""The survey's tables as pages: each cell with what is true, marked where the survey says otherwise."""

from __future__ import annotations

import csv
import re

from skipkb.catalog.entry import Claim, Erratum, Note, Row, SurveyTable, Work
from skipkb.catalog.loading import Catalogue
from skipkb.catalog.tables import FORMATS, table_rows
from skipkb.evidence.recorded import Recorded, equal_now
from skipkb.site.equal import equal_marks
from skipkb.site.rows import numbered, rows_script, work_row
from skipkb.site.text import escape, front_matter, heading, link, source_mark, table

_HEADERS = (
    *("Method", "Year", "Data sets", "Code", "Merge", "Span"),
    *("Runs here", "Outputs", "Parameters", "Official code", "Licence"),
)
_CHOICES = (
    *("Task", "Theme", "Merge", "Span", "Framework", "Official code"),
    *("Licence", "Runs here", "Errata", "Notes"),
)
_DOWNLOADS = {"CSV": "csv", "TSV": "tsv", "LaTeX": "tex", "Markdown": "txt", "JSON": "json", "BibTeX": "bib"}


def table_page(found: SurveyTable, catalogue: Catalogue, recorded: Recorded) -> str:
    """The Markdown page of one table."""
    works = [catalogue.entries[key] for key in found.rows]
    headers = ["Group", *_HEADERS] if found.key == "reconstruction" else list(_HEADERS)
    rows = [_row(work, found, recorded, with_group=len(headers) > len(_HEADERS)) for work in works]
    header, *lines = csv.reader(FORMATS["csv"](table_rows(found)).splitlines())
    data = [work_row(work, cells) for work, cells in zip(works, lines, strict=True)]
    for row, work in zip(data, works, strict=True):
        row.facets["Runs here"] = ["yes" if work.models_for(found.key) else "no"]
    choices = list(_CHOICES)
    if found.key == "reconstruction":
        choices.insert(0, "Group")
        for row, work in zip(data, works, strict=True):
            row.facets["Group"] = [group for r in work.survey.rows if r.table == found.key and (group := r.group)]
    script = rows_script(data, choices=choices, labels={"Theme": numbered(catalogue.survey.themes)}, columns=header)
    running = sum(bool(work.models_for(found.key)) for work in works)
    downloads = " · ".join(f'<a href="{found.key}.{suffix}" download>{name}</a>' for name, suffix in _DOWNLOADS.items())
    return f"""---
title: {front_matter(f"Table {found.number}: {found.title}")}
hide: [toc]
---

# {heading(f"Table {found.number}: {found.title}")}

<p>{len(works)} of the survey's {found.survey_rows} rows are in the catalogue; {running} of them run here.
A cell shows what was verified; where the survey differs, its words are struck through and the erratum is one
click away; a note adds to what is right. Cells marked
<span class="skb-mark skb-unverified">unverified</span> nobody has re-checked yet.</p>

{table(headers, rows, caption=f"Table {found.number} of the survey: {found.title}", interactive=found.key)}
{script}
<p class="skb-downloads">Download the whole table: {downloads}</p>
"""


def table_files(found: SurveyTable, catalogue: Catalogue) -> dict[str, str]:
    """The table as files to download, by file name."""
    rows = table_rows(found)
    suffixes = {"csv": "csv", "tsv": "tsv", "latex": "tex", "md": "txt", "json": "json"}
    files = {f"{found.key}.{suffix}": FORMATS[name](rows) for name, suffix in suffixes.items()}
    records = dict.fromkeys(catalogue.entries[key].bibtex for key in found.rows)
    return files | {f"{found.key}.bib": "\n\n".join(records) + "\n"}


def _row(work: Work, found: SurveyTable, recorded: Recorded, *, with_group: bool) -> list[str]:
    row = next(row for row in work.survey.rows if row.table == found.key)
    here = re.compile(rf"Table {found.number}\b")
    errata: dict[str, list[Erratum]] = {"reference": [], "description": [], "datasets": [], "code": []}
    for erratum in work.errata:
        if erratum.column and here.match(erratum.where):
            errata[erratum.column].append(erratum)
    notes: dict[str, list[Note]] = {"reference": [], "description": [], "datasets": [], "code": []}
    for note in work.notes:
        if note.column and here.match(note.where):
            notes[note.column].append(note)
    number = escape(f"[{work.survey.reference}]") if work.survey.reference else ""
    reference = f' <span class="skb-nowrap">{number}</span>'
    name = f'<a href="../methods/{work.key}.html">{escape(work.name)}</a>{reference}'
    official = [repository for repository in work.code if repository.role == "official"]
    models = work.models_for(found.key)
    equal = [one for one in equal_now(work, recorded) if one.variant in {model.name for model in models}]
    sizes = sorted(variant.parameters for variant in models)
    text = f"{sizes[0]:,}" if len(set(sizes)) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}" if sizes else ""
    cells = [
        f"<td>{name}{_flags(work, errata['reference'] + errata['description'])}"
        f"{_marks(work, notes['reference'] + notes['description'])}</td>",
        f'<td class="skb-number">{work.year}</td>',
        _claim_cell(work, row.datasets, errata["datasets"], notes["datasets"]),
        _claim_cell(work, row.code, errata["code"], notes["code"]),
        escape(", ".join(work.merges)),
        escape(", ".join(dict.fromkeys(skip.span for skip in work.skips))),
        "yes" if models else "no",
        (equal_marks(equal) or "not compared") if models else "",
        f'<td class="skb-number" data-order="{sizes[0] if sizes else -1}">{escape(text)}</td>',
        "<br>".join(link(r.url, r.url.split("://")[1].removeprefix("github.com/").rstrip("/")) for r in official)
        or "none",
        escape(", ".join(dict.fromkeys(repository.licence or "unknown" for repository in official))),
    ]
    return [_group_cell(row), *cells] if with_group else cells


def _group_cell(row: Row) -> str:
    return escape(row.group or "")


def _claim_cell(work: Work, claim: Claim, errata: list[Erratum], notes: list[Note]) -> str:
    cell, marks = '<td class="skb-claim">', _marks(work, notes)
    if claim.verified is None:
        return f"{cell}{escape(claim.survey)} {source_mark(claim.source)}{_flags(work, errata)}{marks}</td>"
    verified = f"{escape(', '.join(claim.verified))} {source_mark(claim.source)}"
    if not errata:
        return f"{cell}{verified}{marks}</td>"
    survey = f'<del title="as the survey prints it">{escape(claim.survey)}</del>'
    return f"{cell}{verified}<br>{survey}{_flags(work, errata)}{marks}</td>"


def _flags(work: Work, errata: list[Erratum]) -> str:
    return "".join(_flag(work, erratum) for erratum in errata)


def _flag(work: Work, erratum: Erratum) -> str:
    number = work.errata.index(erratum) + 1
    return (
        f' <a class="skb-erratum" href="../methods/{work.key}.html#erratum-{number}" title="{escape(erratum.truth)}">'
        f'erratum<span class="skb-hidden"> {number} of {escape(work.name)}</span></a>'
    )


def _marks(work: Work, notes: list[Note]) -> str:
    return "".join(_mark(work, note) for note in notes)


def _mark(work: Work, note: Note) -> str:
    number = work.notes.index(note) + 1
    return (
        f' <a class="skb-note" href="../methods/{work.key}.html#note-{number}" title="{escape(note.adds)}">'
        f'note<span class="skb-hidden"> {number} of {escape(work.name)}</span></a>'
    )

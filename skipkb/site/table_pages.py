"""The survey's tables as pages: each cell with what is true, marked where the survey says otherwise."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from skipkb.catalog.columns import COLUMNS
from skipkb.catalog.entry import Claim, Erratum, Note, SurveyTable, Work
from skipkb.catalog.facets import FACETS
from skipkb.catalog.loading import Catalogue
from skipkb.catalog.tables import FORMATS, table_rows
from skipkb.evidence.recorded import Recorded, equal_now
from skipkb.site.equal import equal_marks
from skipkb.site.rows import numbered, rows_script, work_row
from skipkb.site.text import escape, front_matter, heading, link, source_mark, table

_CHOSEN = ("name", "year", "dataset", "code", "merge", "span", "runs", "outputs", "params", "official", "licence")
_CHOICES = ("task", "theme", "merge", "span", "framework", "official", "licence", "runs", "errata", "notes")
_DOWNLOADS = {"CSV": "csv", "TSV": "tsv", "LaTeX": "tex", "Markdown": "txt", "JSON": "json", "BibTeX": "bib"}


def table_page(found: SurveyTable, catalogue: Catalogue, recorded: Recorded) -> str:
    """The Markdown page of one table."""
    works = [catalogue.entries[key] for key in found.rows]
    columns = ["group", *_CHOSEN] if found.key == "reconstruction" else list(_CHOSEN)
    heads = [COLUMNS[name].head if name in COLUMNS else "Outputs" for name in columns]
    rows = [_row(work, found, recorded, columns) for work in works]
    header, *lines = csv.reader(FORMATS["csv"](table_rows(found)).splitlines())
    data = [work_row(work, cells, table=found.key) for work, cells in zip(works, lines, strict=True)]
    choices = [FACETS[name].head for name in _CHOICES]
    if "group" in columns:
        choices.insert(0, "Group")
        for row, work in zip(data, works, strict=True):
            row.facets["Group"] = COLUMNS["group"].values(work, found.key)
    script = rows_script(data, choices=choices, labels={"Theme": numbered(catalogue.survey.themes)}, columns=header)
    running = sum(bool(work.models_for(found.key)) for work in works)
    downloads = " · ".join(f'<a href="{found.key}.{suffix}" download>{name}</a>' for name, suffix in _DOWNLOADS.items())
    return f"""---
title: {front_matter(f"Table {found.number}: {found.title}")}
hide: [toc]
---

# {heading(f"Table {found.number}: {found.title}")}

<p>{len(works)} of the survey's {found.survey_rows} rows are in the catalogue; {running} of them can be run here.
A cell shows what was verified; where the survey differs, its words are struck through and the erratum is one
click away; a note adds to what is right. Cells marked
<span class="skb-mark skb-unverified">unverified</span> nobody has re-checked yet.</p>

{table(heads, rows, caption=f"Table {found.number} of the survey: {found.title}", interactive=found.key)}
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


def _row(work: Work, found: SurveyTable, recorded: Recorded, columns: Sequence[str]) -> list[str]:
    """The cells: the text of each column, but for those that have marks, links or a number to sort by."""
    row = next(row for row in work.survey.rows if row.table == found.key)
    # A record of the bibliography stands behind every table.
    here = re.compile(rf"Table {found.number}\b|References?\b")
    errata: dict[str, list[Erratum]] = {"reference": [], "description": [], "datasets": [], "code": []}
    for erratum in work.errata:
        if erratum.column and here.match(erratum.where):
            errata[erratum.column].append(erratum)
    notes: dict[str, list[Note]] = {"reference": [], "description": [], "datasets": [], "code": []}
    for note in work.notes:
        if note.column and here.match(note.where):
            notes[note.column].append(note)
    models = work.models_for(found.key)
    equal = [one for one in equal_now(work, recorded) if one.variant in {model.name for model in models}]
    number = f' <span class="skb-nowrap">{text}</span>' if (text := escape(COLUMNS["reference"].text(work))) else ""
    sizes = COLUMNS["params"].values(work, found.key)
    addresses = [
        link(url, url.split("://")[1].removeprefix("github.com/").rstrip("/"))
        for url in COLUMNS["official"].values(work)
    ]
    special = {
        "name": f'<td><a href="../methods/{work.key}.html">{escape(work.name)}</a>{number}'
        f"{_flags(work, errata['reference'] + errata['description'])}"
        f"{_marks(work, notes['reference'] + notes['description'])}</td>",
        "year": f'<td class="skb-number">{work.year}</td>',
        "dataset": _claim_cell(work, row.datasets, errata["datasets"], notes["datasets"]),
        "code": _claim_cell(work, row.code, errata["code"], notes["code"]),
        "outputs": (equal_marks(equal) or "not compared") if models else "",
        "params": f'<td class="skb-number" data-order="{sizes[0] if sizes else -1}">'
        f"{escape(COLUMNS['params'].text(work, found.key))}</td>",
        "official": "<br>".join(addresses) or "none",
    }
    return [special[name] if name in special else escape(COLUMNS[name].text(work, found.key)) for name in columns]


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

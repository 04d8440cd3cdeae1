"""One page of all errata, sortable and filterable, and the same as a download."""

from __future__ import annotations

from skipkb.catalog.loading import Catalogue
from skipkb.site.text import escape, source_mark, table


def errata_page(catalogue: Catalogue) -> str:
    """The Markdown page of everything the survey or its project page gives differently from what was found."""
    rows = [
        [
            f'<a href="methods/{work.key}.html#erratum-{number}">{escape(work.name)}</a>',
            escape(erratum.where),
            escape(erratum.type),
            escape(erratum.says),
            escape(erratum.truth),
            f"{escape(erratum.status)} {source_mark(erratum.evidence)}",
        ]
        for work in catalogue.entries.values()
        for number, erratum in enumerate(work.errata, start=1)
    ]
    rows += [
        [
            "",
            escape(erratum.where),
            escape(erratum.type),
            escape(erratum.says),
            escape(erratum.truth),
            f"{escape(erratum.status)} {source_mark(erratum.evidence)}",
        ]
        for erratum in catalogue.survey.errata
    ]
    headers = ("Work", "Where", "Type", "The survey says", "What we found", "Status")
    return f"""---
title: Errata
hide: [toc]
---

# Errata of the survey

<p>{len(rows)} places where the survey or its project page differs from what we found, each with its evidence. The
list is meant as help: a survey of two hundred works cannot be without slips, and a reader should meet the right
value in the place where the slip stands. Corrections of our corrections are welcome.</p>

{table(headers, rows, caption="Errata", interactive="errata")}
"""

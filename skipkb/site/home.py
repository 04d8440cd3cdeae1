"""The home page: its text is written by hand in docs/index.md, its figures are filled in here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from skipkb.catalog.entry import Source, Work
from skipkb.catalog.loading import Catalogue
from skipkb.evidence.recorded import Recorded, equal_now, state
from skipkb.site.text import escape, table


def home_page(text: str, catalogue: Catalogue, recorded: Recorded) -> str:
    """``text`` with each ``<!-- skipkb: NAME -->`` replaced by what the catalogue says now.

    Raises:
        ValueError: for a NAME that does not exist.
    """
    blocks = {"coverage": _coverage(catalogue, recorded), "methods": _methods(catalogue)}

    def fill(found: re.Match[str]) -> str:
        if found[1] not in blocks:
            raise ValueError(f"docs/index.md asks for {found[1]!r}; there are {', '.join(blocks)}")
        return blocks[found[1]]

    return re.sub(r"<!-- skipkb: ([\w-]+) -->", fill, text)


def sources(work: Work) -> Iterator[Source]:
    """The source of every figure and claim of an entry."""
    for row in work.survey.rows:
        yield from (row.datasets.source, row.code.source)
    for variant in work.variants:
        if variant.published:
            yield variant.published.source
    yield from (configuration.source for configuration in work.configurations)
    yield from (repository.source for repository in work.code)
    yield from (result.source for result in work.results)
    yield from (peer.source for peer in work.peers)
    for erratum in work.errata:
        yield erratum.evidence
    for note in work.notes:
        yield note.evidence


def _coverage(catalogue: Catalogue, recorded: Recorded) -> str:
    works = list(catalogue.entries.values())
    rows_total = sum(table.survey_rows for table in catalogue.survey.tables)
    rows_here = sum(len(table.rows) for table in catalogue.survey.tables)
    methods = [work for work in works if work.kind in ("method", "regulariser")]
    verified = [work for work in works if all(source.checked != "unverified" for source in sources(work))]
    passed = [work for work in works if any(state(report, work) == "holds" for report in recorded.of(work.key))]
    equal = [work for work in works if any(one.whose != "port" for one in equal_now(work, recorded))]
    facts = (
        (f"{rows_here} of {rows_total}", "rows of the survey's four tables"),
        (f"{sum(work.runs for work in methods)} of {len(methods)}", "methods in the catalogue run here"),
        (str(sum(len(work.variants) for work in works)), "models with exact parameter counts"),
        (
            f"{len(passed)} of {sum(work.runs for work in works)}",
            "hold the contract today",
        ),
        (str(len(equal)), "methods give the outputs of their authors' code"),
        (f"{len(verified)} of {len(works)}", "entries whose every figure is verified"),
        (str(sum(len(work.errata) for work in works) + len(catalogue.survey.errata)), "errata of the survey"),
        (str(sum(len(work.notes) for work in works) + len(catalogue.survey.notes)), "notes that add to it"),
    )
    items = "".join(f"<li><strong>{escape(number)}</strong> {escape(words)}</li>" for number, words in facts)
    return f'<ul class="skb-facts">{items}</ul>'


def _methods(catalogue: Catalogue) -> str:
    rows = [
        [f'<a href="methods/{work.key}.html">{escape(work.name)}</a>', str(work.year), escape(work.contribution)]
        for work in catalogue.entries.values()
        if work.runs
    ]
    return table(("Method", "Year", "What it changed"), rows, caption="Methods that run")

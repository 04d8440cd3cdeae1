"""One work as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from skipkb.catalog.columns import claim_text
from skipkb.catalog.entry import Source, Work


def show(work: Work) -> str:
    """All that a reader in a terminal wants to know, line by line."""
    return "\n".join(_lines(work)) + "\n"


def _lines(work: Work) -> Iterator[str]:
    yield f"{work.name} ({work.year})"
    yield work.contribution
    yield ""
    yield f"{', '.join(work.authors)}. {work.title}. {work.venue}, {work.year}."
    if work.arxiv:
        yield f"https://arxiv.org/abs/{work.arxiv}"
    if work.doi:
        yield f"https://doi.org/{work.doi}"
    yield ""
    yield work.description
    for skip in work.skips:
        yield f"\nskip     {skip.merge}, {skip.span}: from {skip.start} to {skip.end} ({skip.shortcut})"
    for row in work.survey.rows:
        yield f"\ntable    {row.table}; data sets: {claim_text(row.datasets)}; code: {claim_text(row.code)}"
    for variant in work.variants:
        yield f"\nmodel    {variant.name}: {variant.parameters:,} parameters, {variant.macs:,} MACs at {variant.input}"
    for repository in work.code:
        licence = repository.licence or "no licence known"
        yield f"\ncode     {repository.url} ({repository.role}, {repository.framework}, {licence}): {repository.holds}"
    for result in work.results:
        yield f"\nresult   {result.dataset}, {result.metric}: {result.value} ({result.variant}; {mark(result.source)})"
    for erratum in work.errata:
        yield f"\nerratum  {erratum.where}, {erratum.type} ({erratum.status}): {erratum.truth}"
    for note in work.notes:
        yield f"\nnote     {note.where} ({mark(note.evidence)}): {note.adds}"
    for deviation in work.deviations:
        yield f"\ndeviates {deviation.what} Why: {deviation.reason}"
    if work.implementation:
        yield f"\nno code  {work.implementation.status}: {work.implementation.reason}"


def mark(source: Source) -> str:
    """How far a statement was checked, in a few words."""
    if source.checked == "unverified":
        return "unverified"
    return f"checked: {source.checked}, {source.date}"

"""What the explorer and the downloads of rows need, as scripts that a page opened from disk may load too."""

from __future__ import annotations

from collections import Counter
from typing import Any

from skipkb.catalog.columns import COLUMNS, printed_size
from skipkb.catalog.entry import Configuration, Variant, Work
from skipkb.catalog.facets import FACETS, NUMBERS
from skipkb.catalog.loading import Catalogue
from skipkb.evidence.counts import read_graphs
from skipkb.site.fingerprints import counts_text, graph_of, picture
from skipkb.site.rows import numbered, safe_json, work_facets

CHOICES = [
    FACETS[name].head
    for name in (
        *("task", "theme", "explanation", "merge", "span", "kind", "table"),
        *("dataset", "framework", "official", "licence", "runs", "errata", "notes"),
    )
]
_COUNTED = {COLUMNS[name].head: COLUMNS[name] for name in (*NUMBERS, "errata", "notes")}
NUMBERS_ABOUT = {head: column.about for head, column in _COUNTED.items()} | {
    "Skips found": "additions and concatenations that a trace finds in the first model built here",
    "Long skips found": "those of them that cross at least three convolutions",
    "Longest skip": "weighted layers crossed by the longest skip of the first network whose trace is recorded",
    "Weighted layers": "in order of execution, of the same network",
    "Models built here": "variants with exact figures",
    "Related works": "typed relations to and from other entries",
    "Data sets": "that the paper evaluates on",
    "Reported results": "figures of the paper in the catalogue",
    "Repositories": "official and other code",
    "Authors": "of the paper",
}


def explorer_data(catalogue: Catalogue) -> str:
    """A script that sets ``window.SKIPKB_EXPLORER``: one record for each entry, in the order of the catalogue."""
    related = Counter(key for work in catalogue.entries.values() for r in work.relations for key in (work.key, r.to))
    survey = catalogue.survey
    tables = {table.key: f"{table.number} {table.title}" for table in survey.tables}
    labels = {"Theme": numbered(survey.themes), "Explanation": numbered(survey.explanations), "Table": tables}
    data = {
        "choices": CHOICES,
        "numbers": NUMBERS_ABOUT,
        "labels": labels,
        "rows": [_record(work, related[work.key]) for work in catalogue.entries.values()],
    }
    return f"window.SKIPKB_EXPLORER = {safe_json(data)};\n"


def fingerprint_data(catalogue: Catalogue) -> str:
    """A script with a small picture of the skips of each entry that has one; loaded when entries are compared."""
    pictures = {}
    for key, (variant, graph) in _graphs(catalogue).items():
        pictures[key] = {
            "svg": picture(graph, variant.title, thumbnail=True),
            "text": f"{variant.title}: {counts_text(graph_of(graph))}",
        }
    return f"window.SKIPKB_FINGERPRINTS = {safe_json(pictures)};\n"


def bibtex_data(catalogue: Catalogue) -> str:
    """A script with the BibTeX record of each entry; loaded when somebody asks for a file of records."""
    records = {work.key: work.bibtex for work in catalogue.entries.values()}
    return f"window.SKIPKB_BIBTEX = {safe_json(records)};\n"


def _record(work: Work, related: int) -> dict[str, Any]:
    numbers = {head: values[0] for head, column in _COUNTED.items() if (values := column.values(work))}
    numbers |= {
        "Related works": related,
        "Data sets": len(work.datasets),
        "Reported results": len(work.results),
        "Repositories": len(work.code),
        "Authors": len(work.authors),
        "Models built here": len(work.variants),
    }
    notes = _origins(work)
    if work.variants:
        skips = work.variants[0].skips
        numbers["Skips found"] = skips.get("add", 0) + skips.get("concat", 0)
        numbers["Long skips found"] = skips.get("long", 0)
    first = _first_graph(work)
    if first is not None:
        variant, found = first[0], graph_of(first[1])
        numbers["Weighted layers"] = len(found.layers)
        numbers["Longest skip"] = max((skip.layers for skip in found.skips), default=0)
        notes |= dict.fromkeys(("Weighted layers", "Longest skip"), variant.title)
    return {
        "key": work.key,
        "name": work.name,
        "venue": work.venue,
        "contribution": work.contribution,
        "also": " ".join([*work.aliases, work.title, *work.authors]),
        "facets": {name: found for name, found in work_facets(work).items() if name in CHOICES},
        "numbers": numbers,
        "notes": notes,
        "printed": [] if work.variants else [name for name in ("Parameters", "MACs") if name in numbers],
        "sizes": {"Parameters": _all_sizes(work, "parameters"), "MACs": _all_sizes(work, "macs")},
        "code": COLUMNS["official"].values(work),
    }


def _origins(work: Work) -> dict[str, str]:
    """Of which model the figures of the first one are."""
    if work.variants:
        figures = ("Parameters", "MACs", "Skips found", "Long skips found")
        return dict.fromkeys(figures, f"{work.variants[0].title}, exact")
    notes: dict[str, str] = {}
    for name, field in (("Parameters", "parameters"), ("MACs", "macs")):
        for configuration in work.configurations:
            printed = getattr(configuration, field)
            if printed_size(field, printed) is not None:
                notes.setdefault(name, f"{configuration.name}, as printed: {printed}")
    return notes


def _all_sizes(work: Work, field: str) -> list[str]:
    """The figures of every model, exact where it is built here and else as printed."""
    models: list[Variant | Configuration] = [*work.variants, *work.configurations]
    lines = []
    for model in models:
        value = getattr(model, field)
        if isinstance(model, Variant):
            lines.append(f"{model.title}: {value:,}")
        elif value:
            lines.append(f"{model.name}: {value} (as printed)")
    return lines


def _first_graph(work: Work) -> tuple[Variant, str] | None:
    """The first variant with a recorded trace, and that as JSON; networks that are alike share one record."""
    graphs = read_graphs(work.key)
    for variant in work.variants:
        if variant.name in graphs:
            return variant, graphs[variant.name]
    return None


def _graphs(catalogue: Catalogue) -> dict[str, tuple[Variant, str]]:
    found = ((work.key, _first_graph(work)) for work in catalogue.entries.values())
    return {key: graph for key, graph in found if graph is not None}

"""What the search page needs: the searchable text of every entry, as a script the page loads from disk too."""

from __future__ import annotations

import json

from skipkb.catalog.entry import Work
from skipkb.catalog.index import facets
from skipkb.catalog.loading import Catalogue


def search_data(catalogue: Catalogue) -> str:
    """A script that sets ``window.SKIPKB_ENTRIES``; JSON in a script, so that a page opened from disk may read it."""
    data = json.dumps([_document(work) for work in catalogue.entries.values()], ensure_ascii=False, sort_keys=True)
    safe = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"window.SKIPKB_ENTRIES = {safe};\n"


def _document(work: Work) -> dict[str, object]:
    selected: dict[str, list[str]] = {}
    for facet, value in sorted(set(facets(work))):
        selected.setdefault(facet, []).append(value)
    names = [work.name, work.key, *work.aliases, *(variant.name for variant in work.variants)]
    return {
        "key": work.key,
        "name": work.name,
        "names": " · ".join(dict.fromkeys(names)),
        "title": work.title,
        "year": work.year,
        "contribution": work.contribution,
        "authors": ", ".join(work.authors),
        "description": work.description,
        "skips": "; ".join(f"{s.merge} {s.span} {s.start} {s.end} {s.shortcut}" for s in work.skips),
        "other": " ".join([*work.tasks, *work.datasets, *work.themes, work.venue, work.paper.arxiv or ""]),
        "facets": selected,
    }

"""What the search page needs, and what the theme's own search box gets: less, as both are loaded by the reader."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from skipkb.catalog.entry import Work
from skipkb.catalog.facets import FACETS, NUMBERS, PHRASES
from skipkb.catalog.index import facet_values, identifiers, names_of, numbers, searched
from skipkb.catalog.loading import Catalogue
from skipkb.catalog.search import ABOUT
from skipkb.catalog.synonyms import Lexicon
from skipkb.catalog.words import LONGEST_RUN, QUESTION_WORDS, SEARCHED, joined, words
from skipkb.catalog.writing import write_text
from skipkb.site.groups import section_page_name


def search_data(catalogue: Catalogue) -> str:
    """A script that sets ``window.SKIPKB_SEARCH``; JSON in a script, so that a page opened from disk may read it."""
    lexicon = Lexicon()
    for work in catalogue.entries.values():
        lexicon.add(names_of(work), searched(work).values())
    data = {
        "columns": SEARCHED,
        "facets": list(FACETS),
        "numbers": list(NUMBERS),
        "phrases": PHRASES,
        "free_text": [name for name, facet in FACETS.items() if facet.part],
        "question_words": sorted(QUESTION_WORDS),
        "longest_run": LONGEST_RUN,
        "about": ABOUT,
        "explanations": {
            number.lower(): {"title": f"{number} {title}", "page": f"{section_page_name(number)}.html"}
            for number, title in catalogue.survey.explanations.items()
        },
        "alternatives": lexicon.alternatives(catalogue.synonyms),
        "entries": [_document(work) for work in catalogue.entries.values()],
    }
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"window.SKIPKB_SEARCH = {safe};\n"


def _document(work: Work) -> dict[str, object]:
    selected: dict[str, list[str]] = {}
    for facet, value in sorted(set(facet_values(work))):
        selected.setdefault(facet, []).append(value)
    spans: dict[str, list[float]] = {}
    for facet, amount in sorted(set(numbers(work))):
        spans.setdefault(facet, []).append(int(amount) if float(amount).is_integer() else amount)  # shorter
    return {
        "key": work.key,
        "label": work.name,
        "year": work.year,
        "names": sorted({joined(words(name)) for name in (work.key, work.name, *work.aliases)}),
        "identifiers": identifiers(work),
        "method": work.kind in ("method", "regulariser"),
        "facets": selected,
        "numbers": spans,
        **searched(work),
    }


_SECTIONS = ("What it changed",)  # of a method's page; the search page knows the rest better


def trim_theme_search(output: Path, prose: Collection[Path]) -> None:
    """Keep out of the theme's search index what repeats the catalogue.

    Of a method's page its head and the sections named above stay in; of pages written by people (``prose``), of
    guides and of the API reference everything; of the other generated pages nothing.
    """
    for path in sorted(output.rglob("*.md")):
        folder = path.relative_to(output).parts[0]
        if path in prose or folder in ("api", "guides"):
            continue
        page = path.read_text(encoding="utf-8")
        listing = folder != "methods" or path.name == "index.md"
        write_text(path, _excluded(page) if listing else _only_its_head(page))


def _excluded(page: str) -> str:
    head = "---\nsearch: {exclude: true}\n"
    return head + page.removeprefix("---\n") if page.startswith("---\n") else f"{head}---\n\n{page}"


def _only_its_head(page: str) -> str:
    lines = []
    fence = ""
    for line in page.split("\n"):
        marks = re.match(r"`{3,}|~{3,}", line)
        heading = not fence and re.fullmatch(r"###* (.*)", line)
        if marks and (not fence or (line.startswith(fence) and not line.strip("`~ "))):
            fence = "" if fence else marks[0]
        skipped = heading and heading[1] not in _SECTIONS
        lines.append(f'{line} {{: data-search-exclude="true" }}' if skipped else line)
    return "\n".join(lines)

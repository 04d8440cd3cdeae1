"""The whole catalogue as one JSON, CSV, BibTeX and SQLite file."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from skipkb.catalog import paths
from skipkb.catalog.entry import Work
from skipkb.catalog.files import write_text
from skipkb.catalog.index import source_hash, write_index
from skipkb.catalog.loading import Catalogue

_COLUMNS = (
    "key", "name", "folder", "kind", "year", "title", "authors", "venue", "doi", "arxiv", "tasks", "themes",
    "merges", "spans", "datasets", "official_code", "framework", "licence", "runs", "variants", "errata",
    "contribution",
)  # fmt: skip


def export(catalogue: Catalogue, directory: Path) -> list[Path]:
    """Write catalog.json, catalog.csv, references.bib and catalog.sqlite into ``directory``; return their paths.

    Raises:
        OSError: when the directory cannot be written.
    """
    texts = {
        "catalog.json": json_text(catalogue),
        "catalog.csv": csv_text(catalogue),
        "references.bib": bibtex_text(catalogue),
    }
    for name, text in texts.items():
        write_text(directory / name, text)
    write_index(catalogue, directory / "catalog.sqlite", source_hash(paths.source_dir()))
    return [directory / name for name in (*texts, "catalog.sqlite")]


def json_text(catalogue: Catalogue) -> str:
    """Survey and entries with everything they say."""
    data = {
        "survey": catalogue.survey.model_dump(mode="json"),
        "entries": [
            {"folder": work.folder, **work.model_dump(mode="json", exclude_defaults=True)}
            for work in catalogue.entries.values()
        ],
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def csv_text(catalogue: Catalogue) -> str:
    """One line per work; several values in one cell are separated by semicolons."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for work in catalogue.entries.values():
        writer.writerow(["; ".join(map(str, _cell(work, column))) for column in _COLUMNS])
    return text.getvalue()


def bibtex_text(catalogue: Catalogue) -> str:
    """Every record of references.bib, as it stands there."""
    return "\n\n".join(reference.bibtex for reference in catalogue.references.values()) + "\n"


def _cell(work: Work, column: str) -> list[object]:
    official = [repository for repository in work.code if repository.role == "official"]
    special: dict[str, list[object]] = {
        "doi": [work.paper.doi or ""],
        "arxiv": [work.paper.arxiv or ""],
        "merges": list(work.merges),
        "spans": list(dict.fromkeys(skip.span for skip in work.skips)),
        "official_code": [repository.url for repository in official],
        "framework": [repository.framework for repository in official],
        "licence": [repository.licence for repository in official if repository.licence],
        "runs": ["yes" if work.runs else "no"],
        "variants": [variant.name for variant in work.variants],
        "errata": [len(work.errata)],
    }
    if column in special:
        return special[column]
    value = getattr(work, column)
    return list(value) if isinstance(value, list) else [value]

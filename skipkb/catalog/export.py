"""The whole catalogue as one JSON, CSV, BibTeX and SQLite file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

from skipkb.catalog import paths
from skipkb.catalog.columns import COLUMNS
from skipkb.catalog.index import source_hash, write_index
from skipkb.catalog.loading import Catalogue
from skipkb.catalog.writing import write_text

_CHOSEN = (
    *("key", "name", "folder", "kind", "year", "title", "author", "venue", "doi", "arxiv", "task", "theme"),
    *("merge", "span", "dataset", "official", "framework", "licence", "runs", "variant", "errata", "notes"),
    "contribution",
)

FILES = ("catalog.json", "catalog.csv", "references.bib", "catalog.sqlite")
OURS = ".skipkb-export"
"""Name of the file that lists what an export wrote, with hashes; only that is replaced without being asked."""


def export(catalogue: Catalogue, directory: Path, *, force: bool = False) -> list[Path]:
    """Write catalog.json, catalog.csv, references.bib and catalog.sqlite into ``directory``; return their paths.

    Args:
        force: replace files of these names too that are not an earlier export, or were edited since.

    Raises:
        FileExistsError: such a file is there; nothing is then written.
        OSError: when the directory cannot be written.
    """
    if not force:
        _refuse_to_replace(directory)
    files = write_files(catalogue, directory)
    write_text(directory / OURS, "".join(f"{_sha256(file)}  {file.name}\n" for file in files))
    return files


def write_files(catalogue: Catalogue, directory: Path) -> list[Path]:
    """The four files, whatever was there before."""
    texts = {
        "catalog.json": json_text(catalogue),
        "catalog.csv": csv_text(catalogue),
        "references.bib": bibtex_text(catalogue),
    }
    for name, text in texts.items():
        write_text(directory / name, text)
    write_index(catalogue, directory / "catalog.sqlite", source_hash(paths.source_dir()))
    return [directory / name for name in FILES]


def _refuse_to_replace(directory: Path) -> None:
    """Raise FileExistsError for the first file that is not as an earlier export left it."""
    listed = directory / OURS
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    ours = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in FILES:
        file = directory / name
        if file.exists() and ours.get(name) != _sha256(file):
            raise FileExistsError(f"{file} is not as an earlier export left it")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


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
    """One line per work, with the names that filters have; several values in one cell are separated by semicolons."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CHOSEN)
    for work in catalogue.entries.values():
        writer.writerow(["; ".join(map(str, COLUMNS[name].values(work))) for name in _CHOSEN])
    return text.getvalue()


def bibtex_text(catalogue: Catalogue) -> str:
    """Every record of references.bib, as it stands there."""
    return "\n\n".join(reference.bibtex for reference in catalogue.references.values()) + "\n"

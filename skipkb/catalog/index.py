"""The compiled catalogue: one SQLite file with a full-text index, rebuilt when a source file changes.

Reading it needs the standard library only. The file is ordinary SQLite, and anybody may open it:

=============  ==========================================================================
table          holds
=============  ==========================================================================
meta           format, hash of the source files, survey.yaml as JSON
entry          one row per work: the columns a list shows, and the whole entry as JSON
name           key, name and aliases of a work, folded by ``folded``
facet          entry, facet, value: what filters select on
vocabulary     facet, value: every value a filter may name
variant        one row per model that can be built
entry_text     FTS5: the searchable text, weighted by column when ranked
spelling       FTS5 trigrams: every name, for misspelt queries; ``trigram`` counts them
=============  ==========================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipkb.catalog import paths

if TYPE_CHECKING:
    from skipkb.catalog.entry import Work
    from skipkb.catalog.loading import Catalogue

FORMAT = "2"

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, folder TEXT NOT NULL,
    title TEXT NOT NULL, authors TEXT NOT NULL, year INTEGER NOT NULL, venue TEXT NOT NULL,
    contribution TEXT NOT NULL, bibtex TEXT NOT NULL, json TEXT NOT NULL
);
CREATE INDEX entry_year ON entry (year);
CREATE TABLE name (
    name TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (name, entry)
) WITHOUT ROWID;
CREATE TABLE facet (
    facet TEXT NOT NULL, value TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (facet, value, entry)
) WITHOUT ROWID;
CREATE TABLE vocabulary (facet TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (facet, value)) WITHOUT ROWID;
CREATE TABLE variant (
    name TEXT PRIMARY KEY, entry INTEGER NOT NULL, title TEXT NOT NULL, build TEXT NOT NULL, kwargs TEXT NOT NULL,
    parameters INTEGER NOT NULL, macs INTEGER NOT NULL
) WITHOUT ROWID;
CREATE VIRTUAL TABLE entry_text USING fts5(
    name, title, contribution, authors, description, skips, other,
    tokenize = 'porter unicode61 remove_diacritics 2', prefix = '3'
);
CREATE VIRTUAL TABLE spelling USING fts5(name, entry UNINDEXED, tokenize = 'trigram');
CREATE VIRTUAL TABLE trigram USING fts5vocab(spelling, row);
"""


def source_hash(directory: Path) -> str:
    """SHA-256 over the catalogue's files (names and contents) and the format of the index."""
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    for name in _source_names(directory):
        digest.update(f"{name}\n".encode())
        with contextlib.suppress(OSError):
            digest.update(hashlib.sha256((directory / name).read_bytes()).digest())
    return digest.hexdigest()


def _source_names(directory: Path) -> list[str]:
    names = ["references.bib", "survey.yaml"]
    for folder in sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and entry.name != "evidence"):
        names += sorted(
            f"{folder}/{entry.name}" for entry in os.scandir(directory / folder) if entry.name.endswith(".yaml")
        )
    return names


@cache
def open_index() -> sqlite3.Connection:
    """The index of the installed catalogue, read-only; compiled first when missing, stale or corrupt.

    A place that cannot be written is passed over for the user's cache directory, and that for memory.

    Raises:
        CatalogueError: when it has to be compiled and the sources have problems.
    """
    directory = paths.source_dir()
    wanted = source_hash(directory)
    for path in paths.index_candidates():
        if (connection := _open_if_current(path, wanted)) is not None:
            return connection
    return _compile_somewhere(directory, wanted)


_ONE_AT_A_TIME = threading.RLock()
"""Threads share one connection, and its cached statements would mix up their rows."""


def query(sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Rows of a read-only query on the index; damage found only now has the index compiled anew."""
    with _ONE_AT_A_TIME:
        return _query(sql, values)


def _query(sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    try:
        return open_index().execute(sql, values).fetchall()
    except sqlite3.DatabaseError as error:
        # a missing table or text that is not UTF-8 comes as OperationalError
        if type(error) not in (sqlite3.DatabaseError, sqlite3.OperationalError):
            raise
    forget()
    for path in paths.index_candidates():
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return open_index().execute(sql, values).fetchall()


def folded(name: str) -> str:
    """``name`` as the index compares names: without case, with single spaces."""
    return " ".join(name.casefold().encode("utf-8", "replace").decode("utf-8").split())


def forget() -> None:
    """Drop the open connection, so that the next query looks at the sources again."""
    if open_index.cache_info().currsize:
        with contextlib.suppress(Exception):
            open_index().close()
    open_index.cache_clear()


def _open_if_current(path: Path, wanted: str) -> sqlite3.Connection | None:
    connection = None
    try:
        if not path.is_file():
            return None
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        found = connection.execute("SELECT value FROM meta WHERE key = 'source'").fetchone()
        if found == (wanted,):
            return connection
    except (sqlite3.Error, OSError):
        pass  # corrupt, foreign or out of reach: treated like a missing one
    if connection is not None:
        connection.close()
    return None


def _compile_somewhere(directory: Path, wanted: str) -> sqlite3.Connection:
    from skipkb.catalog.loading import load

    catalogue = load(directory)
    for path in paths.index_candidates():
        with contextlib.suppress(OSError):
            write_index(catalogue, path, wanted)
            if (connection := _open_if_current(path, wanted)) is not None:
                return connection
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    fill_index(connection, catalogue, wanted)
    return connection


def write_index(catalogue: Catalogue, path: Path, source: str) -> None:
    """Compile ``catalogue`` into ``path``, atomically.

    Raises:
        OSError: when the place cannot be written.
    """
    from skipkb.catalog.files import write_bytes

    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        fill_index(connection, catalogue, source)
        connection.execute("VACUUM")
        write_bytes(path, connection.serialize())


def fill_index(connection: sqlite3.Connection, catalogue: Catalogue, source: str) -> None:
    """Create and fill the tables in an empty database."""
    connection.executescript(_TABLES)
    with connection:
        connection.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [
                ("format", FORMAT),
                ("source", source),
                ("survey", json.dumps(catalogue.survey.model_dump(mode="json"), sort_keys=True)),
            ],
        )
        for number, work in enumerate(catalogue.entries.values(), start=1):
            _insert(connection, number, work)
        connection.executemany("INSERT OR IGNORE INTO vocabulary VALUES (?, ?)", _allowed_values())
        connection.execute("INSERT OR IGNORE INTO vocabulary SELECT DISTINCT facet, value FROM facet")
        connection.execute("INSERT INTO entry_text(entry_text) VALUES ('optimize')")


def _insert(connection: sqlite3.Connection, number: int, work: Work) -> None:
    connection.execute(
        "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number, work.key, work.name, work.folder, work.title, "; ".join(work.authors), work.year, work.venue,
            work.contribution, work.bibtex, work.model_dump_json(exclude_defaults=True),
        ),
    )  # fmt: skip
    connection.executemany(
        "INSERT OR IGNORE INTO facet VALUES (?, ?, ?)",
        [(facet, value, number) for facet, value in facets(work)],
    )
    connection.executemany(
        "INSERT INTO variant VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (v.name, number, v.title, v.build, json.dumps(v.kwargs, sort_keys=True), v.parameters, v.macs)
            for v in work.variants
        ],
    )
    names = [work.name, work.key, *work.aliases, *(variant.name for variant in work.variants)]
    connection.executemany(
        "INSERT OR IGNORE INTO name VALUES (?, ?)",
        [(folded(name), number) for name in (work.key, work.name, *work.aliases)],
    )
    skips = "; ".join(f"{s.merge} {s.span} skip from {s.start} to {s.end}, {s.shortcut}" for s in work.skips)
    other = [str(work.year), work.venue, work.kind, work.folder, *work.tasks, *work.datasets]
    other += [f"arXiv {work.paper.arxiv}"] if work.paper.arxiv else []
    other += [work.paper.doi] if work.paper.doi else []
    other += [text for item in work.code for text in (item.framework, item.licence, item.url) if text]
    other += [variant.title for variant in work.variants]
    connection.execute(
        "INSERT INTO entry_text(rowid, name, title, contribution, authors, description, skips, other)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number, " · ".join(dict.fromkeys(names)), work.title, work.contribution, ", ".join(work.authors),
            work.description, skips, " · ".join(other),
        ),
    )  # fmt: skip
    connection.executemany("INSERT INTO spelling VALUES (?, ?)", [(name, number) for name in dict.fromkeys(names)])


def facets(work: Work) -> Iterator[tuple[str, str]]:
    """What a filter can select ``work`` by: pairs of facet and lower-case value."""
    yield "folder", work.folder
    yield "kind", work.kind
    yield "year", str(work.year)
    yield "venue", work.venue.lower()
    yield "runs", "yes" if work.runs else "no"
    for task in work.tasks:
        yield "task", task
    for dataset in work.datasets:
        yield "dataset", dataset.lower()
    for theme in work.themes:
        yield "theme", theme.lower()
    for explanation in work.explanations:
        yield "explanation", explanation.lower()
    for row in work.survey.rows:
        yield "table", row.table
    for skip in work.skips:
        yield "merge", skip.merge
        yield "span", skip.span
    for repository in work.code:
        yield "framework", repository.framework.lower()
        if repository.licence:
            yield "licence", repository.licence.lower()


def _allowed_values() -> Iterator[tuple[str, str]]:
    """Values a filter may name although no entry has them yet."""
    from typing import get_args

    from skipkb.catalog import entry

    allowed: dict[str, Sequence[str]] = {
        "folder": entry.FOLDERS,
        "kind": get_args(entry.Kind),
        "merge": get_args(entry.Merge),
        "span": ("short", "long"),
        "theme": get_args(entry.Theme),
        "explanation": get_args(entry.Explanation),
        "table": get_args(entry.Table),
        "runs": ("yes", "no"),
    }
    for facet, values in allowed.items():
        for value in values:
            yield facet, value.lower()

"""The compiled catalogue: one SQLite file with a full-text index, rebuilt when a source file changes.

Reading it needs the standard library only. The file is ordinary SQLite, and anybody may open it:

=============  ==========================================================================
table          holds
=============  ==========================================================================
meta           format, hash of the source files, survey.yaml as JSON
entry          one row per work: the columns a list shows, and the whole entry as JSON
name           key, name and aliases of a work, folded by ``folded``, and joined as searches compare them
facet          entry, facet, value: what filters select on
number         entry, facet, value: what filters ask for a span of
identifier     DOI and arXiv number of a work's publication in lower case; rank 0 for methods, else 1
vocabulary     facet, value: every value a filter may name
variant        one row per model that can be built
entry_text     FTS5: the searchable text, weighted by column when ranked
alternative    joined words of a query, and another wording that the texts may have instead
spelling       FTS5 trigrams: every name, for misspelt queries; ``trigram`` counts them
word           FTS5 trigrams: every word of the texts, likewise; ``word_trigram`` counts them
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
from skipkb.catalog.facets import FACETS, NUMBERS, WHETHER
from skipkb.catalog.words import SEARCHED, joined, words

if TYPE_CHECKING:
    from skipkb.catalog.entry import Work
    from skipkb.catalog.loading import Catalogue

FORMAT = "5"

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, folder TEXT NOT NULL,
    title TEXT NOT NULL, authors TEXT NOT NULL, year INTEGER NOT NULL, venue TEXT NOT NULL,
    contribution TEXT NOT NULL, bibtex TEXT NOT NULL, json TEXT NOT NULL
);
CREATE INDEX entry_year ON entry (year);
CREATE TABLE name (
    name TEXT NOT NULL, entry INTEGER NOT NULL, joined TEXT NOT NULL, PRIMARY KEY (name, entry)
) WITHOUT ROWID;
CREATE INDEX name_joined ON name (joined);
CREATE TABLE facet (
    facet TEXT NOT NULL, value TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (facet, value, entry)
) WITHOUT ROWID;
CREATE TABLE number (
    facet TEXT NOT NULL, value REAL NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (facet, value, entry)
) WITHOUT ROWID;
CREATE TABLE identifier (
    value TEXT NOT NULL, entry INTEGER NOT NULL, rank INTEGER NOT NULL, PRIMARY KEY (value, entry)
) WITHOUT ROWID;
CREATE TABLE vocabulary (facet TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (facet, value)) WITHOUT ROWID;
CREATE TABLE variant (
    name TEXT PRIMARY KEY, entry INTEGER NOT NULL, title TEXT NOT NULL, build TEXT NOT NULL, kwargs TEXT NOT NULL,
    parameters INTEGER NOT NULL, macs INTEGER NOT NULL
) WITHOUT ROWID;
CREATE VIRTUAL TABLE entry_text USING fts5(
    {columns}, tokenize = 'porter unicode61 remove_diacritics 2', prefix = '3'
);
CREATE TABLE alternative (joined TEXT NOT NULL, wording TEXT NOT NULL, PRIMARY KEY (joined, wording)) WITHOUT ROWID;
CREATE VIRTUAL TABLE spelling USING fts5(name, entry UNINDEXED, tokenize = 'trigram');
CREATE VIRTUAL TABLE trigram USING fts5vocab(spelling, row);
CREATE VIRTUAL TABLE word USING fts5(text, tokenize = 'trigram');
CREATE VIRTUAL TABLE word_trigram USING fts5vocab(word, row);
""".replace("{columns}", ", ".join(SEARCHED))


def source_hash(directory: Path) -> str:
    """SHA-256 over the catalogue's files (names and contents) and the format of the index."""
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    for name in _sourcenames_of(directory):
        digest.update(f"{name}\n".encode())
        with contextlib.suppress(OSError):
            digest.update(hashlib.sha256((directory / name).read_bytes()).digest())
    return digest.hexdigest()


def _sourcenames_of(directory: Path) -> list[str]:
    names = ["references.bib", "survey.yaml", "synonyms.yaml"]
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
    from skipkb.catalog.writing import write_bytes

    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        fill_index(connection, catalogue, source)
        connection.execute("VACUUM")
        write_bytes(path, connection.serialize())


def fill_index(connection: sqlite3.Connection, catalogue: Catalogue, source: str) -> None:
    """Create and fill the tables in an empty database."""
    from skipkb.catalog.synonyms import Lexicon

    lexicon = Lexicon()
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
            texts = searched(work)
            _insert(connection, number, work, texts)
            lexicon.add(names_of(work), texts.values())
        connection.executemany(
            "INSERT INTO alternative VALUES (?, ?)",
            [(form, one) for form, wordings in lexicon.alternatives(catalogue.synonyms).items() for one in wordings],
        )
        connection.executemany(
            "INSERT INTO word VALUES (?)", [(word,) for word in sorted(lexicon.words) if len(word) > 3]
        )
        connection.executemany("INSERT OR IGNORE INTO vocabulary VALUES (?, ?)", _allowed_values())
        connection.execute("INSERT OR IGNORE INTO vocabulary SELECT DISTINCT facet, value FROM facet")
        connection.execute("INSERT INTO entry_text(entry_text) VALUES ('optimize')")


def _insert(connection: sqlite3.Connection, number: int, work: Work, texts: dict[str, str]) -> None:
    connection.execute(
        "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number, work.key, work.name, work.folder, work.title, "; ".join(work.authors), work.year, work.venue,
            work.contribution, work.bibtex, work.model_dump_json(exclude_defaults=True),
        ),
    )  # fmt: skip
    connection.executemany(
        "INSERT OR IGNORE INTO facet VALUES (?, ?, ?)",
        [(facet, value, number) for facet, value in facet_values(work)],
    )
    connection.executemany(
        "INSERT OR IGNORE INTO number VALUES (?, ?, ?)",
        [(facet, value, number) for facet, value in numbers(work)],
    )
    connection.executemany(
        "INSERT INTO identifier VALUES (?, ?, ?)",
        [(value, number, 0 if work.kind in ("method", "regulariser") else 1) for value in identifiers(work)],
    )
    connection.executemany(
        "INSERT INTO variant VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (v.name, number, v.title, v.build, json.dumps(v.kwargs, sort_keys=True), v.parameters, v.macs)
            for v in work.variants
        ],
    )
    connection.executemany(
        "INSERT OR IGNORE INTO name VALUES (?, ?, ?)",
        [(folded(name), number, joined(words(name))) for name in (work.key, work.name, *work.aliases)],
    )
    connection.execute(
        f"INSERT INTO entry_text(rowid, {', '.join(texts)}) VALUES ({', '.join('?' * (len(texts) + 1))})",
        [number, *texts.values()],
    )
    connection.executemany("INSERT INTO spelling VALUES (?, ?)", [(name, number) for name in names_of(work)])


def searched(work: Work) -> dict[str, str]:
    """The text in which ``work`` is found, by column of ``SEARCHED``."""
    names = names_of(work)
    names += [" ".join(words(name)) for name in names if "+" in name]  # the full-text index sees no plus
    last = [author.split()[-1] for author in work.authors]
    cited = " and ".join(last) if len(last) < 3 else f"{last[0]} et al"
    facts = [work.folder, work.kind, work.venue, *work.datasets, work.paper]
    facts += [f"reference {number}" for number in (work.survey.reference, *work.survey.repeated) if number]
    facts += [f"arXiv {work.arxiv}, https://arxiv.org/abs/{work.arxiv}"] if work.arxiv else []
    facts += [f"doi {work.doi}, https://doi.org/{work.doi}"] if work.doi else []
    facts += [f"{item.framework} {item.licence or ''} {item.url}" for item in work.code]
    facts += [claim for row in work.survey.rows for claim in (row.datasets.survey, row.code.survey)]
    facts += ["why skip connections help, why residual learning works"] if work.explanations else []
    texts = {
        "name": " · ".join(names),
        "title": work.title,
        "contribution": work.contribution,
        "authors": f"{', '.join(work.authors)} ({cited} {work.year})",
        "tasks": ", ".join(work.tasks),
        "facts": " · ".join(facts),
        "description": work.description,
        "skips": "; ".join(f"{s.merge} {s.span} skip from {s.start} to {s.end}, {s.shortcut}" for s in work.skips),
    }
    return {column: texts[column] for column in SEARCHED}


def identifiers(work: Work) -> list[str]:
    """DOI and arXiv number of the publication, in lower case."""
    return [value.lower() for value in (work.doi, work.arxiv) if value]


def names_of(work: Work) -> list[str]:
    """Every name under which ``work`` or a model of it goes."""
    rows = [row.name for row in work.survey.rows]
    models = [name for variant in work.variants for name in (variant.name, variant.title)]
    return list(dict.fromkeys([work.name, work.key, *work.aliases, *rows, *models]))


def facet_values(work: Work) -> Iterator[tuple[str, str]]:
    """What a filter can select ``work`` by: pairs of facet and lower-case value."""
    for name, facet in FACETS.items():
        for value in facet.values(work):
            yield name, value.lower()


def numbers(work: Work) -> Iterator[tuple[str, float]]:
    """The numbers that a filter can ask for a span of: pairs of facet and value."""
    for name, number in NUMBERS.items():
        for value in number.values(work):
            yield name, float(value)


def _allowed_values() -> Iterator[tuple[str, str]]:
    """Values a filter may name although no entry has them yet."""
    from typing import get_args

    from skipkb import vocabulary
    from skipkb.catalog import entry

    allowed: dict[str, Sequence[str]] = {
        "folder": entry.FOLDERS,
        "kind": get_args(entry.Kind),
        "merge": list(vocabulary.MERGES),
        "span": get_args(vocabulary.Span),
        "task": list(vocabulary.TASKS),
        "theme": get_args(entry.Theme),
        "explanation": get_args(entry.Explanation),
        "table": get_args(vocabulary.Table),
        **dict.fromkeys(("runs", *WHETHER), ("yes", "no")),
    }
    for facet, possible in allowed.items():
        for value in possible:
            yield facet, value.lower()

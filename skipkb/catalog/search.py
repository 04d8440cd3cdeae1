"""Find works: full-text search with filters, look-up by name, and the nearest names for a misspelt one.

Everything here reads the compiled index with the standard library only.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skipkb.catalog.facets import FACETS, NUMBERS, span
from skipkb.catalog.index import folded, query
from skipkb.catalog.problems import UnknownNameError
from skipkb.catalog.question import Question, identifier, parse, sharing_trigrams, understand
from skipkb.catalog.words import QUESTION_WORDS, SEARCHED, joined

if TYPE_CHECKING:
    from skipkb.catalog.entry import Work

FILTERS = (*FACETS, *NUMBERS)
"""Names of all filters."""
_WEIGHTS = ", ".join(map(str, SEARCHED.values()))
_CERTAIN = 1000.0  # the score of a work whose name is the query
ABOUT = 10
"""So many hits say what a question is about."""
_RANKED = 1000  # a word that occurs in more works than this says nothing; the first so many compete
Filter = str | int | bool | range | Sequence[str] | Sequence[int]


@dataclass(frozen=True)
class Hit:
    """One search result."""

    key: str
    name: str
    title: str
    year: int
    score: float
    """Relevance, larger is better; comparable within one search only."""
    snippet: str
    """Matching text, the matching words between ** and **."""


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """Ranked results, and what else may help."""

    hits: tuple[Hit, ...]
    suggestions: tuple[str, ...] = ()
    """For words that occur nowhere, the nearest names."""

    @property
    def explanations(self) -> tuple[str, ...]:
        """Sections of the survey that explain what most first hits are about, such as ``V.A``, the best first."""
        keys = [hit.key for hit in self.hits[:ABOUT]]
        marks = ", ".join("?" * len(keys))
        rows = query(
            "SELECT entry.key, upper(facet.value) FROM facet JOIN entry ON entry.id = facet.entry"
            f" WHERE facet.facet = 'explanation' AND entry.key IN ({marks})",
            keys,
        )
        if 2 * len({key for key, _ in rows}) < max(len(keys), 2):
            return ()
        counts = Counter(section for _, section in rows)
        return tuple(sorted(counts, key=lambda section: (-counts[section], section)))

    def __getitem__(self, index: Any) -> Any:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)


def search(text: str, *, limit: int = 10, **filters: Filter) -> Hits:
    """Search the catalogue.

    Args:
        text: words (works with all of them rank first, then with all but one, then with some), ``"exact phrases"``,
            ``prefix*``, and filters such as ``task:segmentation year:2015..2018 merge:concat``. Words after the 64th
            are ignored; a word that occurs nowhere is taken as a misspelling. A DOI or arXiv number alone finds the
            works of that publication and nothing else.
        limit: at most so many hits.
        filters: the same filters as keywords, such as ``task="segmentation"`` or ``year=range(2015, 2019)``.

    Raises:
        ValueError: for a filter that does not exist, or a number or span that is not one.
        UnknownNameError: for a filter value that no work can have, with suggestions.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if (known := identifier(text)) is not None:
        condition, values = _condition(list(filters.items()))
        return Hits(tuple(_identified(known, condition, values))[:limit])
    parts, inline = parse(text)
    condition, values = _condition([*inline, *filters.items()])
    if condition and all(word in QUESTION_WORDS for part in parts for word in part.words):
        return Hits(tuple(_listed(condition, values, limit)))
    if not parts:
        return Hits(())
    question = understand(parts)
    hits: dict[str, Hit] = {}
    for name in dict.fromkeys((joined(question.words), joined(question.corrected))):
        for hit in _named(name, condition, values):
            hits.setdefault(hit.key, hit)
    scores: dict[int, float] = {}
    expressions = question.expressions()
    for expression in expressions:
        if len(scores) < limit:
            ceiling = min(scores.values(), default=_CERTAIN)
            for number, score in _ranked(expression, condition, values, limit):
                scores.setdefault(number, min(score, ceiling))
    for number, score in scores.items():
        if len(hits) < limit:
            hit = _hit(number, score, expressions[-1])
            hits.setdefault(hit.key, hit)
    return Hits(tuple(hits.values())[:limit], _suggestions(question))


def _suggestions(question: Question) -> tuple[str, ...]:
    """Names like the whole question, if it has unknown words, and names like these; else words like them."""
    found = nearest(" ".join(question.words)) if question.unknown and len(question.words) > 1 else []
    for word, like in question.unknown.items():
        found += nearest(word) or like[:1]
    return tuple(dict.fromkeys(found))[:5]


def nearest(name: str, limit: int = 3) -> list[str]:
    """Names of the catalogue spelt most like ``name``, best first, at most one per work."""
    best: dict[int, str] = {}
    for candidate, owner in spelt_like(name):
        best.setdefault(owner, candidate)
    return list(best.values())[:limit]


def spelt_like(name: str) -> list[tuple[str, int]]:
    """Names, aliases and models spelt like ``name``, best first, each with the number of its work."""
    wanted = folded(name)[:100]
    rows = sharing_trigrams(wanted, "trigram", "SELECT name, entry FROM spelling WHERE spelling MATCH ?")
    by_folded: dict[str, tuple[str, int]] = {}
    for candidate, owner in rows:
        by_folded.setdefault(candidate.casefold(), (candidate, owner))
    return [by_folded[match] for match in difflib.get_close_matches(wanted, by_folded, n=20, cutoff=0.65)]


def get(name: str) -> Work:
    """The work with this key, name or alias (upper and lower case are the same).

    Raises:
        UnknownNameError: with the nearest names.
    """
    from skipkb.catalog.entry import Work

    rows = query(f"SELECT json FROM entry WHERE id IN ({BY_NAME})", [folded(name)])
    if not rows:
        raise UnknownNameError("entry", name, nearest(name))
    return Work.model_validate_json(rows[0][0])


class Works(Sequence["Work"]):
    """Works in the catalogue's order; each becomes a typed object when it is first looked at, and stays that object."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self._works: dict[int, Work] = {}

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self._texts))[index]
        if number not in self._works:
            from skipkb.catalog.entry import Work

            self._works[number] = Work.model_validate_json(self._texts[number])
        return self._works[number]

    def __len__(self) -> int:
        return len(self._texts)


def entries(**filters: Filter) -> Works:
    """All works that pass the filters (see :func:`search`), in the catalogue's order.

    Raises:
        ValueError: for a filter that does not exist, or a number or span that is not one.
        UnknownNameError: for a filter value that no work can have, with suggestions.
    """
    condition, values = _condition(list(filters.items()))
    rows = query(f"SELECT json FROM entry WHERE {condition or 1} ORDER BY id", values)
    return Works([text for (text,) in rows])


BY_NAME = "SELECT entry FROM name WHERE name = ?"  # the value: folded(name)


def _named(name: str, condition: str, values: Sequence[object]) -> list[Hit]:
    """The works whose joined name is the whole query: certain hits, ranked before all others."""
    sql = f"SELECT key, name, title, year, {_CERTAIN}, contribution FROM entry WHERE id IN"
    found = query(f"{sql} (SELECT entry FROM name WHERE joined = ?) AND {condition or 1}", [name, *values])
    return [Hit(*row) for row in found]


def _identified(known: str, condition: str, values: Sequence[object]) -> list[Hit]:
    """The works of the publication with this identifier: methods first, then what else the catalogue says of it."""
    sql = f"SELECT key, name, title, year, {_CERTAIN}, contribution FROM entry JOIN identifier ON identifier.entry = id"
    found = query(
        f"{sql} WHERE identifier.value = ? AND {condition or 1} ORDER BY identifier.rank, id", [known, *values]
    )
    return [Hit(*row) for row in found]


def _listed(condition: str, values: Sequence[object], limit: int) -> list[Hit]:
    sql = f"SELECT key, name, title, year, 0.0, contribution FROM entry WHERE {condition} ORDER BY id LIMIT ?"
    return [Hit(*row) for row in query(sql, [*values, limit])]


def _ranked(expression: str, condition: str, values: Sequence[object], limit: int) -> list[tuple[int, float]]:
    """Numbers and scores of the works whose texts match best."""
    # CROSS JOIN has SQLite run the text query once and the filter for its rows, never the other way round.
    filtered = f"CROSS JOIN entry ON id = entry_text.rowid AND {condition}" if condition else ""
    rows = query(
        f"SELECT * FROM (SELECT entry_text.rowid AS number, bm25(entry_text, {_WEIGHTS}) AS cost"
        f" FROM entry_text {filtered} WHERE entry_text MATCH ? LIMIT {_RANKED}) ORDER BY cost, number LIMIT ?",
        [*values, expression, limit],
    )
    return [(number, round(-cost, 4)) for number, cost in rows]


def _hit(number: int, score: float, expression: str) -> Hit:
    ((key, name, title, year, snippet),) = query(
        "SELECT key, entry.name, entry.title, year, snippet(entry_text, -1, '**', '**', '…', 16)"
        " FROM entry_text JOIN entry ON entry.id = entry_text.rowid"
        " WHERE entry_text MATCH ? AND entry_text.rowid = ?",
        [expression, number],
    )
    return Hit(key, name, title, year, score, snippet)


def _condition(filters: Iterable[tuple[str, Filter]]) -> tuple[str, list[object]]:
    """SQL condition on table ``entry`` for the filters, and its values; empty when there is no filter."""
    clauses: list[str] = []
    values: list[object] = []
    for facet, wanted in filters:
        if facet not in FILTERS:
            near = difflib.get_close_matches(facet, FILTERS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"there is no filter {facet!r}; {hint}filters: {', '.join(FILTERS)}")
        if facet in NUMBERS:
            try:
                first, last = span(_as_span(wanted))
            except ValueError as error:
                raise ValueError(f"{facet}: {error}") from None
            clauses.append(
                "EXISTS (SELECT 1 FROM number WHERE number.entry = id AND facet = ? AND value BETWEEN ? AND ?)"
            )
            values += [facet, first, last]
            continue
        matched = [match for value in _as_list(wanted) for match in _facet_values(facet, value)]
        marks = ", ".join("?" * len(matched))
        clauses.append(f"EXISTS (SELECT 1 FROM facet WHERE facet.entry = id AND facet = ? AND value IN ({marks}))")
        values += [facet, *matched]
    return " AND ".join(clauses), values


def _as_list(wanted: Filter) -> list[str]:
    if isinstance(wanted, bool):
        return ["yes" if wanted else "no"]
    return [str(item) for item in wanted] if isinstance(wanted, list | tuple | set | frozenset) else [str(wanted)]


def _facet_values(facet: str, value: str) -> list[str]:
    known = [row[0] for row in query("SELECT value FROM vocabulary WHERE facet = ?", [facet])]
    wanted = folded(value)
    matched = [item for item in known if wanted == item or (FACETS[facet].part and wanted and wanted in item)]
    if not matched:
        raise UnknownNameError(facet, value, difflib.get_close_matches(wanted[:100], known, n=3))
    return matched


def _as_span(wanted: Filter) -> str:
    """``2015``, ``"2015..2018"`` or ``range(2015, 2019)`` as the text of a span."""
    return f"{wanted.start}..{wanted.stop - 1}" if isinstance(wanted, range) and wanted.step == 1 else str(wanted)

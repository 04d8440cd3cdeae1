"""Find works: full-text search with filters, look-up by name, and the nearest names for a misspelt one.

Everything here reads the compiled index with the standard library only.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from skipkb.catalog.index import folded, query
from skipkb.catalog.problems import UnknownNameError
from skipkb.catalog.words import COLUMNS, LONGEST_RUN, QUESTION_WORDS, joined, words

if TYPE_CHECKING:
    from skipkb.catalog.entry import Work

FACETS = (
    "task", "merge", "span", "theme", "explanation", "year", "dataset", "table",
    "folder", "kind", "venue", "framework", "licence", "runs",
)  # fmt: skip
_FREE_TEXT = {"dataset", "venue", "framework", "licence"}  # a part of the value is enough
_WEIGHTS = ", ".join(map(str, COLUMNS.values()))
_MOST_TERMS = 64  # of a query; each is looked up, and the time grows with their square
_RANKED = 1000  # a word that occurs in more works than this says nothing; the first so many compete
_MOST_LEFT_OUT = 8  # of longer queries, works with all words but one are not looked for

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
    """Ranked results, and for words that occur nowhere the nearest names."""

    hits: tuple[Hit, ...]
    suggestions: tuple[str, ...] = ()

    def __getitem__(self, index: Any) -> Any:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)


def search(text: str, *, limit: int = 10, **filters: Filter) -> Hits:
    """Search the catalogue.

    Args:
        text: words (works with all of them rank first, then works with some), ``"exact phrases"``, ``prefix*``,
            and filters such as ``task:segmentation year:2015..2018 merge:concat``. Words after the 64th are ignored.
        limit: at most so many hits.
        filters: the same filters as keywords, such as ``task="segmentation"`` or ``year=range(2015, 2019)``.

    Raises:
        ValueError: for a filter that does not exist or a year that is no year.
        UnknownNameError: for a filter value that no work can have, with suggestions.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    parts, inline = _parse(text)
    condition, values = _condition([*inline, *filters.items()])
    if not parts:
        return Hits(tuple(_listed(condition, values, limit)) if condition else ())
    understood = _understand(parts)
    hits: dict[str, Hit] = {}
    for name in dict.fromkeys((joined(w for part in parts for w in part.words), joined(understood.corrected))):
        hits |= {hit.key: hit for hit in _named(name, condition, values) if hit.key not in hits}
    for expression in _expressions(understood.terms):
        if len(hits) < limit:
            ceiling = min((hit.score for hit in hits.values()), default=float("inf"))
            for hit in _matching(expression, condition, values, limit):
                hits.setdefault(hit.key, replace(hit, score=min(hit.score, ceiling)))
    return Hits(tuple(hits.values())[:limit], tuple(dict.fromkeys(understood.suggestions)))


def nearest(name: str, limit: int = 3) -> list[str]:
    """Names of the catalogue spelt most like ``name``, best first, at most one per work."""
    best: dict[int, str] = {}
    for candidate, owner in spelt_like(name):
        best.setdefault(owner, candidate)
    return list(best.values())[:limit]


def spelt_like(name: str) -> list[tuple[str, int]]:
    """Names, aliases and models spelt like ``name``, best first, each with the number of its work."""
    wanted = folded(name)[:100]
    rows = _sharing_trigrams(wanted, "trigram", "SELECT name, entry FROM spelling WHERE spelling MATCH ? LIMIT 200")
    by_folded: dict[str, tuple[str, int]] = {}
    for candidate, owner in rows:
        by_folded.setdefault(candidate.casefold(), (candidate, owner))
    return [by_folded[match] for match in difflib.get_close_matches(wanted, by_folded, n=20, cutoff=0.65)]


def _words_like(word: str) -> list[str]:
    """Words of the texts that ``word`` may be a misspelling of, best first."""
    rows = _sharing_trigrams(word[:100], "word_trigram", "SELECT text FROM word WHERE word MATCH ? LIMIT 200")
    return difflib.get_close_matches(word[:100], [found for (found,) in rows], n=2, cutoff=0.8)


def _sharing_trigrams(wanted: str, counts: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows that share one of the rarest trigrams of ``wanted``."""
    trigrams = {wanted[i : i + 3] for i in range(len(wanted) - 2)}
    if not trigrams:
        return []
    marks = ", ".join("?" * len(trigrams))
    telling = query(f"SELECT term FROM {counts} WHERE term IN ({marks}) ORDER BY doc, term LIMIT 5", sorted(trigrams))
    return query(sql, [" OR ".join(_quote(trigram) for (trigram,) in telling)]) if telling else []


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


def entries(**filters: Filter) -> list[Work]:
    """All works that pass the filters (see :func:`search`), in the catalogue's order.

    Raises:
        ValueError: for a filter that does not exist or a year that is no year.
        UnknownNameError: for a filter value that no work can have, with suggestions.
    """
    from skipkb.catalog.entry import Work

    condition, values = _condition(list(filters.items()))
    rows = query(f"SELECT json FROM entry WHERE {condition or 1} ORDER BY id", values)
    return [Work.model_validate_json(text) for (text,) in rows]


BY_NAME = "SELECT entry FROM name WHERE name = ?"  # the value: folded(name)


def _named(name: str, condition: str, values: Sequence[object]) -> list[Hit]:
    """The works whose joined name is the whole query: certain hits, ranked before all others."""
    sql = "SELECT key, name, title, year, 1000.0, contribution FROM entry WHERE id IN"
    found = query(f"{sql} (SELECT entry FROM name WHERE joined = ?) AND {condition or 1}", [name, *values])
    return [Hit(*row) for row in found]


def _listed(condition: str, values: Sequence[object], limit: int) -> list[Hit]:
    sql = f"SELECT key, name, title, year, 0.0, contribution FROM entry WHERE {condition} ORDER BY id LIMIT ?"
    return [Hit(*row) for row in query(sql, [*values, limit])]


def _matching(expression: str, condition: str, values: Sequence[object], limit: int) -> list[Hit]:
    # CROSS JOIN has SQLite run the text query once and the filter for its rows, never the other way round.
    filtered = f"CROSS JOIN entry ON id = entry_text.rowid AND {condition}" if condition else ""
    ranked = query(
        f"SELECT * FROM (SELECT entry_text.rowid AS number, bm25(entry_text, {_WEIGHTS}) AS cost"
        f" FROM entry_text {filtered} WHERE entry_text MATCH ? LIMIT {_RANKED}) ORDER BY cost, number LIMIT ?",
        [*values, expression, limit],
    )
    hits = []
    for number, cost in ranked:
        ((key, name, title, year, snippet),) = query(
            "SELECT key, entry.name, entry.title, year, snippet(entry_text, -1, '**', '**', '…', 16)"
            " FROM entry_text JOIN entry ON entry.id = entry_text.rowid"
            " WHERE entry_text MATCH ? AND entry_text.rowid = ?",
            [expression, number],
        )
        hits.append(Hit(key, name, title, year, round(-cost, 4), snippet))
    return hits


@dataclass(frozen=True)
class _Part:
    """What stands between two spaces of a query."""

    words: list[str]
    exactly: str = ""
    """A quoted phrase or a prefix, as FTS5 takes it."""


@dataclass(frozen=True)
class _Term:
    """One thing a query asks for, as expressions of FTS5."""

    close: str
    """Its words side by side, or another wording."""
    loose: str
    """The same, or its words anywhere."""


@dataclass(frozen=True)
class _Understood:
    """What a query asks for."""

    terms: list[_Term]
    corrected: list[str]
    """Its words, each unknown one replaced by the word most like it."""
    suggestions: list[str]
    """Names and words like the unknown ones."""


def _understand(parts: Sequence[_Part]) -> _Understood:
    terms: list[_Term] = []
    questions: list[_Term] = []
    corrected: list[str] = []
    suggestions: list[str] = []
    for exact, group in itertools.groupby(parts, lambda part: bool(part.exactly)):
        together = list(group)
        flat = [word for part in together for word in part.words]
        left = [number for part in together for number in range(len(part.words), 0, -1)]  # words of the same part
        if exact:
            forms = [(part, next(filter(_occurs, _forms(part.exactly)), None)) for part in together]
            terms += [_Term(form, form) for _, form in forms if form]
            suggestions += [name for part, form in forms if not form for name in nearest(" ".join(part.words))]
            corrected += flat
            continue
        wordings = _wordings(flat)
        at = 0
        while at < len(flat):
            longest = max((n for n in range(1, LONGEST_RUN + 1) if joined(flat[at : at + n]) in wordings), default=1)
            for length in sorted({longest, left[at], 1}, reverse=True):
                run = flat[at : at + length]
                term = _term(run, wordings.get(joined(run), []))
                if term or length == 1:
                    break
            like = [] if term else _words_like(run[0])
            if not term:
                suggestions += nearest(run[0]) or like
                term = _term(like, like) if like else None
            if term:
                (questions if run[0] in QUESTION_WORDS and length == 1 else terms).append(term)
            corrected += like[:1] or run
            at += length
    return _Understood(list(dict.fromkeys(terms or questions)), corrected, suggestions)


def _wordings(flat: Sequence[str]) -> dict[str, list[str]]:
    """For the joined form of each run of words: how else the texts may put it."""
    runs = {joined(flat[at : at + n]) for at in range(len(flat)) for n in range(1, LONGEST_RUN + 1)}
    marks = ", ".join("?" * len(runs))
    found: dict[str, list[str]] = {}
    for form, wording in query(f"SELECT * FROM alternative WHERE joined IN ({marks})", sorted(runs)):
        found.setdefault(form, []).append(wording)
    return found


def _term(run: Sequence[str], wordings: Sequence[str]) -> _Term | None:
    """The run of words as one term, if the texts have it in any wording."""
    phrase = _quote(" ".join(run))
    close = " OR ".join(dict.fromkeys([phrase, *map(_quote, wordings)]))
    if len(run) == 1 and not wordings:
        form = next(filter(_occurs, _forms(phrase)), None)
        return _Term(form, form) if form else None
    if not _occurs(close):
        return None
    apart = " AND ".join(_quote(word) for word in run if word not in QUESTION_WORDS)
    return _Term(f"({close})", f"({close} OR ({apart}))" if apart and len(run) > 1 else f"({close})")


def _expressions(terms: Sequence[_Term]) -> list[str]:
    """What to look for, the best first: all terms, all but one, any."""
    close, loose = [term.close for term in terms], [term.loose for term in terms]
    expressions = [" AND ".join(close), " AND ".join(loose)]
    if 2 < len(terms) <= _MOST_LEFT_OUT:
        most = (" AND ".join(some) for some in itertools.combinations(loose, len(loose) - 1))
        expressions.append(" OR ".join(f"({some})" for some in most))
    return list(dict.fromkeys(filter(None, [*expressions, " OR ".join(loose)])))


def _forms(term: str) -> Iterator[str]:
    """The term, and what else it may mean where it occurs nowhere.

    A word is taken as the beginning of one ("retina"). A prefix is shortened: words are stored without their
    endings, "concatenates" as "concaten", which "concatenat*" would miss.
    """
    yield term
    prefix = term.rstrip("*").strip('"')
    if not term.endswith("*"):
        yield _quote(prefix) + "*"
    elif prefix.isalpha():
        for length in range(len(prefix) - 1, 4, -1):
            yield _quote(prefix[:length]) + "*"


def _occurs(term: str) -> bool:
    return bool(query("SELECT 1 FROM entry_text WHERE entry_text MATCH ? LIMIT 1", [term]))


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


_TOKEN = re.compile(r'(?P<facet>[A-Za-z]+):(?P<value>"[^"]*"|[^\s/]\S*)|"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+)')
_IDENTIFIER = re.compile(r"(?i)\b(arxiv|doi):(?=\s*\d)|(?<=\d{4}\.\d{5})v\d+\b|(?<=\d{4}\.\d{4})v\d+\b")
_REFERENCE = re.compile(r"\[(\d{1,3})\]")


def _parse(text: str) -> tuple[list[_Part], list[tuple[str, Filter]]]:
    """Split a query into what stands between its spaces, quoted so that no character has a meaning, and filters."""
    parts: list[_Part] = []
    filters: list[tuple[str, Filter]] = []
    text = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", " ", text)
    text = _REFERENCE.sub(r' "reference \1" ', _IDENTIFIER.sub(" ", text))
    for token in _TOKEN.finditer(text):
        found = words(token["phrase"] or token["word"] or "")
        if token["facet"]:
            filters.append((token["facet"].lower(), token["value"].strip('"')))
        elif found and token["phrase"]:
            parts.append(_Part(found, _quote(token["phrase"])))
        elif found:
            parts.append(_Part(found, _quote(" ".join(found)) + "*" if token["word"].endswith("*") else ""))
    while sum(len(part.words) for part in parts) > _MOST_TERMS:
        parts.pop()
    return parts, filters


def _condition(filters: Iterable[tuple[str, Filter]]) -> tuple[str, list[object]]:
    """SQL condition on table ``entry`` for the filters, and its values; empty when there is no filter."""
    clauses: list[str] = []
    values: list[object] = []
    for facet, wanted in filters:
        if facet not in FACETS:
            near = difflib.get_close_matches(facet, FACETS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"there is no filter {facet!r}; {hint}filters: {', '.join(FACETS)}")
        if facet == "year":
            first, last = _years(wanted)
            clauses.append("year BETWEEN ? AND ?")
            values += [first, last]
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
    matched = [item for item in known if wanted == item or (facet in _FREE_TEXT and wanted and wanted in item)]
    if not matched:
        raise UnknownNameError(facet, value, difflib.get_close_matches(wanted[:100], known, n=3))
    return matched


def _years(wanted: Filter) -> tuple[int, int]:
    """First and last year of ``2015``, ``"2015..2018"``, ``"2015.."``, or ``range(2015, 2019)``."""
    span = f"{wanted.start}..{wanted.stop - 1}" if isinstance(wanted, range) and wanted.step == 1 else str(wanted)
    found = re.fullmatch(r"\s*(?P<first>[0-9]{1,4})?(?P<dots>\.\.)?(?P<last>(?<=\.)[0-9]{1,4})?\s*", span)
    if not found or not (found["first"] or found["dots"]):
        raise ValueError(f"year {wanted!r} is neither a year nor a span such as 2015..2018")
    first = int(found["first"] or 0)
    return first, int(found["last"] or 9999) if found["dots"] else first

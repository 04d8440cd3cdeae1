"""What the words of a query mean: names and other wordings in it, and corrections of what occurs nowhere."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from skipkb.catalog.facets import spoken
from skipkb.catalog.index import query
from skipkb.catalog.words import LONGEST_RUN, QUESTION_WORDS, joined, words

_MOST_WORDS = 64  # of a query; each is looked up, and the time grows with their square
_MOST_LEFT_OUT = 8  # of longer queries, works with all terms but one are not looked for

_TOKEN = re.compile(r'(?P<facet>[A-Za-z]+):(?P<value>"[^"]*"|[^\s/]\S*)|"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+)')
_MARKS = re.compile(r"(?i)\b(arxiv|doi):(?=\s*[0-9])|(?<=[0-9]{4}\.[0-9]{4})([0-9]?)v[0-9]+\b")
_REFERENCE = re.compile(r"\[([0-9]{1,3})\]")


@dataclass(frozen=True)
class Part:
    """What stands between two spaces of a query."""

    words: list[str]
    exactly: str = ""
    """A quoted phrase or a prefix, as FTS5 takes it."""


@dataclass(frozen=True)
class Term:
    """One thing a query asks for, as expressions of FTS5."""

    close: str
    """Its words side by side, or another wording."""
    loose: str
    """The same, or its words anywhere."""


@dataclass
class Question:
    """What a query asks for."""

    words: list[str] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    corrected: list[str] = field(default_factory=list)
    """The words, each unknown one replaced by the word of the texts most like it."""
    unknown: dict[str, list[str]] = field(default_factory=dict)
    """Words that occur nowhere, and those most like them."""

    def expressions(self) -> list[str]:
        """What to look for in the texts, the best first: all terms, all but one, any."""
        close, loose = [term.close for term in self.terms], [term.loose for term in self.terms]
        found = [" AND ".join(close), " AND ".join(loose)]
        if 2 < len(loose) <= _MOST_LEFT_OUT:
            most = (" AND ".join(some) for some in itertools.combinations(loose, len(loose) - 1))
            found.append(" OR ".join(f"({some})" for some in most))
        return list(dict.fromkeys(filter(None, [*found, " OR ".join(loose)])))


_IDENTIFIER = re.compile(
    r"(?i)(?:https?://)?(?:(?:dx\.)?doi\.org/|doi:?\s*)?(?P<doi>10\.[0-9]{4,9}/\S+)"
    r"|(?:https?://)?(?:arxiv\.org/(?:abs|pdf)/|arxiv:?\s*)?(?P<arxiv>[0-9]{4}\.[0-9]{4,5})(?:v[0-9]+)?(?:\.pdf)?"
)


def identifier(text: str) -> str | None:
    """The DOI or arXiv number that a query consists of, in lower case; None where it is anything else."""
    found = _IDENTIFIER.fullmatch(text.strip())
    return (found["doi"] or found["arxiv"]).lower() if found else None


def parse(text: str) -> tuple[list[Part], list[tuple[str, str]]]:
    """Split a query into what stands between its spaces, without any character that has a meaning, and filters."""
    parts: list[Part] = []
    text = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", " ", text)
    text, filters = spoken(text)
    text = _REFERENCE.sub(r' "reference \1" ', _MARKS.sub(r"\2", text))
    for token in _TOKEN.finditer(text):
        found = words(token["phrase"] or token["word"] or "")
        if token["facet"]:
            filters.append((token["facet"].lower(), token["value"].strip('"')))
        elif found and token["phrase"]:
            parts.append(Part(found, _quote(token["phrase"])))
        elif found:
            parts.append(Part(found, _quote(" ".join(found)) + "*" if token["word"].endswith("*") else ""))
    counts = itertools.accumulate(len(part.words) for part in parts)
    return [part for part, count in zip(parts, counts, strict=True) if count <= _MOST_WORDS], filters


def understand(parts: Sequence[Part]) -> Question:
    """Look the words up: the longest runs of them that have a wording, then single ones."""
    question = Question()
    asides: list[Term] = []
    for exact, group in itertools.groupby(parts, lambda part: bool(part.exactly)):
        for run, term, like in (_exact if exact else _worded)(list(group)):
            question.words += run
            question.corrected += like[:1] or run
            if term:
                aside = not exact and len(run) == 1 and run[0] in QUESTION_WORDS
                (asides if aside else question.terms).append(term)
            if like or not term:
                question.unknown[" ".join(run)] = like
    question.terms = list(dict.fromkeys(question.terms or asides))
    return question


_Found = tuple[list[str], Term | None, list[str]]  # words, what they ask for, and words like an unknown one


def _exact(parts: Sequence[Part]) -> Iterator[_Found]:
    for part in parts:
        yield part.words, _single(part.exactly), []


def _worded(parts: Sequence[Part]) -> Iterator[_Found]:
    flat = [word for part in parts for word in part.words]
    left_in_part = [left for part in parts for left in range(len(part.words), 0, -1)]
    wordings = _wordings(flat)
    at = 0
    while at < len(flat):
        longest = max((n for n in range(1, LONGEST_RUN + 1) if joined(flat[at : at + n]) in wordings), default=1)
        for length in sorted({longest, left_in_part[at]} - {1}, reverse=True):
            run = flat[at : at + length]
            if term := _several(run, wordings.get(joined(run), [])):
                yield run, term, []
                break
        else:
            length, run = 1, flat[at : at + 1]
            term = _several(run, wordings.get(joined(run), [])) or _single(_quote(run[0]))
            like = [] if term else _words_like(run[0])
            yield run, term or _several(like[:1], like), like
        at += length


def _wordings(flat: Sequence[str]) -> dict[str, list[str]]:
    """For the joined form of each run of words: how else the texts may put it."""
    runs = {joined(flat[at : at + n]) for at in range(len(flat)) for n in range(1, LONGEST_RUN + 1)}
    marks = ", ".join("?" * len(runs))
    found: dict[str, list[str]] = {}
    for form, wording in query(f"SELECT * FROM alternative WHERE joined IN ({marks})", sorted(runs)):
        found.setdefault(form, []).append(wording)
    return found


def _several(run: Sequence[str], wordings: Sequence[str]) -> Term | None:
    """A run of words, or another wording of it, if the texts have either."""
    close = " OR ".join(dict.fromkeys(map(_quote, [" ".join(run), *wordings])))
    if not run or not _occurs(close):
        return None
    apart = " AND ".join(_quote(word) for word in run if word not in QUESTION_WORDS)
    return Term(f"({close})", f"({close} OR ({apart}))" if apart and len(run) > 1 else f"({close})")


def _single(expression: str) -> Term | None:
    """A word, phrase or prefix, or else what it may mean where it occurs nowhere.

    A word is taken as the beginning of one ("retina"). A prefix is shortened: words are stored without their
    endings, "concatenates" as "concaten", which "concatenat*" would miss.
    """
    forms = [expression]
    prefix = expression.rstrip("*").strip('"')
    if not expression.endswith("*"):
        forms.append(expression + "*")
    elif prefix.isalpha():
        forms += [_quote(prefix[:length]) + "*" for length in range(min(len(prefix), 40) - 1, 4, -1)]
    found = next(filter(_occurs, forms), None)
    return Term(found, found) if found else None


def _occurs(expression: str) -> bool:
    return bool(query("SELECT 1 FROM entry_text WHERE entry_text MATCH ? LIMIT 1", [expression]))


def _words_like(word: str) -> list[str]:
    """Words of the texts that ``word`` may be a misspelling of, the likeliest first."""
    found = [row[0] for row in sharing_trigrams(word[:100], "word_trigram", "SELECT text FROM word WHERE word MATCH ?")]
    return difflib.get_close_matches(word[:100], found, n=2, cutoff=0.8)


def sharing_trigrams(wanted: str, counts: str, sql: str) -> list[tuple[Any, ...]]:
    """Some hundred rows of ``sql`` that share the rarest trigrams of ``wanted``, which table ``counts`` tells."""
    trigrams = {wanted[i : i + 3] for i in range(len(wanted) - 2)}
    if not trigrams:
        return []
    marks = ", ".join("?" * len(trigrams))
    telling = query(f"SELECT term FROM {counts} WHERE term IN ({marks}) ORDER BY doc, term LIMIT 5", sorted(trigrams))
    rows: dict[tuple[Any, ...], None] = {}
    for (trigram,) in telling:
        if len(rows) < 100:
            rows |= dict.fromkeys(query(f"{sql} LIMIT 100", [_quote(trigram)]))
    return list(rows)


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'

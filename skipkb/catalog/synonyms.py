"""What else a word of a query may be called: catalog/synonyms.yaml, and what follows from the catalogue's own texts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import Field

from skipkb.catalog.entry import Line, Model
from skipkb.catalog.words import LONGEST_RUN, joined, words

Word = Annotated[str, Field(pattern=r"^[a-z]+$")]


class Synonyms(Model):
    """catalog/synonyms.yaml: words that mean the same to somebody who searches."""

    groups: list[Annotated[list[Line], Field(min_length=2)]] = Field(default_factory=list)
    """Words or phrases; a query for one of a group also finds the others."""
    spelling: dict[Word, Word] = Field(default_factory=dict)
    """Beginnings of British words, as America spells them."""
    endings: dict[Word, Word] = Field(default_factory=dict)
    """Endings of British words, as America spells them."""

    def respelt(self, word: str) -> list[str]:
        """``word`` as it would be written on the other side of the Atlantic, whichever this one is."""
        found = []
        for one, other in (
            *self.spelling.items(),
            *((american, british) for british, american in self.spelling.items()),
        ):
            if word.startswith(one):
                found.append(other + word.removeprefix(one))
        for one, other in (*self.endings.items(), *((american, british) for british, american in self.endings.items())):
            if word.endswith(one):
                found.append(word.removesuffix(one) + other)
        return found


class Lexicon:
    """The words of all works, and what may be written in one word or in several."""

    def __init__(self) -> None:
        self.words: set[str] = set()
        self._compounds: set[str] = set()

    def add(self, names: Iterable[str], texts: Iterable[str]) -> None:
        """Take in the names and the searchable texts of a work."""
        self._compounds.update(names)
        for text in texts:
            self.words.update(words(text))
            self._compounds.update(re.findall(r"\b[^\W\d_]+(?:-[^\W_]+)+", text))

    def alternatives(self, synonyms: Synonyms) -> dict[str, list[str]]:
        """For the joined words of a query, the other wordings (words between spaces) that the texts may have."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for compound in self._compounds:
            parts = words(compound)
            if 1 < len(parts) <= LONGEST_RUN:
                found[joined(parts)].add(" ".join(parts))
            elif len(parts) == 1 and (series := _series(parts[0])):
                found[series].add(parts[0])
        for word in found.keys() & self.words:
            found[word].add(word)
        for word in self.words:
            for other in synonyms.respelt(word):
                found[joined([other])].add(word)
        for group in synonyms.groups:
            phrases = {" ".join(phrase) for member in group for phrase in self._spellings(words(member), synonyms)}
            for phrase in phrases:
                found[joined(phrase.split())] |= phrases
        return {form: sorted(phrases) for form, phrases in sorted(found.items()) if phrases != {form}}

    def _spellings(self, phrase: list[str], synonyms: Synonyms) -> Iterator[list[str]]:
        """The phrase as it stands and, where a word of the texts is respelt, with that word."""
        yield phrase
        for at, word in enumerate(phrase):
            for other in self.words.intersection(synonyms.respelt(word)):
                yield [*phrase[:at], other, *phrase[at + 1 :]]


def _series(name: str) -> str | None:
    """``yolo`` for ``yolov3``: a name without the number of its version."""
    matched = re.fullmatch(r"([a-z]{4,}?)v?[0-9]", name)
    return matched[1] if matched else None

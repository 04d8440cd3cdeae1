"""Words as the index and a query see them: folded, split, and joined without what people write differently."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

SEARCHED = {
    "name": 12.0, "title": 6.0, "contribution": 4.0, "authors": 4.0, "tasks": 4.0, "facts": 2.0,
    "description": 1.0, "skips": 1.0,
}  # fmt: skip
"""What is searched of a work (see ``index.searched``), and what a word counts there."""

QUESTION_WORDS = frozenset((
    "a", "about", "al", "an", "and", "are", "as", "at", "by", "can", "did", "do", "does", "et", "for", "from", "has",
    "have", "how", "i", "in", "instead", "is", "it", "of", "on", "or", "paper", "papers", "plus", "that", "the",
    "there", "this", "to", "used", "uses", "using", "was", "were", "what", "when", "where", "which", "who", "why",
    "with",
))  # fmt: skip
"""Words that say nothing about a work; a query of nothing else is looked up all the same."""

LONGEST_RUN = 6
"""So many words at most are tried as one name or compound."""


def words(text: str) -> list[str]:
    """The words of ``text`` in lower case without accents; a plus at the end of a word is a word (UNet++)."""
    plain = unicodedata.normalize("NFKD", re.sub(r"(?<=[\w+])\+", " plus ", text))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.findall(r"[^\W_]+", plain.lower())


def joined(parts: Iterable[str]) -> str:
    """One spelling for all ways to write words together, apart, hyphenated or in the plural: U-Nets is ``unet``."""
    return "".join(map(_singular, parts))


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] not in "isu" else word

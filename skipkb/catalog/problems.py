"""Problems in the catalogue's files: collected, located, and reported all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in one place.

    ``line`` and ``column`` count from 1; 0 means the file as a whole. ``key_path`` names the place
    inside the YAML file, such as ``variants[0].parameters``.
    """

    file: str
    line: int
    column: int
    key_path: str
    message: str

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}:{self.column}"
        return f"{place}: {self.key_path}: {self.message}" if self.key_path else f"{place}: {self.message}"


class CatalogueError(Exception):
    """The catalogue has problems; ``problems`` lists every one of them, sorted by file and line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([f"the catalogue has {count}:", *map(str, self.problems)]))


class UnknownNameError(LookupError):
    """A name that the catalogue does not have; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, suggestions: Sequence[str]) -> None:
        self.kind, self.name, self.suggestions = kind, name, list(suggestions)
        hint = f"; did you mean {' or '.join(map(repr, suggestions))}?" if suggestions else ""
        super().__init__(f"no {kind} is named {name!r}{hint}")

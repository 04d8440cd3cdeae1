"""A page as a reader sees it, for tests that say what each cell shows.

A good badge reads ``(+paper)`` and a bad one ``(-unverified)``, a link ``text<address>`` (``<address>`` where the text
is the address), struck-through words ``~words~``, a line break ``/``.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._texts: list[str] = [""]  # of the elements that are read now, the innermost last
        self._ends: list[str] = []  # what comes after each open span, link or deletion

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        kind = (values.get("class") or "").split()
        if tag == "br":
            self._texts[-1] += " / "
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "caption", "a"):
            self._texts.append("")
            self._ends.append(values.get("href") or "")
        elif tag in ("span", "del"):
            start, end = {"del": ("~", "~")}.get(tag, ("", ""))
            if "skb-mark" in kind:
                start, end = "(+" if "skb-checked" in kind else "(-", ")"
            self._texts[-1] += start
            self._ends.append(end)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "caption", "a"):
            text, end = " ".join(self._texts.pop().split()), self._ends.pop()
            if tag == "caption":
                self.tables[text] = self._rows
            elif tag == "a":
                self._texts[-1] += f"{'' if text == end else text}<{end}>"
            else:
                self._rows[-1].append(text)
        elif tag in ("span", "del"):
            self._texts[-1] += self._ends.pop()

    def handle_data(self, data: str) -> None:
        self._texts[-1] += data


def tables(page: str) -> dict[str, list[list[str]]]:
    """The tables of a page by caption, each as its rows, the header first."""
    reader = _Reader()
    reader.feed(re.sub(r"(?s)<svg.*?</svg>|<script.*?</script>|^````*\w+\n.*?^````*$", "", page, flags=re.MULTILINE))
    return reader.tables


def shown(html: str) -> str:
    """A piece of a page as a reader sees it."""
    reader = _Reader()
    reader.feed(html)
    return " ".join(reader._texts[0].split())


def row_data(page: str) -> dict[str, Any]:
    """What the browser gets for the interactive table of a page."""
    found: dict[str, Any] = json.loads(page.partition("data-skb-rows>")[2].partition("</script>")[0])
    return found


def script_data(script: str) -> Any:
    """The data in ``window.NAME = DATA;``."""
    return json.loads(script.partition(" = ")[2].rstrip("\n").removesuffix(";"))

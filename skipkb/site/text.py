"""Catalogue text made safe for a page: everything is shown as text, nothing is ever executed."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from functools import cache

from skipkb.catalog.entry import Source
from skipkb.catalog.show import mark
from skipkb.evidence.addresses import Link, read_links


def escape(text: object) -> str:
    """Text for HTML and for HTML attributes.

    Markdown's own marks become character references too, because Markdown is read before HTML.
    """
    escaped = html.escape(str(text), quote=True)
    return re.sub(r"[\\`*_\[\]{}~$^=|!]", lambda found: f"&#{ord(found[0])};", " ".join(escaped.split()))


def heading(text: object) -> str:
    """Text for a Markdown heading or paragraph: the same characters, none of them with a meaning."""
    return escape(text).replace("#", "&#35;").replace("&&#35;", "&#")


def front_matter(text: str) -> str:
    """Text as a quoted value in the head of a page; no mark in it can become one of HTML."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("<", "‹").replace(">", "›") + '"'


def link(url: str, text: object | None = None) -> str:
    """An HTML link; only http and https addresses become one. A link found dead says since when."""
    shown = escape(url if text is None else text)
    if not re.match(r"https?://", url):
        return shown
    known = checked_links().get(url)
    dead = f" {verdict(f'dead since {known.dead_since}', good=False)}" if known and known.dead_since else ""
    return f'<a href="{escape(url)}" rel="noopener">{shown}</a>{dead}'


@cache
def checked_links() -> dict[str, Link]:
    """What the last check of the links found; read once for each build."""
    return read_links()


def verdict(word: str, *, good: bool) -> str:
    """A small badge with a word that is good news or not."""
    return f'<span class="skb-mark skb-{"checked" if good else "unverified"}">{escape(word)}</span>'


def source_mark(source: Source) -> str:
    """A small badge that says how far a statement was checked, linked to its source."""
    words = mark(source)
    if source.where:
        words += f", {source.where}"
    kind = "unverified" if source.checked == "unverified" else "checked"
    label = "unverified" if source.checked == "unverified" else source.checked
    badge = f'<span class="skb-mark skb-{kind}" title="{escape(words)}">{escape(label)}</span>'
    return f'<a href="{escape(source.url)}" rel="noopener">{badge}</a>' if source.url else badge


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str | None = None, interactive: str = ""
) -> str:
    """An HTML table; the cells are HTML already.

    Args:
        interactive: identifier that makes the table sortable and filterable in the browser.
    """
    attributes = f' class="skb-table" data-skb-table="{escape(interactive)}"' if interactive else ' class="skb-table"'
    lines = [f'<div class="skb-scroll" tabindex="0" role="region" aria-label="{escape(caption or "Table")}">']
    lines.append(f"<table{attributes}>")
    if caption:
        lines.append(f"<caption>{escape(caption)}</caption>")
    lines.append("<thead><tr>" + "".join(f'<th scope="col">{escape(h)}</th>' for h in headers) + "</tr></thead>")
    lines.append("<tbody>")
    for row in rows:
        cells = (cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines) + "\n"


def number_cell(value: int | None, text: str | None = None) -> str:
    """A right-aligned cell that sorts by its number."""
    if value is None:
        return "<td></td>"
    return f'<td class="skb-number" data-order="{value}">{escape(text or f"{value:,}")}</td>'


def fence(text: str, language: str = "") -> str:
    """A code block whose fence no content can close."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}\n"


def shape(dimensions: Sequence[int] | dict[str, list[int]]) -> str:
    """``[1, 3, 224, 224]`` as 1×3×224×224."""
    if isinstance(dimensions, dict):
        return "; ".join(f"{name} {shape(value)}" for name, value in dimensions.items())
    return "×".join(map(str, dimensions))


def short_number(value: int) -> str:
    """25,557,032 as 25.56 M."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)

"""A schematic of a method's skip connections, drawn from its entry as a small SVG.

Each kind of skip is one line from its start through the layers it bypasses to its end, with the
shortcut as an arc above: solid for the identity, dashed where something happens on the way.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence

from skipkb.catalog.entry import Skip
from skipkb.vocabulary import MERGES

_ROW, _WIDTH = 150, 720  # height of one kind of skip, width of the picture


def skip_figure(name: str, skips: Sequence[Skip]) -> str:
    """SVG with one row per kind of skip; it takes its colours from the page and has no script."""
    height = _ROW * len(skips)
    title = html.escape(f"Skip connections of {name}")
    sentences = "; ".join(
        f"a {skip.span} {skip.merge} skip from {skip.start} to {skip.end} ({skip.shortcut})" for skip in skips
    )
    rows = "".join(_row(skip, number * _ROW) for number, skip in enumerate(skips))
    return (
        f'<svg class="skb-figure" viewBox="0 0 {_WIDTH} {height}" xmlns="http://www.w3.org/2000/svg" '
        f'role="img" aria-labelledby="skip-title skip-description"><title id="skip-title">{title}</title>'
        f'<desc id="skip-description">{html.escape(sentences)}</desc>{rows}</svg>'
    )


def _row(skip: Skip, top: int) -> str:
    middle = top + 92
    left, right = 96, _WIDTH - 96
    dash = "" if skip.shortcut.casefold().startswith("identity") else ' stroke-dasharray="7 5"'
    lift = 92 if skip.span == "long" else 72  # of the arc's handles; the arc itself rises three quarters of it
    layers = 5 if skip.span == "long" else 2
    step = (right - left) / (layers + 1)
    boxes = "".join(
        f'<rect class="skb-layer" x="{left + step * number - 26:.0f}" y="{middle - 13}" width="52" height="26" rx="4"/>'
        for number in range(1, layers + 1)
    )
    return (
        f'<line class="skb-line" x1="{left}" y1="{middle}" x2="{right - 13}" y2="{middle}"/>{boxes}'
        f'<path class="skb-arc skb-{skip.merge}"{dash} d="M{left} {middle} C{left + 40} {middle - lift} '
        f'{right - 40} {middle - lift} {right} {middle - 13}"/>'
        f'<circle class="skb-dot" cx="{left}" cy="{middle}" r="4"/>'
        f'<circle class="skb-merge skb-{skip.merge}" cx="{right}" cy="{middle}" r="13"/>'
        f'<text class="skb-sign" x="{right}" y="{middle + 5}">{MERGES[skip.merge].sign}</text>'
        + _words(skip.shortcut, _WIDTH // 2, top + 14, 100, 1)
        + _words(skip.start, left, middle + 32, 26, 2)
        + _words(skip.end, right, middle + 32, 26, 2)
        + _words(f"{skip.span} {skip.merge} skip", _WIDTH // 2, middle + 36, 60, 1)
    )


def _words(text: str, x: int, y: int, width: int, lines: int) -> str:
    wrapped = textwrap.wrap(text, width=width, max_lines=lines, placeholder="…")
    spans = "".join(
        f'<tspan x="{x}" y="{y + 15 * number}">{html.escape(line)}</tspan>' for number, line in enumerate(wrapped)
    )
    return f'<text class="skb-label">{spans}</text>'

"""The fingerprint of a network: its layers on a line, an arc for every shortcut, as one small SVG.

The line is a skyline: its height is the resolution, so an encoder-decoder is a valley and a classifier a staircase.
Arcs run from where the paths part to where they meet: solid for an identity, dashed where the shortcut does something,
dotted where it is gated, filled where it joins two ends of a valley. Gates hang below the line.

A fingerprint is drawn from plain data, without torch. The same graph always gives the same bytes.
"""

from __future__ import annotations

import re
import zlib
from html import escape

from skipkb.skips.draw.arcs import find_arcs, thinned
from skipkb.skips.draw.description import describe
from skipkb.skips.draw.drawing import draw
from skipkb.skips.draw.folds import find_folds
from skipkb.skips.draw.layout import Layout
from skipkb.skips.draw.svg import stylesheet
from skipkb.skips.graph import SkipGraph

ARCS = 600, 240
"""Arcs drawn at most, in the picture and in its thumbnail; a denser net is thinned evenly."""


def fingerprint(
    graph: SkipGraph, *, title: str | None = None, width: int | None = None, thumbnail: bool = False
) -> str:
    """The picture as SVG text.

    ``title`` defaults to the class of the model. ``width`` is in CSS pixels: 720, or 220 for a thumbnail, which has
    a fixed shape and no visible text. Inline in a page the picture takes the page's text colour; as a file of its own
    it follows the reader's colour scheme.
    """
    width = (220 if thumbnail else 720) if width is None else width
    if width < 60:
        raise ValueError(f"a fingerprint needs a width of at least 60 pixels, not {width}")
    title = _clean(graph.model if title is None else title).strip() or "Unnamed network"
    folds = find_folds(graph)
    arcs = [arc for arc in find_arcs(graph) if not any(fold.hides(arc) for fold in folds)]
    drawn = thinned(arcs, ARCS[thumbnail])
    body, height = draw(Layout(graph, drawn, folds, width, thumbnail), title)
    description = describe(graph, folds)
    if len(drawn) < len(arcs):
        description += f" Too dense to draw: {len(drawn)} of {len(arcs)} arcs are shown."
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "network"
    name = f"fp-{slug}-{zlib.crc32('|'.join((title, description, *body)).encode()):08x}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" id="{name}" role="img" aria-labelledby="{name}-t" '
        f'aria-describedby="{name}-d" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'fill="none" font-family="system-ui,sans-serif" font-size="12">',
        f'<title id="{name}-t">{escape(title)}</title>',
        f'<desc id="{name}-d">{escape(description)}</desc>',
        f"<style>{stylesheet(name, body)}</style>",
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)

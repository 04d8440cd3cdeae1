"""Pictures of the skips that traces found, drawn from committed evidence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from skipkb.catalog.entry import Work
from skipkb.evidence.counts import read_graphs
from skipkb.site.text import escape
from skipkb.skips.draw.picture import fingerprint
from skipkb.skips.graph import SkipGraph


def found_skips(work: Work) -> str:
    """The fingerprint of each network of ``work`` whose skips differ from those before, with its counts."""
    titles = {variant.name: variant.title for variant in work.variants}
    figures = []
    for name, text in read_graphs(work.key).items():
        if name not in titles:
            continue
        graph = graph_of(text)
        figures.append(
            f'<figure class="skb-fingerprint">{picture(text, titles[name])}'
            f"<figcaption><code>{escape(name)}</code>: {escape(counts_text(graph))}</figcaption></figure>"
        )
    if not figures:
        return ""
    first, rest = figures[0], figures[1:]
    more = f"<details><summary>The other networks ({len(rest)})</summary>{''.join(rest)}</details>" if rest else ""
    return (
        "<p>Found by running the network at full size: weighted layers on a line, in the order they run, an arc for "
        f"each skip. The contract fails when a count is not the declared one.</p>\n{first}\n{more}\n"
    )


def counts_text(graph: SkipGraph) -> str:
    """``16 add, of them 12 identity, 4 projection; 16 long``."""
    counts = graph.counts()
    merges = [f"{counts[name]} {name}" for name in ("add", "concat", "gate", "multiply") if counts[name]]
    shortcuts = [
        f"{counts[name]} {name}"
        for name in ("identity", "resampled", "affine", "activated", "projection", "lateral", "gated")
        if counts[name]
    ]
    flags = [f"{counts[name]} {name.replace('_', '-')}" for name in ("long", "cross_scale") if counts[name]]
    if not merges:
        return "no skip connection"
    return "; ".join(filter(None, [", ".join(merges), ", ".join(shortcuts), ", ".join(flags)]))


def gallery_page(works: Sequence[Work]) -> str:
    """The page that shows the fingerprints of all methods side by side."""
    cards = []
    for work in works:
        titles = {variant.name: variant.title for variant in work.variants}
        for name, text in read_graphs(work.key).items():
            if name in titles:
                graph = graph_of(text)
                cards.append(
                    f'<li><a href="methods/{work.key}.html">{picture(text, titles[name], thumbnail=True)}'
                    f"<span>{escape(titles[name])}</span></a><small>{escape(counts_text(graph))}</small></li>"
                )
    return f"""---
title: Fingerprints
hide: [toc]
---

# Fingerprints

<p>The skip connections of every network here, found by running it: weighted layers on a line, an arc for each skip.
A residual network is a row of small hops, an encoder-decoder a rainbow. Networks whose skips are alike are shown
once.</p>

<ul class="skb-gallery">{"".join(cards)}</ul>
"""


@cache
def graph_of(text: str) -> SkipGraph:
    """A graph from its JSON, read once in a process."""
    return SkipGraph.from_json(text)


@cache
def picture(graph: str, title: str, *, thumbnail: bool = False) -> str:
    """The fingerprint of a graph that comes as JSON; drawn once in a process, also when a preview writes pages anew."""
    return one_line(fingerprint(graph_of(graph), title=title, thumbnail=thumbnail))


def one_line(svg: str) -> str:
    """SVG without line breaks and blank lines, so that Markdown leaves it alone."""
    return " ".join(line.strip() for line in svg.splitlines() if line.strip() and not line.startswith("<?xml"))

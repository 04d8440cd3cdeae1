"""Spelling of the catalogue's own words: British, throughout."""

from __future__ import annotations

import re
from collections.abc import Iterator

from skipkb.catalog.entry import Work
from skipkb.catalog.yamlfile import KeyPath

_BRITISH = {
    r"analyz(e|ed|es|er|ers|ing)": "analyse",
    r"artifacts?": "artefact",
    r"behaviors?|behavioral": "behaviour",
    r"centers?|centered|centering": "centre",
    r"catalogs?": "catalogue",
    r"colors?|colored|coloring|colorful": "colour",
    r"defenses?": "defence",
    r"favors?|favored|favorable|favorites?": "favour",
    r"fibers?": "fibre",
    r"fulfill": "fulfil",
    r"grays?|grayscale": "grey",
    r"honors?|honored": "honour",
    r"labeled|labeling|labeler": "labelled",
    r"licenses?": "licence",
    r"liters?|meters?|kilometers?|millimeters?": "metre",
    r"modeled|modeling|modeler": "modelled",
    r"neighbors?|neighboring|neighborhoods?": "neighbour",
    r"signaled|signaling": "signalled",
    r"skeptical|skepticism": "sceptical",
    r"tumors?": "tumour",
    r"traveled|traveling": "travelled",
    r"channeled|channeling|canceled|canceling|totaled": "double the l",
    # -ize where Britain writes -ise, sizes and prizes aside
    r"(?:de|re|un|over|pre)?(?:binar|character|custom|emphas|factor|final|formal|general|initial|linear|local|maxim|memor|minim|modern|"
    r"neutral|normal|optim|organ|parallel|parameter|penal|popular|quant|random|real|"
    r"recogn|regular|serial|special|stabil|standard|summar|symbol|synchron|synthes|token|total|util|vector|visual)"
    r"iz(?:e|ed|er|ers|es|ing|ation|ations)": "-ise, -isation",
}
_AMERICAN = re.compile(rf"\b(?:{'|'.join(f'(?:{pattern})' for pattern in _BRITISH)})\b", re.IGNORECASE)
_NAMED = re.compile(r'"[^"]*"|`[^`]*`|https?://\S+|\b\w*[A-Z]\w*[A-Z]\w*\b')
"""Quotations, code, addresses and names such as BatchNorm keep their spelling."""


def american_words(work: Work) -> Iterator[tuple[KeyPath, str, str]]:
    """Place, word and British spelling of what is spelt the American way in an entry's own words."""
    for place, text in _own_words(work):
        if not _AMERICAN.search(text):
            continue
        for found in _AMERICAN.finditer(_NAMED.sub(" ", text)):
            word = found[0]
            if not word[0].isupper() or text.startswith(word):
                british = next(to for pattern, to in _BRITISH.items() if re.fullmatch(pattern, word, re.IGNORECASE))
                yield place, word, british


def _own_words(work: Work) -> Iterator[tuple[KeyPath, str]]:
    """Every text that somebody wrote for the catalogue, names, titles and quotations aside."""
    yield ("contribution",), work.contribution
    yield ("description",), work.description
    for i, skip in enumerate(work.skips):
        yield from ((("skips", i, field), getattr(skip, field)) for field in ("start", "end", "shortcut"))
    for i, erratum in enumerate(work.errata):
        yield ("errata", i, "truth"), erratum.truth
    for i, note in enumerate(work.notes):
        yield ("notes", i, "adds"), note.adds
    for i, relation in enumerate(work.relations):
        yield ("relations", i, "how"), relation.how
    for i, repository in enumerate(work.code):
        yield ("code", i, "holds"), repository.holds
    for i, peer in enumerate(work.peers):
        yield ("peers", i, "difference"), peer.difference
    for i, deviation in enumerate(work.deviations):
        yield ("deviations", i, "what"), deviation.what
        yield ("deviations", i, "reason"), deviation.reason
    for i, variant in enumerate(work.variants):
        if variant.derivation:
            yield ("variants", i, "derivation"), variant.derivation
    if work.implementation:
        yield ("implementation", "reason"), work.implementation.reason

"""Each badge tells the truth, and the tiles of the home page count what they say."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import pytest

from skipkb.catalog.entry import Source, Work
from skipkb.catalog.loading import Catalogue
from skipkb.evidence.addresses import Link
from skipkb.site import text
from skipkb.site.fingerprints import counts_text
from skipkb.site.home import sources
from skipkb.site.text import link, source_mark, verdict
from skipkb.skips.graph import SkipGraph

from .reading import shown  # type: ignore[import-not-found]

DAY = datetime.date(2026, 1, 2)


def test_a_verdict_is_good_or_not() -> None:
    assert verdict("counted", good=True) == '<span class="skb-mark skb-checked">counted</span>'
    assert verdict("not counted", good=False) == '<span class="skb-mark skb-unverified">not counted</span>'


@pytest.mark.parametrize("checked", ["paper", "repository", "documentation", "counted", "survey"])
def test_a_checked_statement_says_by_what_when_and_where(checked: Any) -> None:
    source = Source(checked=checked, where="Table 2", url="https://example.com/x", date=DAY)
    badge = source_mark(source)
    assert shown(badge) == f"(+{checked})<https://example.com/x>"
    assert f'title="checked: {checked}, 2026-01-02, Table 2"' in badge
    assert shown(source_mark(Source(checked=checked, date=DAY))) == f"(+{checked})"


def test_an_unverified_statement_says_so() -> None:
    badge = source_mark(Source(checked="unverified", where="Table 2", url="https://example.com/x"))
    assert shown(badge) == "(-unverified)<https://example.com/x>"
    assert 'title="unverified, Table 2"' in badge


def test_a_link_found_dead_says_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [
        Link("https://example.com/gone", last_success="2025-12-01", dead_since="2026-01-05", note="404 Not Found"),
        Link("https://example.com/busy", last_success="2025-12-01", note="503 Busy"),
        Link("https://example.com/fine", last_success="2026-01-05"),
    ]
    monkeypatch.setattr(text, "checked_links", lambda: {link.url: link for link in known})
    assert shown(link("https://example.com/gone", "it")) == "it<https://example.com/gone> (-dead since 2026-01-05)"
    for address in ("busy", "fine", "never-asked", "gone/deeper"):
        assert shown(link(f"https://example.com/{address}", "it")) == f"it<https://example.com/{address}>"


def test_links_found_dead_are_marked_on_the_pages_and_no_others(small_pages: Path) -> None:
    marked = {}
    for path in small_pages.rglob("*.md"):
        if found := re.findall(r'href="([^"]*)"[^>]*>[^<]*</a> <span [^>]*>(dead [^<]*)', path.read_text("utf-8")):
            marked[path.relative_to(small_pages).as_posix()] = found
    old = ("https://github.com/roe/zeta-old", "dead since 2026-02-03")
    assert marked == {
        "methods/zeta.md": [old],
        "tables/reconstruction.md": [old],
        "methods/delta.md": [("https://example.com/delta.pdf", "dead since 2026-02-04")],
        "methods/beta.md": [("https://doi.org/10.1000/beta", "dead since 2026-02-05")],
        "methods/gamma.md": [("https://arxiv.org/abs/1602.00002", "dead since 2026-02-06")],
    }


def test_a_network_without_skips_says_so() -> None:
    assert counts_text(SkipGraph("Plain", "function", training=False)) == "no skip connection"


def tiles(home: str) -> dict[str, str]:
    """The figures of the home page by what they count."""
    return {shown(words): number for number, words in re.findall(r"<li><strong>(.*?)</strong> (.*?)</li>", home)}


def test_the_tiles_of_the_home_page(small_pages: Path) -> None:
    assert tiles((small_pages / "index.md").read_text("utf-8")) == {
        "rows of the survey's four tables": "9 of 9",
        "methods in the catalogue run here": "2 of 4",  # AlphaNet, BetaNet of those and GammaNet, DeltaNet
        "models with exact parameter counts": "5",
        "hold the contract today": "2 of 4",  # AlphaNet, BetaNet of those and EpsilonNet, ZetaNet
        "methods give the outputs of their authors' code": "2",  # ZetaNet equals a port, EpsilonNet is stale
        "entries whose every figure is verified": "3 of 6",  # AlphaNet, DeltaNet, EpsilonNet
        "errata of the survey": "7",  # six of DeltaNet's and one of the survey's own
        "notes that add to it": "2",  # one of each; what nobody has read does not count
    }


SOURCES = {
    "data sets of a row": ("survey", "rows", 0, "datasets", "source"),
    "code of a row": ("survey", "rows", 0, "code", "source"),
    "published size": ("variants", 0, "published", "source"),
    "configuration": ("configurations", 0, "source"),
    "official repository": ("code", 0, "source"),
    "repository of others": ("code", 1, "source"),
    "result": ("results", 0, "source"),
    "peer": ("peers", 0, "source"),
}


@pytest.mark.parametrize("place", SOURCES)
def test_one_unverified_figure_is_enough(small: Catalogue, place: str) -> None:
    data = small.entries["alpha"].model_dump()
    assert {source.checked for source in sources(Work.model_validate(data))} == {"paper", "repository", "counted"}
    *path, last = SOURCES[place]
    part: Any = data
    for step in path:
        part = part[step]
    part[last] = {"checked": "unverified"}
    assert [source.checked for source in sources(Work.model_validate(data))].count("unverified") == 1


def test_evidence_of_errata_counts_as_figures(small: Catalogue) -> None:
    delta = small.entries["delta"]
    evidence = [remark.evidence for remark in [*delta.errata, *delta.notes]]
    assert list(sources(delta))[-7:] == evidence
    assert small.waiting == 2

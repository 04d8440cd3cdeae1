"""The search page answers as skipkb.search does, and stays small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import expect

from skipkb.catalog.search import search

pytestmark = pytest.mark.browser

GROUPS: dict[str, dict[str, list[str]]] = yaml.safe_load(
    (Path(__file__).resolve().parents[1] / "catalog" / "relevance.yaml").read_text("utf-8")
)
QUESTIONS = {question: wanted for group in GROUPS.values() for question, wanted in group.items()}


@pytest.fixture
def page(visit: Any) -> Any:
    page = visit.open("search.html")
    page.wait_for_selector("#skb-search[data-skb-ready]")
    return page


def answers(page: Any, questions: list[str]) -> list[list[str]]:
    """The keys of the first three works the page finds for each question."""
    ask = "questions => questions.map(one => window.skipkb.find(one).found.slice(0, 3).map(entry => entry.key))"
    return page.evaluate(ask, questions)


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("unet", "U-Net"),
        ("retinanett", "RetinaNet"),
        ("biomedical segmentation merge:concat year:2015", "U-Net"),
        ("Jurgen", "Jürgen Schmidhuber"),
    ],
)
def test_the_search_page_finds(visit: Any, page: Any, query: str, first: str) -> None:
    page.locator("#skb-search input").fill(query)
    expect(page.locator("#skb-results li").first).to_contain_text(first)
    assert visit.errors == []
    assert visit.outside == []


def test_the_search_page_takes_filters_and_an_address(visit: Any) -> None:
    page = visit.open("search.html", "?query=swin+year:2021..2021+task:denoising")
    page.wait_for_selector("#skb-search[data-skb-ready]")
    results = page.locator("#skb-results li a")
    expect(results).to_have_text(["SwinIR (2021)"])
    page.locator("#skb-search input").fill("training very deep year:..2015")
    page.get_by_label("merge", exact=True).select_option("gate")
    expect(results.first).to_have_text("Training Very Deep Networks (2015)")
    assert "query=training" in page.url
    results.first.click()
    expect(page.locator("h1")).to_contain_text("Training Very Deep Networks")


def test_19_of_20_questions_are_answered_among_the_first_three(page: Any) -> None:
    failed = [
        f"{question!r}: {', '.join(found) or 'nothing'} instead of {', '.join(wanted)}"
        for (question, wanted), found in zip(QUESTIONS.items(), answers(page, list(QUESTIONS)), strict=True)
        if not set(wanted) & set(found)
    ]
    share = 1 - len(failed) / len(QUESTIONS)
    assert share >= 0.95, f"{share:.1%} of {len(QUESTIONS)}; failed:\n" + "\n".join(failed)


def test_the_first_answer_is_mostly_that_of_python(page: Any) -> None:
    theirs = [found[:1] for found in answers(page, list(QUESTIONS))]
    ours = [[hit.key for hit in search(question, limit=1)] for question in QUESTIONS]
    same = sum(one == other for one, other in zip(ours, theirs, strict=True))
    assert same / len(QUESTIONS) >= 0.85


def test_words_are_stemmed_as_in_the_index(page: Any) -> None:
    pairs = [["networks", "network"], ["concatenates", "concatenation"], ["generalisation", "generalise"]]
    for one, other in pairs:
        assert answers(page, [one]) == answers(page, [other])
        assert answers(page, [one]) != [[]]


def test_an_unknown_word_is_named(visit: Any, page: Any) -> None:
    page.locator("#skb-search input").fill("sqeeze excitation")
    expect(page.locator("#skb-results li").first).to_contain_text("SENet")
    expect(page.locator("#skb-count")).to_contain_text("nothing has sqeeze, shown is squeeze")
    page.locator("#skb-search input").fill("qqqqqq")
    expect(page.locator("#skb-results li")).to_have_count(0)
    expect(page.locator("#skb-count")).to_have_text("0 works; nothing has qqqqqq")
    for strange in ("constructor", "__proto__ toString", '"', "* (", "[", "year:x", "C++ \\ 日本語", "a" * 3000):
        page.locator("#skb-search input").fill(strange)
    assert visit.errors == []


def test_what_a_reader_loads_for_searching_is_under_a_megabyte(visit: Any) -> None:
    index = "search/search_index.js" if visit.site.name == "site" else "search.js"  # of Material and of Zensical
    sizes = {name: (visit.site / name).stat().st_size for name in ("assets/search-data.js", index)}
    assert sum(sizes.values()) < 1_000_000, sizes


def test_a_question_why_leads_to_the_explanations(visit: Any, page: Any) -> None:
    sections = page.locator("#skb-explanations")
    page.locator("#skb-search input").fill("U-Net")
    expect(sections).to_be_hidden()
    page.locator("#skb-search input").fill("why do skips help")
    expect(sections).to_contain_text("Explained in")
    assert len({link.split()[0] for link in sections.locator("a").all_inner_texts()}) >= 4
    page.locator("#skb-search input").fill("ensembles of shallow networks")
    expect(sections.locator("a").first).to_have_text("V.B Ensembles of shallow networks")
    sections.locator("a").first.click()
    expect(page.locator("h1")).to_contain_text("Ensembles of shallow networks")

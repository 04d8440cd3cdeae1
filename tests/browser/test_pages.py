"""Every page loads without an error or an outside request; tables filter and sort; search finds."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from skipkb.catalog.loading import load

pytestmark = pytest.mark.browser


def test_every_page_loads_clean(visit: Any) -> None:
    names = sorted(path.relative_to(visit.site).as_posix() for path in visit.site.rglob("*.html"))
    assert len(names) > len(load().entries)
    for name in names:
        if name == "404.html":
            continue  # its addresses are absolute: a server shows it
        page = visit.open(name)
        assert page.locator("h1").count() == 1, name
    page.wait_for_timeout(300)
    assert visit.errors == []
    assert visit.outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(visit: Any, scheme: str, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.emulate_media(color_scheme=scheme)
    for name in ("index.html", "tables/classification.html", "methods/swinir.html", "search.html", "errata.html"):
        page = visit.open(name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(background.split("(")[1].split(",")[0])
        assert (red < 100) == (scheme == "dark"), f"{name}: {background}"


def test_a_table_filters_and_sorts(visit: Any) -> None:
    page = visit.open("tables/classification.html")
    page.wait_for_selector("table[data-skb-ready]")
    rows = page.locator("table[data-skb-table] tbody tr")
    works = [load().entries[key] for key in load().survey.tables[0].rows]
    expect(rows).to_have_count(len(works))
    page.get_by_label("Filter rows").fill("mixer")
    expect(rows.locator("td:first-child > a:first-child")).to_have_text(["MLP-Mixer"])
    page.get_by_label("Filter rows").fill("")
    page.get_by_label("Merge", exact=True).select_option("concat")
    expect(rows).to_have_count(sum("concat" in work.merges for work in works))
    page.get_by_label("Merge", exact=True).select_option("")
    year = page.locator("th", has_text="Year")
    year.click()
    expect(rows.first).to_contain_text(str(min(work.year for work in works)))
    year.click()
    expect(rows.first).to_contain_text(str(max(work.year for work in works)))
    assert visit.errors == []


def test_a_table_is_sorted_with_the_keyboard(visit: Any) -> None:
    page = visit.open("tables/classification.html")
    page.wait_for_selector("table[data-skb-ready]")
    header = page.locator("th", has_text="Year")
    target = header.locator("[tabindex='0']")
    (target.first if target.count() else header).focus()
    page.keyboard.press("Enter")
    expect(header).to_have_attribute("aria-sort", re.compile("ascending|descending"))


def test_the_search_box_of_the_theme_finds(visit: Any) -> None:
    if visit.site.name != "site":
        pytest.skip("Zensical has another search box; the search page is the same")
    page = visit.open("index.html")
    page.locator("input.md-search__input").fill("focal loss")
    page.wait_for_selector(".md-search-result__item", timeout=10_000)
    assert "RetinaNet" in page.locator(".md-search-result__list").inner_text()
    assert visit.outside == []


def test_bibtex_has_a_copy_button(visit: Any) -> None:
    page = visit.open("methods/unet.html")
    block = page.locator(".highlight", has_text="@inproceedings{ronneberger2015unet")
    assert block.locator("button").count() >= 1


def test_images_and_figures_have_a_description(visit: Any) -> None:
    for key, work in load().entries.items():
        page = visit.open(f"methods/{key}.html")
        figures = 1 if work.skips else 0
        assert page.locator("svg.skb-figure title").count() == figures, key
        assert page.locator("svg.skb-figure desc").count() == figures, key
        assert page.evaluate("[...document.querySelectorAll('article img')].filter(i => !i.alt).length") == 0
        assert page.evaluate("[...document.querySelectorAll('article img')].filter(i => !i.naturalWidth).length") == 0

"""Picking a work in the family graph, by mouse, by keyboard and by address."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from skipkb.catalog.loading import load

pytestmark = pytest.mark.browser


def test_a_picked_work_shows_its_ancestors_and_descendants(visit: Any) -> None:
    page = visit.open("family.html", "#densenet")
    text = page.locator("#skb-family-text")
    expect(text).to_contain_text("DenseNet (2017): ancestors")
    expect(page.get_by_label("Work", exact=True).first).to_have_value("densenet")
    works = load().entries
    related = {r.to for r in works["densenet"].relations}
    related |= {key for key, work in works.items() for r in work.relations if r.to == "densenet"}
    shown = set(page.locator("#skb-family .skb-node.skb-on").evaluate_all("nodes => nodes.map(node => node.id)"))
    assert related | {"densenet"} <= shown
    assert "alphago" not in shown
    page.locator('[id="unet"] text').click()
    expect(text).to_contain_text("U-Net (2015)")
    assert page.url.endswith("#unet")
    page.keyboard.press("Escape")
    expect(text).to_have_text("")
    assert "#" not in page.url
    page.go_back()
    expect(text).to_contain_text("U-Net (2015)")
    page.locator('[id="unet"] text').click()
    page.wait_for_url("**/methods/unet.html")
    assert visit.errors == []


def test_lines_of_uses_are_for_the_picked_work_only(visit: Any) -> None:
    page = visit.open("family.html")
    page.wait_for_selector("#skb-family[data-skb-ready]")
    uses = page.locator("#skb-family .skb-edges .skb-uses:visible")
    expect(uses).to_have_count(0)
    page.get_by_label("Work", exact=True).first.select_option("resnet")
    works = load().entries
    count = sum(r.type == "uses" and "resnet" in (key, r.to) for key, w in works.items() for r in w.relations)
    expect(uses).to_have_count(count)
    page.get_by_role("button", name="Show all").click()
    expect(uses).to_have_count(0)


def test_labels_of_the_timeline_do_not_overlap_in_a_real_font(visit: Any) -> None:
    page = visit.open("timeline.html")
    overlaps = page.evaluate(
        """() => {
          const boxes = [...document.querySelectorAll(".skb-picture svg a")].map((a) => [a, a.getBoundingClientRect()]);
          const pairs = boxes.flatMap(([a, p], n) => boxes.slice(n + 1).map(([b, q]) => [a, p, b, q]));
          return pairs.filter(([a, p, b, q]) => p.left < q.right && q.left < p.right
            && p.top + 2 < q.bottom - 2 && q.top + 2 < p.bottom - 2).map(([a, p, b]) => a.textContent + b.textContent);
        }"""
    )
    assert overlaps == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280

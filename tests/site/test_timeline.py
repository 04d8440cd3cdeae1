"""The timeline: every work once, nothing on top of anything else, the same picture each time."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

from skipkb.catalog.loading import Catalogue
from skipkb.site.timeline import (
    DENSE,
    GAP,
    HEAD,
    LANES,
    ROW,
    in_order,
    layout,
    short_label,
    timeline_page,
    timeline_svg,
)

from .real import load  # type: ignore[import-not-found]

SVG = "{http://www.w3.org/2000/svg}"


def test_every_work_is_drawn_once_and_listed_once() -> None:
    page = timeline_page(load())
    svg = re.search(r"<svg .*?role=\"group\".*?</svg>", page)
    assert svg is not None
    pattern = r'href="methods/([^"]+)\.html"'
    assert sorted(re.findall(pattern, svg[0])) == sorted(load().entries)
    assert sorted(re.findall(pattern, page.replace(svg[0], ""))) == sorted(load().entries)


def test_the_picture_is_well_formed_and_each_mark_has_a_title() -> None:
    works = in_order(load())
    by_key = {work.key: work for work in works}
    root = ElementTree.fromstring(timeline_svg(works))
    links = root.findall(f"{SVG}a")
    assert len(links) == len(works)
    for link in links:
        work = by_key[link.attrib["href"].removeprefix("methods/").removesuffix(".html")]
        title = link.findtext(f"{SVG}title") or ""
        assert title.startswith(f"{work.name} ({work.year})")
        signs = [text for text in link.findall(f"{SVG}text") if text.get("class") == "skb-disc-sign"]
        assert len(signs) == len(work.merges)


def test_no_two_works_touch_and_all_are_in_the_picture() -> None:
    works = in_order(load())
    lanes = layout(works)
    width = float(ElementTree.fromstring(timeline_svg(works)).attrib["width"])
    assert [lane.name for lane in lanes] == [name for name in LANES if any(w.folder == name for w in works)]
    boxes = [box for lane in lanes for box in lane.boxes]
    for a, b in combinations(boxes, 2):
        apart_x = a.x + a.width + GAP <= b.x or b.x + b.width + GAP <= a.x
        assert apart_x or abs(a.y - b.y) >= ROW, f"{a.label} and {b.label}"
    for lane in lanes:
        for box in lane.boxes:
            assert box.x >= 0
            assert box.x + box.width <= width
            assert lane.top + HEAD <= box.y - ROW / 2
            assert box.y + ROW / 2 <= lane.top + lane.height
    for above, below in combinations(lanes, 2):
        assert above.top + above.height <= below.top


def test_years_run_from_left_to_right() -> None:
    places = sorted((box.work.year, box.x) for lane in layout(in_order(load())) for box in lane.boxes)
    assert [x for _, x in places] == sorted(x for _, x in places)
    dense = {year: x for year, x in places if year >= DENSE}
    steps = {round((x - dense[DENSE]) / (year - DENSE), 6) for year, x in dense.items() if year > DENSE}
    assert len(steps) == 1


def test_two_drawings_are_the_same_whatever_the_order_of_the_entries() -> None:
    catalogue = load()
    turned = Catalogue(catalogue.survey, dict(reversed(catalogue.entries.items())), catalogue.references)
    assert timeline_page(catalogue) == timeline_page(turned)


def test_long_names_are_cut_and_text_is_escaped() -> None:
    assert short_label("U-Net") == "U-Net"
    assert short_label("W" * 40).endswith("…")
    assert len(short_label("W" * 40)) < 16
    work = in_order(load())[0].model_copy(update={"name": '<b a="1">&', "contribution": "</svg><script>"})
    svg = timeline_svg([work])
    assert "<b" not in svg
    assert "<script" not in svg
    ElementTree.fromstring(svg)

"""The family graph: every work and relation once, years in order, no overlap, the same picture each time."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from xml.etree import ElementTree

import pytest

from skipkb.catalog.entry import Relation
from skipkb.catalog.loading import Catalogue
from skipkb.site.family import MOST, ROW, TRUNK, _apart, family_figure, family_page, family_svg, layout
from skipkb.site.timeline import in_order

from .real import load  # type: ignore[import-not-found]

SVG = "{http://www.w3.org/2000/svg}"


def relations() -> Counter[tuple[str, str, str]]:
    return Counter((work.key, r.type, r.to) for work in load().entries.values() for r in work.relations)


def test_every_work_and_every_relation_is_drawn_once() -> None:
    root = ElementTree.fromstring(family_svg(in_order(load())))
    nodes = root.findall(f"{SVG}a")
    assert sorted(node.attrib["id"] for node in nodes) == sorted(load().entries)
    assert all(node.attrib["href"] == f"methods/{node.attrib['id']}.html" for node in nodes)
    paths = root.findall(f"{SVG}g/{SVG}path")
    drawn = Counter((p.attrib["data-from"], p.attrib["class"][4:], p.attrib["data-to"]) for p in paths)
    assert drawn == relations()


def test_every_relation_is_in_the_table_and_every_work_can_be_picked() -> None:
    page = family_page(load())
    rows = re.findall(
        r'<tr><td class="skb-number">\d+</td><td><a href="methods/([^"]+)\.html">.*?</td><td>(\w+)</td>'
        r'<td><a href="methods/([^"]+)\.html">',
        page,
    )
    assert Counter(rows) == relations()
    options = re.findall(r'<option value="([^"]+)">', page)
    assert sorted(options) == sorted(load().entries)


def test_years_run_from_left_to_right_and_nothing_overlaps() -> None:
    works = in_order(load())
    place = layout(works)
    years = [column.year for column in place.columns]
    assert years == sorted(set(years))
    for left, right in zip(place.columns, place.columns[1:], strict=False):
        assert left.x + left.width < right.x
    for number, column in enumerate(place.columns):
        heights = [(place.y[key], ROW) for key, found in place.column.items() if found == number]
        heights += [(y, TRUNK) for (found, _), y in place.trunk.items() if found == number]
        for (a, room), (b, other) in combinations(heights, 2):
            assert abs(a - b) >= (room + other) / 2 - 0.2, column.year  # places are rounded to a tenth
    assert all(0 < y < place.height for y in place.y.values())


def test_a_trunk_passes_each_column_between_a_work_and_its_last_successor() -> None:
    place = layout(in_order(load()))
    for work in load().entries.values():
        for relation in work.relations:
            ends = sorted((place.column[work.key], place.column[relation.to]))
            first = min((work.key, relation.to), key=lambda key: place.column[key])
            if relation.type == "extends":
                assert all((column, first) in place.trunk for column in range(ends[0] + 1, ends[1]))


def test_places_keep_their_order_and_are_as_near_as_can_be() -> None:
    assert _apart([0, 100], [10, 10]) == [0, 100]
    assert _apart([5, 5], [10, 10]) == [0, 10]
    assert _apart([30, 0, 0], [10, 10, 10]) == [0, 10, 20]
    assert _apart([], []) == []


def test_two_drawings_are_the_same_whatever_the_order_of_the_entries() -> None:
    catalogue = load()
    turned = Catalogue(catalogue.survey, dict(reversed(catalogue.entries.items())), catalogue.references)
    assert family_page(catalogue) == family_page(turned)
    assert [family_figure(w, catalogue) for w in in_order(turned)] == [
        family_figure(w, turned) for w in in_order(catalogue)
    ]


def test_small_pictures_show_the_neighbours_and_lead_to_the_work_in_the_whole() -> None:
    catalogue = load()
    for key, work in catalogue.entries.items():
        before = {relation.to for relation in work.relations}
        after = {other.key for other in catalogue.entries.values() for r in other.relations if r.to == key}
        figure = family_figure(work, catalogue)
        if not before and not after:
            assert figure == ""
            continue
        svg = re.search("<svg.*</svg>", figure)
        assert svg is not None
        shown = [link.attrib["href"][:-5] for link in ElementTree.fromstring(svg[0]).findall(f"{SVG}a")]
        assert len(shown) == min(MOST, len(before)) + min(MOST, len(after))
        assert set(shown) <= before | after
        assert f'href="../family.html#{key}"' in figure
        hidden = len(before) + len(after) - len(shown)
        assert (f"{hidden} more" in figure) == bool(hidden)


@pytest.mark.parametrize("year", [1950, 2015, 2020])
def test_text_is_escaped_and_strange_families_are_drawn(year: int) -> None:
    catalogue = load()
    name = '<i onclick="x">&'
    a, b, c = (
        catalogue.entries[key].model_copy(
            update={"name": name, "contribution": "</svg><script>", "year": place, "relations": found}
        )
        for key, place, found in (
            ("resnet", 2020, [Relation(type="extends", to="unet", how=name)]),  # of a younger or older work
            ("unet", year, []),
            ("vit", year, [Relation(type="uses", to="unet", how=name), Relation(type="extends", to="unet", how=name)]),
        )
    )
    small = Catalogue(catalogue.survey, {"resnet": a, "unet": b, "vit": c}, catalogue.references)
    body = re.sub(r"<script type.*?</script>", "", family_page(small) + family_figure(b, small))
    assert "<script" not in body
    assert "<i" not in body.replace("<input", "")
    ElementTree.fromstring(family_svg(in_order(small)))

"""Filters, their state in the address, files of the rows shown, the chart and the comparison."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import bibtexparser
import pytest
from playwright.sync_api import Page, expect

from skipkb.catalog.loading import load

pytestmark = pytest.mark.browser

ROWS = "table.skb-table tbody tr"


def open_explorer(visit: Any, query: str = "") -> Page:
    page = visit.open("explorer.html", query)
    page.wait_for_selector("#skb-explorer[data-skb-ready]")
    return page


def open_table(visit: Any, name: str, query: str = "") -> Page:
    page = visit.open(name, query)
    page.wait_for_selector("table[data-skb-ready]")
    return page


def entries(page: Page) -> Any:
    return page.locator("#skb-entries tbody tr")


def downloaded(page: Page, kind: str) -> str:
    with page.expect_download() as started:
        page.get_by_role("button", name=kind, exact=True).click()
    return Path(started.value.path()).read_bytes().decode("utf-8")


def chart_points(page: Page) -> int:
    page.wait_for_function("window.Chart && Chart.getChart(document.querySelector('#skb-chart canvas'))")
    chart = "Chart.getChart(document.querySelector('#skb-chart canvas'))"
    return int(page.evaluate(f"{chart}.data.datasets.flatMap(d => d.data).length"))


def test_the_explorer_filters_counts_and_restores_its_state(visit: Any) -> None:
    page = open_explorer(visit)
    expect(entries(page)).to_have_count(len(load().entries))
    concat = [w for w in load().entries.values() if "concat" in w.merges]
    option = page.get_by_label("Merge", exact=True).locator("option[value=concat]")
    expect(option).to_have_text(f"concat ({len(concat)})")
    page.get_by_label("Merge", exact=True).select_option("concat")
    expect(entries(page)).to_have_count(len(concat))
    page.get_by_label("Year from", exact=True).fill("2018")
    late = [w for w in concat if w.year >= 2018]
    expect(page.locator(".skb-rows-shown")).to_have_text(f"{len(late)} of {len(load().entries)} rows")
    page.get_by_label("Filter rows").fill("zhou")  # an author, who is nowhere in the table
    expect(entries(page).locator("a")).to_contain_text(["UNet++"])
    page.get_by_role("button", name="Clear filters").click()
    expect(entries(page)).to_have_count(len(load().entries))
    page.get_by_label("Merge", exact=True).select_option("concat")
    page.get_by_label("Year from", exact=True).fill("2018")
    expect(entries(page)).to_have_count(len(late))
    for direction in ("asc", "desc"):
        page.locator("#skb-entries th", has_text="Year").click()
        page.wait_for_function("d => location.search.includes('order=year.' + d)", arg=direction)
    shown = entries(page).locator("a").all_text_contents()
    query = page.evaluate("location.search")
    assert "merge=concat" in query
    assert "year=2018.." in query

    again = open_explorer(visit, query)
    assert entries(again).locator("a").all_text_contents() == shown
    years = [int(text) for text in again.locator("#skb-entries tbody td:nth-child(2)").all_text_contents()]
    assert years == sorted(years, reverse=True)
    expect(again.get_by_label("Merge", exact=True)).to_have_value("concat")
    assert visit.errors == []
    assert visit.outside == []


def test_the_counts_beside_the_choices_are_what_the_choice_leaves(visit: Any) -> None:
    page = open_explorer(visit, "?official-code=yes&span=long")
    task = page.get_by_label("Task", exact=True)
    offered = task.locator("option").all_text_contents()[1:]
    for text in offered[:6]:
        name, count = text.removesuffix(")").rsplit(" (", 1)
        task.select_option(name)
        expect(page.locator(".skb-rows-shown")).to_have_text(f"{count} of {len(load().entries)} rows")


def test_a_range_of_parameters_leaves_out_what_is_not_known(visit: Any) -> None:
    page = open_explorer(visit, "?parameters=20..40&words=u-net")
    expect(entries(page)).not_to_have_count(0)
    names = entries(page).locator("a").all_text_contents()
    assert "U-Net" in names
    sizes = page.evaluate("SKIPKB_EXPLORER.rows.map(r => [r.name, r.numbers.Parameters ?? null])")
    assert all(20e6 <= size <= 40e6 for name, size in sizes if name in names)


def test_the_chart_has_a_point_for_each_entry_with_both_numbers(visit: Any) -> None:
    page = open_explorer(visit)
    rows = page.evaluate("SKIPKB_EXPLORER.rows")
    assert chart_points(page) == sum("Parameters" in row["numbers"] for row in rows)
    page.get_by_label("Up", exact=True).select_option("macs")
    page.get_by_label("Across", exact=True).select_option("parameters")
    both = sum({"Parameters", "MACs"} <= set(row["numbers"]) for row in rows)
    assert chart_points(page) == both
    expect(page.locator("#skb-chart-note")).to_contain_text(f"{both} of the {len(rows)} entries")
    page.get_by_label("Up", exact=True).select_option("errata")
    page.get_by_label("Up scale", exact=True).select_option("logarithmic")
    some = sum("Parameters" in row["numbers"] and row["numbers"]["Errata"] > 0 for row in rows)
    assert chart_points(page) == some
    again = open_explorer(visit, page.evaluate("location.search"))
    assert chart_points(again) == some


def test_a_point_leads_to_its_page(visit: Any) -> None:
    page = open_explorer(visit, "?words=swinir&runs-here=yes")
    assert chart_points(page) == 1
    place = page.evaluate(
        "(() => { const p = Chart.getChart(document.querySelector('#skb-chart canvas')).getDatasetMeta(0).data[0];"
        " return [p.x, p.y]; })()"
    )
    page.locator("#skb-chart canvas").click(position={"x": place[0], "y": place[1]})
    expect(page.locator("h1")).to_contain_text("SwinIR")


def test_the_chart_stays_away_and_the_rest_works(visit: Any) -> None:
    visit.page.route("**/chart.umd.min.js", lambda route: route.abort())
    page = open_explorer(visit)
    expect(entries(page)).to_have_count(len(load().entries))
    expect(page.locator("#skb-chart-note")).to_contain_text("could not be loaded")


def test_two_to_four_entries_side_by_side(visit: Any) -> None:
    page = open_explorer(visit)
    for name in ("ResNet", "U-Net", "SwinIR"):
        page.get_by_label(f"Compare {name}", exact=True).check()
    table = page.locator("#skb-compare table")
    expect(table.locator("thead th a")).to_have_text(["ResNet", "U-Net", "SwinIR"])
    unet = load().entries["unet"]
    line = table.locator("tr", has=page.get_by_role("rowheader", name="Parameters", exact=True))
    expect(line.locator("td").nth(1)).to_have_text(f"{unet.variants[0].title}: {unet.variants[0].parameters:,}")
    expect(table.locator("svg")).to_have_count(3)
    page.get_by_label("Compare DenseNet", exact=True).check()
    expect(page.get_by_label("Compare VGG", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Remove ResNet").click()
    assert "compare=unet+swinir+densenet" in page.evaluate("location.search")
    again = open_explorer(visit, "?compare=unet+swinir+densenet+no-such-key")
    expect(again.locator("#skb-compare thead th a")).to_have_text(["U-Net", "SwinIR", "DenseNet"])
    assert visit.errors == []


def test_the_files_of_the_explorer_hold_the_rows_shown(visit: Any) -> None:
    page = open_explorer(visit, "?table=segmentation&order=year.asc")
    keys = load().survey.tables[2].rows
    header, *lines = csv.reader(io.StringIO(downloaded(page, "CSV"), newline=""), strict=True)
    assert {len(line) for line in lines} == {len(header)}
    assert sorted(line[0] for line in lines) == sorted(keys)
    assert [line[header.index("Year")] for line in lines] == sorted(line[header.index("Year")] for line in lines)
    library = bibtexparser.parse_string(downloaded(page, "BibTeX"))
    assert not library.failed_blocks
    assert {entry.key for entry in library.entries} == {load().entries[key].paper for key in keys}


def test_the_files_of_a_table_hold_the_rows_shown_as_they_are_ordered(visit: Any) -> None:
    page = open_table(visit, "tables/reconstruction.html", "?merge=concat&official-code=yes&order=method.desc")
    names = page.locator("table[data-skb-table] tbody td:nth-child(2) > a:first-child").all_text_contents()
    assert len(names) > 2
    text = downloaded(page, "CSV")
    assert text.endswith("\r\n")
    header, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert [line[0] for line in lines] == names
    with (visit.site / "tables" / "reconstruction.csv").open(encoding="utf-8", newline="") as file:
        whole = list(csv.reader(file))
    assert header == whole[0]
    assert all(line in whole for line in lines)

    latex = downloaded(page, "LaTeX")
    body = latex.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
    assert len(body) == len(lines)
    for row, cells in zip(body, lines, strict=True):
        found = re.split(r"(?<!\\) & ", row.removesuffix(r" \\"))
        assert [re.sub(r"\\([{}$&#_%])", r"\1", cell) for cell in found] == cells
    records = bibtexparser.parse_string(downloaded(page, "BibTeX"))
    assert len(records.entries) == len(lines)
    assert not records.failed_blocks


NASTY = ["=1+1", "-2", '"quoted", with comma', "two\nlines", "a & b_c % $ # {x} ~ ^ \\ <y> |", "[1]", ""]


def test_hard_text_survives_csv_and_is_harmless_in_latex(visit: Any) -> None:
    page = open_table(visit, "errata.html")
    text = page.evaluate("lines => skipkb.csv(lines)", [NASTY, NASTY])
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == [NASTY, NASTY]
    latex = page.evaluate("lines => skipkb.latex(lines)", [NASTY, ["[a", *NASTY[1:]]])
    assert (
        r"a \& b\_c \% \$ \# \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}y\textgreater{}"
        in latex
    )
    assert "\n{}[a & " in latex  # else an option of the line break before it
    assert "two lines" in latex


def test_the_errata_filter_and_download(visit: Any) -> None:
    page = open_table(visit, "errata.html")
    everything = json.loads((visit.site / "errata.json").read_text("utf-8"))
    kind = next(line["type"] for line in everything if line["place"] == "Table III")
    page.get_by_label("Place", exact=True).select_option("Table III")
    page.get_by_label("Type", exact=True).select_option(kind)
    wanted = [line for line in everything if (line["place"], line["type"]) == ("Table III", kind)]
    assert len(wanted) < len(everything)
    expect(page.locator("table[data-skb-table] tbody tr")).to_have_count(len(wanted))
    found = list(csv.DictReader(io.StringIO(downloaded(page, "CSV"), newline="")))
    assert found == [{name: str(value) for name, value in line.items()} for line in wanted]


def test_a_filter_that_leaves_nothing_says_so(visit: Any) -> None:
    page = open_table(visit, "tables/detection.html", "?words=nothing-has-this-name")
    expect(page.locator("table[data-skb-table] tbody")).to_contain_text("No row passes")
    assert downloaded(page, "CSV").count("\r\n") == 1


def test_the_link_is_copied(visit: Any) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = open_table(visit, "methods/index.html", "?task=dehazing")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_the_explorer_is_small(visit: Any) -> None:
    asked = set()
    visit.page.on("request", lambda request: asked.add(request.url))
    chart_points(open_explorer(visit, "?compare=unet+resnet"))
    files = {Path(url.removeprefix("file://").partition("?")[0]) for url in asked if url.startswith("file:")}
    own = [file for file in sorted(files) if "search" not in file.name]  # the theme's search is on every page
    sizes = {file.name: len(gzip.compress(file.read_bytes(), 6)) for file in own}
    assert "chart.umd.min.js" in sizes
    assert sum(sizes.values()) < 500_000, sizes


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_explorer_is_not_wider_than_the_screen(visit: Any, scheme: str, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.emulate_media(color_scheme=scheme)
    page = open_explorer(visit, "?compare=unet+resnet+swinir+densenet")
    chart_points(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width

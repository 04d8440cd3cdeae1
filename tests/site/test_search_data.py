"""What the search page loads, and what stays out of the theme's own index."""

from __future__ import annotations

import json
from pathlib import Path

from skipkb.catalog.search import FACETS
from skipkb.catalog.words import SEARCHED
from skipkb.site.search_index import search_data, trim_theme_search

from .real import load  # type: ignore[import-not-found]


def read(script: str) -> dict[str, object]:
    return json.loads(script.removeprefix("window.SKIPKB_SEARCH = ").rstrip(";\n"))


def test_the_page_gets_what_the_index_holds() -> None:
    catalogue = load()
    data = read(search_data(catalogue))
    assert (data["columns"], data["facets"]) == (SEARCHED, list(FACETS))
    assert [entry["key"] for entry in data["entries"]] == list(catalogue.entries)
    unet = next(entry for entry in data["entries"] if entry["key"] == "unet")
    assert unet.keys() >= SEARCHED.keys()
    assert (unet["facets"]["merge"], unet["numbers"]["year"]) == (["concat"], [2015.0])
    assert unet["numbers"]["params"] == sorted(
        float(variant.parameters) for variant in catalogue.entries["unet"].variants
    )
    assert data["numbers"] == ["year", "params", "macs"]
    assert "unet" in unet["names"]
    assert "u net" in data["alternatives"]["unet"]
    assert data["alternatives"]["tumour"] == ["tumor"]


def test_it_takes_the_reader_less_than_half_a_megabyte() -> None:
    assert len(search_data(load()).encode()) < 2**19


def test_search_data_cannot_end_its_script() -> None:
    catalogue = load()
    key = next(iter(catalogue.entries))
    nasty = catalogue.entries[key].model_copy(update={"description": "</script><script>alert(1)</script>"})
    text = search_data(type(catalogue)(catalogue.survey, {key: nasty}, catalogue.references))
    assert "</script" not in text
    (document,) = read(text)["entries"]
    assert document["description"] == "</script><script>alert(1)</script>"


def test_the_themes_index_gets_prose_and_the_heads_of_methods(tmp_path: Path) -> None:
    code = "````text\n## no heading\n```\n## nor this\n````\n"
    method = f"---\ntitle: A\n---\n\n# A\n\n## What it changed\n\nx\n\n## Cite\n\n{code}\n### More\n"
    pages = {
        "guide.md": "# Guide\n\n## Cite\n",
        "api/x.md": "# x\n\n## Cite\n",
        "methods/a.md": method,
        "methods/index.md": "---\ntitle: Methods\n---\n\n## A\n",
        "years.md": "# Years\n",
    }
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    trim_theme_search(tmp_path, {tmp_path / "guide.md"})
    after = {name: (tmp_path / name).read_text() for name in pages}
    assert (after["guide.md"], after["api/x.md"]) == (pages["guide.md"], pages["api/x.md"])
    mark = ' {: data-search-exclude="true" }'
    assert after["methods/a.md"] == method.replace("## Cite", f"## Cite{mark}").replace("### More", f"### More{mark}")
    assert after["methods/index.md"] == "---\nsearch: {exclude: true}\ntitle: Methods\n---\n\n## A\n"
    assert after["years.md"] == "---\nsearch: {exclude: true}\n---\n\n# Years\n"

"""What machines read: JSON-LD on the pages, llms.txt, and the list of addresses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from skipkb.site.machines import article, dataset, llms_txt

from .real import load  # type: ignore[import-not-found]


def data(script: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/ld\+json">(.*?)</script>', script)
    found: dict[str, Any] = json.loads(text)
    return found


def test_every_page_of_a_work_describes_its_paper(pages: Path) -> None:
    for key, work in load().entries.items():
        found = data((pages / "methods" / f"{key}.md").read_text("utf-8"))
        assert found["@context"] == "https://schema.org"
        assert found["@type"] == "ScholarlyArticle"
        assert found["name"] == work.title
        assert [author["name"] for author in found["author"]] == work.authors
        assert found["datePublished"] == str(work.year)
        official = [repository.url for repository in work.code if repository.role == "official"]
        assert [code["codeRepository"] for code in found.get("workExample", [])] == official


def test_no_text_ends_the_script() -> None:
    work = load().entries["unet"].model_copy(update={"title": "</script><b>&", "contribution": "<!-- --> ]]>"})
    script = article(work)
    assert script.count("<") == script.count(">") == 2
    assert data(script)["name"] == "</script><b>&"


def test_the_home_page_describes_the_catalogue_and_its_downloads(pages: Path) -> None:
    found = data((pages / "index.md").read_text("utf-8"))
    assert found == data(dataset(load()))
    assert found["@type"] == "Dataset"
    for file in found["distribution"]:
        assert (pages / file["contentUrl"]).is_file()


def test_llms_txt_names_every_work_once(pages: Path) -> None:
    text = (pages / "llms.txt").read_text("utf-8")
    assert text == llms_txt(load())
    assert text.startswith("# skipkb\n\n> ")
    linked = re.findall(r"\]\(methods/([\w-]+)\.html\)", text)
    assert sorted(linked) == sorted(load().entries)
    for link in set(re.findall(r"\]\(([^)]+)\)", text)):
        assert (pages / link.replace(".html", ".md")).is_file(), link

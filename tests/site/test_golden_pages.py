"""Pages of the small catalogue as they were last looked at: the six works, their rows, the home page, the evidence.

After a change that is meant, ``SKIPKB_UPDATE_GOLDEN=1 pytest tests/site/test_golden_pages.py`` writes the files under
tests/site/golden anew; read their diff before you commit them. Pictures are reduced to their words and the source of
a model to a line, since both have tests of their own.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
WORKS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
NAMES = (*WORKS, "rows", "home", "evidence")


def reduced(page: str) -> str:
    """The page without what changes for other reasons."""
    page = re.sub(r"(?s)<svg.*?</svg>", lambda found: f"<svg>{' · '.join(words(found[0]))}</svg>", page)
    return re.sub(r'(?s)(<details markdown="1">\n<summary>.*?</summary>\n).*?(?=</details>)', r"\1(the source)\n", page)


def words(svg: str) -> list[str]:
    """Title, description and label of a picture."""
    found = re.findall(r'<title [^>]*>([^<]*)<|<desc [^>]*>([^<]*)<|aria-label="([^"]*)"', svg)
    return ["".join(one) for one in found]


@pytest.fixture(scope="session")
def texts(small_pages: Path) -> Mapping[str, str]:
    """What is compared, by the name of its file."""
    pages = {
        path.relative_to(small_pages).as_posix(): path.read_text("utf-8") for path in sorted(small_pages.rglob("*.md"))
    }
    tables = [name for name in pages if name.startswith("tables/") or name == "methods/index.md"]
    rows = [f"## {name}\n\n" + "".join(re.findall(r"(?m)^(?:<thead>|<tr>).*\n", pages[name])) for name in tables]
    return {
        **{key: reduced(pages[f"methods/{key}.md"]) for key in WORKS},
        "rows": "\n".join(rows),
        "home": pages["index.md"],
        "evidence": pages["evidence.md"],
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_as_it_was_last_looked_at(texts: Mapping[str, str], name: str) -> None:
    file = GOLDEN / f"{name}.md"
    if os.environ.get("SKIPKB_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(texts[name], encoding="utf-8")
    seen = file.read_text("utf-8").splitlines() if file.is_file() else []
    difference = difflib.unified_diff(seen, texts[name].splitlines(), f"golden/{name}.md", "now", lineterm="")
    assert not (lines := "\n".join(difference)), f"{lines}\nIf it is meant: {__doc__.splitlines()[2]}"


def test_every_golden_file_is_compared() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(f"{name}.md" for name in NAMES)

"""Catalogue text on a page is text: no HTML, no Markdown, no script."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import markdown
import pytest

from skipkb.site import home
from skipkb.site.math import with_mathml
from skipkb.site.text import escape, fence, heading, link

from .real import load  # type: ignore[import-not-found]

NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[click](javascript:alert(1))",
    "**bold** _it_ `code` ![x](y) ~~no~~",
    "a & b &lt; c",
    "{: .cls onclick=alert(1) }",
    "<!-- skipkb: coverage -->",
    "# no heading",
    "- no list",
    "1. no list",
    "    no code block",
    "A|B",
    "$x$ and \\(y\\)",
]


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(source: str) -> _Text:
    """What a page shows for ``source``, with the extensions the site uses."""
    page = _Text()
    extensions = ["admonition", "attr_list", "md_in_html", "tables", "toc", "pymdownx.superfences"]
    page.feed(markdown.markdown(source, extensions=extensions))
    return page


@pytest.mark.parametrize("nasty", NASTY)
def test_escaped_text_shows_as_it_is_written(nasty: str) -> None:
    page = rendered(f"<p>{escape(nasty)}</p>")
    assert page.tags == ["p"]
    assert page.text.strip() == " ".join(nasty.split())


@pytest.mark.parametrize("nasty", NASTY)
def test_escaped_heading_is_one_heading(nasty: str) -> None:
    page = rendered(f"# {heading(nasty)}\n")
    assert page.tags == ["h1"]
    assert page.text.strip() == " ".join(nasty.split())


@pytest.mark.parametrize("content", ["plain", "has ``` inside", "````\nfour\n````", "~~~"])
def test_no_content_closes_its_fence(content: str) -> None:
    page = rendered(fence(content) + "\nafter\n")
    assert page.tags[-1] == "p"
    assert "after" in page.text
    assert all(line in page.text for line in content.splitlines())


def test_only_web_addresses_become_links() -> None:
    assert "<a" not in link("javascript:alert(1)")
    assert 'href="https://example.org/"' in link("https://example.org/")


def test_formulas_become_mathml_outside_code_only() -> None:
    text = with_mathml("see $x^2$ and `$y$`\n\n```\n$z$\n```\n\n$$a = b$$\n\ncosts $5 or $6")
    assert len(re.findall("<math", text)) == 2
    assert "`$y$`" in text
    assert "\n$z$\n" in text
    assert "$5 or $6" in text


@pytest.mark.parametrize("nasty", NASTY)
def test_the_title_of_a_table_is_text_too(nasty: str) -> None:
    from skipkb.evidence.recorded import Recorded
    from skipkb.site.table_pages import table_page

    catalogue = load()
    plain, titled = (
        table_page(catalogue.survey.tables[1].model_copy(update={"title": title}), catalogue, Recorded())
        for title in ("Title", nasty)
    )
    pages = [_Text(), _Text()]
    for page, text in zip(pages, (plain, titled), strict=True):
        page.feed(markdown.markdown(text.partition("---\n")[2].partition("---\n")[2], extensions=["md_in_html"]))
    assert pages[0].tags == pages[1].tags
    assert "<script>alert" not in titled


def test_home_page_refuses_a_block_nobody_writes() -> None:
    from skipkb.evidence.recorded import Recorded

    with pytest.raises(ValueError, match="nonsense"):
        home.home_page("<!-- skipkb: nonsense -->", load(), Recorded())

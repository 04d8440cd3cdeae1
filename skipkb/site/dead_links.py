"""Check every internal link, anchor and asset of a built site: ``python -m skipkb.site.dead_links build/site``."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src", "source": "src"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag in _LINKS and (target := values.get(_LINKS[tag])) is not None:
            self.links.append(target)


def broken_links(site: Path) -> list[str]:
    """One line for each internal link that leads nowhere."""
    pages: dict[Path, _Page] = {}
    for file in sorted(site.rglob("*.html")):
        pages[file.resolve()] = page = _Page()
        page.feed(file.read_text(encoding="utf-8"))
    problems = []
    for file, page in pages.items():
        where = file.relative_to(site.resolve()).as_posix()
        for target in dict.fromkeys(page.links):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            if where == "404.html" and parts.path.startswith("/"):
                continue  # served from anywhere, so its links are absolute
            goal = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if goal.is_dir():
                goal /= "index.html"
            if not goal.is_file():
                problems.append(f"{where}: {target} leads to no file")
            elif parts.fragment and goal in pages and not _has(pages[goal], parts.fragment):
                problems.append(f"{where}: {target} leads to no anchor")
    return problems


def _has(page: _Page, fragment: str) -> bool:
    return unquote(fragment) in page.anchors or fragment.startswith(("__", ":~:"))


def main(arguments: list[str]) -> int:
    """Check one or more sites; exit code 1 when a link is broken."""
    code = 0
    for name in arguments:
        problems = broken_links(Path(name))
        pages = len(list(Path(name).rglob("*.html")))
        print(*problems, f"{name}: {pages} pages, {len(problems)} broken internal links", sep="\n")
        code |= bool(problems) or not pages
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

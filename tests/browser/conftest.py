"""A real headless Chromium over the built site, opened from disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

BUILD = Path(__file__).resolve().parents[2] / "build"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    assert executable, f"none of {', '.join(names)} is installed; .ci/run installs one"
    with sync_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, and what it complained about or asked for."""

    page: Page
    site: Path
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def open(self, name: str, query: str = "") -> Page:
        """Open a page of the site by its file name."""
        file = self.site / name
        assert file.is_file(), f"{file} is missing: run `make site zensical`"
        self.page.goto(file.as_uri() + query)
        self.page.wait_for_load_state("load")
        return self.page


@pytest.fixture(params=["site", "site-zensical"])
def visit(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    result = Visit(page, BUILD / request.param)
    page.on("console", lambda message: result.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: result.errors.append(str(error)))
    inside = ("file:", "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(inside) else result.outside.append(r.url))
    yield result
    context.close()

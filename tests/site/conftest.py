"""The pages of the real catalogue, written once for all tests, and those of a small one whose facts all differ."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skipkb.catalog import index, loading, paths
from skipkb.catalog.loading import Catalogue
from skipkb.evidence.addresses import Link, write_links
from skipkb.site import build
from skipkb.site.text import checked_links

from .small_evidence import write_evidence  # type: ignore[import-not-found]

SMALL = Path(__file__).parent / "small"


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the real catalogue; the first process that asks writes them, the others wait. Not to be changed."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    done, failed = shared / "pages", shared / "pages-failed"
    try:
        os.close(os.open(shared / "pages-lock", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        while not done.exists():
            assert not failed.exists(), "the process that was to write the pages failed"
            time.sleep(0.2)
        return done
    try:
        build.write_pages(shared / "pages-unfinished", say=lambda _: None)
    except BaseException:
        failed.touch()
        raise
    return (shared / "pages-unfinished").rename(done)


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the small catalogue and what was measured of it."""
    root = tmp_path_factory.mktemp("small") / "checkout"
    shutil.copytree(SMALL, root)
    (root / "catalog" / "schema.json").write_text("{}")
    dead = {
        "https://github.com/roe/zeta-old": "2026-02-03",
        "https://example.com/delta.pdf": "2026-02-04",
        "https://doi.org/10.1000/beta": "2026-02-05",
        "https://arxiv.org/abs/1602.00002": "2026-02-06",
    }
    links = [Link(url, last_success="2025-11-01", dead_since=day, note="404 Not Found") for url, day in dead.items()]
    links.append(Link("https://github.com/roe/zeta", last_success="2026-02-03", note="503 Busy"))
    write_links(links, root / "catalog" / "evidence" / "links.json")
    write_evidence(loading.load(root / "catalog").entries, root / "catalog" / "evidence")
    return root


@pytest.fixture(scope="session")
def small_pages(small_root: Path) -> Path:
    """The pages of the small catalogue, without the guides and the API reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "guides", list)
        patch.setattr(build, "api_pages", dict)
        for _ in _installed(small_root, patch):
            build.write_pages(small_root / "pages", say=lambda _: None)
    return small_root / "pages"


@pytest.fixture
def small(small_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    """The small catalogue, as long as the test lasts the one that is installed."""
    yield from _installed(small_root, monkeypatch)


def _installed(root: Path, patch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    """Everything looks for the catalogue beside the package; the models stay where they are."""
    patch.setattr(paths, "PACKAGE", root / "skipkb")
    index.forget()
    checked_links.cache_clear()
    yield loading.load()
    index.forget()
    checked_links.cache_clear()

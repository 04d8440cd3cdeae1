"""The pages as a whole: complete, without torch, the same bytes each time, links that lead somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skipkb.catalog.loading import Catalogue
from skipkb.evidence.counts import read_graphs
from skipkb.site import build
from skipkb.site.dead_links import broken_links
from skipkb.site.fingerprints import counts_text
from skipkb.site.text import escape
from skipkb.skips import SkipGraph

from .real import load  # type: ignore[import-not-found]

ROOT = Path(__file__).resolve().parents[2]


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below ``directory`` by its relative path."""
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def written_without_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages once more, written by a process that has no torch."""
    output = tmp_path_factory.mktemp("without-torch") / "pages"
    program = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'timm', 'numpy'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from skipkb.cli import main\n"
        f"sys.exit(main(['site', '--output', {str(output)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def test_every_entry_and_table_has_its_page(pages: Path) -> None:
    catalogue = load()
    for key in catalogue.entries:
        assert (pages / "methods" / f"{key}.md").is_file()
    for table in catalogue.survey.tables:
        text = (pages / "tables" / f"{table.key}.md").read_text("utf-8")
        assert [f"../methods/{key}.html" in text for key in table.rows] == [True] * len(table.rows)
        for suffix in ("csv", "tsv", "tex", "txt", "json", "bib"):
            assert (pages / "tables" / f"{table.key}.{suffix}").stat().st_size


def test_each_erratum_is_on_its_page_and_on_the_page_of_all(pages: Path) -> None:
    errata = (pages / "errata.md").read_text("utf-8")
    for key, work in load().entries.items():
        own = (pages / "methods" / f"{key}.md").read_text("utf-8")
        for number in range(1, len(work.errata) + 1):
            assert f'id="erratum-{number}"' in own
            assert f"methods/{key}.html#erratum-{number}" in errata


def test_an_erratum_of_a_cell_is_marked_in_the_cell(pages: Path) -> None:
    marked = 0
    for table in load().survey.tables:
        text = (pages / "tables" / f"{table.key}.md").read_text("utf-8")
        for key in table.rows:
            work = load().entries[key]
            for number, erratum in enumerate(work.errata, start=1):
                if erratum.column in ("datasets", "code") and erratum.where == f"Table {table.number}":
                    assert f"../methods/{key}.html#erratum-{number}" in text
                    marked += 1
    assert marked


def test_fingerprints_of_the_recorded_graphs_are_on_the_page_and_in_the_gallery(pages: Path) -> None:
    gallery = (pages / "fingerprints.md").read_text("utf-8")
    drawn = 0
    for key in load().entries:
        own = (pages / "methods" / f"{key}.md").read_text("utf-8")
        for text in read_graphs(key).values():
            graph = SkipGraph.from_json(text)
            assert escape(counts_text(graph)) in own
            assert escape(counts_text(graph)) in gallery
            drawn += 1
    assert gallery.count("<svg") == drawn >= sum(work.runs for work in load().entries.values())


def test_pages_are_written_without_torch(written_without_torch: Path) -> None:
    assert (written_without_torch / "index.md").is_file()


def test_two_writings_are_byte_identical(pages: Path, written_without_torch: Path) -> None:
    assert contents(pages) == contents(written_without_torch)


def test_new_pages_take_the_place_of_old_ones_whole(
    small: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "guides", list)
    monkeypatch.setattr(build, "api_pages", dict)
    output = tmp_path / "pages"
    build.write_pages(output, say=lambda _: None)
    (output / "left-over.md").write_text("of a work that is gone")
    before = contents(output)

    def fails(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(build, "llms_txt", fails)
        with pytest.raises(OSError, match="No space"):
            build.write_pages(output, say=lambda _: None)
    assert contents(output) == before, "a writing that fails leaves the old pages"
    build.write_pages(output, say=lambda _: None)
    assert set(before) - set(contents(output)) == {"left-over.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]


@pytest.mark.slow
def test_two_builds_of_the_site_are_byte_identical_and_all_links_lead_somewhere(pages: Path, tmp_path: Path) -> None:
    built = []
    for name in ("one", "two"):
        config = tmp_path / f"{name}.yml"
        config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {pages}\nsite_dir: {tmp_path / name}\n")
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600", "NO_MKDOCS_2_WARNING": "1"}
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--config-file", str(config)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        built.append(contents(tmp_path / name))
    assert built[0] == built[1]
    assert broken_links(tmp_path / "one") == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="here"><a href="b.html#there">x</a><a href="#here">y</a><img src="no.png">')
    (tmp_path / "b.html").write_text('<a href="a.html#here">ok</a><a href="https://example.org/">out</a>')
    problems = broken_links(tmp_path)
    assert problems == ["a.html: b.html#there leads to no anchor", "a.html: no.png leads to no file"]

"""Notebooks: executed once per content, failures told, shown on the page with outputs or with a note."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from skipkb import notebooks
from skipkb.catalog.search import get
from skipkb.notebooks import Executed, Notebook, execute, guides, notebook_of
from skipkb.site.notebook_pages import guide_page, notebook_section

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def unet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """The notebook of a work, in an empty checkout."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    return notebook_of(get("unet"))


def write(to: Notebook, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Title\n\nwith $x^2$")]
        + [nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    to.file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, to.file)


def test_executed_once_and_again_when_it_changes(unet: Notebook, tmp_path: Path) -> None:
    seen: list[tuple[Executed, int, int]] = []
    write(unet, "print(6 * 7)")
    assert unet.executed is None
    (first,) = execute([unet], on_done=lambda *event: seen.append(event))
    assert (first.ok, first.cached) == (True, False)
    assert [(done, total) for _, done, total in seen] == [(1, 1)]
    file = unet.executed
    assert file is not None
    assert "42" in json.dumps(json.loads(file.read_text())["cells"])
    assert first.cpu_seconds > 0.1
    (second,) = execute([unet])
    assert second.cached
    (repeated,) = execute([unet], again=True)
    assert not repeated.cached
    write(unet, "print(6 * 8)")
    assert unet.executed is None
    (third,) = execute([unet])
    assert (third.ok, third.cached) == (True, False)


def test_a_model_that_changes_makes_the_outputs_old(unet: Notebook) -> None:
    write(unet, "1")
    execute([unet])
    assert unet.executed
    assert replace(unet, depends_on="another model").executed is None


def test_a_failing_notebook_is_told_and_not_kept(unet: Notebook) -> None:
    write(unet, "raise ArithmeticError('too bad')")
    (result,) = execute([unet])
    assert not result.ok
    assert "ArithmeticError" in result.message
    assert unet.executed is None


def test_shown_with_outputs_or_with_a_note(unet: Notebook, tmp_path: Path) -> None:
    picture = "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()"
    write(unet, "for word in ('one', 'two'):\n    print(word, flush=True)", picture)
    pages = tmp_path / "pages"
    before = notebook_section(unet, pages)
    assert "Shown without outputs" in before
    assert "### Title" in before
    assert "<math" in before
    execute([unet])
    after = notebook_section(unet, pages)
    assert "Shown without outputs" not in after
    assert "    one\n    two\n" in after
    (image,) = (pages / "methods" / unet.key).glob("*.png")
    assert f"({unet.key}/{image.name})" in after
    assert image.read_bytes().startswith(b"\x89PNG")
    assert (pages / "methods" / unet.key / f"{unet.key}.ipynb").is_file()


def test_a_guide_is_a_page_of_its_own(unet: Notebook, tmp_path: Path) -> None:
    guide = replace(unet, key="find-things", folder="guides")
    write(guide, "print(6 * 7)")
    assert [found.key for found in guides()] == ["find-things"]
    execute(guides())
    page = guide_page(guides()[0], tmp_path / "pages")
    assert page.startswith("# Title\n")
    assert "    42\n" in page
    assert 'href="find-things/find-things.ipynb"' in page
    assert (tmp_path / "pages" / "guides" / "find-things" / "find-things.ipynb").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_are_valid_and_hold_no_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert path.read_text("utf-8").endswith("\n")

"""Notebooks: executed once per content, failures told, shown on the page with outputs or with a note."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from skipkb import notebooks
from skipkb.catalog.entry import Work
from skipkb.catalog.search import get
from skipkb.notebooks import Executed, execute, executed_notebook, notebook_file
from skipkb.site.notebooks import notebook_section

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A work whose notebook lies in an empty checkout."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    return get("unet")


def write(work: Work, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Title\n\nwith $x^2$")]
        + [nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    file = notebook_file(work.folder, work.key)
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, file)


def test_executed_once_and_again_when_it_changes(work: Work, tmp_path: Path) -> None:
    seen: list[tuple[Executed, int, int]] = []
    write(work, "print(6 * 7)")
    assert executed_notebook(work) is None
    (first,) = execute([work], on_done=lambda *event: seen.append(event))
    assert (first.ok, first.cached) == (True, False)
    assert [(done, total) for _, done, total in seen] == [(1, 1)]
    file = executed_notebook(work)
    assert file is not None
    assert "42" in json.dumps(json.loads(file.read_text())["cells"])
    (second,) = execute([work])
    assert second.cached
    write(work, "print(6 * 8)")
    assert executed_notebook(work) is None
    (third,) = execute([work])
    assert (third.ok, third.cached) == (True, False)


def test_a_model_that_changes_makes_the_outputs_old(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    write(work, "1")
    execute([work])
    assert executed_notebook(work)
    monkeypatch.setattr(notebooks, "source_files", lambda entry: {"model": ROOT / "README.md"})
    assert executed_notebook(work) is None


def test_a_failing_notebook_is_told_and_not_kept(work: Work) -> None:
    write(work, "raise ArithmeticError('too bad')")
    (result,) = execute([work])
    assert not result.ok
    assert "ArithmeticError" in result.message
    assert executed_notebook(work) is None


def test_shown_with_outputs_or_with_a_note(work: Work, tmp_path: Path) -> None:
    picture = "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()"
    write(work, "for word in ('one', 'two'):\n    print(word, flush=True)", picture)
    pages = tmp_path / "pages"
    before = notebook_section(work, pages)
    assert "Shown without outputs" in before
    assert "### Title" in before
    assert "<math" in before
    execute([work])
    after = notebook_section(work, pages)
    assert "Shown without outputs" not in after
    assert "    one\n    two\n" in after
    (image,) = (pages / "methods" / work.key).glob("*.png")
    assert f"({work.key}/{image.name})" in after
    assert image.read_bytes().startswith(b"\x89PNG")
    assert (pages / "methods" / work.key / f"{work.key}.ipynb").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_are_valid_and_hold_no_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert path.read_text("utf-8").endswith("\n")

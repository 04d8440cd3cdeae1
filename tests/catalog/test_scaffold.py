"""`skipkb new`: three files to fill in, and nothing half done."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import sample
import yaml

from skipkb.catalog import loading, rules
from skipkb.catalog.scaffold import scaffold


def files_under(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_entry_model_and_notebook(tmp_path: Path) -> None:
    created = scaffold(tmp_path, "squeeze_excite", folder="classification", name="SE-Net (2018)")
    assert [path.relative_to(tmp_path).as_posix() for path in created] == [
        "catalog/classification/squeeze_excite.yaml",
        "skipkb/models/classification/squeeze_excite.py",
        "notebooks/classification/squeeze_excite.ipynb",
        "skipkb/models/classification/__init__.py",
    ]
    assert files_under(tmp_path) == sorted(path.relative_to(tmp_path).as_posix() for path in created)
    entry = yaml.safe_load(created[0].read_text())
    assert (entry["key"], entry["name"]) == ("squeeze_excite", "SE-Net (2018)")
    tree = ast.parse(created[1].read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert defined == {"SqueezeExcite", "squeeze_excite", "objective"}
    assert {entry["smoke"]["build"], entry["variants"][0]["build"], entry["smoke"]["objective"]} == {
        "skipkb.models.classification.squeeze_excite:squeeze_excite",
        "skipkb.models.classification.squeeze_excite:objective",
    }
    notebook = json.loads(created[2].read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            ast.parse(cell["source"])


def test_check_says_what_is_still_missing(tmp_path: Path) -> None:
    sample.write(tmp_path / "catalog")
    scaffold(tmp_path, "fresh", folder="classification")
    text = (tmp_path / "catalog" / "classification" / "fresh.yaml").read_text()
    problems = [p for p in loading.read(tmp_path / "catalog")[1] if p.file == "classification/fresh.yaml"]
    found = {p.key_path: p for p in problems}
    skip = {"skips[0].start", "skips[0].end", "skips[0].shortcut"}
    figures = {"survey.reference", "survey.sections[0]", "variants[0].parameters", "variants[0].macs"}
    assert set(found) == {"contribution", "description", "paper", *skip, *figures}
    for problem in problems:
        assert problem.message.endswith("still to be filled in")
        assert "TODO" in "\n".join(text.splitlines()[problem.line - 1 : problem.line + 1])[problem.column - 1 :]


def test_check_after_the_text_is_filled_in(tmp_path: Path) -> None:
    sample.write(tmp_path / "catalog")
    scaffold(tmp_path, "fresh", folder="classification")
    path = tmp_path / "catalog" / "classification" / "fresh.yaml"
    text = path.read_text().replace("paper: TODO", "paper: doe2015alpha")
    path.write_text(text.replace(": TODO", ": done").replace("  TODO a paragraph", "  A paragraph"))
    messages = [p.message for p in loading.read(tmp_path / "catalog")[1]]
    assert messages == ["'TODO': still to be filled in"], "the section in brackets"
    text = text.replace("parameters: TODO", "parameters: 12").replace("macs: TODO", "macs: 12")
    text = text[: text.index("# TODO: a work")] + text[text.index("tasks:") :]
    path.write_text(text.replace(": TODO", ": done").replace("  TODO a paragraph", "  A paragraph"))
    messages = [p.message for p in loading.read(tmp_path / "catalog")[1] if p.file == "classification/fresh.yaml"]
    assert not [message for message in messages if "survey" in message], "it is a work that the survey does not name"
    assert "there is no module 'skipkb.models.classification.fresh'" in messages  # it was written elsewhere
    path.write_text(text.replace(": TODO", ": done").replace("  TODO a paragraph", "  A paragraph") + "bibtex: x\n")
    assert "unknown key" in loading.read(tmp_path / "catalog")[1][0].message


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_an_existing_file_is_never_touched(tmp_path: Path, taken: int) -> None:
    created = scaffold(tmp_path / "elsewhere", "fresh", folder="theory")
    target = tmp_path / "here" / created[taken].relative_to(tmp_path / "elsewhere")
    target.parent.mkdir(parents=True)
    target.write_text("mine")
    with pytest.raises(ValueError, match="exists already; nothing was written"):
        scaffold(tmp_path / "here", "fresh", folder="theory")
    assert files_under(tmp_path / "here") == [target.relative_to(tmp_path / "here").as_posix()]
    assert target.read_text() == "mine"


def test_a_key_of_another_folder(tmp_path: Path) -> None:
    scaffold(tmp_path, "fresh", folder="theory")
    before = files_under(tmp_path)
    with pytest.raises(ValueError, match="exists already"):
        scaffold(tmp_path, "fresh", folder="detection")
    assert files_under(tmp_path) == before


@pytest.mark.parametrize(
    ("key", "folder", "name"),
    [
        *(
            (key, "theory", None)
            for key in ("Fresh", "../fresh", "a b", "", "9lives", "a--b", "a_", "ä", "fresh\n", "x" * 61)
        ),
        *((key, "theory", None) for key in ("class", "lambda")),
        *(("fresh", folder, None) for folder in ("nowhere", "../theory", "")),
        *(("fresh", "theory", name) for name in ('a"""b', "a\\b", "a\nb", "   ", "a: b", "a #b", "{x}")),
    ],
)
def test_what_cannot_be_a_key_folder_or_name(tmp_path: Path, key: str, folder: str, name: str | None) -> None:
    with pytest.raises(ValueError, match=r"key|folder|name"):
        scaffold(tmp_path, key, folder=folder, name=name)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["no", "true", "null", "12", "1e3", "- x", "@x", "%x", "?x", "|", "~", "[a]", "U²-Net", "Été"]
)
def test_names_that_yaml_would_take_for_something_else(tmp_path: Path, name: str) -> None:
    entry, *_ = scaffold(tmp_path, "fresh", folder="theory", name=name)
    assert yaml.safe_load(entry.read_text("utf-8"))["name"] == name


@pytest.mark.parametrize("key", ["no", "on", "yes", "null", "e1"])
def test_keys_that_yaml_would_take_for_something_else(tmp_path: Path, key: str) -> None:
    entry, *_ = scaffold(tmp_path, key, folder="theory")
    data = yaml.safe_load(entry.read_text("utf-8"))
    assert (data["key"], data["variants"][0]["name"]) == (key, key)


def test_a_hyphen_becomes_an_underscore_as_in_all_keys(tmp_path: Path) -> None:
    entry, model, notebook, _ = scaffold(tmp_path, "squeeze-excite", folder="classification")
    assert {path.stem for path in (entry, model, notebook)} == {"squeeze_excite"}
    assert yaml.safe_load(entry.read_text())["key"] == "squeeze_excite"


@pytest.mark.parametrize("missing", ["test", "notebook", "text"])
def test_check_sees_a_missing_test_and_a_missing_or_unwritten_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(rules, "PACKAGE", tmp_path / "skipkb")
    work = sample.running(1000, key="fresh")
    for part, name in ((work["variants"][0], "build"), (work["smoke"], "build"), (work["smoke"], "objective")):
        part[name] = "skipkb.models.classification.fresh:fresh"
    sample.write(tmp_path / "catalog", work)
    files = {
        "skipkb/models/classification/fresh.py": "def fresh(): ...",
        "tests/models/test_fresh.py": "",
        "notebooks/classification/fresh.ipynb": "{}" if missing != "text" else "TODO the idea",
    }
    for name, text in files.items():
        if missing not in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    (problem,) = loading.read(tmp_path / "catalog")[1]
    expected = {
        "test": "there is no tests/models/test_fresh.py with the property that the paper is about",
        "notebook": "there is no notebooks/classification/fresh.ipynb",
        "text": "notebooks/classification/fresh.ipynb is still to be written: it says TODO",
    }
    assert problem.message == expected[missing]

"""The key: each thing that a result depends on changes its own part and says so; nothing else changes any."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skipkb.catalog.entry import Entry
from skipkb.catalog.paths import PACKAGE
from skipkb.evidence import contract, key, sources
from skipkb.evidence.checks import CONTRACT
from skipkb.evidence.key import CHANGED, Key, key_of
from skipkb.evidence.sources import imported, source_files, syntax

Toy = Callable[..., Entry]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A skipkb of four small files beside the real evidence and skips: a model, a block that it uses, one that the
    block uses, and one that nobody uses."""
    root = tmp_path / "skipkb"
    texts = {
        "__init__.py": "",
        "models/__init__.py": "raise RuntimeError('imported')",
        "models/net.py": "import torch\nfrom skipkb.nn.block import Block\n\ndef build():\n    return 1\n",
        "nn/__init__.py": "",
        "nn/block.py": "from . import part\nimport skipkb.nowhere\n",
        "nn/part.py": "raise RuntimeError('imported')\n",
        "nn/other.py": "",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("evidence", "skips"):
        shutil.copytree(PACKAGE / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "PACKAGE", root)
    monkeypatch.setattr(key, "PACKAGE", root)
    sources.module_file.cache_clear()
    yield root
    sources.module_file.cache_clear()


def net(toy: Toy, **changes: dict[str, Any]) -> Entry:
    variant = {"build": "skipkb.models.net:build"} | changes.get("variant", {})
    smoke = {"build": "skipkb.models.net:build", "objective": "skipkb.models.net:loss"} | changes.get("smoke", {})
    return toy("Good", variant=variant, smoke=smoke)


def changed(now: Key, then: Key) -> set[str]:
    return {part for part in Key.model_fields if getattr(now, part) != getattr(then, part)}


def test_the_model_is_all_that_it_imports_and_nothing_is_imported(package: Path) -> None:
    found = source_files(["skipkb.models.net"])
    assert list(found) == ["skipkb.models.net", "skipkb.nn", "skipkb.nn.block", "skipkb.nn.part"]


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("models/net.py", {"model"}),
        ("nn/part.py", {"model"}),
        ("nn/other.py", set()),
        *((f"evidence/{name}.py", {"contract"}) for name in key.MEASURING),
        ("evidence/data/__init__.py", {"contract"}),
        ("evidence/data/sources.py", {"smoke"}),
        ("evidence/data/classification.py", {"smoke"}),
        ("evidence/data/denoising.py", set()),
        *((f"evidence/{name}.py", set()) for name in ("runner", "process", "report", "recorded")),
        *(
            (f"skips/{name}.py", {"tracer"})
            for name in ("trace", "graph", "analyse/crops", "record/ops", "record/values")
        ),
        *((f"skips/{name}.py", set()) for name in ("draw/picture", "draw/drawing", "ablation", "channels", "formats")),
    ],
)
def test_a_changed_file_changes_its_part(toy: Toy, package: Path, file: str, parts: set[str]) -> None:
    entry = net(toy)
    before = key_of(entry, "2.15.0")
    path = package / file
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n# a comment\r\n")
    assert key_of(entry, "2.15.0") == before, "line endings and comments are not a change"
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert changed(key_of(entry, "2.15.0"), before) == parts


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"variant": {"kwargs": {"width": 17}}}, "model"),
        ({"variant": {"input": [1, 3, 64, 64]}}, "model"),
        ({"variant": {"parameters": 1}}, "declared"),
        ({"variant": {"macs": 1}}, "declared"),
        ({"variant": {"output": [1, 5]}}, "declared"),
        ({"variant": {"skips": {"add": 2}}}, "declared"),
        ({"smoke": {"steps": 9}}, "smoke"),
        ({"smoke": {"learning_rate": 0.5}}, "smoke"),
        ({"smoke": {"data_kwargs": {"num_classes": 3}}}, "smoke"),
        ({"smoke": {"objective": "skipkb.models.net:other"}}, "smoke"),
    ],
)
def test_a_changed_entry_changes_its_part(toy: Toy, package: Path, changes: dict[str, Any], part: str) -> None:
    before, now = key_of(net(toy), "2.15.0"), key_of(net(toy, **changes), "2.15.0")
    assert changed(now, before) == {part}
    assert now.digest != before.digest
    assert now.changes(before) == [CHANGED[part]]


def test_another_kind_of_data_changes_the_variant_and_what_it_runs_on(toy: Toy, package: Path) -> None:
    before, now = key_of(net(toy), None), key_of(net(toy, variant={"data": "segmentation"}), None)
    assert changed(now, before) == {"model", "smoke"}


def test_how_the_recorded_network_was_called_belongs_to_the_records(toy: Toy, package: Path) -> None:
    entry = net(toy)
    file = package / "evidence" / "calls" / f"{entry.key}.py"
    file.write_text("def call(model, inputs):\n    return model(inputs)\n")
    sources.module_file.cache_clear()
    before = key_of(entry, None)
    file.write_text("def call(model, inputs):\n    return model(*inputs)\n")
    assert changed(key_of(entry, None), before) == {"records"}


def test_another_objective_module_is_another_model(toy: Toy, package: Path) -> None:
    before = key_of(net(toy), None)
    now = key_of(net(toy, smoke={"objective": "skipkb.nn.other:loss"}), None)
    assert changed(now, before) == {"model", "smoke"}


def test_torch_and_records_are_parts(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = toy("Good")
    assert key_of(entry, "2.15.0").changes(key_of(entry, "2.6.0")) == ["measured with torch 2.6.0, now 2.15.0"]
    before = key_of(entry, None)
    from skipkb.evidence.records import read_records

    monkeypatch.setattr(key, "records_of", lambda name: [read_records()[0]])
    assert key_of(entry, None).changes(before) == ["the records of the authors' code changed"]


def test_claims_and_prose_are_not_part_of_it(toy: Toy) -> None:
    entry = toy("Good")
    assert key_of(entry.model_copy(update={"description": "Another.", "results": []}), None) == key_of(entry, None)


def test_each_part_but_torch_has_words() -> None:
    assert set(CHANGED) == set(Key.model_fields) - {"torch"}


def test_every_check_has_a_measure_and_every_measure_is_in_the_contract() -> None:
    assert [item.name for item in CONTRACT] == list(contract.MEASURES)
    names = [item.name for item in CONTRACT]
    assert all(item.needs is None or names.index(item.needs) < names.index(item.name) for item in CONTRACT)


def test_what_the_contract_measures_with_is_in_its_version() -> None:
    """A new module that the contract imports either measures (then list it) or keeps and shows results."""
    keeping = {"counts", "folders", "key", "records", "results", "sources"}
    used = source_files(["skipkb.evidence.contract"], within="skipkb.evidence")
    names = {name.removeprefix("skipkb.evidence.") for name in used}
    assert names == {*key.MEASURING, *keeping, "data", "data.sources"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = ['']", "x = []"),
        ("x = ''", "x = ' '"),
        ("x = 1", "x = True"),
        ("f(a, b)", "f(b, a)"),
        ("def f(a=None): ...", "def f(a): ..."),
        ("x = f'{a}b'", "x = f'{a}'"),
        ("x = f'{a:>{w}}'", "x = f'{a:<{w}}'"),
        ("class A: ...", "class A(B): ..."),
        ("x = y.a", "x = y.b"),
        ("return_ = 'text'", "return_ = None"),
    ],
)
def test_other_code_is_other_syntax(one: str, other: str) -> None:
    assert syntax(one) != syntax(other)


def test_layout_comments_and_docstrings_are_not_syntax() -> None:
    one = "class A:\n    '''One.'''\n\n    x: int = 1\n    'Two.'\n\n    def f(self):\n        '3'\n        return 1\n"
    other = "class A:\n  x: int = 1 # comment\n  def f(self): return (1)\n"
    assert syntax(one) == syntax(other)


def test_syntax_is_the_same_text_for_every_python() -> None:
    """ast.dump would not do: it shows empty fields or not by version."""
    expected = (
        "Module(body=[FunctionDef(args=arguments(args=[arg(arg='a')]),body=[Return(value=Name(id='a'))],name='f')])"
    )
    assert syntax("def f(a):\n    return a\n") == expected


def test_imports_are_found_by_place() -> None:
    import ast

    tree = ast.parse("import a.b\nfrom .c import d\ndef f():\n    from ..e import g\n")
    assert imported(tree, ["p", "q"]) == ["a.b", "p.q.c", "p.q.c.d", "p.e", "p.e.g"]
    assert imported(tree, ["p", "q"], lazy=False) == ["a.b", "p.q.c", "p.q.c.d"]

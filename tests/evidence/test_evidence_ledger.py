"""Ledgers and source hashes: append-only, damage stays local, and a change of the source shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from skipkb.catalog.entry import Entry
from skipkb.catalog.files import write_text
from skipkb.evidence import ledger, sources
from skipkb.evidence.process import Task
from skipkb.evidence.results import Check, Device, Report

Toy = Callable[..., Entry]
CPU = Device(kind="cpu", name="x86_64")


def make_report(entry: Entry, value: int = 1, device: Device = CPU) -> Report:
    check = Check(value=value, limit=value, unit="variants", ok=True)
    return Task.of(entry, device.kind).report({"builds": check}, device=device)


def test_the_latest_line_counts_and_earlier_ones_stay(toy: Toy, tmp_path: Path) -> None:
    good, dead, gpu = toy("Good"), toy("Dead"), Device(kind="cuda", name="NVIDIA H200")
    file = ledger.append(make_report(good, 1), tmp_path)
    before = file.read_bytes()
    for report in (make_report(dead), make_report(good, 2), make_report(good, 3, gpu)):
        ledger.append(report, tmp_path)
    assert file.read_bytes().startswith(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu-x86_64.jsonl", "nvidia-h200.jsonl"]
    ledgers = ledger.read_ledgers(tmp_path)
    assert list(ledgers.latest) == [("dead", "cpu-x86_64"), ("good", "cpu-x86_64"), ("good", "nvidia-h200")]
    assert [report.checks["builds"].value for report in ledgers.of("good")] == [2, 3]
    assert ledgers.of("nobody") == []


def test_a_broken_line_is_named_and_hides_no_other(toy: Toy, tmp_path: Path) -> None:
    file = ledger.append(make_report(toy("Good")), tmp_path)
    line = make_report(toy("Dead")).model_dump_json()
    with file.open("a") as out:
        out.write(line.replace('"ok":true', '"ok":"perhaps"') + "\n\n")
        out.write(line[:50])  # a write that was cut short
    ledger.append(make_report(toy("Frozen")), tmp_path)
    with file.open("ab") as raw:
        raw.write(b"\xff\xfe\n")
    ledgers = ledger.read_ledgers(tmp_path)
    assert [key for key, _ in ledgers.latest] == ["frozen", "good"]
    places = [(problem.file, problem.line, problem.key_path) for problem in ledgers.problems]
    assert places[0] == ("evidence/cpu-x86_64.jsonl", 2, "checks.builds.ok")
    assert [line for _, line, _ in places] == [2, 4, 6]
    assert str(ledgers.problems[1]).startswith("evidence/cpu-x86_64.jsonl:4:1: no report:")


def test_an_empty_or_missing_directory_is_an_empty_ledger(tmp_path: Path) -> None:
    assert ledger.read_ledgers(tmp_path / "none").latest == {}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(target))

    write_text(tmp_path / "a.json", "old")
    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.json", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


@pytest.fixture
def small_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A skipkb of four files: a model, a block it uses, one that the block uses, and one nobody uses."""
    root = tmp_path / "skipkb"
    texts = {
        "__init__.py": "",
        "models/__init__.py": "raise RuntimeError('imported')",
        "models/net.py": "import torch\nfrom skipkb.nn.block import Block\ndef build(): ...\n",
        "nn/__init__.py": "",
        "nn/block.py": "from . import part\nimport skipkb.nowhere\n",
        "nn/part.py": "raise RuntimeError('imported')\n",
        "nn/other.py": "",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(sources, "PACKAGE", root)
    sources.module_file.cache_clear()
    yield root
    sources.module_file.cache_clear()


def net(toy: Toy, **variant: object) -> Entry:
    smoke = {"build": "skipkb.models.net:build", "objective": "skipkb.models.net:loss"}
    return toy("Good", variant={"build": "skipkb.models.net:build", **variant}, smoke=smoke)


def test_the_hash_covers_what_the_model_imports_and_imports_nothing(toy: Toy, small_package: Path) -> None:
    found = sources.source_files(net(toy))
    assert list(found) == ["skipkb.models.net", "skipkb.nn", "skipkb.nn.block", "skipkb.nn.part"]


@pytest.mark.parametrize(
    ("file", "stale"),
    [("models/net.py", True), ("nn/part.py", True), ("nn/other.py", False)],
)
def test_a_changed_source_makes_results_stale(toy: Toy, small_package: Path, file: str, stale: bool) -> None:
    entry = net(toy)
    report = make_report(entry)
    ledgers = ledger.Ledgers({("good", "cpu-x86_64"): report, ("gone", "cpu-x86_64"): report})
    assert ledger.stale_entries(ledgers, {"good": entry}) == [("gone", "cpu-x86_64")]
    path = small_package / file
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert not ledger.is_stale(report, entry), "line endings are no change"
    path.write_text(path.read_text() + "# changed\n")
    assert ledger.is_stale(report, entry) is stale
    assert (("good", "cpu-x86_64") in ledger.stale_entries(ledgers, {"good": entry})) is stale


def test_another_configuration_is_another_source_but_a_claim_is_not(toy: Toy, small_package: Path) -> None:
    entry = net(toy)
    assert sources.source_sha256(net(toy, parameters=1)) == sources.source_sha256(entry)
    assert sources.task_sha256(net(toy, parameters=1)) != sources.task_sha256(entry)
    assert sources.source_sha256(net(toy, kwargs={"width": 17})) != sources.source_sha256(entry)


def test_device_names_become_file_names() -> None:
    assert Device(kind="cuda", name="NVIDIA GeForce RTX 4090 / Ti").slug == "nvidia-geforce-rtx-4090-ti"

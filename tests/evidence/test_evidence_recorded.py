"""Recorded results: one file per entry and device, damage stays local, and what is stale says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from skipkb.catalog.entry import Entry
from skipkb.catalog.writing import write_text
from skipkb.evidence import recorded
from skipkb.evidence.checks import contract
from skipkb.evidence.key import key_of, pinned_torch
from skipkb.evidence.recorded import Recorded, equal_now, read_recorded, state, why_not_counted, why_stale, write_report
from skipkb.evidence.results import Check, Device, Equal, Report

Toy = Callable[..., Entry]
CPU = Device(kind="cpu", name="x86_64")
GPU = Device(kind="cuda", name="NVIDIA H200")
HOLDS = Check(value=1, limit=1, unit="variants", ok=True)


def make_report(entry: Entry, device: Device = CPU, **changes: object) -> Report:
    """A report of today in which every check of the contract holds."""
    content = {
        "entry": entry.key,
        "date": "2026-11-28T12:00:00Z",
        "device": device,
        "versions": {"torch": "2.15.0"},
        "key": key_of(entry, pinned_torch(device.kind)),
        "checks": {item.name: HOLDS for item in contract(device.kind)},
    }
    return Report.model_validate(content | changes)


def test_the_newest_result_of_each_entry_on_each_device(toy: Toy, tmp_path: Path) -> None:
    good, dead = toy("Good"), toy("Dead")
    for report in (make_report(good), make_report(dead), make_report(good, GPU), make_report(good, seconds=5)):
        write_report(report, tmp_path)
    files = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.json"))
    assert files == ["cpu-x86_64/dead.json", "cpu-x86_64/good.json", "nvidia-h200/good.json"]
    found = read_recorded(tmp_path)
    assert list(found.reports) == [("dead", "cpu-x86_64"), ("good", "cpu-x86_64"), ("good", "nvidia-h200")]
    assert [report.seconds for report in found.of("good")] == [5, 0]
    assert found.of("nobody") == []
    first = (tmp_path / files[0]).read_bytes()
    write_report(make_report(dead), tmp_path)
    assert (tmp_path / files[0]).read_bytes() == first, "the same report is the same bytes"


def test_a_broken_file_is_named_and_hides_no_other(toy: Toy, tmp_path: Path) -> None:
    file = write_report(make_report(toy("Good")), tmp_path)
    text = file.read_text()
    damages = {
        "bad.json": text.replace('"ok": true', '"ok": "perhaps"', 1),
        "cut.json": text[:50],
        "raw.json": "\udcff",
        "else.json": text,
    }
    for name, damaged in damages.items():
        (file.parent / name).write_text(damaged, errors="surrogateescape")
    found = read_recorded(tmp_path)
    assert [key for key, _ in found.reports] == ["good"]
    problems = {problem.file: problem for problem in found.problems}
    assert sorted(problems) == [f"evidence/cpu-x86_64/{name}" for name in sorted(damages)]
    assert problems["evidence/cpu-x86_64/bad.json"].key_path == "checks.builds.ok"
    assert "belongs into evidence/cpu-x86_64/good.json" in str(problems["evidence/cpu-x86_64/else.json"])


def test_an_empty_or_missing_directory_has_no_results(tmp_path: Path) -> None:
    assert read_recorded(tmp_path / "none") == Recorded()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(target))

    write_text(tmp_path / "a.json", "old")
    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.json", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


# ------------------------------------------------------------------------------- what a result is worth


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_result_is_good_only_with_every_check_of_today(toy: Toy, device: Device) -> None:
    entry = toy("Good")
    whole = make_report(entry, device)
    assert whole.ok
    assert state(whole, entry) == "holds"
    for item in contract(device.kind):
        rest = {name: check for name, check in whole.checks.items() if name != item.name}
        lacking = whole.model_copy(update={"checks": rest})
        assert not lacking.ok, item.name
        assert state(lacking, entry) == "stale"
        assert why_stale(lacking, entry) == [f"the contract has a new check: {item.name}"]
        failing = whole.model_copy(
            update={"checks": whole.checks | {item.name: HOLDS.model_copy(update={"ok": False})}}
        )
        assert not failing.ok
        assert state(failing, entry) == "fails"


def test_the_contract_on_a_gpu_compares_with_the_cpu_and_only_there() -> None:
    cpu, cuda = ([item.name for item in contract(device)] for device in ("cpu", "cuda:1"))
    assert set(cuda) - set(cpu) == {"agrees with CPU"}
    assert set(cpu) - set(cuda) == {"equals the authors' code"}


def test_a_new_check_makes_every_old_result_stale(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from skipkb.evidence import checks

    entry = toy("Good")
    report = make_report(entry)
    monkeypatch.setattr(checks, "CONTRACT", (*checks.CONTRACT, checks.Item("is beautiful")))
    assert not report.ok
    assert state(report, entry) == "stale"
    assert why_stale(report, entry) == ["the contract has a new check: is beautiful"]


def test_a_worker_that_died_fails_and_is_not_taken_for_an_old_contract(toy: Toy) -> None:
    entry = toy("Good")
    died = make_report(entry, checks={"start": HOLDS.model_copy(update={"ok": False})}, complete=False)
    assert state(died, entry) == "fails"


def test_torch_is_compared_with_the_pinned_version_of_the_device(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipkb.evidence import key

    (tmp_path / "constraints.txt").write_text("timm==1.0.31\ntorch==2.15.0\ntorchvision==0.29.2\n")
    (tmp_path / "constraints-gpu.txt").write_text("torch==2.11.0\n")
    monkeypatch.setattr(key, "PACKAGE", tmp_path / "skipkb")
    monkeypatch.setattr(key, "pinned_torch", key.pinned_torch.__wrapped__)
    monkeypatch.setattr(recorded, "pinned_torch", key.pinned_torch)
    assert (key.pinned_torch("cpu"), key.pinned_torch("cuda")) == ("2.15.0", "2.11.0")
    monkeypatch.undo()
    entry = toy("Good")
    report = make_report(entry)
    older = report.model_copy(update={"key": report.key.model_copy(update={"torch": "2.6.0"})})
    assert why_stale(older, entry) == [f"measured with torch 2.6.0, now {pinned_torch('cpu')}"]
    unknown = report.model_copy(update={"key": report.key.model_copy(update={"torch": None})})
    assert why_stale(unknown, entry) == []


def test_counts_and_marks_are_shown_by_a_current_report_only(toy: Toy) -> None:
    entry = toy("Good")
    equal = Equal(variant="good-full", repository="a/b", commit="0" * 40, whose="authors", difference=1e-7)
    now = make_report(entry, equal=[equal])
    old = make_report(entry, GPU, equal=[equal], key=now.key.model_copy(update={"model": "0"}))
    both = Recorded({("good", "cpu-x86_64"): now, ("good", "nvidia-h200"): old})
    assert equal_now(entry, both) == [equal]
    assert why_not_counted(entry, both) == []
    stale = Recorded({("good", "nvidia-h200"): old})
    assert equal_now(entry, stale) == []
    assert why_not_counted(entry, stale)[0] == "the model changed"
    assert why_not_counted(entry, Recorded()) == ["no recorded run has compared them"]
    off = now.checks | {"counted evidence": HOLDS.model_copy(update={"ok": False})}
    uncounted = Recorded({("good", "cpu-x86_64"): now.model_copy(update={"checks": off})})
    assert why_not_counted(entry, uncounted) == ["no recorded run has compared them"]


def test_device_names_become_directory_names() -> None:
    assert Device(kind="cuda", name="NVIDIA GeForce RTX 4090 / Ti").slug == "nvidia-geforce-rtx-4090-ti"

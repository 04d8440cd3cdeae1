"""What CI leaves out: only what has passed unchanged, and nothing for more than ten runs."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def plan() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_plan", ROOT / ".ci" / "plan.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["ci_plan"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


NOW = {f"net{i}": f"digest {i}" for i in range(40)}


def passed(plan: ModuleType, runs: int) -> dict[str, Any]:
    """The memory after so many runs of NOW."""
    memory: dict[str, Any] = {}
    for _ in range(runs):
        memory = plan.remember(plan.choose(NOW, memory), NOW, memory)
    return memory


def test_a_run_that_remembers_nothing_does_all(plan: ModuleType) -> None:
    chosen = plan.choose(NOW, {})
    assert (chosen.run, chosen.changed, chosen.turn, chosen.left) == (1, list(NOW), [], [])


def test_what_changed_is_done_and_most_others_are_not(plan: ModuleType) -> None:
    memory = passed(plan, 1)
    chosen = plan.choose({**NOW, "net7": "another", "net99": "new"}, memory)
    assert chosen.changed == ["net7", "net99"]
    assert 0 < len(chosen.turn) < 10
    assert sorted(chosen.turn + chosen.left) == sorted(set(NOW) - {"net7"})


def test_each_is_done_at_least_every_tenth_run(plan: ModuleType) -> None:
    memory = passed(plan, 1)
    done: dict[str, list[int]] = {name: [1] for name in NOW}
    for _ in range(30):
        chosen = plan.choose(NOW, memory)
        assert not chosen.changed
        for name in chosen.turn:
            done[name].append(chosen.run)
        memory = plan.remember(chosen, NOW, memory)
    for runs in done.values():
        assert len(runs) >= 4
        assert max(later - earlier for earlier, later in itertools.pairwise(runs)) <= 10


def test_full_does_all(plan: ModuleType) -> None:
    chosen = plan.choose(NOW, passed(plan, 3), full=True)
    assert not chosen.left
    assert len(chosen.turn) == len(NOW)


def test_what_did_not_pass_is_not_remembered(plan: ModuleType) -> None:
    memory = passed(plan, 1)
    changed = {**NOW, "net7": "another"}
    assert plan.choose(changed, memory).changed == ["net7"], "a run that fails remembers nothing: the next repeats it"
    after = plan.remember(plan.choose(changed, memory), changed, memory)
    assert "net7" not in plan.choose(changed, after).changed
    assert plan.choose(NOW, after).changed == ["net7"]


def test_the_last_lines_say_what_was_done_and_what_was_not(plan: ModuleType) -> None:
    memory = passed(plan, 1)
    changed = {**NOW, "net7": "another"}
    chosen = plan.choose(changed, memory)
    text = plan.summary(chosen, plan.remember(chosen, changed, memory))
    assert f"Run 2 did {1 + len(chosen.turn)} of 40:" in text
    assert "new or changed (1): net7" in text
    assert f"not done ({len(chosen.left)}): {', '.join(chosen.left)}" in text
    assert "those have passed, unchanged, in runs 1 to 1" in text


def test_shards_share_the_entries_and_parts_share_the_rest(plan: ModuleType) -> None:
    whole = plan.digests()
    shards = [plan.digests("entries", f"{i}/3") for i in (1, 2, 3)]
    assert sorted(name for shard in shards for name in shard) == sorted(set(whole) - {"zoo", "browser"})
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert list(plan.digests("common")) == ["zoo", "browser"]


@pytest.mark.parametrize(
    "file", ["tests/models/test_unet.py", "tests/golden/test_golden.py", "notebooks/segmentation/unet.ipynb"]
)
def test_tests_and_notebook_are_part_of_it(plan: ModuleType, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan.digests()["unet"]
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b" " if self == ROOT / file else b""))
    assert plan.digests()["unet"] != before


def test_a_peer_is_part_of_its_entry_alone(plan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before, catalogue = plan.digests(), plan.load()
    (peer, *others) = catalogue.entries["senet"].peers
    work = catalogue.entries["senet"].model_copy(update={"peers": [peer.model_copy(update={"parameters": 1}), *others]})
    changed = dataclasses.replace(catalogue, entries={**catalogue.entries, "senet": work})
    monkeypatch.setattr(plan, "load", lambda: changed)
    after = plan.digests()
    assert {key for key in before if before[key] != after[key]} == {"senet"}


def test_the_tests_of_other_entries_are_left_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/models/test_unet.py",
         "tests/models/test_senet.py", "tests/parity", "tests/golden", "tests/test_ci_plan.py"],
        cwd=ROOT, env={**os.environ, "SKIPKB_ENTRIES": "senet"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "tests/models/test_senet.py::" in done.stdout
    assert "tests/models/test_unet.py::" not in done.stdout
    assert "tests/test_ci_plan.py::" in done.stdout
    peers = re.findall(r"test_peer\[(\w+)-", done.stdout)
    assert set(peers) == {"senet"}
    records = [line for line in done.stdout.splitlines() if "computes_what_the_released_one_did" in line]
    assert len(records) == 1
    assert "senet" in records[0]
    assert "deselected" in done.stdout


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("docs/assets/search.js", ["browser"]),
        ("tests/browser/test_pages.py", ["browser"]),
        ("skipkb/site/groups.py", ["browser"]),
        ("tests/zoo/models.py", ["zoo"]),
        ("tests/models/test_unet.py", []),
        ("README.md", []),
    ],
)
def test_the_browser_and_the_zoo_wait_for_what_is_theirs(
    plan: ModuleType, file: str, again: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan.digests("common")
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b" " if self == ROOT / file else b""))
    after = plan.digests("common")
    assert [name for name in before if before[name] != after[name]] == again

"""The runner: one process per entry, limits, resume, recording; and what it shows in a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from skipkb.catalog.entry import Entry
from skipkb.catalog.problems import UnknownNameError
from skipkb.evidence import Report, checks, read_recorded, report, run
from skipkb.evidence.checks import Item
from skipkb.evidence.counts import read_counts
from skipkb.evidence.key import Key
from skipkb.evidence.process import CancelledError, Task, measure
from skipkb.evidence.recorded import write_report
from skipkb.evidence.results import Check
from skipkb.evidence.runner import Progress, _earlier

Toy = Callable[..., Entry]


def failures(result: Report) -> dict[str, str]:
    return {name: check.detail for name, check in result.checks.items() if not check.ok}


def test_a_run_records_then_resumes_and_one_that_dies_costs_nobody_else(toy: Toy, tmp_path: Path) -> None:
    entries = {"good": toy("Good"), "crash": toy("Crash"), "theory": toy("Good").model_copy(update={"variants": []})}
    places: dict[str, Any] = {"entries": entries, "evidence": tmp_path / "evidence", "build": tmp_path / "build"}
    events: list[Progress] = []
    crash, good = run(["crash", "good"], jobs=1, record=True, on_progress=events.append, **places)

    assert good.ok, failures(good)
    assert good.versions.keys() >= {"python", "torch", "torchvision", "timm"}
    assert good.peak_mib > 100
    assert not crash.ok
    assert not crash.complete
    assert failures(crash) == {"gradient": "the worker died: exit code 7"} | failures(crash)
    assert failures(crash)["gradient"].startswith("the worker died: exit code 7")
    assert "loss falls" not in crash.checks

    begun = [(event.key, event.check) for event in events if event.kind == "check"]
    assert begun[-len(good.checks) :] == [("good", name) for name in good.checks]
    ended = [event for event in events if event.kind == "entry"]
    assert [(event.key, event.done, event.total) for event in ended] == [("crash", 1, 2), ("good", 2, 2)]
    assert "a message on standard output" in ended[0].log

    found = read_recorded(tmp_path / "evidence")
    assert found.problems == []
    assert found.reports == {("crash", good.device.slug): crash, ("good", good.device.slug): good}
    recorded = read_counts("good", tmp_path / "evidence")
    assert recorded is not None
    assert recorded["variants"]["good-full"]["parameters"] == 2836

    # All is current now: the next run compares with the recorded counts, which a new process agrees with.
    # The one that crashed is run again, the other is taken over.
    again: list[Progress] = []
    entries["crash"] = toy("Good").model_copy(update={"key": "crash"})
    first, second = run(["crash", "good"], jobs=1, resume=True, on_progress=again.append, **places)
    assert [event.key for event in again if event.resumed] == ["good"]
    assert second == good
    assert failures(first).keys() == {"counted evidence"}, "the counts are those of the crashing one"
    assert "variant crash-full is gone; variant good-full is missing" in failures(first)["counted evidence"]


@pytest.mark.parametrize("part", list(Key.model_fields))
def test_what_has_changed_is_checked_again_on_resume(toy: Toy, tmp_path: Path, part: str) -> None:
    task = Task.of(toy("Good"), "cpu")
    done = task.report({"builds": Check(value=1, limit=1, unit="variants", ok=True)})
    write_report(done, tmp_path)
    (tmp_path / "cpu-other").mkdir()
    (tmp_path / "cpu-other" / "good.json").write_text("{broken\n")
    assert _earlier(tmp_path, task) == done
    other = task.depends_on.model_copy(update={part: "another"})
    assert _earlier(tmp_path, replace(task, depends_on=other)) is None
    assert _earlier(tmp_path, replace(task, device="cuda")) is None
    write_report(done.model_copy(update={"complete": False}), tmp_path)
    assert _earlier(tmp_path, task) is None


@pytest.mark.parametrize(
    ("name", "limits", "reason"),
    [
        ("Endless", {"time_limit": 30}, "stopped at the time limit of 30 s"),
        ("Hog", {"memory_limit_gib": 1.5}, "stopped at the memory limit of 1.5 GiB, using 1."),
        ("Killed", {}, "the worker died: signal SIGSEGV"),
    ],
)
def test_each_way_to_die_is_told_with_the_check_that_was_running(
    toy: Toy, name: str, limits: dict[str, float], reason: str
) -> None:
    outcome = measure(Task.of(toy(name), "cpu", record=True, **limits))
    assert failures(outcome.report).keys() == {"gradient"}
    assert failures(outcome.report)["gradient"].startswith(reason)
    assert not outcome.report.complete
    assert outcome.report.checks["forward"].ok


def test_a_worker_that_never_starts_is_told_with_its_last_words(toy: Toy) -> None:
    task = replace(Task.of(toy("Good"), "cpu"), entry="this is not an entry")
    outcome = measure(task)
    assert failures(outcome.report).keys() == {"start"}
    assert "exit code 1" in failures(outcome.report)["start"]
    assert "ValidationError" in outcome.log


def test_a_cancelled_worker_leaves_no_process(toy: Toy) -> None:
    cancel = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(measure, Task.of(toy("Endless"), "cpu"), None, cancel)
        children: list[psutil.Process] = []
        while not children:  # what the server of workers has forked
            time.sleep(0.02)
            children = [child for server in psutil.Process().children() for child in server.children(recursive=True)]
        cancel.set()
        with pytest.raises(CancelledError):
            future.result()
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_the_worker_ends_itself_when_its_runner_is_gone(toy: Toy, tmp_path: Path) -> None:
    """A runner in a process of its own is killed while its worker trains without end."""
    (tmp_path / "entry.json").write_text(toy("Endless").model_dump_json())
    code = (
        "import sys, threading; from pathlib import Path; from skipkb.catalog.entry import Entry\n"
        "from skipkb.evidence.process import Task, measure\n"
        "if __name__ == '__main__':\n"
        "    entry = Entry.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "    measure(Task.of(entry, 'cpu'), lambda key, check: print(check, flush=True))\n"
    )
    (tmp_path / "runner.py").write_text(code)
    runner = subprocess.Popen(
        [sys.executable, tmp_path / "runner.py", tmp_path / "entry.json"], stdout=subprocess.PIPE, text=True
    )
    assert runner.stdout
    for line in runner.stdout:
        if line == "gradient\n":
            break
    started = psutil.Process(runner.pid).children(recursive=True)
    assert started
    runner.kill()
    runner.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_process_that_outlives_its_worker_holds_nobody_up(toy: Toy) -> None:
    """A child of the worker has left its process group and keeps its pipe open."""
    outcome = measure(Task.of(toy("LeavesADaemon"), "cpu", record=True))
    assert failures(outcome.report)["gradient"].startswith("the worker died: exit code 7")


def test_workers_are_forked_from_one_that_is_warm(toy: Toy) -> None:
    first, second = (measure(Task.of(toy("SaysWhereItRuns"), "cpu")).log for _ in range(2))
    parents = set(re.findall(r"warm (\d+)", first + second))
    assert len(parents) == 1, "both of the same server"
    assert parents != {str(os.getpid())}


class Elsewhere(Executor):
    """What a cluster does, without one: pickles the call, and loses one node."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        import pickle

        self.calls.append(pickle.loads(pickle.dumps((fn, args))))
        future: Future[Any] = Future()
        future.set_exception(ConnectionError("the node is lost"))
        return future


def test_a_foreign_executor_gets_a_picklable_call_and_may_lose_it(toy: Toy, tmp_path: Path) -> None:
    cluster = Elsewhere()
    entries = {"good": toy("Good")}
    (result,) = run(executor=cluster, record=True, entries=entries, evidence=tmp_path, build=tmp_path / "build")
    assert cluster.calls == [(measure, (Task.of(entries["good"], "cpu", record=True, evidence=tmp_path),))]
    assert failures(result) == {"start": "it could not be run: ConnectionError: the node is lost"}
    assert not result.complete
    assert not list(tmp_path.glob("*.jsonl")), "nothing was measured, so nothing is recorded"


def test_ray_runs_the_same_call(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from skipkb.evidence.cluster import RayExecutor

    entries = {"good": toy("Good"), "crash": toy("Crash")}
    with RayExecutor(num_cpus=2, include_dashboard=False) as cluster:
        good, crash = run(executor=cluster, record=True, entries=entries, evidence=tmp_path, build=tmp_path / "build")
    assert good.ok, failures(good)
    assert failures(crash)["gradient"].startswith("the worker died: exit code 7")
    assert (tmp_path / "counts" / "good.json").is_file()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_device_agrees_with_the_cpu(toy: Toy, tmp_path: Path) -> None:
    entries = {"good": toy("Good")}
    (result,) = run(device="cuda", record=True, entries=entries, evidence=tmp_path, build=tmp_path / "build")
    assert result.ok, failures(result)
    assert list(result.checks)[-1] == "agrees with CPU"
    assert (tmp_path / f"{result.device.slug}.jsonl").is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_said_at_once(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'cuda' was asked for, and torch finds no CUDA device"):
        run(device="cuda", entries={"good": toy("Good")}, evidence=tmp_path, build=tmp_path)
    # A cluster may have what this machine lacks; a node without it fails the entry.
    assert failures(measure(Task.of(toy("Good"), "cuda")).report).keys() == {"start"}


@pytest.mark.parametrize(
    ("keys", "options", "error", "message"),
    [
        (["goood"], {}, UnknownNameError, "no entry is named 'goood'; did you mean 'good'"),
        (["theory"], {}, ValueError, "'theory' has no implementation"),
        (["good"], {"device": "gpu"}, ValueError, "cpu, cuda or cuda:N"),
    ],
)
def test_wrong_use_is_said_before_anything_runs(
    toy: Toy, tmp_path: Path, keys: list[str], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    entries = {"good": toy("Good"), "theory": toy("Good").model_copy(update={"variants": []})}
    with pytest.raises(error, match=message):
        run(keys, entries=entries, evidence=tmp_path, build=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ the terminal


@pytest.fixture
def two_reports(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """Reports under a contract of two checks."""
    monkeypatch.setattr(checks, "CONTRACT", (Item("builds"), Item("loss falls")))
    good, bad = Task.of(toy("Good"), "cpu"), Task.of(toy("Dead"), "cpu")
    passed = {
        "builds": Check(value=5, limit=5, unit="variants", ok=True),
        "loss falls": Check(value=0.3123, relation="<", limit=0.9, unit="of the first loss", ok=True),
    }
    failed = {
        "builds": Check(value=5, limit=5, unit="variants", ok=True),
        "loss falls": Check(
            value=0.97, relation="<", limit=0.9, unit="of the first loss", ok=False, detail="2 -> [1.9]"
        ),
    }
    return [good.report(passed, seconds=1.5), bad.report(failed, seconds=2.0)]


@pytest.mark.parametrize("width", [40, 41, 42, 43, 44, 45, 46, 120])
def test_the_summary_shows_every_number_and_marks_failures_without_colour(
    two_reports: list[Report], width: int
) -> None:
    many = {f"number {i} of many": Check(value=i / 7, limit=i / 7, unit="", ok=True) for i in range(1, 8)}
    reports = [r.model_copy(update={"checks": r.checks | many}) for r in two_reports]
    out = io.StringIO()
    report.summary(reports, Console(file=out, width=width, color_system=None))
    text = out.getvalue()
    assert "1 of 2 entries hold the contract" in text
    for number in ("0.31", "✗ 0.97", *(f"{i / 7:.2g}" for i in range(1, 8))):
        assert number in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert (text.count("entry") == 1) is (width == 120)


def test_without_a_terminal_progress_is_one_line_per_entry(two_reports: list[Report]) -> None:
    out = io.StringIO()
    good, bad = two_reports
    with report.progress(Console(file=out, width=200, color_system=None)) as on_progress:
        on_progress(Progress("check", "good", 0, 2, check="builds"))
        on_progress(Progress("entry", "good", 1, 2, report=good))
        on_progress(Progress("entry", "dead", 2, 2, report=bad))
    assert list(filter(None, out.getvalue().splitlines())) == [
        "[1/2] ok   good: 2/2 checks, 1.5 s, 0 MiB",
        "[2/2] FAIL dead: 1/2 checks, 2.0 s, 0 MiB",
        "        loss falls: 0.97 >= 0.9 of the first loss; 2 -> [1.9]",
    ]


def test_a_report_that_lacks_a_check_says_so(two_reports: list[Report]) -> None:
    good, _ = two_reports
    lacking = good.model_copy(update={"checks": {"builds": good.checks["builds"]}})
    text = report.ended(Progress("entry", "good", 1, 1, report=lacking))
    assert "FAIL" in text
    assert "good: 1/2 checks" in text
    assert "not made: loss falls" in text


def test_on_a_terminal_the_bar_tells_the_running_check(two_reports: list[Report]) -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True)
    with report.progress(console) as on_progress:
        on_progress(Progress("check", "good", 0, 2, check="loss falls"))
        time.sleep(0.3)
    assert "good: loss falls" in out.getvalue()
    assert "0/2" in out.getvalue()


def test_a_report_is_plain_json(two_reports: list[Report]) -> None:
    data = json.loads(json.dumps(two_reports[1].to_json()))
    assert data["checks"]["loss falls"]["value"] == 0.97
    assert data["date"].endswith("Z")
    assert data["device"]["kind"] == "cpu"

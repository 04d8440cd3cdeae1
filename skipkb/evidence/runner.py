"""Run the contract for many entries, each in a process of its own, and keep what comes out.

The runner prints nothing and loads no torch. It hands one function and one picklable task per entry
to an executor: threads that each watch a local worker by default, a cluster if it is given one.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skipkb.catalog.entry import Entry
from skipkb.catalog.problems import Problem, UnknownNameError
from skipkb.evidence.counts import write_counts, write_graphs
from skipkb.evidence.folders import build_dir, evidence_dir
from skipkb.evidence.process import Outcome, Task, measure
from skipkb.evidence.recorded import read_recorded, read_report, write_report
from skipkb.evidence.results import Report


@dataclass(frozen=True)
class Progress:
    """Something has happened: a check has begun, or an entry has ended."""

    kind: Literal["check", "entry"]
    key: str
    done: int
    """Entries that have ended, resumed ones included."""
    total: int
    check: str | None = None
    """The check that has begun."""
    report: Report | None = None
    """The report of the entry that has ended."""
    resumed: bool = False
    """Whether the report was taken over from an earlier run."""
    log: str = ""
    """The end of the worker's messages."""


def run(
    keys: Iterable[str] | None = None,
    *,
    device: str = "cpu",
    jobs: int | None = None,
    resume: bool = False,
    record: bool = False,
    everywhere: bool = False,
    time_limit: float = 300,
    memory_limit_gib: float = 6,
    executor: Executor | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    entries: Mapping[str, Entry] | None = None,
    evidence: Path | None = None,
    build: Path | None = None,
) -> list[Report]:
    """Check entries and return their reports in the order of ``keys``.

    Each report is written to ``<build>/<device>/<key>.json`` as its entry ends, so that a run that is
    interrupted loses only the entries at work.

    Args:
        keys: entries to check; default: all that have an implementation.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        jobs: workers at a time; default: the number of processors.
        resume: take over the reports of complete entries from an earlier run, where nothing that they depend on
            (:class:`~skipkb.evidence.key.Key`) has changed since.
        record: replace the committed reports, counts and skip graphs under ``evidence``.
        everywhere: train in every setting of the processor, as a recording run always does.
        time_limit: seconds per entry.
        memory_limit_gib: resident memory per entry.
        executor: anything with the ``submit`` of concurrent.futures; it is not shut down here.
        on_progress: called from one thread at a time. Beginning checks are told of by local threads only.
        entries: the catalogue; default: the installed one.
        evidence: directory of the committed evidence; default: the catalogue's.
        build: directory for results; default: build/evidence.

    Raises:
        UnknownNameError: a key that the catalogue does not have.
        ValueError: an entry without implementation, or a device that is not there.
    """
    _check_device(device, local=executor is None)
    chosen = _choose(keys, entries)
    compared = evidence  # None, the default, is found by the worker: on a cluster it is the node's own
    evidence, build = evidence or evidence_dir(), build or build_dir()
    reports: dict[str, Report] = {}
    lock, cancel = threading.Lock(), threading.Event()

    def tell(kind: Literal["check", "entry"], key: str, **content: object) -> None:
        if on_progress:
            with lock:
                on_progress(Progress(kind, key, len(reports), len(chosen), **content))  # type: ignore[arg-type]

    tasks = []
    committed = read_recorded(evidence) if record else None
    for key, entry in chosen.items():
        limits = {"time_limit": time_limit, "memory_limit_gib": memory_limit_gib}
        task = Task.of(entry, device, record=record, everywhere=everywhere, evidence=compared, **limits)
        earlier = _earlier(build, task) if resume else None
        if earlier and committed and committed.reports.get((key, earlier.device.slug)) != earlier:
            earlier = None  # only what is committed need not be recorded again
        if earlier:
            reports[key] = earlier
            tell("entry", key, report=earlier, resumed=True)
        else:
            tasks.append(task)

    def began(key: str, check: str) -> None:
        tell("check", key, check=check)

    own = None if executor else ThreadPoolExecutor(jobs or os.cpu_count() or 1)
    futures: dict[Future[Outcome], Task] = {}
    try:
        for task in tasks:
            if own:  # a thread can call back and be told to stop, a node of a cluster cannot
                futures[own.submit(measure, task, began, cancel)] = task
            elif executor:
                futures[executor.submit(measure, task)] = task
        for future in as_completed(futures):
            outcome = _outcome(future, futures[future])
            report = reports[outcome.report.entry] = outcome.report
            write_report(report, build)
            if record and report.versions:  # without them the worker never came to measure anything
                if outcome.counts:
                    write_counts(outcome.counts, evidence)
                    write_graphs(report.entry, outcome.graphs, evidence)
                write_report(report, evidence)
            tell("entry", report.entry, report=report, log=outcome.log)
    finally:
        cancel.set()
        for future in futures:
            future.cancel()
        if own:
            own.shutdown()
    return [reports[key] for key in chosen]


def _check_device(device: str, *, local: bool) -> None:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device is {device!r}; it is cpu, cuda or cuda:N")
    if device != "cpu" and local:
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"device {device!r} was asked for, and torch finds no CUDA device here")


def _choose(keys: Iterable[str] | None, entries: Mapping[str, Entry] | None) -> dict[str, Entry]:
    if entries is None:
        from skipkb.catalog import load

        entries = load().entries
    if keys is None:
        return {key: entry for key, entry in entries.items() if entry.variants}
    chosen = {}
    for key in keys:
        if key not in entries:
            raise UnknownNameError("entry", key, difflib.get_close_matches(key, entries, n=3))
        if not entries[key].variants or entries[key].smoke is None:
            raise ValueError(f"entry {key!r} has no implementation to check")
        chosen[key] = entries[key]
    return chosen


def _outcome(future: Future[Outcome], task: Task) -> Outcome:
    """What the task left; a place that could not even run it is one more failure of this entry alone."""
    try:
        return future.result()
    except Exception as error:
        return Outcome(task.failure(f"it could not be run: {type(error).__name__}: {error}"))


def _earlier(build: Path, task: Task) -> Report | None:
    """The report of an earlier run on this machine, if it is complete and nothing has changed since."""
    kind = task.device.partition(":")[0]
    problems: list[Problem] = []  # a file that an interruption left broken: its entry is run again
    for file in sorted(build.glob(f"*/{task.key}.json")):
        report = read_report(file, problems)
        if report and report.device.kind == kind and report.complete and report.key == task.depends_on:
            return report
    return None

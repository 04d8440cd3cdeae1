"""One worker process, watched: its events are read as they come, its time and memory are limited.

:func:`measure` is what an executor gets: a plain function of a picklable task, so that a thread, a
process or a node of a cluster can run it. Loads no torch.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from skipkb.catalog.entry import Entry
from skipkb.catalog.paths import PACKAGE
from skipkb.evidence.counts import Counts
from skipkb.evidence.results import Check, Device, Report
from skipkb.evidence.sources import source_sha256, task_sha256

POLL_SECONDS = 0.05
START = "start"  # the check that fails when a worker never came as far as its first


@dataclass(frozen=True)
class Task:
    """What one worker is to do."""

    entry: str
    """The entry as JSON."""
    key: str
    device: str
    source_sha256: str
    task_sha256: str
    record: bool = False
    evidence: Path | None = None
    time_limit: float = 300
    """Seconds."""
    memory_limit_gib: float = 6
    """Of the worker and its children together."""

    @classmethod
    def of(cls, entry: Entry, device: str, **options: Any) -> Task:
        """The task of checking ``entry``."""
        text = entry.model_dump_json(include=set(Entry.model_fields))  # an entry may be a Work, which has more
        return cls(text, entry.key, device, source_sha256(entry), task_sha256(entry), **options)

    def report(self, checks: dict[str, Check], **content: Any) -> Report:
        """A report on this task, of now."""
        return Report(
            entry=self.key,
            date=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
            device=content.pop("device", None) or _likely_device(self.device),
            versions=content.pop("versions", {}),
            source_sha256=self.source_sha256,
            task_sha256=self.task_sha256,
            checks=checks,
            **content,
        )

    def failure(self, reason: str, check: str = START) -> Report:
        """A report of which only the reason is known why there is no more."""
        return self.report({check: _failed(reason)}, complete=False)


@dataclass
class Outcome:
    """What a worker left: its report, the counts to record if it was asked for them, its messages."""

    report: Report
    counts: Counts | None = None
    graphs: dict[str, str] = field(default_factory=dict)
    """The skip graphs to record with them, by variant."""
    log: str = ""
    """The end of what the worker wrote to standard error."""


@dataclass
class _Heard:
    """What the worker has said so far."""

    device: Device | None = None
    versions: dict[str, str] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    counts: Counts | None = None
    graphs: dict[str, str] = field(default_factory=dict)
    running: str = START
    ended: bool = False


class CancelledError(Exception):
    """The run was given up while this worker was at work."""


def measure(
    task: Task,
    on_check: Callable[[str, str], None] | None = None,
    cancel: threading.Event | None = None,
) -> Outcome:
    """Run one worker to its end, or to the end of its time or memory.

    Whatever happens to the worker becomes a failed check of the report. ``on_check`` is told (key,
    check) when a check begins; setting ``cancel`` kills the worker and raises :class:`CancelledError`.
    """
    heard = _Heard()
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        worker = _start(task, log)
        lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=_read_lines, args=(worker.stdout, lines), daemon=True).start()
        peak, reason, silent_since_death, patience = 0, "", 0, 0.0
        try:
            while silent_since_death * POLL_SECONDS < 1:  # a child may hold the pipe of a dead worker
                silent_since_death += worker.poll() is not None
                if not _listen(lines, heard, task.key, on_check):
                    patience = 10.0  # it has closed its pipe and is about to leave
                    break
                memory = _memory(worker.pid)
                peak = max(peak, memory)
                if cancel is not None and cancel.is_set():
                    raise CancelledError(task.key)
                if time.monotonic() - began > task.time_limit:
                    reason = f"stopped at the time limit of {task.time_limit:g} s"
                elif memory > task.memory_limit_gib * 2**30:
                    used = f"{memory / 2**30:.2f} GiB"
                    reason = f"stopped at the memory limit of {task.memory_limit_gib:g} GiB, using {used}"
                if reason:
                    break
        finally:
            _end(worker, patience)
        if not reason and not heard.ended:
            reason = f"the worker died: {_death(worker.returncode)}"
        messages = _tail(log)
    if reason:
        last = messages.strip().splitlines()[-1:] if "exit code" in reason else []
        detail = "; ".join([reason, *last])
        heard.checks[heard.running] = _failed(detail)
    report = task.report(
        heard.checks,
        device=heard.device,
        versions=heard.versions,
        complete=not reason,
        seconds=round(time.monotonic() - began, 2),
        peak_mib=peak // 2**20,
    )
    return Outcome(report, heard.counts, heard.graphs, messages)


def _start(task: Task, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the worker in a process group of its own and hand it the entry."""
    command = [sys.executable, "-m", "skipkb.evidence.worker", task.key, "--device", task.device]
    command += ["--entry", "-"]
    command += ["--record"] if task.record else []
    command += ["--evidence", str(task.evidence)] if task.evidence else []
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]  # the worker runs the same skipkb
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[variable] = "1"
    worker = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment,
        start_new_session=True,
    )
    assert worker.stdin
    with contextlib.suppress(BrokenPipeError):  # it died at once; that shows soon enough
        worker.stdin.write(task.entry.encode() + b"\n")
        worker.stdin.flush()  # and left open: the worker ends when this process does
    return worker


def _read_lines(pipe: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with contextlib.suppress(ValueError):  # closed under our hands after a kill
        for line in pipe:
            lines.put(line)
    lines.put(None)


def _listen(
    lines: queue.SimpleQueue[bytes | None],
    heard: _Heard,
    key: str,
    on_check: Callable[[str, str], None] | None,
) -> bool:
    """Take in what the worker says until it is silent for a moment; False when it has closed its pipe."""
    try:
        line = lines.get(timeout=POLL_SECONDS)
        while line is not None:
            event = json.loads(line)
            match event["event"]:
                case "device":
                    heard.device, heard.versions = Device(**event["device"]), event["versions"]
                case "start":
                    heard.running = event["check"]
                    if on_check:
                        on_check(key, heard.running)
                case "check":
                    heard.checks[event["name"]] = Check(**event["result"])
                case "counts":
                    heard.counts, heard.graphs = event["counts"], event["graphs"]
                case "end":
                    heard.ended = True
            line = lines.get_nowait()
    except queue.Empty:
        return True
    return False


def _memory(pid: int) -> int:
    """Resident memory in bytes of a process and all its children; 0 once it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total


def _end(worker: subprocess.Popen[bytes], patience: float) -> None:
    """Give the worker ``patience`` seconds to end, then kill it and everything it has started."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(timeout=patience)
    members: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(worker.pid)
        members = [*process.children(recursive=True), process]
    if hasattr(os, "killpg"):  # also the children of a worker that is gone already
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()


def _failed(reason: str) -> Check:
    return Check(value=None, limit=None, unit="", ok=False, detail=reason)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _tail(log: IO[bytes], size: int = 4000) -> str:
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - size))
    return log.read().decode(errors="replace")


def _likely_device(name: str) -> Device:
    """What can be said of a device that no worker came to describe."""
    kind = name.partition(":")[0]
    return Device(kind=kind, name=platform.machine().lower() if kind == "cpu" else "unknown")

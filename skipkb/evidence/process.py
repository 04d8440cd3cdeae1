"""One worker process, watched: its events are read as they come, its time and memory are limited.

:func:`measure` is what an executor gets: a plain function of a picklable task, so that a thread, a
process or a node of a cluster can run it. Loads no torch.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import multiprocessing
import os
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from skipkb.catalog.entry import Entry
from skipkb.evidence.counts import Counts
from skipkb.evidence.key import Key, installed_torch, key_of
from skipkb.evidence.results import Check, Device, Equal, Report
from skipkb.evidence.worker import work

POLL_SECONDS = 0.05
START = "start"  # the check that fails when a worker never came as far as its first


@dataclass(frozen=True)
class Task:
    """What one worker is to do."""

    entry: str
    """The entry as JSON."""
    key: str
    device: str
    depends_on: Key
    record: bool = False
    everywhere: bool = False
    """Train in every setting of the processor; a recording run always does."""
    evidence: Path | None = None
    time_limit: float = 300
    """Seconds."""
    memory_limit_gib: float = 6
    """Of the worker and its children together."""

    @classmethod
    def of(cls, entry: Entry, device: str, **options: Any) -> Task:
        """The task of checking ``entry``."""
        text = entry.model_dump_json(include=set(Entry.model_fields))  # an entry may be a Work, which has more
        return cls(text, entry.key, device, key_of(entry, installed_torch()), **options)

    def report(self, checks: dict[str, Check], **content: Any) -> Report:
        """A report on this task, of now."""
        return Report(
            entry=self.key,
            date=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
            device=content.pop("device", None) or _likely_device(self.device),
            versions=content.pop("versions", {}),
            key=self.depends_on,
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
    since: float | None = None
    """When it said so; to import torch is not part of an entry's time."""
    versions: dict[str, str] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    counts: Counts | None = None
    graphs: dict[str, str] = field(default_factory=dict)
    equal: tuple[Equal, ...] = ()
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["skipkb.evidence.warm"])
    handle, name = tempfile.mkstemp(prefix="skipkb-", suffix=".log")
    os.close(handle)
    log = Path(name)
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=work, args=(task, sender, str(log)), name=f"skipkb {task.key}")
    peak, reason, patience = 0, "", 0.0
    try:
        worker.start()
        sender.close()
        while not reason:
            if _listen(receiver, heard, task.key, on_check):
                continue
            if heard.ended or receiver.closed:
                patience = 10.0  # it has said everything and is about to leave
                break
            if worker.exitcode is not None:
                break  # dead; something that it has started may still hold its end of the pipe
            if cancel is not None and cancel.is_set():
                raise CancelledError(task.key)
            memory = _memory(worker.pid)
            peak = max(peak, memory)
            if time.monotonic() - (heard.since or began) > task.time_limit:
                reason = f"stopped at the time limit of {task.time_limit:g} s"
            elif memory > task.memory_limit_gib * 2**30:
                used = f"{memory / 2**30:.2f} GiB"
                reason = f"stopped at the memory limit of {task.memory_limit_gib:g} GiB, using {used}"
    finally:
        if worker.pid is not None:
            _end(worker, patience)
        receiver.close()
        messages = _tail(log)
        log.unlink()
    if not reason and not heard.ended:
        reason = f"the worker died: {_death(worker.exitcode)}"
    if reason:
        last = messages.strip().splitlines()[-1:] if "exit code" in reason else []
        detail = "; ".join([reason, *last])
        heard.checks[heard.running] = _failed(detail)
    report = task.report(
        heard.checks,
        device=heard.device,
        versions=heard.versions,
        equal=heard.equal,
        complete=not reason,
        seconds=round(time.monotonic() - began, 2),
        peak_mib=peak // 2**20,
    )
    return Outcome(report, heard.counts, heard.graphs, messages)


def _listen(receiver: Connection, heard: _Heard, key: str, on_check: Callable[[str, str], None] | None) -> bool:
    """Take in one message of the worker; False when it was silent for a moment or has closed its end."""
    try:
        if not receiver.poll(POLL_SECONDS):
            return False
        event = json.loads(receiver.recv_bytes())
    except (EOFError, OSError):
        receiver.close()
        return False
    match event["event"]:
        case "device":
            heard.device, heard.versions = Device(**event["device"]), event["versions"]
            heard.since = time.monotonic()
        case "start":
            heard.running = event["check"]
            if on_check:
                on_check(key, heard.running)
        case "check":
            heard.checks[event["name"]] = Check(**event["result"])
        case "counts":
            heard.counts, heard.graphs = event["counts"], event["graphs"]
        case "end":
            heard.equal = tuple(Equal(**equal) for equal in event["equal"])
            heard.ended = True
    return True


def _memory(pid: int | None) -> int:
    """Resident memory in bytes of a process and all its children; 0 once it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total


def _end(worker: BaseProcess, patience: float) -> None:
    """Give the worker ``patience`` seconds to end, then kill it and everything it has started."""
    worker.join(patience)
    assert worker.pid is not None
    members: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(worker.pid)
        members = process.children(recursive=True)
    if hasattr(os, "killpg"):  # also the children of a worker that is gone already
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.kill()
    worker.kill()
    worker.join()


def _failed(reason: str) -> Check:
    return Check(value=None, limit=None, unit="", ok=False, detail=reason)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _tail(log: Path, size: int = 4000) -> str:
    return log.read_bytes()[-size:].decode(errors="replace")


def _likely_device(name: str) -> Device:
    """What can be said of a device that no worker came to describe."""
    kind = name.partition(":")[0]
    return Device(kind=kind, name=platform.machine().lower() if kind == "cpu" else "unknown")

"""One entry in a process of its own: runs the contract and sends every result as it comes.

Workers are forked from a server that has imported torch already (:mod:`skipkb.evidence.warm`), which saves each of
them several seconds. A message is one JSON object: ``{"event": "device", ...}`` when the device is known,
``{"event": "start", "check": name}`` before and ``{"event": "check", "name": name, ...}`` after each check,
``{"event": "counts", ...}`` when a run records, and ``{"event": "end", ...}``. What a model prints goes to the log.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import threading
from importlib import metadata
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from skipkb.catalog.entry import Entry
from skipkb.evidence.results import Device

if TYPE_CHECKING:
    from skipkb.evidence.process import Task


def work(task: Task, events: Connection, log: str) -> None:
    """Check one entry; the body of the worker process.

    Args:
        events: where messages go.
        log: file that gets what the models and libraries print.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # a process group of its own, so that everything it starts can be ended with it
    _print_into(log)
    faulthandler.enable()
    threading.Thread(target=_end_with_the_runner, daemon=True).start()

    def say(event: str, **content: Any) -> None:
        events.send_bytes(json.dumps({"event": event, **content}).encode())

    entry = Entry.model_validate_json(task.entry)

    import torch

    torch.set_num_threads(1)
    device = _prepare(task.device)
    say("device", device=device.model_dump(), versions=_versions())

    from skipkb.evidence.contract import perform
    from skipkb.evidence.subject import Subject

    counting = task.record and device.kind == "cpu"  # counts are the same everywhere: elsewhere they are compared
    subject = Subject(
        entry, task.device, evidence=task.evidence, record=counting, everywhere=task.record or task.everywhere
    )
    for name, check in perform(subject, on_start=lambda check: say("start", check=check)):
        say("check", name=name, result=check.model_dump())
        if counting and name == "counted evidence" and check.ok:
            say("counts", counts=subject.counts, graphs=subject.drawn())
    say("end", equal=[equal.model_dump() for equal in subject.equal])


def _print_into(log: str) -> None:
    """Send standard output and error of this process, of its libraries and children too, to a file."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)


def _end_with_the_runner() -> None:
    runner = parent_process()
    if runner is not None:
        wait([runner.sentinel])
        os._exit(3)


def _prepare(name: str) -> Device:
    """Make the device compute exactly and repeatably, and say what it is."""
    import torch

    device = torch.device(name)
    if device.type != "cuda":
        return Device(kind=device.type, name=platform.machine().lower() or "unknown")
    torch.set_float32_matmul_precision("highest")  # no TF32, in products ...
    torch.backends.cudnn.allow_tf32 = False  # ... and in convolutions
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return Device(kind="cuda", name=torch.cuda.get_device_name(device))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "timm", "skipkb"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions

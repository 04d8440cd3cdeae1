"""One entry in a process of its own: ``python -m skipkb.evidence.worker KEY --device cpu``.

Prints one JSON object per line, at once: ``{"event": "device", ...}`` when torch is up,
``{"event": "start", "check": name}`` before and ``{"event": "check", "name": name, ...}`` after each
check, and ``{"event": "counts", ...}`` with ``--record``. Exit code 0 when all checks hold, 1 when
one does not. What a model prints goes to standard error.

The runner passes ``--entry -`` and the entry as one line of JSON on standard input, which it then
keeps open: when it is closed, the runner is gone and the worker ends itself.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import platform
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

from skipkb.catalog.entry import Entry
from skipkb.evidence.results import Device


def main(arguments: list[str] | None = None) -> int:
    """Check one entry, and print every result as it comes."""
    parser = argparse.ArgumentParser(prog="python -m skipkb.evidence.worker", description=__doc__)
    parser.add_argument("key")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", action="store_true", help="count anew instead of comparing counts")
    parser.add_argument("--evidence", type=Path, help="directory of the committed evidence")
    parser.add_argument("--entry", choices=["-"], help="read the entry as JSON from standard input")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    entry = _entry_from_stdin() if options.entry else _entry_from_catalogue(options.key)

    events = os.fdopen(os.dup(1), "w", encoding="utf-8")  # a pipe of our own: models may print
    os.dup2(2, 1)

    def say(event: str, **content: Any) -> None:
        print(json.dumps({"event": event, **content}), file=events, flush=True)

    import torch

    torch.set_num_threads(1)
    device = _prepare(options.device)
    say("device", device=device.model_dump(), versions=_versions())

    from skipkb.evidence.contract import Subject, perform

    subject = Subject(entry, options.device, evidence=options.evidence, record=options.record)
    ok = True
    for name, check in perform(subject, on_start=lambda check: say("start", check=check)):
        say("check", name=name, result=check.model_dump())
        ok = ok and check.ok
        if options.record and name == "counted evidence" and check.ok:
            say("counts", counts=subject.counts, graphs=subject.drawn())
    say("end")
    return 0 if ok else 1


def _entry_from_stdin() -> Entry:
    entry = Entry.model_validate_json(sys.stdin.buffer.readline())

    def end_with_the_runner() -> None:
        sys.stdin.buffer.read()
        os._exit(3)

    threading.Thread(target=end_with_the_runner, daemon=True).start()
    return entry


def _entry_from_catalogue(key: str) -> Entry:
    from skipkb.catalog import load

    entries = load().entries
    if key not in entries:
        raise SystemExit(f"the catalogue has no entry {key!r}")
    return entries[key]


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


if __name__ == "__main__":
    sys.exit(main())

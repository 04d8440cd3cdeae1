"""Where evidence lies, and how lines are appended to it so that a crash leaves no half of others."""

from __future__ import annotations

import os
from pathlib import Path

from skipkb.catalog.paths import source_dir


def evidence_dir() -> Path:
    """The committed evidence: ledgers, and counts/ below."""
    return source_dir() / "evidence"


def build_dir() -> Path:
    """Results of runs on this machine, not committed."""
    source = source_dir()
    root = source.parent if source.name == "catalog" else Path.cwd()
    return root / "build" / "evidence"


def append_line(path: Path, line: str) -> None:
    """Append ``line`` in one write, so that lines of several processes never mix.

    A last line that an interrupted write left open is closed first: it stays broken, and alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        open_end = False
        if os.fstat(handle).st_size:
            os.lseek(handle, -1, os.SEEK_END)
            open_end = os.read(handle, 1) != b"\n"
        os.write(handle, (b"\n" if open_end else b"") + line.encode() + b"\n")
    finally:
        os.close(handle)

"""Where evidence lies, and how it is written so that a crash leaves no half of it."""

from __future__ import annotations

import os
import tempfile
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


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` as a whole: a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(temporary).chmod(0o644)  # mkstemp makes it private
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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

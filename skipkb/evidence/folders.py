"""Where evidence lies."""

from __future__ import annotations

from pathlib import Path

from skipkb.catalog.paths import source_dir


def evidence_dir() -> Path:
    """The committed evidence: a directory for each device, counts/ and skips/."""
    return source_dir() / "evidence"


def build_dir() -> Path:
    """Results of runs on this machine, not committed."""
    source = source_dir()
    root = source.parent if source.name == "catalog" else Path.cwd()
    return root / "build" / "evidence"

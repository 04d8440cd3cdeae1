"""Fixtures: a small catalogue in a temporary directory, and the index pointed at it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skipkb.catalog import index, loading, paths

sys.path.insert(0, str(Path(__file__).parent))  # for `import sample`

import sample


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a test may write a catalogue."""
    return tmp_path / "catalog"


@pytest.fixture
def install(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes a catalogue (as ``sample.write`` does) and has search, get and all the rest use it."""
    monkeypatch.setattr(paths, "source_dir", lambda: directory)
    monkeypatch.setattr(paths, "index_candidates", lambda: [tmp_path / "build" / "index.sqlite"])

    def write(*works: dict[str, Any], **options: Any) -> Path:
        sample.write(directory, *works, **options)
        index.forget()
        return directory

    yield write
    index.forget()


@pytest.fixture
def problems_of(directory: Path) -> Callable[..., list[str]]:
    """Writes a catalogue and gives its problems as the lines a user sees."""

    def read(*works: dict[str, Any], **options: Any) -> list[str]:
        sample.write(directory, *works, **options)
        return [str(problem) for problem in loading.read(directory)[1]]

    return read

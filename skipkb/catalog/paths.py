"""Where the catalogue's files are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def source_dir() -> Path:
    """The directory that holds survey.yaml, references.bib and the entries."""
    checkout = PACKAGE.parent / "catalog"
    return checkout if (checkout / "survey.yaml").is_file() else PACKAGE / "_catalog"


def index_candidates() -> list[Path]:
    """Places for the compiled index, best first: with the sources, else in the user's cache."""
    source = source_dir()
    beside = source / "index.sqlite" if source.name == "_catalog" else source.parent / "build" / "index.sqlite"
    try:
        return [beside, user_cache_dir() / "index.sqlite"]
    except RuntimeError:  # a user without a home directory, as in some containers
        return [beside]


def user_cache_dir() -> Path:
    """The platform's cache directory for skipkb (not created here).

    Raises:
        RuntimeError: when the user has no home directory.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))  # the specification has relative paths ignored
        base = named if named.is_absolute() else Path.home() / ".cache"
    return base / "skipkb"

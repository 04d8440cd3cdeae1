"""For all tests: one thread per process, in CI the same examples every time, and only the entries asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

CATALOGUE = Path(__file__).resolve().parents[1] / "catalog"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With SKIPKB_ENTRIES="resnet unet" the tests of other entries are left out, and counted as deselected."""
    wanted = os.environ.get("SKIPKB_ENTRIES")
    if wanted is None:
        return
    others = [item for item in items if (key := entry_of(item)) and key not in wanted.split()]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def entry_of(item: pytest.Item) -> str | None:
    """The entry that a test is about: by its file in models/ and parity/, its peer there, its record in golden/."""
    folder, name = item.path.parent.name, item.path.stem.removeprefix("test_")
    if folder in ("models", "parity") and any(CATALOGUE.glob(f"*/{name}.yaml")):
        return name
    call = getattr(item, "callspec", None)
    subject = call.params.get({"golden": "record", "parity": "pair"}.get(folder, "")) if call else None
    return subject.key if subject else None

"""A catalogue of toys: one entry per class of toy_models, with figures that are right unless a test says otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from skipkb.catalog.entry import Entry

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

ENTRY = """
key: KEY
name: KEY
kind: method
contribution: A toy.
description: A toy of the tests.
paper: nobody2026toy
survey: {}
tasks: [classification]
variants:
  - name: KEY-full
    title: KEY at full width
    build: toy_models:CLASS
    kwargs: {width: 16}
    input: [1, 3, 32, 32]
    output: [1, 4]
    # stem 3*16*9 + 16, body 16*16*9 + 16, head 16*4 + 4
    parameters: 2836
    # stem 3*16*9*1024, body 16*16*9*1024, head 64
    macs: 2801728
    skips: {add: 1, identity: 1}
smoke:
  build: toy_models:CLASS
  input: [4, 3, 16, 16]
  data: classification
  data_kwargs: {num_classes: 4}
  objective: toy_models:objective
  steps: 8
  learning_rate: 0.03
"""


@pytest.fixture(autouse=True)
def workers_find_the_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def toy() -> Callable[..., Entry]:
    """Makes the entry of a toy class; ``variant`` and ``smoke`` replace single fields."""

    def make(name: str, *, variant: dict[str, Any] | None = None, smoke: dict[str, Any] | None = None) -> Entry:
        data = yaml.safe_load(ENTRY.replace("CLASS", name).replace("KEY", name.lower()))
        data["variants"][0] |= variant or {}
        data["smoke"] |= smoke or {}
        return Entry.model_validate(data)

    return make

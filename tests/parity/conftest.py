"""For all parity tests: the same random numbers every time, and shared assertions that say what they found."""

from __future__ import annotations

import pytest
import torch

pytest.register_assert_rewrite("tests.parity.compare")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)

"""docs/skips.md says what a trace finds; here its examples run."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "skips.md"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_example_of_the_guide_holds() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.attempted > 55
    assert not result.failed

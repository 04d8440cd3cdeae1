"""A depth gives the number of blocks, or the nearest depths that do."""

from __future__ import annotations

import pytest

from skipkb.nn.depth import blocks_of_depth


@pytest.mark.parametrize(
    ("depth", "step", "rest", "n"), [(8, 6, 2, 1), (110, 6, 2, 18), (28, 6, 4, 4), (164, 9, 2, 18)]
)
def test_depths_that_there_are(depth: int, step: int, rest: int, n: int) -> None:
    assert blocks_of_depth("M", depth, step, rest) == n


@pytest.mark.parametrize(("depth", "near"), [(2, (8, 14)), (-3, (8, 14)), (9, (8, 14)), (57, (56, 62))])
def test_depths_that_there_are_not(depth: int, near: tuple[int, int]) -> None:
    with pytest.raises(
        ValueError, match=f"^M: depth must be 6n\\+2, got {depth}; the nearest are {near[0]} and {near[1]}$"
    ):
        blocks_of_depth("M", depth, 6, 2)

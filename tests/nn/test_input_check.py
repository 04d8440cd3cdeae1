"""The check of pictures lets through what fits, names what does not, and does not stand in the way of a compiler."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from skipkb.nn.input_check import check_pictures


@pytest.mark.parametrize(
    ("shape", "rules", "message"),
    [
        ((2, 3, 8), {}, "M: expected input [N, 3, H, W], got [2, 3, 8]"),
        ((2, 1, 8, 8), {}, "M: expected input [N, 3, H, W], got [2, 1, 8, 8]"),
        ((2, 3, 0, 8), {}, "M: expected input [N, 3, H, W], got [2, 3, 0, 8]"),
        ((2, 3, 8, 0), {"multiple": 4}, "M: expected input [N, 3, H, W] with H and W multiples of 4, got [2, 3, 8, 0]"),
        ((2, 3, 8, 6), {"least": 7}, "M: expected input [N, 3, H, W] with H and W at least 7, got [2, 3, 8, 6]"),
        ((2, 3, 6, 8), {"least": 7}, "M: expected input [N, 3, H, W] with H and W at least 7, got [2, 3, 6, 8]"),
        ((2, 3, 8, 6), {"multiple": 4}, "M: expected input [N, 3, H, W] with H and W multiples of 4, got [2, 3, 8, 6]"),
        ((2, 3, 6, 8), {"multiple": 4}, "M: expected input [N, 3, H, W] with H and W multiples of 4, got [2, 3, 6, 8]"),
        ((2, 3, 8, 9), {"size": (8, 8)}, "M: expected input [N, 3, 8, 8], got [2, 3, 8, 9]"),
        ((2, 1, 8, 8), {"size": (8, 8)}, "M: expected input [N, 3, 8, 8], got [2, 1, 8, 8]"),
        (
            (2, 3, 4, 4),
            {"least": 8, "multiple": 4},
            "M: expected input [N, 3, H, W] with H and W at least 8 and multiples of 4, got [2, 3, 4, 4]",
        ),
    ],
)
def test_what_does_not_fit_is_named(shape: tuple[int, ...], rules: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_pictures("M", torch.empty(shape), 3, **rules)  # type: ignore[arg-type]


@pytest.mark.parametrize("rules", [{}, {"least": 8}, {"multiple": 4}, {"least": 4, "multiple": 8}, {"size": (8, 16)}])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_fits_passes(rules: dict[str, int], device: str) -> None:
    check_pictures("M", torch.empty(1, 3, 8, 16, device=device), 3, **rules)  # type: ignore[arg-type]


class Checked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        check_pictures(type(self).__name__, x, 3, least=2, multiple=2)
        return x + 1


def test_an_exported_model_takes_other_sizes() -> None:
    """The check leaves no guard on the size behind, but that it is a multiple."""
    side = torch.export.Dim("half", min=2, max=64)
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = ({0: batch, 2: 2 * side, 3: 2 * side},)
    program = torch.export.export(Checked(), (torch.rand(2, 3, 8, 8),), dynamic_shapes=shapes)
    x = torch.rand(3, 3, 12, 12)
    torch.testing.assert_close(program.module()(x), x + 1)

"""ESPNet-C of pytorchcv enlarges its scores to the size of the picture; the authors' gives them at an eighth of it."""

from __future__ import annotations

from torch import Tensor, nn


class Coarse(nn.Module):
    """In the place of the interpolation."""

    def forward(self, x: Tensor, size: object = None) -> Tensor:
        return x


def undo(theirs: nn.Module) -> None:
    """The scores as they are."""
    theirs.up = Coarse()

"""ESPNet-C of pytorchcv enlarges its scores to the picture, and joins the maps of level 3 the other way round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Coarse(nn.Module):
    """In the place of the interpolation."""

    def forward(self, x: Tensor, size: object = None) -> Tensor:
        return x


def undo(theirs: Any) -> None:
    """The scores as they are, and the first map of level 3 in front of the last, as in the authors' code."""
    theirs.up = Coarse()
    unit = theirs.features.stage3.unit

    def forward(x: Tensor) -> Tensor:
        x = unit.down(x)
        return torch.cat([x, unit.blocks(x)], dim=1)

    unit.forward = forward

"""CBAM of pytorchcv updates the statistics of its spatial gates by a tenth, the authors' code by a hundredth."""

from __future__ import annotations

from torch import nn


def undo(theirs: nn.Module) -> None:
    """The authors' momentum in the gates."""
    for name, module in theirs.named_modules():
        if isinstance(module, nn.BatchNorm2d) and "sp_gate" in name:
            module.momentum = 0.01

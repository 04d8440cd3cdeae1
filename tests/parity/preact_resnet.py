"""Pre-activation ResNets of pytorchcv stride in the 3x3 of a bottleneck, the authors' code in the first 1x1."""

from __future__ import annotations

from torch import nn


def undo(theirs: nn.Module) -> None:
    """The authors' place of the stride."""
    for module in theirs.modules():
        if type(module).__name__ == "PreResBottleneck":
            first, second = module.conv1.conv, module.conv2.conv
            first.stride, second.stride = second.stride, first.stride

"""The 1-bit networks of pytorchcv follow a third-party port.

Theirs does not normalise the picture, its average of the shortcut counts zeros outside the picture, its last
normalisation has a learned scale and offset, which start at one and zero, and all keep 0.9 of their running values.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def undo(theirs: Any) -> None:
    """The authors' poolings and normalisations: that of the picture too."""
    last = theirs.output.final_conv.bn
    theirs.output.final_conv.bn = nn.BatchNorm2d(last.num_features, eps=last.eps, affine=False, device="meta")
    theirs.features = nn.Sequential(nn.BatchNorm2d(3, device="meta"), theirs.features)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
        if isinstance(module, nn.AvgPool2d) and module.stride == 2:
            module.count_include_pad = False

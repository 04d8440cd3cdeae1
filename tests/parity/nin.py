"""NIN of pytorchcv pads its poolings at both ends and takes the mean in the second."""

from __future__ import annotations

from typing import Any

from torch import nn


def undo(theirs: Any) -> None:
    """The poolings of the authors' definition."""
    for stage, pool in ((theirs.features.stage2, "pool2"), (theirs.features.stage3, "pool3")):
        assert pool in dict(stage.named_children())
        setattr(stage, pool, nn.MaxPool2d(3, stride=2, ceil_mode=True))

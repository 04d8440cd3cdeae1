"""SENets of pytorchcv pad the first pooling, the authors' round up."""

from __future__ import annotations

from typing import Any

from torch import nn


def undo(theirs: Any) -> None:
    """The authors' pooling."""
    assert isinstance(theirs.features.init_block.pool, nn.MaxPool2d)
    theirs.features.init_block.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)

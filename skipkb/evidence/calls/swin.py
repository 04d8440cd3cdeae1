"""UPerNet with Swin-T: the maps of the trunk are recorded too."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def call(model: Any, inputs: list[Tensor]) -> list[Tensor]:
    """The scores, those of the auxiliary classifier, and the four maps [N, C, H, W]."""
    found = model(*inputs)
    return [found["out"], found["aux"], *(x.permute(0, 3, 1, 2) for x in model.backbone.maps(*inputs))]

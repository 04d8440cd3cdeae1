"""Swin of timm and torchvision keeps masks and indices out of the state dict, or in another shape.

torchvision also draws its stochastic depth in another way, which is left out.
"""

from __future__ import annotations

import re
from typing import Any

from skipkb.models.segmentation.swin import shift_mask


def our_name(name: str) -> str:
    """Our name for one of theirs: timm has a merging in front of a stage, torchvision counts it as one."""
    name = re.sub(r"^layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
    name = re.sub(r"^features\.0\.(\d)", lambda found: f"patch_embed.{'proj' if found[1] == '0' else 'norm'}", name)
    name = re.sub(r"^features\.(\d)\.(\d+)\.", lambda found: f"layers.{int(found[1]) // 2}.blocks.{found[2]}.", name)
    name = re.sub(r"^features\.(\d)\.", lambda found: f"layers.{int(found[1]) // 2 - 1}.downsample.", name)
    name = re.sub(r"\.mlp\.(0|3)\.", lambda found: f".mlp.fc{1 if found[1] == '0' else 2}.", name)
    return name.replace("head.fc.", "head.")


def undo(theirs: Any) -> None:
    """The authors' buffers, for pictures of 224 pixels."""
    for name, module in theirs.named_modules():
        kind = type(module).__name__
        if kind in ("WindowAttention", "SwinTransformerBlock"):  # timm, and torchvision's block
            module._non_persistent_buffers_set.clear()
        if kind == "ShiftedWindowAttention":
            size = module.window_size[0] ** 2
            module.relative_position_index = module.relative_position_index.view(size, size)
            side = 56 // 2 ** (int(name.split(".")[1]) // 2)
            if module.shift_size[0] and side > module.window_size[0]:
                block = theirs.get_submodule(name.removesuffix(".attn"))
                block.register_buffer("attn_mask", shift_mask(side, side, 7, 3))
        if kind == "StochasticDepth":
            module.p = 0.0

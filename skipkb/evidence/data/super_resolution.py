"""Photographs reduced in size, and as they were."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from skipkb.evidence.data.sources import picture_shape, pixel_crops


def batch(shape: Sequence[int], *, scale: int = 2) -> tuple[Tensor, Tensor]:
    """Photographs reduced by antialiased bicubic interpolation, and the originals [N, C, s*H, s*W]."""
    count, channels, height, width = picture_shape(shape)
    if scale < 1:
        raise ValueError(f"scale is {scale}; it is a whole number of at least 1")
    large = pixel_crops((count, channels, scale * height, scale * width))
    small = F.interpolate(large, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(0, 1), large


def misfit(output: Tensor, target: Tensor) -> str | None:
    """What was wanted, if the output is not pictures of the target's shape."""
    return None if output.shape == target.shape else f"{list(target.shape)}"

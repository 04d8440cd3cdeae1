"""Photographs with noise, and without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipkb.evidence.data.sources import pixel_crops


def batch(shape: Sequence[int], *, sigma: float = 25.0) -> tuple[Tensor, Tensor]:
    """Photographs with white Gaussian noise, and the clean ones [N, C, H, W].

    ``sigma`` is the standard deviation on the scale 0..255. As in the benchmarks the noise is not
    clipped, so here the input leaves [0, 1] a little; the clean target does not.
    """
    if not 0 <= sigma <= 255:
        raise ValueError(f"sigma is {sigma}; it is given on the scale 0..255")
    clean = pixel_crops(shape)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    return clean + noise * (sigma / 255), clean


def misfit(output: Tensor, target: Tensor) -> str | None:
    """What was wanted, if the output is not pictures of the target's shape."""
    return None if output.shape == target.shape else f"{list(target.shape)}"

"""Noise, and photographs that are to be made of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipkb.evidence.data.sources import photograph


def batch(shape: Sequence[int], *, size: int = 32) -> tuple[Tensor, Tensor]:
    """Normally distributed noise [N, L], and as many photographs [N, 3, size, size] in [0, 1]."""
    if size < 1:
        raise ValueError(f"size is {size}; pictures have at least one pixel")
    return inputs(shape), photograph((shape[0], 3, size, size))


def inputs(shape: Sequence[int]) -> Tensor:
    """The noise alone."""
    if len(shape) != 2 or any(edge < 1 for edge in shape):
        raise ValueError(f"shape is {list(shape)}; noise has the shape [N, L]")
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(6))


def misfit(output: Tensor, target: Tensor) -> str | None:
    """What was wanted, if the output is not pictures like the real ones."""
    return None if output.shape == target.shape else f"{list(target.shape)}"

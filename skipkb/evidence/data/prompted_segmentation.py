"""One coin each, pointed at: a picture, clicked points, and the mask of what was meant."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipkb.evidence.data import detection, segmentation
from skipkb.evidence.data.sources import photograph

POINTS = 2
"""One on the coin, one beside it."""


def batch(shape: Sequence[int]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Pictures, points and their labels, and masks LongTensor [N, H, W]: 1 on the coin that is meant.

    The pictures are those of the segmentation batch. Points are float32 [N, 2, 2] as (x, y) in pixels, the first in
    the middle of the coin and the second in the upper left corner; labels LongTensor [N, 2], 1 for a point on it, 0
    for one beside it.
    """
    x, masks = segmentation.batch(shape)
    _, found = detection.batch(shape)
    points, target = [], []
    for mask, seen in zip(masks, found, strict=True):
        left, top, right, bottom = seen["boxes"][len(seen["boxes"]) // 2].tolist()
        meant = torch.zeros_like(mask)
        rows, columns = slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)
        meant[rows, columns] = mask[rows, columns]
        points.append([[(left + right) / 2, (top + bottom) / 2], [0.0, 0.0]])
        target.append(meant)
    return (x, torch.tensor(points), _labels(len(x))), torch.stack(target)


def inputs(shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Photographs, with a point in the middle and one in the corner."""
    x = photograph(shape)
    middle = torch.tensor([[shape[3] / 2, shape[2] / 2], [0.0, 0.0]])
    return x, middle.expand(len(x), -1, -1).clone(), _labels(len(x))


def blank(shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes and types only."""
    return torch.empty(shape), torch.empty(shape[0], POINTS, 2), torch.empty(shape[0], POINTS, dtype=torch.long)


def misfit(output: Tensor, target: Tensor) -> str | None:
    """What was wanted, if the output is not one mask (or several) for each picture."""
    count, height, width = target.shape
    fits = output.dim() == 4 and len(output) == count and output.shape[2:] == (height, width)
    return None if fits else f"[{count}, masks, {height}, {width}]"


def _labels(count: int) -> Tensor:
    return torch.tensor([1, 0]).expand(count, -1).clone()

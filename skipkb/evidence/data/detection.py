"""Coins, each in a box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipkb.evidence.data.sources import all_coins, coin_windows, picture_shape, resize

COIN = 1  # the only label; 0 is left to the background


def batch(shape: Sequence[int]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Windows of a photograph of 24 coins, and one ``{boxes, labels}`` per window.

    ``boxes`` is float32 [M, 4], the corners (x1, y1, x2, y2) in pixels of the returned picture;
    ``labels`` is a LongTensor [M] of ones, 0 being the background. A coin of which less than half
    lies inside the window has no box. M is at least 1.
    """
    count, channels, height, width = picture_shape(shape)
    coins, _, boxes = all_coins()
    x, target = [], []
    for top, left, rows, columns in coin_windows(count, height, width):
        window = coins[:, top : top + rows, left : left + columns]
        x.append(resize(window[None], height, width)[0].expand(channels, -1, -1))
        moved = boxes - torch.tensor([left, top, left, top])
        clipped = moved.clone()
        clipped[:, 0::2] = moved[:, 0::2].clamp(0, columns)
        clipped[:, 1::2] = moved[:, 1::2].clamp(0, rows)
        seen = clipped[_area(clipped) >= 0.5 * _area(moved)]
        scale = torch.tensor([width / columns, height / rows]).repeat(2)
        labels = torch.full((len(seen),), COIN, dtype=torch.long)
        target.append({"boxes": seen * scale, "labels": labels})
    return torch.stack(x), target


def misfit(output: Tensor, target: list[dict[str, Tensor]]) -> str | None:
    """Boxes come in many forms, which the objective knows."""
    return None


def _area(boxes: Tensor) -> Tensor:
    """Area of each box (x1, y1, x2, y2)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

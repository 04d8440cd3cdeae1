"""Coins, and which pixels they cover."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipkb.evidence.data.sources import all_coins, coin_windows, picture_shape, resize


def batch(
    shape: Sequence[int], *, num_classes: int = 2, output_size: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Windows of a photograph of 24 coins, and masks LongTensor [N, H', W']: 1 on a coin, else 0.

    ``output_size`` [H', W'] is a centre crop of the mask, for networks without padding; the default
    is the size of the input.
    """
    count, channels, height, width = picture_shape(shape)
    if num_classes != 2:
        raise ValueError(f"num_classes is {num_classes}; the mask has 2 classes, background and coin")
    out_height, out_width = output_size or (height, width)
    if out_height > height or out_width > width:
        raise ValueError(f"output_size {out_height}x{out_width} is larger than the input {height}x{width}")
    coins, mask, _ = all_coins()
    x, target = [], []
    for top, left, rows, columns in coin_windows(count, height, width):
        both = torch.cat([coins, mask])[:, top : top + rows, left : left + columns]
        image, covered = resize(both[None], height, width)[0]
        y0, x0 = (height - out_height) // 2, (width - out_width) // 2
        x.append(image.expand(channels, -1, -1))
        target.append((covered[y0 : y0 + out_height, x0 : x0 + out_width] > 0.5).long())
    return torch.stack(x), torch.stack(target)


def misfit(output: Tensor, target: Tensor) -> str | None:
    """What was wanted, if the output is not logits for each pixel of the target [N, H, W]."""
    count, height, width = target.shape
    fits = output.dim() == 4 and len(output) == count and output.shape[2:] == (height, width)
    return None if fits else f"[{count}, classes, {height}, {width}]"

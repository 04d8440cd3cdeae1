"""One coin each, pointed at: a picture, clicked points, a box, and the mask of what was meant."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipkb.evidence.data.sources import all_coins, photograph, picture_shape, resize

POINTS = 2
"""One on the coin, one beside it."""


def batch(shape: Sequence[int]) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Pictures, points and their labels, boxes, and masks LongTensor [N, H, W]: 1 on the coin that is meant.

    Each picture is cut around another coin and shows parts of its neighbours too. Points are float32 [N, 2, 2], (x, y)
    in pixels, the first in the middle of the coin and the second in the upper left corner; labels LongTensor [N, 2], 1
    for a point on it, 0 for one beside it; boxes float32 [N, 4] as (left, top, right, bottom).
    """
    count, channels, height, width = picture_shape(shape)
    photo, covered, found = all_coins()
    rows = min(80, photo.shape[1], photo.shape[2] * height // width)
    columns = max(1, rows * width // height)
    x, points, boxes, target = [], [], [], []
    for i in range(count):
        left, top, right, bottom = found[i * 7 % len(found)].long().tolist()
        down = min(max((top + bottom - rows) // 2, 0), photo.shape[1] - rows)
        across = min(max((left + right - columns) // 2, 0), photo.shape[2] - columns)
        meant = torch.zeros_like(covered)
        meant[:, top:bottom, left:right] = covered[:, top:bottom, left:right]
        both = torch.cat([photo, meant])[:, down : down + rows, across : across + columns]
        image, mask = resize(both[None], height, width)[0]
        scale = torch.tensor([width / columns, height / rows]).repeat(2)
        box = (found[i * 7 % len(found)] - torch.tensor([across, down, across, down])) * scale
        box = box.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        x.append(image.expand(channels, -1, -1))
        points.append(torch.stack([(box[:2] + box[2:]) / 2, torch.zeros(2)]))
        boxes.append(box)
        target.append((mask > 0.5).long())
    return (torch.stack(x), torch.stack(points), _labels(count), torch.stack(boxes)), torch.stack(target)


def inputs(shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Photographs, with a point in the middle, one in the corner, and a box around the inner half."""
    x = photograph(shape)
    middle = torch.tensor([[shape[3] / 2, shape[2] / 2], [0.0, 0.0]])
    box = torch.tensor([shape[3] / 4, shape[2] / 4, 3 * shape[3] / 4, 3 * shape[2] / 4])
    return x, middle.expand(len(x), -1, -1).clone(), _labels(len(x)), box.expand(len(x), -1).clone()


def blank(shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shapes and types only."""
    count = shape[0]
    labels = torch.empty(count, POINTS, dtype=torch.long)
    return torch.empty(shape), torch.empty(count, POINTS, 2), labels, torch.empty(count, 4)


def misfit(output: Tensor, target: Tensor) -> str | None:
    """What was wanted, if the output is not one mask (or several) for each picture."""
    count, height, width = target.shape
    fits = output.dim() == 4 and len(output) == count and output.shape[2:] == (height, width)
    return None if fits else f"[{count}, masks, {height}, {width}]"


def _labels(count: int) -> Tensor:
    return torch.tensor([1, 0]).expand(count, -1).clone()

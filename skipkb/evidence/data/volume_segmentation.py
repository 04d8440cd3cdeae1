"""The stereo photographs of a motorcycle as a volume: which voxels lie behind the surface that is seen.

The volume has the axes (disparity, height, width). A voxel holds how much the two photographs differ, if its pixel
were at that disparity; it is behind the surface if the measured disparity is larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from skipkb.evidence.data.sources import draw, stereo


def batch(shape: Sequence[int], *, num_classes: int = 2) -> tuple[Tensor, Tensor]:
    """Volumes [N, 1, D, H, W] of differences in [0, 1], and labels LongTensor [N, D, H, W]: 1 behind the surface."""
    count, depth, height, width = _volume_shape(shape)
    if num_classes != 2:
        raise ValueError(f"num_classes is {num_classes}; the volume has 2 classes, in front and behind")
    left, right, disparity = stereo()
    furthest = int(disparity.max()) + 1
    generator = torch.Generator().manual_seed(5)
    x, target = [], []
    for _ in range(count):
        rows = min(left.shape[1], max(height, left.shape[1] // 2))
        columns = min(left.shape[2] - furthest, max(width, left.shape[2] // 2))
        top = int(draw(generator, 0, left.shape[1] - rows + 1))
        start = int(draw(generator, furthest, left.shape[2] - columns + 1))
        window = slice(top, top + rows), slice(start, start + columns)
        known = disparity[window]
        planes = torch.linspace(0, furthest, depth).round().long().tolist()
        differences = [
            (left[:, window[0], window[1]] - right[:, window[0], start - d : start - d + columns]).abs().mean(0)
            for d in planes
        ]
        volume = torch.stack(differences)[None, None]
        x.append(F.interpolate(volume, (depth, height, width), mode="trilinear", align_corners=False)[0])
        nearest = F.interpolate(known[None, None], (height, width), mode="nearest")[0, 0]
        target.append((nearest > torch.tensor(planes).view(-1, 1, 1)).long())
    return torch.stack(x), torch.stack(target)


def inputs(shape: Sequence[int]) -> Tensor:
    """Volumes as :func:`batch` has them."""
    return batch(shape)[0]


def misfit(output: Tensor, target: Tensor) -> str | None:
    """What was wanted, if the output is not logits for each voxel of the target [N, D, H, W]."""
    count, *size = target.shape
    fits = output.dim() == 5 and len(output) == count and list(output.shape[2:]) == size
    return None if fits else f"[{count}, classes, {', '.join(map(str, size))}]"


def _volume_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    if len(shape) != 5 or any(size < 1 for size in shape) or shape[1] != 1:
        raise ValueError(f"shape is {list(shape)}; volumes have the shape [N, 1, D, H, W]")
    count, _, depth, height, width = shape
    return count, depth, height, width

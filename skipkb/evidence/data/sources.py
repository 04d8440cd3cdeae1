"""The real pictures themselves, and how windows are cut from them.

Every picture is shipped inside the scikit-image and scikit-learn wheels. Images are float32 tensors [C, H, W] with
values in [0, 1]; C is 1 (luminance) or 3 (RGB).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Ten colour photographs that look nothing like each other; the last two cost an import of sklearn.
PHOTOGRAPHS = (
    "astronaut",
    "chelsea",  # a cat
    "coffee",
    "rocket",
    "motorcycle",
    "retina",
    "immunohistochemistry",
    "hubble_deep_field",
    "china",
    "flower",
)
LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601


def photograph(shape: Sequence[int]) -> Tensor:
    """N different photographs [N, C, H, W] in [0, 1], each scaled as little as its crop allows."""
    count, channels, height, width = picture_shape(shape)
    generator = torch.Generator().manual_seed(1)
    pictures = [photographed(PHOTOGRAPHS[i % len(PHOTOGRAPHS)], channels) for i in range(count)]
    return torch.stack([random_window(picture, height, width, generator) for picture in pictures])


@functools.cache
def photographed(name: str, channels: int) -> Tensor:
    """One photograph [C, H, W] in [0, 1]; one channel is its luminance."""
    import skimage

    data: Any = skimage.data  # it declares no types
    if name == "motorcycle":
        image = data.stereo_motorcycle()[0]
    elif name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
    else:
        image = getattr(data, name)()
    rgb = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return rgb if channels == 3 else (rgb * LUMINANCE).sum(0, keepdim=True)


@functools.cache
def all_digits() -> tuple[Tensor, Tensor]:
    """The 1797 handwritten digits of scikit-learn: images [1797, 1, 8, 8] in [0, 1] and labels [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    return images, torch.from_numpy(digits.target).long()


@functools.cache
def all_coins() -> tuple[Tensor, Tensor, Tensor]:
    """24 coins: photograph [1, 303, 384], mask [1, 303, 384] in {0, 1}, boxes [24, 4] (x1, y1, x2, y2).

    A threshold alone cannot part the coins from the bright upper left of the table, so the two
    certain ranges of grey are grown along the edges (a watershed) and meet at the rims.
    """
    import skimage
    from scipy import ndimage

    ski: Any = skimage  # it declares no types
    image = ski.data.coins()
    seeds = np.zeros_like(image)
    seeds[image < 30] = 1
    seeds[image > 150] = 2
    bright = ski.segmentation.watershed(ski.filters.sobel(image), seeds) == 2
    labelled = ski.measure.label(ndimage.binary_fill_holes(bright))
    regions = [region for region in ski.measure.regionprops(labelled) if region.area > 500]
    mask = np.isin(labelled, [region.label for region in regions])
    boxes = [[left, top, right, bottom] for top, left, bottom, right in (region.bbox for region in regions)]
    picture = torch.from_numpy(image).float().unsqueeze(0) / 255
    return picture, torch.from_numpy(mask).float().unsqueeze(0), torch.tensor(boxes, dtype=torch.float32)


@functools.cache
def stereo() -> tuple[Tensor, Tensor, Tensor]:
    """A motorcycle seen by two cameras: left and right photograph [3, 500, 741], and how many pixels further left each
    pixel of the left one is seen by the right camera [500, 741]; where that was not measured, as at the nearest pixel
    where it was."""
    import skimage
    from scipy import ndimage

    data: Any = skimage.data  # it declares no types
    left, right, disparity = data.stereo_motorcycle()
    nearest = ndimage.distance_transform_edt(~np.isfinite(disparity), return_distances=False, return_indices=True)
    first, second = (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in (left, right))
    return first, second, torch.from_numpy(disparity[tuple(nearest)]).float()


# ----------------------------------------------------------------------------- cutting and scaling


def picture_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """The shape [N, C, H, W] in its parts.

    Raises:
        ValueError: it is not one of pictures.
    """
    if len(shape) != 4 or any(size < 1 for size in shape):
        raise ValueError(f"shape is {list(shape)}; pictures have the shape [N, C, H, W]")
    if shape[1] not in (1, 3):
        raise ValueError(f"shape {list(shape)} asks for {shape[1]} channels; pictures have 1 or 3")
    count, channels, height, width = shape
    return count, channels, height, width


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """[N, C, *, *] -> [N, C, height, width], bilinear, antialiased where it shrinks."""
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


def draw(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def window(
    size: tuple[int, int], height: int, width: int, zoom: float, generator: torch.Generator
) -> tuple[int, int, int, int]:
    """A random window (top, left, rows, columns) in the proportion height:width.

    ``zoom`` 1 is the largest window that fits a picture of ``size`` (rows, columns), 0.5 half as wide.
    """
    unit = zoom * min(size[0] / height, size[1] / width)
    rows, columns = max(1, int(height * unit)), max(1, int(width * unit))
    top = int(draw(generator, 0, size[0] - rows + 1))
    left = int(draw(generator, 0, size[1] - columns + 1))
    return top, left, rows, columns


def random_window(picture: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A window of 60 to 100 % of ``picture`` [C, *, *], scaled to [C, height, width]."""
    size = (picture.shape[1], picture.shape[2])
    top, left, rows, columns = window(size, height, width, draw(generator, 0.6, 1.0), generator)
    return resize(picture[None, :, top : top + rows, left : left + columns], height, width)[0]


def coin_windows(count: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Windows over the coins; the first is as large as it can be, the others are 70 to 100 % of that."""
    generator = torch.Generator().manual_seed(3)
    zooms = [1.0] + [draw(generator, 0.7, 1.0) for _ in range(count - 1)]
    coins, _, _ = all_coins()
    size = (coins.shape[1], coins.shape[2])
    return [window(size, height, width, zoom, generator) for zoom in zooms]


def pixel_crops(shape: Sequence[int]) -> Tensor:
    """Crops [N, C, H, W] of photographs at their own resolution; one that is too small is enlarged."""
    count, channels, height, width = picture_shape(shape)
    generator = torch.Generator().manual_seed(4)
    crops = []
    for i in range(count):
        picture = photographed(PHOTOGRAPHS[i % len(PHOTOGRAPHS)], channels)
        rows, columns = picture.shape[1:]
        grow = max(1.0, height / rows, width / columns)
        picture = resize(picture[None], round(rows * grow), round(columns * grow))[0]
        top = int(draw(generator, 0, picture.shape[1] - height + 1))
        left = int(draw(generator, 0, picture.shape[2] - width + 1))
        crops.append(picture[:, top : top + height, left : left + width])
    return torch.stack(crops)

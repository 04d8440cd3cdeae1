"""Real pictures for the contract: the same small batches on every machine, with no download.

Every picture is shipped inside the scikit-image and scikit-learn wheels. A batch is a pure
function of its arguments: crops are drawn by a generator of their own with a fixed seed, and the
global random state is neither read nor changed.

All images are float32 tensors [N, C, H, W] with values in [0, 1]; C is 1 (luminance) or 3 (RGB).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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
COIN = 1  # the only label of the detection batch; 0 is left to the background
LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601


def batch(task: str, shape: Sequence[int], **kwargs: Any) -> tuple[Tensor, Any]:
    """A fixed batch of real pictures for ``task``.

    Args:
        task: one of ``classification``, ``detection``, ``segmentation``, ``denoising`` and
            ``super-resolution``.
        shape: shape [N, C, H, W] of the network's input, C being 1 or 3.
        kwargs: what the function of the task takes, see there.

    Returns:
        The input [N, C, H, W] in [0, 1] and the target of the task.

    Raises:
        ValueError: for an unknown task or keyword, or a shape that cannot be served.
    """
    try:
        make = TASKS[task]
    except KeyError:
        raise ValueError(f"there is no task {task!r}; tasks are {', '.join(TASKS)}") from None
    _check_shape(shape)
    allowed = make.__kwdefaults__ or {}
    if unknown := sorted(set(kwargs) - set(allowed)):
        raise ValueError(f"{task} takes no {unknown[0]!r}; it takes {', '.join(allowed) or 'no keyword'}")
    return make(shape, **kwargs)


def photograph(shape: Sequence[int]) -> Tensor:
    """N different photographs [N, C, H, W] in [0, 1], each scaled as little as its crop allows."""
    _check_shape(shape)
    count, channels, height, width = shape
    generator = torch.Generator().manual_seed(1)
    pictures = [_photograph(PHOTOGRAPHS[i % len(PHOTOGRAPHS)], channels) for i in range(count)]
    return torch.stack([_random_window(picture, height, width, generator) for picture in pictures])


def classification(shape: Sequence[int], *, num_classes: int = 10, source: str | None = None) -> tuple[Tensor, Tensor]:
    """Pictures and labels LongTensor [N] in [0, num_classes).

    ``source`` is ``photographs`` (label = which photograph a crop was cut from; the default for
    three channels) or ``digits`` (handwritten, scaled up from 8x8; the default for one channel).
    """
    count, channels, height, width = shape
    source = source or ("digits" if channels == 1 else "photographs")
    if not 1 <= num_classes <= 10:
        raise ValueError(f"num_classes is {num_classes}; the pictures show between 1 and 10 classes")
    labels = torch.arange(count) % num_classes
    if source == "photographs":
        generator = torch.Generator().manual_seed(0)
        pictures = [_photograph(PHOTOGRAPHS[label], channels) for label in labels.tolist()]
        crops = [_random_window(picture, height, width, generator) for picture in pictures]
        return torch.stack(crops), labels
    if source == "digits":
        images, digits = _digits()
        taken = [torch.nonzero(digits == label).flatten()[i // num_classes] for i, label in enumerate(labels)]
        x = _resize(images[torch.stack(taken)], height, width)
        return x.expand(-1, channels, -1, -1).clone(), labels
    raise ValueError(f"source is {source!r}; it is 'photographs' or 'digits'")


def detection(shape: Sequence[int]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Windows of a photograph of 24 coins, and one ``{boxes, labels}`` per window.

    ``boxes`` is float32 [M, 4], the corners (x1, y1, x2, y2) in pixels of the returned picture;
    ``labels`` is a LongTensor [M] of ones, 0 being the background. A coin of which less than half
    lies inside the window has no box. M is at least 1.
    """
    count, channels, height, width = shape
    coins, _, boxes = _coins()
    x, target = [], []
    for top, left, rows, columns in _coin_windows(count, height, width):
        window = coins[:, top : top + rows, left : left + columns]
        x.append(_resize(window[None], height, width)[0].expand(channels, -1, -1))
        moved = boxes - torch.tensor([left, top, left, top])
        clipped = moved.clone()
        clipped[:, 0::2] = moved[:, 0::2].clamp(0, columns)
        clipped[:, 1::2] = moved[:, 1::2].clamp(0, rows)
        seen = clipped[_area(clipped) >= 0.5 * _area(moved)]
        scale = torch.tensor([width / columns, height / rows]).repeat(2)
        labels = torch.full((len(seen),), COIN, dtype=torch.long)
        target.append({"boxes": seen * scale, "labels": labels})
    return torch.stack(x), target


def segmentation(
    shape: Sequence[int], *, num_classes: int = 2, output_size: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Windows of a photograph of 24 coins, and masks LongTensor [N, H', W']: 1 on a coin, else 0.

    ``output_size`` [H', W'] is a centre crop of the mask, for networks without padding; the default
    is the size of the input.
    """
    count, channels, height, width = shape
    if num_classes != 2:
        raise ValueError(f"num_classes is {num_classes}; the mask has 2 classes, background and coin")
    out_height, out_width = output_size or (height, width)
    if out_height > height or out_width > width:
        raise ValueError(f"output_size {out_height}x{out_width} is larger than the input {height}x{width}")
    coins, mask, _ = _coins()
    x, target = [], []
    for top, left, rows, columns in _coin_windows(count, height, width):
        both = torch.cat([coins, mask])[:, top : top + rows, left : left + columns]
        image, covered = _resize(both[None], height, width)[0]
        y0, x0 = (height - out_height) // 2, (width - out_width) // 2
        x.append(image.expand(channels, -1, -1))
        target.append((covered[y0 : y0 + out_height, x0 : x0 + out_width] > 0.5).long())
    return torch.stack(x), torch.stack(target)


def denoising(shape: Sequence[int], *, sigma: float = 25.0) -> tuple[Tensor, Tensor]:
    """Photographs with white Gaussian noise, and the clean ones [N, C, H, W].

    ``sigma`` is the standard deviation on the scale 0..255. As in the benchmarks the noise is not
    clipped, so here the input leaves [0, 1] a little; the clean target does not.
    """
    if not 0 <= sigma <= 255:
        raise ValueError(f"sigma is {sigma}; it is given on the scale 0..255")
    clean = _pixel_crops(shape)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    return clean + noise * (sigma / 255), clean


def super_resolution(shape: Sequence[int], *, scale: int = 2) -> tuple[Tensor, Tensor]:
    """Photographs reduced by antialiased bicubic interpolation, and the originals [N, C, s*H, s*W]."""
    count, channels, height, width = shape
    if scale < 1:
        raise ValueError(f"scale is {scale}; it is a whole number of at least 1")
    large = _pixel_crops((count, channels, scale * height, scale * width))
    small = F.interpolate(large, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(0, 1), large


TASKS: dict[str, Callable[..., tuple[Tensor, Any]]] = {
    "classification": classification,
    "detection": detection,
    "segmentation": segmentation,
    "denoising": denoising,
    "super-resolution": super_resolution,
}


# ---------------------------------------------------------------------------------- the sources


@functools.cache
def _photograph(name: str, channels: int) -> Tensor:
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
def _digits() -> tuple[Tensor, Tensor]:
    """The 1797 handwritten digits of scikit-learn: images [1797, 1, 8, 8] in [0, 1] and labels [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    return images, torch.from_numpy(digits.target).long()


@functools.cache
def _coins() -> tuple[Tensor, Tensor, Tensor]:
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


# ----------------------------------------------------------------------------- cutting and scaling


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) != 4 or any(size < 1 for size in shape):
        raise ValueError(f"shape is {list(shape)}; pictures have the shape [N, C, H, W]")
    if shape[1] not in (1, 3):
        raise ValueError(f"shape {list(shape)} asks for {shape[1]} channels; pictures have 1 or 3")


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    """[N, C, *, *] -> [N, C, height, width], bilinear, antialiased where it shrinks."""
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


def _draw(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _window(
    size: tuple[int, int], height: int, width: int, zoom: float, generator: torch.Generator
) -> tuple[int, int, int, int]:
    """A random window (top, left, rows, columns) in the proportion height:width.

    ``zoom`` 1 is the largest window that fits a picture of ``size`` (rows, columns), 0.5 half as wide.
    """
    unit = zoom * min(size[0] / height, size[1] / width)
    rows, columns = max(1, int(height * unit)), max(1, int(width * unit))
    top = int(_draw(generator, 0, size[0] - rows + 1))
    left = int(_draw(generator, 0, size[1] - columns + 1))
    return top, left, rows, columns


def _random_window(picture: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A window of 60 to 100 % of ``picture`` [C, *, *], scaled to [C, height, width]."""
    size = (picture.shape[1], picture.shape[2])
    top, left, rows, columns = _window(size, height, width, _draw(generator, 0.6, 1.0), generator)
    return _resize(picture[None, :, top : top + rows, left : left + columns], height, width)[0]


def _coin_windows(count: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Windows over the coins; the first is as large as it can be, the others are 70 to 100 % of that."""
    generator = torch.Generator().manual_seed(3)
    zooms = [1.0] + [_draw(generator, 0.7, 1.0) for _ in range(count - 1)]
    coins, _, _ = _coins()
    size = (coins.shape[1], coins.shape[2])
    return [_window(size, height, width, zoom, generator) for zoom in zooms]


def _pixel_crops(shape: Sequence[int]) -> Tensor:
    """Crops [N, C, H, W] of photographs at their own resolution; one that is too small is enlarged."""
    count, channels, height, width = shape
    generator = torch.Generator().manual_seed(4)
    crops = []
    for i in range(count):
        picture = _photograph(PHOTOGRAPHS[i % len(PHOTOGRAPHS)], channels)
        rows, columns = picture.shape[1:]
        grow = max(1.0, height / rows, width / columns)
        picture = _resize(picture[None], round(rows * grow), round(columns * grow))[0]
        top = int(_draw(generator, 0, picture.shape[1] - height + 1))
        left = int(_draw(generator, 0, picture.shape[2] - width + 1))
        crops.append(picture[:, top : top + height, left : left + width])
    return torch.stack(crops)


def _area(boxes: Tensor) -> Tensor:
    """Area of each box (x1, y1, x2, y2)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

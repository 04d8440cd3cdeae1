"""Photographs or handwritten digits, each with its class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipkb.evidence.data.sources import PHOTOGRAPHS, all_digits, photographed, picture_shape, random_window, resize


def batch(shape: Sequence[int], *, num_classes: int = 10, source: str | None = None) -> tuple[Tensor, Tensor]:
    """Pictures and labels LongTensor [N] in [0, num_classes).

    ``source`` is ``photographs`` (label = which photograph a crop was cut from; the default for
    three channels) or ``digits`` (handwritten, scaled up from 8x8; the default for one channel).
    """
    count, channels, height, width = picture_shape(shape)
    source = source or ("digits" if channels == 1 else "photographs")
    if not 1 <= num_classes <= 10:
        raise ValueError(f"num_classes is {num_classes}; the pictures show between 1 and 10 classes")
    labels = torch.arange(count) % num_classes
    if source == "photographs":
        generator = torch.Generator().manual_seed(0)
        pictures = [photographed(PHOTOGRAPHS[label], channels) for label in labels.tolist()]
        crops = [random_window(picture, height, width, generator) for picture in pictures]
        return torch.stack(crops), labels
    if source == "digits":
        images, digits = all_digits()
        taken = [torch.nonzero(digits == label).flatten()[i // num_classes] for i, label in enumerate(labels)]
        x = resize(images[torch.stack(taken)], height, width)
        return x.expand(-1, channels, -1, -1).clone(), labels
    raise ValueError(f"source is {source!r}; it is 'photographs' or 'digits'")


def misfit(output: Tensor, target: Tensor) -> str | None:
    """What was wanted, if the output is not logits for each picture."""
    return None if output.dim() == 2 and len(output) == len(target) else f"[{len(target)}, classes]"

"""MAE: the released forward gives the loss first, of pixels that are not normalised."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skipkb.models.beyond.mae import objective


def call(model: Any, inputs: list[Tensor]) -> list[Tensor]:
    """The loss [1], the pixels of all patches, and the mask."""
    found = model(*inputs)
    return [objective(found, *inputs, norm_pix=False)[None], found["pred"], found["mask"]]

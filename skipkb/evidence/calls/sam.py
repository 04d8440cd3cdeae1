"""SAM: one picture, three prompts. The first input is the picture, the second a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def call(model: Any, inputs: list[Tensor]) -> list[Any]:
    """The image embedding; then masks and IoUs for two points, for a box alone, and for points, box and mask."""
    picture, mask = inputs
    points, labels = torch.tensor([[[60.0, 80.0], [120.0, 40.0]]]), torch.tensor([[1, 0]])
    box = torch.tensor([[20.0, 30.0, 200.0, 180.0]])
    embedding = model.embed(picture)
    return [
        embedding,
        model.decode(embedding, points, labels),
        model.decode(embedding, boxes=box, several=False),
        model.decode(embedding, points, labels, box, mask),
    ]

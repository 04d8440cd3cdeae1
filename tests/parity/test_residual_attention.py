"""Residual Attention Network against pytorchcv: the same weights, the same outputs and gradients.

pytorchcv differs from the authors' definitions in three places without parameters, which are undone here: it pads its
poolings, adds the skips within the mask twice, and adds the trunk to what the mask is computed from. It takes pictures
of 224 x 224 only, because of its last pooling, which is exchanged.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import residual_attention
from tests.parity.compare import same_runs, scramble


@pytest.mark.parametrize("layers", [56, 92])
def test_outputs_and_gradients(layers: int) -> None:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    model: nn.Module = provider.get_model(f"resattnet{layers}", pretrained=False)
    scramble(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)  # with larger ones rounding shows
        elif isinstance(module, nn.MaxPool2d):
            module.padding, module.ceil_mode = 0, True
        elif type(module).__name__ == "DoubleSkipBlock":
            module.forward = module.skip1.forward  # type: ignore[method-assign,union-attr]
        elif type(module).__name__ == "Hourglass":
            module.register_forward_hook(lambda _m, _x, y: (y[0] - y[1], y[1]))
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # type: ignore[union-attr]
    with torch.device("meta"):
        ours = getattr(residual_attention, f"attention{layers}")()
    state, names = model.state_dict(), _names(list(model.state_dict()))
    ours.load_state_dict({names[k]: v for k, v in state.items()}, strict=True, assign=True)
    # in train mode so many layers amplify rounding
    same_runs(ours, model, torch.randn(2, 3, 64, 64), gradient=1e-6, double=True)


def _names(keys: list[str]) -> dict[str, str]:
    """pytorchcv's name -> ours."""
    names = {}
    for key in keys:
        name = key.removeprefix("features.")
        for old, new in (
            ("init_block.conv.conv", "conv1"), ("init_block.conv.bn", "bn1"), ("post_activ.bn", "bn"),
            ("output.", "fc."), ("init_blocks.blocks.", "first."), ("final_block.", "last.0."),
            ("hg.skip_seq.skip1.blocks.", "trunk."), ("middle_block.", "mask."), ("identity_conv", "projection"),
            ("res_blocks.blocks.", ""), ("skip1.body", "body"), ("body.", ""),
        ):  # fmt: skip
            name = name.replace(old, new)
        parts = name.split(".")
        for i, part in enumerate(parts):
            if part.startswith("unit") or part.startswith("block"):
                parts[i] = str(int(part.removeprefix("unit").removeprefix("block")) - 1)
        name = ".".join(parts)
        for kind in ("down", "up", "skip"):
            for level in (1, 2, 3):
                to = f"mask.{kind}.{level - 2 if kind == 'skip' else level - 1}"
                name = name.replace(f"hg.{kind}_seq.{kind}{level}", to)
        for i in (1, 2, 3):
            name = name.replace(f"conv{i}.conv.", f"conv{i}.").replace(f"conv{i}.bn.", f"bn{i}.")
        names[key] = name
    return names

"""DRN against torchvision and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import drn
from tests.parity.compare import in_order, same_runs, scramble


def theirs(library: str, name: str) -> nn.Module:
    if library == "pytorchcv":
        provider: Any = pytest.importorskip("pytorchcv.model_provider")
        model: nn.Module = provider.get_model(name, pretrained=False)
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs has a fixed size
    else:
        model = getattr(pytest.importorskip("torchvision.models"), name)(
            weights=None, replace_stride_with_dilation=[False, True, True]
        )
    scramble(model)
    return model


PEERS = [
    ("torchvision", "drn_a_50", "resnet50", 64),
    ("pytorchcv", "drn_c_26", "drnc26", 48),
    ("pytorchcv", "drn_d_22", "drnd22", 48),
    ("pytorchcv", "drn_d_38", "drnd38", 48),
]


@pytest.mark.parametrize(("library", "name", "peer", "picture"), PEERS)
def test_outputs_and_gradients(library: str, name: str, peer: str, picture: int) -> None:
    model = theirs(library, peer)
    with torch.device("meta"):
        ours = getattr(drn, name)()
    state = model.state_dict()
    if library == "pytorchcv":  # other names, the same order but for the projection
        state = in_order(ours, state, late="downsample")
    ours.load_state_dict(state, strict=True, assign=True)
    same_runs(ours, model, torch.randn(2, 3, picture, picture))

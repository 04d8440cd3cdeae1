"""WRN against torchvision, timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import wrn
from tests.parity.compare import in_order, same_runs, scramble


def theirs(library: str, name: str) -> nn.Module:
    if library == "pytorchcv":
        provider: Any = pytest.importorskip("pytorchcv.model_provider")
        model: nn.Module = provider.get_model(name, pretrained=False)
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs has a fixed size
    elif library == "timm":
        model = pytest.importorskip("timm").create_model(name, pretrained=False)
    else:
        model = getattr(pytest.importorskip("torchvision.models"), name)(weights=None)
    scramble(model)
    return model


PEERS = [
    ("torchvision", "wide_resnet50_2", "wide_resnet50_2", 32),
    ("timm", "wide_resnet50_2", "wide_resnet50_2", 32),
    ("pytorchcv", "wrn28_10", "wrn28_10_cifar10", 12),
]


@pytest.mark.parametrize(("library", "name", "peer", "picture"), PEERS)
def test_outputs_and_gradients(library: str, name: str, peer: str, picture: int) -> None:
    model = theirs(library, peer)
    with torch.device("meta"):
        ours = getattr(wrn, name)()
    state = in_order(ours, model.state_dict()) if library == "pytorchcv" else model.state_dict()
    ours.load_state_dict(state, strict=True, assign=True)
    same_runs(ours, model, torch.randn(4, 3, picture, picture))

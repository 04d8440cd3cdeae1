"""DenseNet against torchvision, timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import densenet
from tests.parity.compare import in_order, same_runs, scramble


def theirs(library: str, name: str) -> nn.Module:
    if library == "pytorchcv":
        provider: Any = pytest.importorskip("pytorchcv.model_provider")
        model: nn.Module = provider.get_model(name, pretrained=False)
    elif library == "timm":
        model = pytest.importorskip("timm").create_model(name, pretrained=False)
    else:
        model = getattr(pytest.importorskip("torchvision.models"), name)(weights=None)
    if library == "pytorchcv":
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs has a fixed size, for large pictures
    scramble(model)
    return model


PEERS = [
    ("torchvision", "densenet121", "densenet121"),
    ("torchvision", "densenet169", "densenet169"),
    ("torchvision", "densenet201", "densenet201"),
    ("torchvision", "densenet161", "densenet161"),
    ("timm", "densenet121", "densenet121"),
    ("pytorchcv", "densenet121", "densenet121"),
    ("pytorchcv", "densenet100_k12_bc", "densenet100_k12_bc_cifar10"),
]


@pytest.mark.parametrize(("library", "name", "peer"), PEERS)
def test_outputs_and_gradients(library: str, name: str, peer: str) -> None:
    model = theirs(library, peer)
    with torch.device("meta"):
        ours = getattr(densenet, name)()
    state = in_order(ours, model.state_dict()) if library == "pytorchcv" else model.state_dict()
    ours.load_state_dict(state, strict=True, assign=True)
    x = torch.randn(2, 3, 32, 32) if "cifar" in peer else torch.randn(2, 3, 64, 64)
    same_runs(ours, model, x)


def test_pytorchcv_compresses_its_plain_net() -> None:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    with torch.device("meta"):
        model = provider.get_model("densenet40_k12_cifar10", pretrained=False)
        ours = densenet.DenseNet(
            growth_rate=12, block_config=(12, 12, 12), num_init_features=24, bn_size=0, stem="cifar", num_classes=10
        )
    assert len(in_order(ours, model.state_dict())) == 236

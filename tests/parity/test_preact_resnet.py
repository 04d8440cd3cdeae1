"""Pre-activation ResNet against pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import preact_resnet
from tests.parity.compare import in_order, same_runs, scramble


def theirs(name: str) -> nn.Module:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    model: nn.Module = provider.get_model(name, pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs has a fixed size
    scramble(model)
    return model


PEERS: list[tuple[str, dict[str, Any]]] = [
    ("preresnet110_cifar10", {"unit": "basic", "layers": (18, 18, 18), "widths": (16, 32, 64)}),
    # Theirs has the stride in the 3x3, also for CIFAR.
    (
        "preresnet164bn_cifar10",
        {"unit": "bottleneck", "layers": (18, 18, 18), "widths": (16, 32, 64), "stride_in": "3x3"},
    ),
]


@pytest.mark.parametrize(("peer", "arguments"), PEERS)
def test_outputs_and_gradients(peer: str, arguments: dict[str, Any]) -> None:
    model = theirs(peer)
    with torch.device("meta"):
        ours = preact_resnet.PreActResNet(**arguments)
    # other names, the same order of layers, but for the projection
    ours.load_state_dict(in_order(ours, model.state_dict(), late="downsample"), strict=True, assign=True)
    same_runs(ours, model, torch.randn(2, 3, 16, 16))

"""PyramidNet against pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import pyramidnet
from tests.parity.compare import in_order, same_runs, scramble


def theirs(name: str) -> nn.Module:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    model: nn.Module = provider.get_model(name, pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs has a fixed size
    scramble(model)
    return model


PEERS = [
    ("pyramidnet110_a48", "pyramidnet110_a48_cifar10", 16),
    ("pyramidnet110_a84", "pyramidnet110_a84_cifar10", 16),
    ("pyramidnet164_a270", "pyramidnet164_a270_bn_cifar10", 8),
    ("pyramidnet272_a200", "pyramidnet272_a200_bn_cifar10", 8),
]


@pytest.mark.parametrize(("name", "peer", "picture"), PEERS)
def test_outputs_and_gradients(name: str, peer: str, picture: int) -> None:
    model = theirs(peer)
    with torch.device("meta"):
        ours = getattr(pyramidnet, name)()
    ours.load_state_dict(in_order(ours, model.state_dict()), strict=True, assign=True)
    same_runs(ours, model, torch.randn(2, 3, picture, picture))

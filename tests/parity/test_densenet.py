"""pytorchcv compresses its plain DenseNet of 40 layers, which the paper does in the BC form only."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from skipkb.models.classification import densenet
from tests.parity.compare import load, renamed


def test_pytorchcv_compresses_its_plain_net() -> None:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    with torch.device("meta"):
        model = provider.get_model("densenet40_k12_cifar10", pretrained=False)
        ours = densenet.DenseNet(
            growth_rate=12, block_config=(12, 12, 12), num_init_features=24, bn_size=0, stem="cifar", num_classes=10
        )
    load(ours, model, renamed(model.state_dict(), "in order", ours.state_dict()))

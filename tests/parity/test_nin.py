"""NIN against pytorchcv, whose poolings are exchanged for those of the authors' definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import nin
from tests.parity.compare import difference, in_order, same_runs


@pytest.mark.parametrize("name", ["nin_cifar10", "nin_cifar100"])
def test_outputs_and_gradients(name: str) -> None:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    theirs = provider.get_model(name, pretrained=False)
    for parameter in theirs.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.1)
    with torch.device("meta"):
        ours = getattr(nin, name)()
    ours.load_state_dict(in_order(ours, theirs.state_dict()), strict=True, assign=True)
    x = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        # theirs pads both ends and takes the mean in the second pooling
        assert difference(ours.eval()(x), theirs.eval()(x)) > 1e-2
    for stage, pool in ((theirs.features.stage2, "pool2"), (theirs.features.stage3, "pool3")):
        setattr(stage, pool, nn.MaxPool2d(3, stride=2, ceil_mode=True))
    same_runs(ours, theirs, x)

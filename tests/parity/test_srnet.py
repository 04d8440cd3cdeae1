"""SRNET has no other build; without its links it is pytorchcv's WRN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification.srnet import SRNet
from tests.parity.compare import difference, in_order, same_runs, scramble


def test_without_links_it_is_pytorchcvs_wrn() -> None:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    model: nn.Module = provider.get_model("wrn16_10_cifar10", pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs has a fixed size
    scramble(model)
    with torch.device("meta"):
        ours = SRNet(depth=16, widen_factor=10, levels=0)
    ours.load_state_dict(in_order(ours, model.state_dict()), strict=True, assign=True)
    x = torch.randn(2, 3, 8, 8)
    linked = SRNet(depth=16, widen_factor=10, levels=3)
    linked.load_state_dict({k: v.clone() for k, v in ours.state_dict().items()}, strict=False)
    with torch.no_grad():
        for link in linked.links.values():
            nn.init.zeros_(link.weight)  # type: ignore[arg-type]
        assert difference(linked.eval()(x), model.eval()(x)) < 1e-5
    same_runs(ours, model, x)

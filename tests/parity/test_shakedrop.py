"""ShakeDrop against pytorchcv: its layer draws one coin per batch and numbers per picture, its PyramidNet is ours."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import shakedrop
from skipkb.models.classification.shakedrop import ShakeDrop, Unit
from tests.parity.compare import difference, load, of_any_size, renamed, scramble


def test_at_test_time_it_is_pytorchcvs_pyramidnet_with_weaker_branches() -> None:
    """p_l on a branch is p_l on scale and shift of its last normalisation."""
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    model: nn.Module = provider.get_model("pyramidnet110_a270_cifar10", pretrained=False)
    of_any_size(model)
    scramble(model)
    with torch.device("meta"):
        ours = shakedrop.shakedrop_pyramidnet110_a270()
    load(ours, copy.deepcopy(model), renamed(model.state_dict(), "in order", ours.state_dict()))
    stages: Any = (model.features.stage1, model.features.stage2, model.features.stage3)
    units = [unit for stage in stages for unit in stage]
    mine = [unit for unit in ours.modules() if isinstance(unit, Unit)]
    with torch.no_grad():
        for unit, own in zip(units, mine, strict=True):
            unit.bn.weight.mul_(own.shake.expectation)
            unit.bn.bias.mul_(own.shake.expectation)
        x = torch.randn(2, 3, 8, 8)
        assert difference(ours.eval()(x), model.eval()(x)) < 1e-5


@pytest.mark.parametrize("coin", [0.0, 1.0])
def test_pytorchcvs_layer(coin: float) -> None:
    """The same coin gives the same kind of factors: one for each picture, in [-1, 1] forward and in [0, 1] backward."""
    module: Any = pytest.importorskip("pytorchcv.models.shakedropresnet_cifar")
    ours = ShakeDrop(survival=1.0 if coin else 1e-12, level="image").train()
    x = torch.ones(500, 2, 3, 3, requires_grad=True)
    alpha = torch.empty(500, 1, 1, 1).uniform_(-1.0, 1.0)
    for y in (ours(x), module.ShakeDrop.apply(x, torch.tensor([coin]), alpha)):
        (gradient,) = torch.autograd.grad(y.sum(), x)
        for values, low in ((y.detach(), -1.0), (gradient, 0.0)):
            assert torch.equal(values, values[:, :1, :1, :1].expand_as(values))
            if coin:
                torch.testing.assert_close(values, torch.ones_like(values))  # theirs computes b + alpha - b alpha
            else:
                assert low <= values.min() < low + 0.05
                assert 0.95 < values.max() <= 1
                assert values.mean().item() == pytest.approx((low + 1) / 2, abs=0.08)

"""Stochastic depth against torchvision's layer, which rescales while training, and pytorchcv's blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from skipkb.models.classification.stochastic_depth import StochasticBlock
from tests.parity.compare import difference, scramble


def scrambled_block(channels: int, survival: float) -> StochasticBlock:
    torch.manual_seed(0)
    block = StochasticBlock(channels, channels, survival=survival)
    scramble(block)
    return block


def test_torchvisions_layer_is_ours_but_for_the_scale() -> None:
    """p times its output while training is our function: there or not, for the whole batch, equally often."""
    ops: Any = pytest.importorskip("torchvision.ops")
    survival = 0.7
    block = scrambled_block(4, survival)
    theirs = ops.StochasticDepth(1 - survival, "batch").train()
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        function = block.eval().function(x)
        block.train()
        block.bn1.eval()
        block.bn2.eval()
        runs = 1500
        ours = [block(x) for _ in range(runs)]
        peers = [F.relu(survival * theirs(function) + x) for _ in range(runs)]
    there = F.relu(function + x)
    counts = []
    for outputs in (ours, peers):
        kept = [difference(y, there) < 1e-5 for y in outputs]
        assert all(difference(y, F.relu(x)) < 1e-5 for y, k in zip(outputs, kept, strict=True) if not k)
        counts.append(sum(kept) / runs)
    assert counts == pytest.approx([survival, survival], abs=0.05)


def test_pytorchcvs_block() -> None:
    """The same weights: while training, theirs divides by p, so that at test time it has f where ours has p f."""
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    unit = provider.get_model("resdropresnet20_cifar10", pretrained=False).features.stage2.unit2.eval()
    block = scrambled_block(32, 1.0).eval()
    names = ["conv1.conv", "conv1.bn", "conv2.conv", "conv2.bn"]
    for name, mine in zip(names, (block.conv1, block.bn1, block.conv2, block.bn2), strict=True):
        unit.body.get_submodule(name).load_state_dict(mine.state_dict())
    inputs = [torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)]
    outputs = [net(x) for net, x in zip((block, unit), inputs, strict=True)]
    assert difference(outputs[0].detach(), outputs[1].detach()) < 1e-5
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y, x in zip(outputs, inputs, strict=True)]
    assert difference(grads[0], grads[1]) < 1e-4

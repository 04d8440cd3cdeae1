"""Shake-Shake against pytorchcv, block by block: its ReLU is behind the sum, ours, as the authors', in front."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from skipkb.models.classification import shake_shake
from tests.parity.compare import difference, load, renamed, scramble


def test_blocks() -> None:
    """On inputs that are not negative both skips are the same, and a ReLU behind ours makes the outputs the same."""
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    model = provider.get_model("shakeshakeresnet26_2x32d_cifar10", pretrained=False)
    scramble(model)
    ours = shake_shake.shake_shake26_2x32d()
    load(ours, model, renamed(model.state_dict(), "in order", ours.state_dict()))
    ours.eval()
    model.eval()
    mine = [block for group in (ours.layer1, ours.layer2, ours.layer3) for block in group]
    stages = (model.features.stage1, model.features.stage2, model.features.stage3)
    theirs = [unit for stage in stages for unit in stage]
    for block, unit in zip(mine, theirs, strict=True):
        channels = block.branch1[0].in_channels  # type: ignore[index,union-attr]
        inputs = [torch.rand(2, channels, 8, 8).requires_grad_() for _ in range(2)]
        inputs[1].data.copy_(inputs[0].data)
        outputs = [F.relu(block(inputs[0])), unit(inputs[1])]
        assert difference(outputs[0].detach(), outputs[1].detach()) < 1e-5
        weight = torch.randn_like(outputs[0])
        grads = [torch.autograd.grad((y * weight).sum(), x)[0] for x, y in zip(inputs, outputs, strict=True)]
        assert difference(grads[0], grads[1]) < 1e-4

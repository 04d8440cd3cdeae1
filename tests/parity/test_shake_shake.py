"""Shake-Shake against pytorchcv, block by block: its ReLU is behind the sum, ours, as the authors', in front."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import shake_shake


def difference(ours: Tensor, peers: Tensor) -> float:
    return ((ours - peers).abs().max() / peers.abs().max()).item()


def test_blocks() -> None:
    """On inputs that are not negative both skips are the same, and a ReLU behind ours makes the outputs the same."""
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = provider.get_model("shakeshakeresnet26_2x32d_cifar10", pretrained=False)
    ours = shake_shake.shake_shake26_2x32d()
    wanted = ours.state_dict()
    assert [v.shape for v in wanted.values()] == [v.shape for v in model.state_dict().values()]
    ours.load_state_dict(dict(zip(wanted, model.state_dict().values(), strict=True)))
    for module in [*ours.modules(), *model.modules()]:
        if isinstance(module, nn.BatchNorm2d):
            torch.manual_seed(module.num_features)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
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

"""The 1-bit wide residual network against pytorchcv: the same weights, the same outputs and gradients.

pytorchcv follows a third-party port and differs in three details, which are undone here: the picture is not normalised,
the average of the shortcut counts zeros outside the picture, and the last normalisation has a learned scale and offset
(they start at one and zero).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import mcdonnell_wrn_1bit


def difference(ours: Tensor, peers: Tensor) -> float:
    return ((ours - peers).abs().max() / peers.abs().max()).item()


@pytest.mark.parametrize("bits", [1, 32])
def test_outputs_and_gradients(bits: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    model: nn.Module = provider.get_model(f"wrn20_10_{bits}bit_cifar10", pretrained=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        elif isinstance(module, nn.AvgPool2d) and module.stride == 2:
            module.count_include_pad = False
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[parameter == 0] = 1e-9  # a few of 26 million weights start at zero, whose sign is a third value
    with torch.device("meta"):
        ours = getattr(mcdonnell_wrn_1bit, f"wrn20_10_{bits}bit")()
    ours.bn_input = nn.Identity()
    state = {
        k: v
        for k, v in model.state_dict().items()
        if k not in ("output.final_conv.bn.weight", "output.final_conv.bn.bias")
    }
    assert [v.shape for v in state.values()] == [v.shape for v in ours.state_dict().values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)), strict=True, assign=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert difference(ours.eval()(x), model.eval()(x)) < 1e-5
    grads = []
    for net in (ours, model):
        net.train()
        x = x.detach().requires_grad_()
        F.cross_entropy(net(x), torch.tensor([1, 2])).backward()
        first = next(p for p in net.parameters() if p.dim() == 4)
        assert first.grad is not None
        grads.append((x.grad, first.grad.clone()))
        net.zero_grad()
        x.grad = None
    for mine, theirs in zip(*grads, strict=True):
        assert difference(mine, theirs) < 1e-4  # type: ignore[arg-type]

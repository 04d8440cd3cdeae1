"""ResNeSt against timm, which carries the authors' names and weights: the same outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import resnest


def difference(ours: Tensor, peers: Tensor) -> float:
    return ((ours - peers).abs().max() / peers.abs().max()).item()


def test_outputs_and_gradients() -> None:
    timm = pytest.importorskip("timm")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = timm.create_model("resnest50d", zero_init_last=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.device("meta"):
        ours = resnest.resnest50()
    ours.load_state_dict(model.state_dict(), strict=True, assign=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert difference(ours.eval()(x), model.eval()(x)) < 1e-5
    grads = []
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)  # the attention normalises over pictures only: two are too few
    for net in (ours.double(), model.double()):
        net.train()
        x = x.detach().requires_grad_()
        F.cross_entropy(net(x), torch.tensor([1, 2, 3, 4])).backward()
        grads.append(x.grad)
        x.grad = None
    assert difference(grads[0], grads[1]) < 1e-4  # type: ignore[arg-type]

"""AlexNet on one GPU against pytorchcv, whose normalisation has PyTorch's alpha: a fifth of the paper's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from skipkb.models.classification import alexnet


def test_outputs_and_gradients() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs = pytest.importorskip("pytorchcv.model_provider").get_model("alexnet", pretrained=False)
    with torch.device("meta"):
        ours = alexnet.AlexNet(groups=1, alpha=1e-4 / 5)
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state, strict=True, assign=True)
    x = torch.rand(2, 3, 227, 227, requires_grad=True)
    results = []
    for model in (ours.eval(), theirs.eval()):
        y = model(x)
        (grad,) = torch.autograd.grad(F.cross_entropy(y, torch.tensor([1, 2])), x)
        results.append((y.detach(), grad))
    for mine, peers in zip(*results, strict=True):
        assert ((mine - peers).abs().max() / peers.abs().max()).item() < 1e-5

"""Inception-ResNet-v2 against timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import inception_resnet


def theirs(library: str) -> nn.Module:
    if library == "pytorchcv":
        provider: Any = pytest.importorskip("pytorchcv.model_provider")
        model: nn.Module = provider.get_model("inceptionresnetv2", pretrained=False)
    else:
        model = pytest.importorskip("timm").create_model("inception_resnet_v2", pretrained=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def difference(ours: Tensor, peers: Tensor) -> float:
    return ((ours - peers).abs().max() / peers.abs().max()).item()


@pytest.mark.parametrize("library", ["timm", "pytorchcv"])
def test_outputs_and_gradients(library: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = theirs(library)
    with torch.device("meta"):
        ours = inception_resnet.inception_resnet_v2(dropout=0)
    state = model.state_dict()
    if library == "pytorchcv":  # other names, the same order
        assert [v.shape for v in state.values()] == [v.shape for v in ours.state_dict().values()]
        state = dict(zip(ours.state_dict(), state.values(), strict=True))
    ours.load_state_dict(state, strict=True, assign=True)
    # pytorchcv averages 8 x 8 places, no less
    x = torch.randn(2, 3, 107, 107) if library == "timm" else torch.randn(1, 3, 299, 299)
    with torch.inference_mode():
        assert difference(ours.eval()(x), model.eval()(x)) < 1e-5
    grads = []
    x = x.double()  # forty blocks in train mode amplify rounding; in float32 the order of two products shows
    for net in (ours, model):
        net.train().double()
        x = x.detach().requires_grad_()
        F.cross_entropy(net(x), torch.arange(len(x))).backward()
        grads.append(x.grad)
        x.grad = None
    assert difference(grads[0], grads[1]) < 1e-6  # type: ignore[arg-type]

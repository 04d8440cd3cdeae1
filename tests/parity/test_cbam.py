"""CBAM against pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import cbam


def difference(ours: Tensor, peers: Tensor) -> float:
    return ((ours - peers).abs().max() / peers.abs().max()).item()


def our_name(key: str) -> str:
    """pytorchcv's name of a tensor in the names of the authors."""
    key = key.replace("features.init_block.conv.", "").replace("output.", "fc.")
    key = re.sub(r"features\.stage(\d)\.unit(\d)\.", lambda place: f"layer{place[1]}.{int(place[2]) - 1}.", key)
    key = key.replace("identity_conv.conv.", "downsample.0.").replace("identity_conv.bn.", "downsample.1.")
    key = re.sub(r"body\.conv(\d)\.(conv|bn)\.", r"\2\1.", key)
    key = key.replace("cbam.ch_gate.mlp.fc1.", "cbam.ChannelGate.mlp.1.")
    key = key.replace("cbam.ch_gate.mlp.fc2.", "cbam.ChannelGate.mlp.3.")
    key = key.replace("cbam.sp_gate.conv.", "cbam.SpatialGate.spatial.")
    return re.sub(r"^(conv|bn)\.", r"\g<1>1.", key)


@pytest.mark.parametrize("name", ["cbam_resnet18", "cbam_resnet50"])
def test_outputs_and_gradients(name: str) -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = provider.get_model(name, pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs is made for 224 x 224 only
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.device("meta"):
        ours = getattr(cbam, name)()
    ours.load_state_dict({our_name(key): value for key, value in model.state_dict().items()}, strict=True, assign=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert difference(ours.eval()(x), model.eval()(x)) < 1e-5
    grads = []
    for net in (ours, model):
        net.train()
        x = x.detach().requires_grad_()
        F.cross_entropy(net(x), torch.tensor([1, 2])).backward()
        grads.append(x.grad)
        x.grad = None
    assert difference(grads[0], grads[1]) < 1e-4  # type: ignore[arg-type]

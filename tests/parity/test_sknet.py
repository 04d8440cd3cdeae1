"""SKNet against timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import sknet


def difference(ours: Tensor, peers: Tensor) -> float:
    return ((ours - peers).abs().max() / peers.abs().max()).item()


def scramble(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)


def compare(ours: nn.Module, model: nn.Module) -> None:
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert difference(ours.eval()(x), model.eval()(x)) < 1e-5
    grads = []
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)  # the selection normalises over pictures only: two are too few
    for net in (ours.double(), model.double()):
        net.train()
        x = x.detach().requires_grad_()
        F.cross_entropy(net(x), torch.tensor([1, 2, 3, 4])).backward()
        grads.append(x.grad)
        x.grad = None
    assert difference(grads[0], grads[1]) < 1e-4  # type: ignore[arg-type]


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = timm.create_model("skresnext50_32x4d")
    scramble(model)
    with torch.device("meta"):
        ours = sknet.sknet50()
    ours.load_state_dict(model.state_dict(), strict=True, assign=True)
    compare(ours, model)


def test_pytorchcv() -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = provider.get_model("sknet50", pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs is made for 224 x 224 only
    scramble(model)
    with torch.device("meta"):
        ours = sknet.sknet50()
    ours.load_state_dict({our_name(key): value for key, value in model.state_dict().items()}, strict=True, assign=True)
    compare(ours, model)


def our_name(key: str) -> str:
    key = re.sub(r"features\.init_block\.conv\.(conv|bn)\.", r"\g<1>1.", key).replace("output.", "fc.")
    key = re.sub(r"features\.stage(\d)\.unit(\d)\.", lambda place: f"layer{place[1]}.{int(place[2]) - 1}.", key)
    key = key.replace("identity_conv.conv.", "downsample.0.").replace("identity_conv.bn.", "downsample.1.")
    key = key.replace("body.conv2.branches.branch2.", "conv2.paths.0.")
    key = key.replace("body.conv2.branches.branch3.", "conv2.paths.1.")
    key = key.replace("body.conv2.fc1.conv.", "conv2.attn.fc_reduce.").replace("body.conv2.fc1.bn.", "conv2.attn.bn.")
    key = key.replace("body.conv2.fc2.", "conv2.attn.fc_select.")
    return key.replace("body.", "")

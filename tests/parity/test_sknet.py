"""SKNet as PyTorch ports have it, against timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from skipkb.models.classification import sknet
from tests.parity.compare import same_runs, scramble


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("skresnext50_32x4d")
    scramble(model)
    with torch.device("meta"):
        ours = sknet.sknet50(port=True)
    ours.load_state_dict(model.state_dict(), strict=True, assign=True)
    same_runs(ours, model, torch.randn(4, 3, 64, 64), double=True)  # the selection normalises over pictures only


def test_pytorchcv() -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    model = provider.get_model("sknet50", pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs is made for 224 x 224 only
    scramble(model)
    with torch.device("meta"):
        ours = sknet.sknet50(port=True)
    ours.load_state_dict({our_name(key): value for key, value in model.state_dict().items()}, strict=True, assign=True)
    same_runs(ours, model, torch.randn(4, 3, 64, 64), double=True)  # the selection normalises over pictures only


def our_name(key: str) -> str:
    key = re.sub(r"features\.init_block\.conv\.(conv|bn)\.", r"\g<1>1.", key).replace("output.", "fc.")
    key = re.sub(r"features\.stage(\d)\.unit(\d)\.", lambda place: f"layer{place[1]}.{int(place[2]) - 1}.", key)
    key = key.replace("identity_conv.conv.", "downsample.0.").replace("identity_conv.bn.", "downsample.1.")
    key = key.replace("body.conv2.branches.branch2.", "conv2.paths.0.")
    key = key.replace("body.conv2.branches.branch3.", "conv2.paths.1.")
    key = key.replace("body.conv2.fc1.conv.", "conv2.attn.fc_reduce.").replace("body.conv2.fc1.bn.", "conv2.attn.bn.")
    key = key.replace("body.conv2.fc2.", "conv2.attn.fc_select.")
    return key.replace("body.", "")

"""CBAM against pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from skipkb.models.classification import cbam
from tests.parity.compare import same_runs, scramble


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
    model = provider.get_model(name, pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs is made for 224 x 224 only
    scramble(model)
    with torch.device("meta"):
        ours = getattr(cbam, name)()
    ours.load_state_dict({our_name(key): value for key, value in model.state_dict().items()}, strict=True, assign=True)
    same_runs(ours, model, torch.randn(2, 3, 64, 64))

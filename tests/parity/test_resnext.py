"""ResNeXt against torchvision, timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.classification import resnext
from tests.parity.compare import same_runs, scramble


def theirs(library: str, name: str) -> nn.Module:
    if library == "pytorchcv":
        provider: Any = pytest.importorskip("pytorchcv.model_provider")
        model: nn.Module = provider.get_model(name, pretrained=False)
    elif library == "timm":
        model = pytest.importorskip("timm").create_model(name, pretrained=False)
    else:
        model = getattr(pytest.importorskip("torchvision.models"), name)(weights=None)
    scramble(model)
    return model


PEERS = [
    ("torchvision", "resnext50_32x4d", "resnext50_32x4d"),
    ("timm", "resnext50_32x4d", "resnext50_32x4d"),
    ("timm", "resnext101_32x4d", "resnext101_32x4d"),
    ("torchvision", "resnext101_64x4d", "resnext101_64x4d"),
    ("torchvision", "resnext101_32x8d", "resnext101_32x8d"),
    ("pytorchcv", "resnext29_16x64d", "resnext29_16x64d_cifar10"),
]


@pytest.mark.parametrize(("library", "name", "peer"), PEERS)
def test_outputs_and_gradients(library: str, name: str, peer: str) -> None:
    model = theirs(library, peer)
    with torch.device("meta"):
        ours = getattr(resnext, name)()
    state = model.state_dict()
    if library == "pytorchcv":  # other names, and the shortcut before the body
        state = _renamed(state)
    ours.load_state_dict(state, strict=True, assign=True)
    same_runs(ours, model, torch.randn(4, 3, 32, 32))


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"features.init_block.conv": "conv1", "features.init_block.bn": "bn1", "output": "fc"}
    for stage in (1, 2, 3):
        for unit in (1, 2, 3):
            there, here = f"features.stage{stage}.unit{unit}", f"layer{stage}.{unit - 1}"
            names |= {f"{there}.identity_conv.conv": f"{here}.downsample.0"}
            names |= {f"{there}.identity_conv.bn": f"{here}.downsample.1"}
            for i in (1, 2, 3):
                names |= {f"{there}.body.conv{i}.conv": f"{here}.conv{i}", f"{there}.body.conv{i}.bn": f"{here}.bn{i}"}
    return {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}

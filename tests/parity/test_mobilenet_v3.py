"""MobileNetV3 against torchvision (the same names) and timm (the same order): outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipkb.models.classification import mobilenet_v3
from tests.parity.compare import in_order, same_runs, scramble


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])
def test_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    theirs = getattr(models, name)(weights=None)
    scramble(theirs)
    ours = getattr(mobilenet_v3, name)()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    same_runs(ours, theirs, torch.randn(4, 3, 64, 64), double=True)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("mobilenet_v3_large", "mobilenetv3_large_100"),
        ("mobilenet_v3_large_075", "mobilenetv3_large_075"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
        ("mobilenet_v3_small_075", "mobilenetv3_small_075"),
    ],
)
def test_timm(name: str, peer: str) -> None:
    """Theirs has a 1x1 convolution behind the pooling, and PyTorch's constants in the normalisation."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(peer, pretrained=False, drop_rate=0.2, bn_eps=0.001)
    scramble(theirs)
    ours = getattr(mobilenet_v3, name)()
    state = theirs.state_dict()
    state["conv_head.weight"] = state["conv_head.weight"].flatten(1)
    ours.load_state_dict(in_order(ours, state), strict=True)
    same_runs(ours, theirs, torch.randn(4, 3, 64, 64), double=True)
    assert isinstance(ours.features[0][1], nn.BatchNorm2d)

"""MobileNet against timm (the same names) and pytorchcv (the same order): outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipkb.models.classification import mobilenet_v1
from tests.parity.compare import in_order, same_runs, scramble


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("mobilenetv1_100", pretrained=False, drop_rate=0.001)
    scramble(theirs)
    ours = mobilenet_v1.mobilenet_v1()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    same_runs(ours, theirs, torch.randn(4, 3, 64, 64), double=True)


@pytest.mark.parametrize(("width", "name"), [(1.0, "w1"), (0.75, "w3d4"), (0.5, "wd2"), (0.25, "wd4")])
def test_pytorchcv(width: float, name: str) -> None:
    """Theirs has the ReLU of the text and no dropout."""
    provider = pytest.importorskip("pytorchcv.model_provider")
    theirs = provider.get_model(f"mobilenet_{name}", pretrained=False)
    theirs.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs is made for 224 x 224 only
    scramble(theirs)
    ours = mobilenet_v1.MobileNetV1(width_mult=width, activation="relu", dropout=0.0)
    ours.load_state_dict(in_order(ours, theirs.state_dict()), strict=True)
    same_runs(ours, theirs, torch.randn(4, 3, 64, 64), double=True)

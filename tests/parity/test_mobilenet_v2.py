"""MobileNetV2 against torchvision where every ReLU6 cuts something off; a ReLU in its place would be seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification.mobilenet_v2 import mobilenet_v2
from tests.parity.compare import load, renamed, same_runs, scramble


def test_every_relu6_cuts() -> None:
    models: Any = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs, ours = models.mobilenet_v2(weights=None), mobilenet_v2()
    scramble(theirs)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data *= 6
    names = renamed(theirs.state_dict(), [], ours.state_dict())
    load(ours, theirs.double(), names)
    cut = []
    for module in ours.modules():
        if isinstance(module, nn.ReLU6):
            module.register_forward_hook(lambda _module, _args, output: cut.append(bool((output == 6).any())))
    same_runs(ours, theirs, torch.randn(4, 3, 64, 64), names)
    assert len(cut) == 2 * 35
    assert all(cut[35:])  # evaluation first, then training

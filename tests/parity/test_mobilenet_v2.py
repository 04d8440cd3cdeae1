"""MobileNetV2 against torchvision (same names) and timm (other names, same order): outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipkb.models.classification import mobilenet_v2
from tests.parity.compare import in_order, same_runs, scramble

PEERS = [
    ("mobilenet_v2", "torchvision", 1.0),
    ("mobilenet_v2_050", "torchvision", 0.5),
    ("mobilenet_v2_140", "torchvision", 1.4),
    ("mobilenet_v2", "timm", "mobilenetv2_100"),
    ("mobilenet_v2_140", "timm", "mobilenetv2_140"),
]


@pytest.mark.parametrize(("name", "library", "peer"), PEERS)
def test_outputs_and_gradients(name: str, library: str, peer: float | str) -> None:
    if library == "timm":
        model: nn.Module = pytest.importorskip("timm").create_model(peer, pretrained=False, drop_rate=0.2)
    else:
        model = pytest.importorskip("torchvision.models").mobilenet_v2(weights=None, width_mult=peer)
    scramble(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data *= 6  # so that in training every ReLU6 cuts something off
    with torch.device("meta"):
        ours = getattr(mobilenet_v2, name)()
    state = in_order(ours, model.state_dict()) if library == "timm" else model.state_dict()
    ours.load_state_dict(state, strict=True, assign=True)
    cut = []
    for module in ours.modules():
        if isinstance(module, nn.ReLU6):
            module.register_forward_hook(lambda _module, _args, output: cut.append(bool((output == 6).any())))
    same_runs(ours, model, torch.randn(4, 3, 64, 64), double=True)
    assert len(cut) == 2 * 35
    assert all(cut[35:])  # evaluation first, then training

"""MobileNetV2 against torchvision (same names) and timm (other names, same order): outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import mobilenet_v2

PEERS = [
    ("mobilenet_v2", "torchvision", 1.0),
    ("mobilenet_v2_050", "torchvision", 0.5),
    ("mobilenet_v2_140", "torchvision", 1.4),
    ("mobilenet_v2", "timm", "mobilenetv2_100"),
    ("mobilenet_v2_140", "timm", "mobilenetv2_140"),
]


def difference(ours: Tensor, peers: Tensor) -> float:
    return ((ours - peers).abs().max() / peers.abs().max()).item()


@pytest.mark.parametrize(("name", "library", "peer"), PEERS)
def test_outputs_and_gradients(name: str, library: str, peer: float | str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if library == "timm":
        model: nn.Module = pytest.importorskip("timm").create_model(peer, pretrained=False, drop_rate=0.2)
    else:
        model = pytest.importorskip("torchvision.models").mobilenet_v2(weights=None, width_mult=peer)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.device("meta"):
        ours = getattr(mobilenet_v2, name)()
    state = model.state_dict()
    if library == "timm":
        state = dict(zip(ours.state_dict(), state.values(), strict=True))
    ours.load_state_dict(state, strict=True, assign=True)
    x = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        assert difference(ours.eval()(x), model.eval()(x)) < 1e-5
    grads = []
    for net in (ours, model):
        torch.manual_seed(2)  # the same dropout
        x = x.detach().requires_grad_()
        F.cross_entropy(net.train()(x), torch.tensor([1, 2, 3, 4])).backward()
        grads.append(x.grad)
    assert difference(grads[0], grads[1]) < 1e-4  # type: ignore[arg-type]

"""DPN against timm: the same weights, the same outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import dpn


def theirs(name: str) -> nn.Module:
    model: nn.Module = pytest.importorskip("timm").create_model(name, pretrained=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def difference(ours: Iterable[Tensor | None], peers: Iterable[Tensor | None]) -> float:
    pairs = zip(ours, peers, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs if a is not None and b is not None)


PEERS = [
    ("dpn92", "dpn92", 32),
    ("dpn98", "dpn98", 32),
]


@pytest.mark.parametrize(("name", "peer", "picture"), PEERS)
def test_outputs_and_gradients(name: str, peer: str, picture: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = theirs(peer)
    with torch.device("meta"):
        ours = getattr(dpn, name)()
    ours.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, strict=True, assign=True)
    x = torch.randn(2, 3, picture, picture)
    with torch.inference_mode():
        assert difference([ours.eval()(x)], [model.eval()(x)]) < 1e-5
    inputs = []
    for net in (ours, model):
        y = x.clone().requires_grad_()
        F.cross_entropy(net.train()(y), torch.tensor([1, 2])).backward()
        inputs.append(y.grad)
    assert difference(inputs[:1], inputs[1:]) < 1e-4
    assert difference((p.grad for p in ours.parameters()), (p.grad for p in model.parameters())) < 1e-4

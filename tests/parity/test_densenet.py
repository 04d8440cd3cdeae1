"""DenseNet against torchvision, timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import densenet


def theirs(library: str, name: str) -> nn.Module:
    if library == "pytorchcv":
        provider: Any = pytest.importorskip("pytorchcv.model_provider")
        model: nn.Module = provider.get_model(name, pretrained=False)
    elif library == "timm":
        model = pytest.importorskip("timm").create_model(name, pretrained=False)
    else:
        model = getattr(pytest.importorskip("torchvision.models"), name)(weights=None)
    if library == "pytorchcv":
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs has a fixed size, for large pictures
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def in_order(ours: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other names, the same order of layers."""
    wanted = ours.state_dict()
    assert [v.shape for v in wanted.values()] == [v.shape for v in state.values()]
    return dict(zip(wanted, state.values(), strict=True))


def difference(ours: Iterable[Tensor | None], peers: Iterable[Tensor | None]) -> float:
    pairs = zip(ours, peers, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs if a is not None and b is not None)


PEERS = [
    ("torchvision", "densenet121", "densenet121"),
    ("torchvision", "densenet169", "densenet169"),
    ("torchvision", "densenet201", "densenet201"),
    ("torchvision", "densenet161", "densenet161"),
    ("timm", "densenet121", "densenet121"),
    ("pytorchcv", "densenet121", "densenet121"),
    ("pytorchcv", "densenet100_k12_bc", "densenet100_k12_bc_cifar10"),
]


@pytest.mark.parametrize(("library", "name", "peer"), PEERS)
def test_outputs_and_gradients(library: str, name: str, peer: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = theirs(library, peer)
    with torch.device("meta"):
        ours = getattr(densenet, name)()
    state = model.state_dict()
    if library == "pytorchcv":
        state = in_order(ours, state)
    ours.load_state_dict({k: v.clone() for k, v in state.items()}, strict=True, assign=True)
    x = torch.randn(2, 3, 32, 32) if "cifar" in peer else torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert difference([ours.eval()(x)], [model.eval()(x)]) < 1e-5
    inputs = []
    for net in (ours, model):
        y = x.clone().requires_grad_()
        F.cross_entropy(net.train()(y), torch.tensor([1, 2])).backward()
        inputs.append(y.grad)
    assert difference(inputs[:1], inputs[1:]) < 1e-4
    assert difference((p.grad for p in ours.parameters()), (p.grad for p in model.parameters())) < 1e-4


def test_pytorchcv_compresses_its_plain_net() -> None:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    with torch.device("meta"):
        model = provider.get_model("densenet40_k12_cifar10", pretrained=False)
        ours = densenet.DenseNet(
            growth_rate=12, block_config=(12, 12, 12), num_init_features=24, bn_size=0, stem="cifar", num_classes=10
        )
    assert len(in_order(ours, model.state_dict())) == 236

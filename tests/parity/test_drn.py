"""DRN against torchvision and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import drn


def theirs(library: str, name: str) -> nn.Module:
    if library == "pytorchcv":
        provider: Any = pytest.importorskip("pytorchcv.model_provider")
        model: nn.Module = provider.get_model(name, pretrained=False)
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs has a fixed size
    else:
        model = getattr(pytest.importorskip("torchvision.models"), name)(
            weights=None, replace_stride_with_dilation=[False, True, True]
        )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def in_order(ours: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other names, the same order of layers, but for the projection, which theirs has behind the convolutions."""
    names: list[str] = []
    for key in ours.state_dict():
        unit = ".".join(key.split(".")[:2])
        late = [name for name in names if "downsample" in name and name.startswith(unit + ".")]
        late = [] if "downsample" in key else late
        names = [name for name in names if name not in late] + [key] + late
    wanted = ours.state_dict()
    assert [wanted[name].shape for name in names] == [v.shape for v in state.values()]
    return dict(zip(names, state.values(), strict=True))


def difference(ours: Iterable[Tensor | None], peers: Iterable[Tensor | None]) -> float:
    pairs = zip(ours, peers, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs if a is not None and b is not None)


PEERS = [
    ("torchvision", "drn_a_50", "resnet50", 64),
    ("pytorchcv", "drn_c_26", "drnc26", 48),
    ("pytorchcv", "drn_d_22", "drnd22", 48),
    ("pytorchcv", "drn_d_38", "drnd38", 48),
]


@pytest.mark.parametrize(("library", "name", "peer", "picture"), PEERS)
def test_outputs_and_gradients(library: str, name: str, peer: str, picture: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = theirs(library, peer)
    with torch.device("meta"):
        ours = getattr(drn, name)()
    state = model.state_dict()
    if library == "pytorchcv":
        state = in_order(ours, state)
    ours.load_state_dict({k: v.clone() for k, v in state.items()}, strict=True, assign=True)
    x = torch.randn(2, 3, picture, picture)
    with torch.inference_mode():
        assert difference([ours.eval()(x)], [model.eval()(x)]) < 1e-5
    inputs = []
    for net in (ours, model):
        y = x.clone().requires_grad_()
        F.cross_entropy(net.train()(y), torch.tensor([1, 2])).backward()
        inputs.append(y.grad)
    assert difference(inputs[:1], inputs[1:]) < 1e-4

"""SENet against timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.classification import senet
from tests.parity.compare import same_runs


@pytest.mark.parametrize(("name", "dropout", "picture"), [("se_resnet50", 0.0, 64), ("senet154", 0.2, 32)])
def test_timm(name: str, dropout: float, picture: int) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, model = getattr(senet, name)(), timm.create_model("legacy_" + name.replace("_", ""), drop_rate=dropout)
    state = {key: random_like(key, value) for key, value in model.state_dict().items()}
    for net in (ours, model):
        net.load_state_dict(state, strict=True, assign=True)
    same_runs(ours, model, torch.randn(4, 3, picture, picture))


def random_like(key: str, value: Tensor) -> Tensor:
    """Cheap weights for a network on the meta device: of unit gain, norms and statistics all different."""
    if value.dim() == 4:
        return torch.randn(value.shape) * math.sqrt(2 / value[0].numel())
    if not value.is_floating_point():
        return torch.zeros(value.shape, dtype=value.dtype)
    if (key.endswith("weight") and value.dim() == 1) or key.endswith("running_var"):
        return 0.5 + torch.rand(value.shape)
    return 0.1 * torch.randn(value.shape)


def test_pytorchcv() -> None:
    """Its state dict lists the shortcut before the gate; sorted by shape and place, tensors correspond."""
    provider = pytest.importorskip("pytorchcv.model_provider")
    with torch.device("meta"):
        ours, model = senet.se_resnet50(), provider.get_model("seresnet50", pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs is made for 224 x 224 only
    state = {key: random_like(key, value) for key, value in model.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    ours.load_state_dict({our_name(key): fitted(value, key) for key, value in state.items()}, strict=True, assign=True)
    model.features.init_block.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)  # it pads, the authors do not
    same_runs(ours, model, torch.randn(2, 3, 64, 64))


def fitted(value: Tensor, key: str) -> Tensor:
    return value[:, :, None, None] if ".se.fc" in key and value.dim() == 2 else value


def our_name(key: str) -> str:
    first, *rest = key.split(".")
    if first == "output":
        return f"last_linear.{rest[-1]}"
    if rest[0] == "init_block":
        return f"layer0.{rest[2]}1.{rest[-1]}"
    place = f"layer{rest[0].removeprefix('stage')}.{int(rest[1].removeprefix('unit')) - 1}"
    if rest[2] == "identity_conv":
        return f"{place}.downsample.{ {'conv': 0, 'bn': 1}[rest[3]] }.{rest[-1]}"
    if rest[2] == "se":
        number = {"conv1": "fc1", "conv2": "fc2", "fc1": "fc1", "fc2": "fc2"}[rest[3]]
        return f"{place}.se_module.{number}.{rest[-1]}"
    return f"{place}.{rest[4]}{rest[3].removeprefix('conv')}.{rest[-1]}"

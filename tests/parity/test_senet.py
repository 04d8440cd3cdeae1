"""SENet against timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import senet


def difference(ours: Tensor, peers: Tensor) -> float:
    return ((ours - peers).abs().max() / peers.abs().max()).item()


def compare(ours: nn.Module, model: nn.Module, side: int = 64) -> None:
    x = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        assert difference(ours.eval()(x), model.eval()(x)) < 1e-5
    grads = []
    for net in (ours, model):
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        net.train()
        x = x.detach().requires_grad_()
        F.cross_entropy(net(x), torch.tensor([1, 2])).backward()
        grads.append(x.grad)
        x.grad = None
    assert difference(grads[0], grads[1]) < 1e-4  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "peer"), [("se_resnet50", "legacy_seresnet50"), ("senet154", "legacy_senet154")])
def test_timm(name: str, peer: str) -> None:
    timm = pytest.importorskip("timm")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.device("meta"):
        ours, model = getattr(senet, name)(), timm.create_model(peer, drop_rate=0.0)
    state = {key: random_like(key, value) for key, value in model.state_dict().items()}
    for net in (ours, model):
        net.load_state_dict(state, strict=True, assign=True)
    compare(ours, model, 32 if name == "senet154" else 64)


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
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.device("meta"):
        ours, model = senet.se_resnet50(), provider.get_model("seresnet50", pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs is made for 224 x 224 only
    state = {key: random_like(key, value) for key, value in model.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    ours.load_state_dict({our_name(key): fitted(value, key) for key, value in state.items()}, strict=True, assign=True)
    model.features.init_block.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)  # it pads, the authors do not
    compare(ours, model)


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

"""ResNet against torchvision and timm: random state dicts load as they are and give the same outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import resnet
from tests.parity.compare import difference, scramble

NAMES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def torchvision_model(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    model: nn.Module = getattr(models, name)(weights=None)
    return model


def timm_model(name: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def twins(peer: Callable[[str], nn.Module], name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    theirs = peer(name).eval()
    scramble(theirs)
    with torch.device("meta"):
        ours = getattr(resnet, name)().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return ours, theirs, torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("peer", [torchvision_model, timm_model])
@pytest.mark.parametrize("name", NAMES)
def test_outputs(name: str, peer: Callable[[str], nn.Module]) -> None:
    ours, theirs, x = twins(peer, name)
    with torch.inference_mode():
        assert difference(ours(x), theirs(x)) < 1e-5


@pytest.mark.parametrize("peer", [torchvision_model, timm_model])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_gradients_of_one_batch(name: str, peer: Callable[[str], nn.Module]) -> None:
    """In training mode, so that batch statistics and their running averages are compared as well."""
    theirs, x = peer(name).train(), torch.randn(4, 3, 64, 64)
    scramble(theirs)
    ours = getattr(resnet, name)().train()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    target = torch.tensor([1, 2, 3, 4])
    resnet.objective(ours(x), target).backward()
    F.cross_entropy(theirs(x), target).backward()
    wanted = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert difference(parameter.grad, wanted[key].grad) < 1e-4, key  # type: ignore[arg-type]
    for key, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[key], rtol=1e-5, atol=1e-6), key

"""ConvNeXt against timm and torchvision: the same weights, the same outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.classification import convnext
from tests.parity.compare import same_runs


def scramble(model: nn.Module) -> None:
    """Start values would hide the branches behind a layer scale of 1e-6, and equal norms behind one another."""
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.2, 0.5)
        elif "norm" in name or "downsample" in name:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


@pytest.mark.parametrize("name", ["convnext_small", "convnext_base"])
def test_names_and_shapes_of_the_larger_ones(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, model = getattr(convnext, name)(), timm.create_model(name)
    state = timm.models.convnext.checkpoint_filter_fn({"model": ours.state_dict()}, model)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_timm_takes_our_state_dict_for_an_official_checkpoint() -> None:
    """timm renames the authors' checkpoints to its own names; a name that is not theirs would be refused there."""
    name = "convnext_tiny"
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    ours = getattr(convnext, name)()
    scramble(ours)
    with torch.device("meta"):
        model = timm.create_model(name)
    state = timm.models.convnext.checkpoint_filter_fn({"model": ours.state_dict()}, model)
    model.load_state_dict(state, strict=True, assign=True)
    same_runs(ours, model, torch.randn(2, 3, 64, 64))


def test_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    ours = convnext.convnext_tiny()
    scramble(ours)
    with torch.device("meta"):
        model = models.convnext_tiny(stochastic_depth_prob=0.0)
    model.load_state_dict(renamed(ours.state_dict()), strict=True, assign=True)
    same_runs(ours, model, torch.randn(2, 3, 64, 64))


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names to torchvision's: stem and stages alternate in one list, layers of a block are numbered."""
    numbers = {"dwconv": 0, "norm": 2, "pwconv1": 3, "pwconv2": 5}
    result = {}
    for key, value in state.items():
        kind, *rest = key.split(".")
        if kind == "downsample_layers":
            key = f"features.{2 * int(rest[0])}.{rest[1]}.{rest[2]}"
        elif kind == "stages":
            place = f"features.{2 * int(rest[0]) + 1}.{rest[1]}"
            if rest[2] == "gamma":
                key, value = f"{place}.layer_scale", value[:, None, None]
            else:
                key = f"{place}.block.{numbers[rest[2]]}.{rest[3]}"
        else:
            key = f"classifier.{ {'norm': 0, 'head': 2}[kind] }.{rest[0]}"
        result[key] = value
    return result

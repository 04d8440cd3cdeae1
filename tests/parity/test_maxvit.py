"""MaxViT against timm's conversion of the authors' TensorFlow models: the same weights, outputs and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from skipkb.models.classification import maxvit
from tests.parity.compare import same_runs, scramble

NAMES = [
    ("maxvit_tiny", "maxvit_tiny_tf_224"),
    ("maxvit_small", "maxvit_small_tf_224"),
    ("maxvit_base", "maxvit_base_tf_224"),
]


@pytest.mark.parametrize(("name", "peer"), NAMES)
def test_names_and_shapes(name: str, peer: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, model = getattr(maxvit, name)(), timm.create_model(peer)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_outputs_and_gradients() -> None:
    timm = pytest.importorskip("timm")
    ours, model = maxvit.maxvit_tiny(), timm.create_model("maxvit_tiny_tf_224")
    for name, parameter in model.named_parameters():
        if "rel_pos" in name:
            nn.init.normal_(parameter)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, std=math.sqrt(1 / parameter[0].numel()))
        elif name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    scramble(model)
    ours.load_state_dict(model.state_dict(), strict=True)
    same_runs(ours, model, torch.randn(1, 3, 224, 224))

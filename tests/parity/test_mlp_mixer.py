"""MLP-Mixer against timm: the same weights, the same outputs and gradients, once timm's GELU is the authors'."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipkb.models.classification import mlp_mixer
from tests.parity.compare import same_runs


def test_outputs_and_gradients() -> None:
    timm = pytest.importorskip("timm")
    # The full depth and width; patches of 16 pixels in a picture of 64 leave 16 tokens.
    model = timm.create_model("mixer_b16_224", img_size=64)
    for block in model.blocks:  # timm has the exact GELU, the authors its approximation with tanh
        for mlp in (block.mlp_tokens, block.mlp_channels):
            assert isinstance(mlp.act, nn.GELU)
            assert mlp.act.approximate == "none"
            mlp.act.approximate = "tanh"
    nn.init.normal_(model.head.weight, std=0.02)
    with torch.device("meta"):
        ours = mlp_mixer.mixer_b16(image_size=64)
    ours.load_state_dict(model.state_dict(), strict=True, assign=True)
    same_runs(ours, model, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(("name", "peer"), [("mixer_b16", "mixer_b16_224"), ("mixer_l16", "mixer_l16_224")])
def test_names_and_shapes_at_full_size(name: str, peer: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, model = getattr(mlp_mixer, name)(), timm.create_model(peer)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}

"""MLP-Mixer against timm: the same weights, the same outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import mlp_mixer


def difference(ours: Tensor, peers: Tensor) -> float:
    return ((ours - peers).abs().max() / peers.abs().max()).item()


def test_outputs_and_gradients() -> None:
    timm = pytest.importorskip("timm")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # The full depth and width; patches of 16 pixels in a picture of 64 leave 16 tokens.
    model = timm.create_model("mixer_b16_224", img_size=64)
    nn.init.normal_(model.head.weight, std=0.02)
    with torch.device("meta"):
        ours = mlp_mixer.mixer_b16(image_size=64)
    ours.load_state_dict(model.state_dict(), strict=True, assign=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert difference(ours.eval()(x), model.eval()(x)) < 1e-5
    grads = []
    for net in (ours, model):
        net.train()
        x = x.detach().requires_grad_()
        F.cross_entropy(net(x), torch.tensor([1, 2])).backward()
        grads.append(x.grad)
        x.grad = None
    assert difference(grads[0], grads[1]) < 1e-4  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "peer"), [("mixer_b16", "mixer_b16_224"), ("mixer_l16", "mixer_l16_224")])
def test_names_and_shapes_at_full_size(name: str, peer: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, model = getattr(mlp_mixer, name)(), timm.create_model(peer)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}

"""What DiSegNet is about: maps of several stages and scales before SegNet's decoder, and a loss for rare objects."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import disegnet as module
from skipkb.models.segmentation.disegnet import MSASPP, DiSegNet, objective
from skipkb.models.segmentation.segnet import SegNet

SMALL: dict[str, Any] = {"widths": (4, 6, 8, 8), "layers": (1, 1, 2, 1), "dilations": (1, 2)}
PICTURE = torch.rand(2, 2, 48, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small(**changes: Any) -> DiSegNet:
    torch.manual_seed(0)
    return DiSegNet(**SMALL | changes).double().eval()


def test_the_network_of_the_description() -> None:
    """SegNet's encoder and decoder, and a module of three stages and four dilations between them."""
    with torch.device("meta"):
        model = module.disegnet()
        assert model(torch.empty(1, 2, 256, 256)).shape == (1, 2, 256, 256)
        rest = SegNet(num_classes=2, in_channels=2).state_dict()
    assert {name for name in model.state_dict() if not name.startswith("ms_aspp")} == set(rest)
    found = [
        (layer.in_channels, layer.out_channels, layer.dilation[0])
        for layer in model.ms_aspp.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    assert found == [(width, 128, d) for width in (256, 512, 512) for d in (1, 2, 4, 8)] + [(12 * 128, 512, 1)]


def test_what_reaches_the_decoder() -> None:
    """The module's map and positions; with these alone the decoder gives what the network gives."""
    model = small()
    start, links = model.encode(PICTURE)
    assert start.shape == (2, 8, 3, 3)  # 48 and 40, halved four times and rounded up
    assert all(not indices.is_floating_point() for indices, _ in links)
    assert torch.equal(model.decode(start, links), model(PICTURE))


@pytest.mark.parametrize("stage", range(3))
@pytest.mark.parametrize("scale", range(2))
def test_each_stage_and_scale_carries(stage: int, scale: int) -> None:
    model = small()
    with torch.no_grad():
        before = model(PICTURE)
        branch = model.ms_aspp.get_submodule(f"stages.{stage}.{scale}")
        branch.register_forward_hook(lambda m, args, y: 0 * y)
        assert (model(PICTURE) - before).abs().max() > 1e-6


def test_an_early_map_reaches_the_decoder_past_the_later_ones() -> None:
    """The skip: with the last two stages silent, the decoder still hears of the first of the three."""
    model = small()
    seen: list[Tensor] = []
    model.ms_aspp.mix.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    maps = [torch.rand(1, c, n, n, dtype=torch.float64) for c, n in ((4, 24), (6, 12), (8, 6), (8, 3))]
    with torch.no_grad():
        whole = model.bridge(maps)
        early = model.bridge([*maps[:2], 0 * maps[2], 0 * maps[3]])
        assert (early - model.bridge([maps[0], 0 * maps[1], 0 * maps[2], 0 * maps[3]])).abs().max() > 1e-6
        assert torch.equal(model.bridge([0 * maps[0], *maps[1:]]), whole)
        expected = [F.adaptive_avg_pool2d(model.ms_aspp.get_submodule(f"stages.0.{i}")(maps[1]), 3) for i in (0, 1)]
    assert torch.equal(seen[0][:, :8], torch.cat(expected, dim=1))
    assert torch.equal(seen[1][:, :8], seen[0][:, :8])


def test_dilations_widen_the_view() -> None:
    """One pixel of the last map shows in nine places for each dilation."""
    block = MSASPP((4,), dilations=(1, 2, 4, 8)).double().eval()
    with torch.no_grad():
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.ones_(layer.weight)
                layer.bias.zero_()  # type: ignore[union-attr]
        impulse = torch.zeros(1, 4, 21, 21, dtype=torch.float64)
        impulse[..., 10, 10] = 1
        rows = (block([impulse])[0, 0] > 0).any(dim=1).nonzero().flatten()
    assert (rows - 10).tolist() == [-8, -4, -2, -1, 0, 1, 2, 4, 8]


@pytest.mark.parametrize("size", [(1, 1), (45, 61)])
def test_any_size(size: tuple[int, int]) -> None:
    assert small()(torch.rand(1, 2, *size, dtype=torch.float64)).shape == (1, 2, *size)


def test_the_objective() -> None:
    logits, target = torch.randn(2, 2, 4, 5), torch.randint(0, 2, (2, 4, 5))
    p = logits.softmax(1)[:, 1]
    angle = math.pi / 2 * p
    terms = torch.where(target == 1, angle.cos() * p.log(), angle.sin() * (1 - p).log())
    torch.testing.assert_close(objective(logits, target), -terms.mean())


def test_the_loss_keeps_the_hard_and_turns_down_the_easy() -> None:
    """Slopes over the logit, compared with those of cross-entropy, where an object has a probability of 5 per cent."""
    logit = torch.tensor([math.log(0.05 / 0.95)] * 2, dtype=torch.float64, requires_grad=True)
    scores = torch.stack([torch.zeros_like(logit), logit], dim=1)[:, :, None, None]
    target = torch.tensor([0, 1])[:, None, None]  # background, rightly; an object, overlooked
    slopes = {}
    for name, loss in (("cosine-sine", objective), ("cross-entropy", F.cross_entropy)):
        (slopes[name],) = torch.autograd.grad(loss(scores, target), logit, retain_graph=True)
    kept = (slopes["cosine-sine"] / slopes["cross-entropy"]).tolist()
    assert kept[0] < 0.2
    assert kept[1] > 0.9


def test_mistakes() -> None:
    for change, message in (
        ({"stages": 5}, "stages must be between 1 and 4, got 5"),
        ({"dilations": ()}, "MSASPP: needs maps, dilations"),
        ({"layers": (1, 1)}, "one positive number per resolution each"),
    ):
        with pytest.raises(ValueError, match=message):
            small(**change)
    with pytest.raises(ValueError, match=r"DiSegNet: expected input \[N, 2, H, W\], got \[1, 1, 8, 8\]"):
        small()(torch.rand(1, 1, 8, 8))

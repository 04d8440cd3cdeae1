"""1-bit WRN: two values per layer in the forward pass, float weights in training, skips without weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skipkb.models.classification import mcdonnell_wrn_1bit as one_bit


def small(**change: Any) -> one_bit.McDonnellWRN:
    return one_bit.McDonnellWRN(**({"depth": 8, "widen_factor": 1} | change))


def test_size_by_hand() -> None:
    """By hand: the first convolution, 18 of the groups, the classifier, and scale and offset of the picture."""
    groups = 6 * 160**2 * 9 + (160 * 320 + 5 * 320**2) * 9 + (320 * 640 + 5 * 640**2) * 9
    bits = 3 * 160 * 9 + groups + 640 * 10
    for build in (one_bit.wrn20_10_1bit, one_bit.wrn20_10_32bit):
        with torch.device("meta"):
            model = build()
        assert sum(p.numel() for p in model.parameters()) == bits + 6


def test_forward_uses_two_values_per_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the convolution itself, not only what a method says."""
    seen = []
    original = F.conv2d

    def listen(x: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(weight.detach())
        return original(x, weight, *args, **kwargs)

    monkeypatch.setattr(F, "conv2d", listen)
    model = small()
    for mode in (True, False):
        model.train(mode)
        model(torch.randn(2, 3, 16, 16))
    assert len(seen) == 2 * 8
    for weight in seen:
        scale = math.sqrt(2 / weight[0].numel())
        assert weight.unique().tolist() == pytest.approx([-scale, scale])


def test_only_the_signs_count() -> None:
    """However large the float weights are, the answer is the same; it changes when a sign does."""
    model = small().eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = model(x)
        for module in model.modules():
            if isinstance(module, one_bit.OneBitConv2d):
                module.weight.mul_(torch.rand_like(module.weight) + 0.01)
        assert torch.equal(model(x), before)
        model.group0.block0.conv0.weight[0].neg_()  # type: ignore[union-attr,index,operator]
        assert not torch.equal(model(x), before)


def test_the_gradient_passes_straight_through() -> None:
    """The float weight gets the gradient of the binary one, unscaled and unclipped, also where it is large."""
    conv = one_bit.OneBitConv2d(4, 6, 3, stride=2)
    with torch.no_grad():
        conv.weight[0] *= 100
    x = torch.randn(2, 4, 9, 9)
    conv(x).square().sum().backward()
    binary = (conv.scale * conv.weight.detach().sign()).requires_grad_()
    F.conv2d(x, binary, stride=2, padding=1).square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, binary.grad)


def test_training_moves_float_weights_until_signs_flip() -> None:
    model = small(num_classes=2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [m.weight.detach().clone() for m in model.modules() if isinstance(m, one_bit.OneBitConv2d)]
    x, target = torch.randn(8, 3, 16, 16), torch.arange(8) % 2
    losses = []
    for _ in range(10):
        loss = one_bit.objective(model(x), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    after = [m.weight.detach() for m in model.modules() if isinstance(m, one_bit.OneBitConv2d)]
    assert losses[-1] < losses[0]
    for old, new in zip(before, after, strict=True):
        assert not torch.equal(old, new)
        assert new.unique().numel() > 2
    flipped = sum(((old < 0) != (new < 0)).sum().item() for old, new in zip(before, after, strict=True))
    assert 0 < flipped < sum(w.numel() for w in after)


def test_zero_has_a_sign() -> None:
    conv = one_bit.OneBitConv2d(1, 1, 3)
    nn.init.zeros_(conv.weight)
    assert conv.used_weight().unique().tolist() == pytest.approx([conv.scale])


def test_skips_have_no_weights() -> None:
    block = one_bit.Block(4, 8).eval()
    x = torch.ones(1, 4, 5, 7)
    shortcut = block.shortcut(x)
    assert shortcut.shape == (1, 8, 3, 4)
    assert torch.equal(shortcut[:, :4], torch.ones(1, 4, 3, 4))  # also at the border: zeros outside do not count
    assert not shortcut[:, 4:].any()
    torch.testing.assert_close(block(x), shortcut + block.function(x))
    same = one_bit.Block(4, 4)
    assert same.shortcut(x) is x


def test_normalisations_learn_nothing_but_for_the_picture() -> None:
    model = small()
    names = {name for name, p in model.named_parameters() if p.dim() == 1}
    assert names == {"bn_input.weight", "bn_input.bias"}


def test_normalisations_keep_as_much_as_in_the_keras_version() -> None:
    norms = [m for m in small().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [(m.momentum, m.eps) for m in norms] == [(0.01, 1e-5)] * 9


def test_weights_start_as_plain_gaussians() -> None:
    weight = small(widen_factor=4).get_parameter("group2.block0.conv1.weight")
    deviation = (2 / (9 * 256)) ** 0.5
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert (weight.abs() > 2 * deviation).float().mean().item() == pytest.approx(0.0455, rel=0.05)


def test_input_activation() -> None:
    model = small(input_activation=True).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), model(x.clamp(min=0)))  # the statistics of a new network are 0 and 1
    plain = small().eval()
    assert not torch.equal(plain(x), plain(x.clamp(min=0)))


@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_any_picture_size(size: tuple[int, int]) -> None:
    assert small(num_classes=5)(torch.rand(2, 3, *size)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 18}, "depth must be 6n.2, got 18; the nearest are 14 and 20"),
        ({"depth": 2}, "the nearest are 8 and 14"),
        ({"widen_factor": 0}, "widen_factor must be at least 1, got 0"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**change)
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[3, 32, 32\]"):
        small()(torch.rand(3, 32, 32))

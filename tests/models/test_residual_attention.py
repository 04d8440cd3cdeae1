"""Residual Attention Network: masks in (0, 1), and what the one in 1 + M is for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.classification import residual_attention as ran


def small(**change: Any) -> ran.ResidualAttentionNet:
    return ran.ResidualAttentionNet(**({"modules": (1, 1, 1), "widths": (16, 32, 64, 128), "num_classes": 3} | change))


@pytest.mark.parametrize(("layers", "modules"), [(56, (1, 1, 1)), (92, (1, 2, 3)), (452, (5, 6, 7))])
def test_trunk_has_as_many_layers_as_the_name_says(layers: int, modules: tuple[int, ...]) -> None:
    """Section 3.3: three in each unit outside the masks, the first convolution and the classifier."""
    settings = {"p": 2, "t": 4, "r": 3} if layers == 452 else {}
    with torch.device("meta"):
        model = ran.ResidualAttentionNet(modules=modules, **settings)  # type: ignore[arg-type]
    units = [name for name, m in model.named_modules() if isinstance(m, ran.ResidualUnit) and ".mask." not in name]
    assert 3 * len(units) + 2 == layers


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
def test_mask_is_between_zero_and_one(depth: int, size: tuple[int, int]) -> None:
    branch = ran.MaskBranch(8, depth=depth, r=1)
    x = torch.randn(2, 8, *size)
    mask = branch(3 * x)
    assert mask.shape == x.shape
    assert 0 < mask.min() < mask.max() < 1


class Closed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_a_closed_mask_leaves_the_trunk() -> None:
    """H = (1 + M) T: with a mask of zero the module is its residual units, in value and gradient."""
    module = ran.AttentionModule(8, depth=1).eval()
    module.mask = Closed()  # type: ignore[assignment]
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    module(x).square().sum().backward()
    grad, x.grad = x.grad, None
    module.last(module.trunk(module.first(x))).square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(grad, x.grad)
    assert grad.abs().max() > 0  # type: ignore[union-attr]


def test_the_output_is_one_plus_mask_times_trunk() -> None:
    module = ran.AttentionModule(8, depth=2).eval()
    x = torch.randn(1, 8, 12, 12)
    first = module.first(x)
    expected = module.last(module.trunk(first) * (1 + module.mask(first)))
    torch.testing.assert_close(module(x), expected)


def test_residual_form_keeps_gradients() -> None:
    """Through twenty masks, 1 + M never weakens what 1 T would bring back, and M alone lets it vanish (Section 3.1)."""
    masks = [torch.sigmoid(torch.randn(1, 8, 6, 6)) for _ in range(20)]
    gradients = []
    for one in (1, 0):
        x = torch.randn(1, 8, 6, 6, requires_grad=True)
        y = x
        for mask in masks:
            y = (one + mask) * y
        y.sum().backward()
        assert x.grad is not None
        gradients.append(x.grad.abs())
    assert gradients[0].min() >= 1
    assert gradients[1].max() < 0.05


def test_mask_weighs_the_gradient_of_the_trunk() -> None:
    """The gradient at the trunk's output is (1 + M) times that at the product, also where the module is complete."""
    module = ran.AttentionModule(8, depth=1).eval()
    module.last = nn.Sequential()
    seen: dict[str, Tensor] = {}
    module.mask.register_forward_hook(lambda _m, _i, y: seen.update(mask=y))
    module.trunk.register_full_backward_hook(lambda _m, _i, g: seen.update(gradient=g[0]))
    module(torch.randn(1, 8, 8, 8, requires_grad=True)).sum().backward()
    torch.testing.assert_close(seen["gradient"], 1 + seen["mask"])


def test_mask_sees_far_and_near() -> None:
    """The mask branch of the first stage sees more of the picture than the trunk beside it."""
    module = ran.AttentionModule(8, depth=3).eval()
    extents = []
    for branch in (module.mask, module.trunk):
        x = torch.randn(8, 8, 56, 56, requires_grad=True)  # of one picture alone a ReLU may hide the border
        branch(x)[:, :, 28, 28].sum().backward()
        assert x.grad is not None
        extents.append((x.grad.abs().sum((0, 1)) > 0).any(0).sum().item())
    assert extents[1] == 5  # two 3x3 convolutions
    assert extents[0] > 3 * extents[1]


def test_pooling_reaches_over_the_border() -> None:
    """Caffe's sizes: 112 -> 56 and 56 -> 28 without padding."""
    pool = ran.MaskBranch(8, depth=1, r=1).pool
    assert [pool(torch.zeros(1, 1, n, n)).shape[2] for n in (112, 56, 28, 14)] == [56, 28, 14, 7]


@pytest.mark.parametrize("size", [(32, 32), (45, 64)])
def test_any_picture_from_32_pixels(size: tuple[int, int]) -> None:
    assert small()(torch.rand(2, 3, *size)).shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": (1, 1)}, "modules of three stages and four widths"),
        ({"widths": (16, 32, 64, 130)}, "multiples of 4"),
        ({"t": 0}, "p, t and r must be at least 1, got 1, 0 and 1"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**change)
    with pytest.raises(ValueError, match=r"H and W at least 32, got \[1, 3, 31, 32\]"):
        small()(torch.rand(1, 3, 31, 32))

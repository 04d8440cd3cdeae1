"""Xception: that a separable convolution is a factorised full one, and that the skips are linear."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import skipkb
from skipkb.models.classification import xception
from skipkb.models.classification.xception import Block, MaxPool, SeparableConv2d, Xception


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_flows_of_figure_5() -> None:
    with torch.device("meta"):
        model, x = xception.xception().eval(), torch.empty(1, 3, 299, 299)
        x = model.conv2(model.conv1(x))
    shapes = []
    for name in model.blocks:
        x = getattr(model, name)(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(128, 74, 74), (256, 37, 37), (728, 19, 19)] + [(728, 19, 19)] * 8 + [(1024, 10, 10)]
    # 36 convolutions, a separable one counted once and projections not at all: 34 separable, two of the stem
    assert sum(isinstance(module, SeparableConv2d) for module in model.modules()) == 34


def test_a_separable_convolution_is_a_full_one_with_a_factorised_kernel() -> None:
    layer = SeparableConv2d(5, 7)
    x = torch.randn(2, 5, 8, 9)
    depthwise, pointwise = layer.conv1.weight[:, 0], layer.pointwise.weight[:, :, 0, 0]
    kernel = torch.einsum("oi,iuv->oiuv", pointwise, depthwise)
    torch.testing.assert_close(layer(x), F.conv2d(x, kernel, padding=1))
    assert size(layer) == 9 * 5 + 5 * 7 < kernel.numel()


def test_it_is_the_last_of_the_inceptions() -> None:
    """As many groups as channels between 1x1 and 3x3 is the same thing, up to the order of the two."""
    x = torch.randn(1, 6, 7, 7)
    layer = SeparableConv2d(6, 6)
    towers = [F.conv2d(x[:, i : i + 1], layer.conv1.weight[i : i + 1], padding=1) for i in range(6)]
    torch.testing.assert_close(layer(x), layer.pointwise(torch.cat(towers, dim=1)))


@pytest.mark.parametrize(("intermediate", "linear"), [(None, True), ("relu", False), ("elu", False)])
def test_nothing_activates_between_depthwise_and_pointwise(intermediate: Any, linear: bool) -> None:
    layer = SeparableConv2d(4, 6, intermediate=intermediate)
    x, y = torch.randn(2, 1, 4, 5, 5)
    assert torch.allclose(layer(x - 3 * y), layer(x) - 3 * layer(y), atol=1e-5) is linear


def test_the_skip_of_the_middle_flow_is_the_identity_and_the_sum_is_linear() -> None:
    block = Block(8, (8, 8, 8)).eval()
    x = torch.randn(2, 8, 6, 6)
    before = x.clone()
    y = block(x)
    assert torch.equal(x, before)  # the first ReLU must not work in place
    torch.testing.assert_close(y - block.rep(x), x)
    assert y.min() < 0  # no ReLU on the sum
    nn.init.zeros_(block.get_submodule("rep.8").weight)  # type: ignore[arg-type]
    torch.testing.assert_close(block(x), x)


def test_the_projecting_shortcut_is_linear_and_strided() -> None:
    block = Block(4, (6, 6), halve=True).eval()
    nn.init.zeros_(block.get_submodule("rep.5").weight)  # type: ignore[arg-type]
    assert block.skip is not None
    x = torch.randn(1, 4, 7, 9)
    torch.testing.assert_close(block(x), block.skipbn(block.skip(x)))
    torch.testing.assert_close(block(-2 * x), -2 * block(x))
    # only every second place is on the shortcut
    y = torch.zeros_like(x)
    y[:, :, ::2, ::2] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block.skip(y), block.skip(x))


def test_relu_stands_in_front_of_each_separable_convolution() -> None:
    model = Xception(middle=1)
    kinds = [[type(layer).__name__ for layer in getattr(model, name).rep] for name in model.blocks]
    unit = ["ReLU", "SeparableConv2d", "BatchNorm2d"]
    assert kinds[0] == [*unit[1:], *unit, "MaxPool"]
    assert kinds[1:] == [[*unit * 2, "MaxPool"], [*unit * 2, "MaxPool"], unit * 3, [*unit * 2, "MaxPool"]]


@pytest.mark.parametrize("shape", [(8, 8), (9, 9), (8, 11), (1, 2), (2, 3)])
def test_pooling_pads_as_in_keras(shape: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *shape)
    before, after = [], []
    for side in shape:
        total = (-(-side // 2) - 1) * 2 + 3 - side
        before.append(total // 2)
        after.append(total - total // 2)
    padded = F.pad(x, (before[1], after[1], before[0], after[0]), value=-torch.inf)
    assert torch.equal(MaxPool(both_ends=False)(x), F.max_pool2d(padded, 3, stride=2))
    assert MaxPool(both_ends=True)(x).shape == MaxPool(both_ends=False)(x).shape


def test_skips() -> None:
    with torch.device("meta"):
        model, plain = xception.xception().eval(), Xception(residual=False).eval()
    counts = skipkb.trace_skips(model, (1, 3, 299, 299)).counts()
    assert counts == {"add": 12, "identity": 8, "projection": 4, "long": 12}
    assert not skipkb.trace_skips(plain, (1, 3, 299, 299)).skips
    # what it loses are the four projections and their normalisations
    projections = 64 * 128 + 128 * 256 + 256 * 728 + 728 * 1024 + 2 * (128 + 256 + 728 + 1024)
    assert size(model) - size(plain) == projections


def test_normalisation_of_the_release_and_of_its_ports() -> None:
    for port, expected in ((False, {(0.001, 0.01)}), (True, {(0.00001, 0.1)})):
        with torch.device("meta"):
            model = xception.xception(port=port)
        assert {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == expected


@pytest.mark.parametrize("shape", [(71, 71), (32, 45), (7, 7)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = Xception(middle=0, num_classes=5, in_channels=1)
        assert model(torch.empty(2, 1, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"middle": -1}, "middle must not be negative"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\), got middle=8, dropout=1.0"),
        ({"intermediate": "gelu"}, "intermediate must be one of relu, elu, None, got 'gelu'"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with torch.device("meta"):
        with pytest.raises(ValueError, match=message):
            Xception(**change)
        model = Xception(middle=0)
        with pytest.raises(ValueError, match=r"H and W at least 7, got \[1, 3, 6, 9\]"):
            model(torch.empty(1, 3, 6, 9))
        with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\]"):
            model(torch.empty(1, 1, 9, 9))

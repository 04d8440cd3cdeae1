"""Inception-ResNet: the skip around every module, and what its scale does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipkb.models.classification import inception_resnet as ir
from skipkb.models.classification import inception_v4


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameters_of_v2() -> None:
    with torch.device("meta"):
        model = ir.inception_resnet_v2()
    # Keras has no scale in its normalisations, as the release: 55,813,192.
    scales = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert size(model) - scales == 55_813_192


def test_parameters_of_v1() -> None:
    """From the filters in Figures 10 to 14 and Table 1, by hand: weights, and two per normalised channel."""

    def conv(inside: int, outside: int, places: int) -> int:
        return inside * outside * places + 2 * outside

    stem = conv(3, 32, 9) + conv(32, 32, 9) + conv(32, 64, 9) + conv(64, 80, 1) + conv(80, 192, 9) + conv(192, 256, 9)
    a = 3 * conv(256, 32, 1) + 3 * conv(32, 32, 9) + 96 * 256 + 256
    reduction_a = conv(256, 384, 9) + conv(256, 192, 1) + conv(192, 192, 9) + conv(192, 256, 9)
    b = 2 * conv(896, 128, 1) + 2 * conv(128, 128, 7) + 256 * 896 + 896
    reduction_b = 3 * conv(896, 256, 1) + conv(256, 384, 9) + 3 * conv(256, 256, 9)
    c = 2 * conv(1792, 192, 1) + 2 * conv(192, 192, 3) + 384 * 1792 + 1792
    total = stem + 5 * a + reduction_a + 10 * b + reduction_b + 5 * c + 1792 * 1000 + 1000
    with torch.device("meta"):
        assert size(ir.inception_resnet_v1()) == total


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_maps_of_figure_15(version: str) -> None:
    with torch.device("meta"):
        model = ir.InceptionResNet(version=version, blocks=(1, 1, 1)).eval()  # type: ignore[arg-type]
    shapes = {}
    for name in ("repeat", "mixed_6a", "repeat_1", "mixed_7a"):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, y, name=name: shapes.update({name: y.shape[1:]}))
    model(torch.empty(1, 3, 299, 299, device="meta"))
    a, b, c = {"v1": (256, 896, 1792), "v2": (320, 1088, 2080)}[version]
    assert shapes == {
        "repeat": (a, 35, 35), "mixed_6a": (b, 17, 17), "repeat_1": (b, 17, 17), "mixed_7a": (c, 8, 8),
    }  # fmt: skip


BLOCKS = [
    lambda scale: ir.block35(64, (32, 32), scale=scale),
    lambda scale: ir.asymmetric_block(64, 7, 16, (8, 8, 16), scale=scale),
    lambda scale: ir.asymmetric_block(64, 3, 16, (8, 8, 16), scale=scale, activation=False),
]


@pytest.mark.parametrize("number", range(3))
def test_what_is_added_is_the_scaled_residual(number: int) -> None:
    x = torch.randn(2, 64, 9, 9)
    for scale in (0.1, 0.3, 1.0):
        torch.manual_seed(1)
        block = BLOCKS[number](scale).eval()
        kept = x.clone()
        with torch.no_grad():
            y, residual = block(x), block.residual(x)
        assert residual.abs().max() > 0.1
        expected = x + scale * residual
        torch.testing.assert_close(y, expected.relu() if number < 2 else expected)
        assert torch.equal(x, kept)  # nothing is written into the input


@pytest.mark.parametrize("number", range(3))
def test_a_silent_module_passes_its_input(number: int) -> None:
    """The twin of test_nothing_bypasses_a_module for Inception-v4."""
    block = BLOCKS[number](0.2).eval()
    nn.init.zeros_(block.conv2d.weight)
    nn.init.zeros_(block.conv2d.bias)  # type: ignore[arg-type]
    x = torch.rand(1, 64, 5, 5)
    assert torch.equal(block(x), x)


def test_scales_of_the_release() -> None:
    with torch.device("meta"):
        model = ir.inception_resnet_v2()
    blocks = [m for m in model.modules() if isinstance(m, ir.Block)]
    assert [b.scale for b in blocks] == [0.17] * 10 + [0.10] * 20 + [0.20] * 9 + [1.0]
    assert [b.activation for b in blocks] == [True] * 39 + [False]
    with torch.device("meta"):
        assert all(b.activation for b in ir.inception_resnet_v1().modules() if isinstance(b, ir.Block))


def test_the_residual_is_linear_at_its_end() -> None:
    """No activation between the 1x1 convolution and the sum: what is added can be negative."""
    block = BLOCKS[0](0.2).eval()
    assert block.residual(torch.randn(1, 64, 5, 5)).min() < 0


def test_wide_networks_need_the_scale() -> None:
    """Many blocks that add all of their residual let the signal grow by orders of magnitude; scaled ones do not."""
    growth = {}
    for scale in (0.1, 1.0):
        torch.manual_seed(0)
        blocks = nn.Sequential(*(ir.asymmetric_block(128, 3, 32, (32, 32, 32), scale=scale) for _ in range(20)))
        blocks.apply(ir._init_weights)
        x = torch.rand(2, 128, 8, 8)
        with torch.no_grad():
            growth[scale] = (blocks(x).std() / x.std()).item()
    assert growth[0.1] < 3
    assert growth[1.0] > 3 * growth[0.1]


def test_costs_as_much_as_its_opponent() -> None:
    """Version 2 against Inception-v4: the multiply-accumulates differ by less than a tenth."""
    from torch.utils.flop_counter import FlopCounterMode

    macs = []
    for build in (ir.inception_resnet_v2, inception_v4.inception_v4):
        with torch.device("meta"):
            model = build().eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 299, 299, device="meta"))
        macs.append(counter.get_total_flops() // 2)
    assert 0.9 < macs[0] / macs[1] < 1.1


@pytest.mark.parametrize("size", [(75, 75), (80, 101)])
def test_any_picture_from_75_pixels(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = ir.InceptionResNet(version="v1", blocks=(1, 1, 1), num_classes=5, in_channels=1)
    assert model(torch.empty(2, 1, *size, device="meta")).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "v3"}, "version must be one of v1, v2, got 'v3'"),
        ({"blocks": (1, 2)}, "one positive number for A, B and C each"),
        ({"blocks": (1, 0, 3)}, "one positive number for A, B and C each"),
        ({"scales": (1.0,)}, "one positive number for A, B and C each"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    with torch.device("meta"):
        with pytest.raises(ValueError, match=message):
            ir.InceptionResNet(**change)  # type: ignore[arg-type]
        model = ir.InceptionResNet(blocks=(1, 1, 1))
        with pytest.raises(ValueError, match=r"H and W at least 75, got \[1, 3, 74, 80\]"):
            model(torch.empty(1, 3, 74, 80))

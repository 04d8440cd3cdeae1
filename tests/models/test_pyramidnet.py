"""PyramidNet: linear growth of the width, and a skip that adds nothing to new channels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from skipkb.models.classification import pyramidnet


def size(model: nn.Module, dimensions: tuple[int, ...] = (1, 2, 4)) -> int:
    return sum(p.numel() for p in model.parameters() if p.dim() in dimensions)


NETS = {  # alpha, width behind the stem, output width that the paper prints
    "pyramidnet110_a48": (48, 16, 64),
    "pyramidnet110_a84": (84, 16, 100),
    "pyramidnet110_a270": (270, 16, 286),
    "pyramidnet164_a270": (270, 16, 1144),
    "pyramidnet272_a200": (200, 16, 864),
    "pyramidnet200_a300": (300, 64, 1456),
}


@pytest.mark.parametrize("name", NETS)
def test_widths_and_depth(name: str) -> None:
    alpha, start, output = NETS[name]
    with torch.device("meta"):
        model = getattr(pyramidnet, name)()
    assert model.fc.in_features == output
    units = [m for m in model.modules() if isinstance(m, pyramidnet.Unit)]
    depth = int(name.removeprefix("pyramidnet").split("_")[0])
    assert 2 + sum(isinstance(m, nn.Conv2d) for unit in units for m in unit.modules()) == depth
    # Widths grow linearly to start + alpha: never half a channel away from the straight line.
    widths = [unit.conv2.out_channels for unit in units]
    for k, width in enumerate(widths, start=1):
        assert abs(width - (start + k * alpha / len(units))) <= 0.5
    assert widths[-1] == start + alpha


@pytest.mark.parametrize(
    ("name", "millions"), [("pyramidnet200_a300", 62.1), ("pyramidnet272_a200", 26.0), ("pyramidnet164_a270", 27.0)]
)
def test_printed_counts_leave_the_normalisations_out(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = getattr(pyramidnet, name)()
    assert abs(size(model, (2, 4)) / 1e6 - millions) < 0.06 < abs(size(model) / 1e6 - millions)


def test_rounding() -> None:
    """The authors round the exact sum. Their formula's floor in every step would stop the growth below one channel."""
    widths = pyramidnet.pyramid_widths(54, 48, 16)
    assert widths[:4] == [17, 18, 19, 20]
    assert widths[-1] == 64
    floored = 16
    for _ in range(54):
        floored = math.floor(floored + 48 / 54)
    assert floored == 16
    running, accumulated = 16.0, []
    for _ in range(54):  # as the code does it, with a running sum of floating-point numbers
        running += 84 / 54
        accumulated.append(math.floor(running + 0.5))
    assert accumulated == pyramidnet.pyramid_widths(54, 84, 16)


# --- the skip -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pyramidnet.BasicUnit, pyramidnet.BottleneckUnit])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_padded_skip_adds_nothing_to_new_channels(
    kind: type[pyramidnet.BasicUnit | pyramidnet.BottleneckUnit], stride: int
) -> None:
    unit = kind(10, 13, stride=stride).eval()
    out = 13 * kind.expansion
    x = torch.randn(2, 10, 8, 6)
    added = unit(x) - unit.function(x)
    assert added.shape == (2, out, 8 // stride, 6 // stride)
    expected = x if stride == 1 else nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(added[:, :10], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(unit(x)[:, 10:], unit.function(x)[:, 10:])  # exactly


def test_new_channels_get_no_gradient_through_the_skip() -> None:
    unit = pyramidnet.BasicUnit(4, 6).eval()
    nn.init.zeros_(unit.bn3.weight)
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    y = unit(x)
    (old,) = torch.autograd.grad(y[:, :4].sum(), x, retain_graph=True)
    (new,) = torch.autograd.grad(y[:, 4:].sum(), x)
    assert torch.equal(old, torch.ones_like(x))
    assert torch.count_nonzero(new) == 0


def test_the_skips_have_no_parameters() -> None:
    with torch.device("meta"):
        model = pyramidnet.pyramidnet272_a200()
    assert not [name for name, _ in model.named_parameters() if "downsample" in name or "stem" in name]


def test_no_relu_in_front_of_the_first_convolution_nor_behind_the_last() -> None:
    unit = pyramidnet.BasicUnit(3, 3).eval()
    seen = []
    unit.conv1.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    y = unit(torch.randn(4, 3, 6, 6))
    assert (seen[0] < 0).any()
    assert (y < 0).any()


@pytest.mark.parametrize("picture", [(32, 32), (33, 47), (5, 5)])
@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
def test_any_picture_size(unit: str, picture: tuple[int, int]) -> None:
    model = pyramidnet.PyramidNet(unit=unit, layers=(1, 2, 1), alpha=7, num_classes=5)  # type: ignore[arg-type]
    assert model(torch.rand(2, 3, *picture)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "dense"}, "unit must be one of basic, bottleneck"),
        ({"stem": "mnist"}, "stem must be one of imagenet, cifar"),
        ({"layers": ()}, "one positive number per group"),
        ({"layers": (1, 0)}, "one positive number per group"),
        ({"alpha": -1}, "alpha must not be negative"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"unit": "basic", "layers": (1, 1), "alpha": 4}
    with pytest.raises(ValueError, match=message):
        pyramidnet.PyramidNet(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        pyramidnet.PyramidNet(**right)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pyramidnet.pyramidnet110_a48(alpha=84)  # type: ignore[call-arg]


def test_depths_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"6n\+2, got 112; the nearest are 110 and 116"):
        pyramidnet.pyramidnet_cifar(depth=112, alpha=48, bottleneck=False)
    with pytest.raises(ValueError, match=r"9n\+2, got 112; the nearest are 110 and 119"):
        pyramidnet.pyramidnet_cifar(depth=112, alpha=48, bottleneck=True)

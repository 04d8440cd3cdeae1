"""MobileNet: what a separable convolution computes and what it costs, and that there is no skip."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import skipkb
from skipkb.models.classification import mobilenet_v1


def multiplications(model: nn.Module, *shape: int) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.to("meta").eval()(torch.empty(shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v1_075", "mobilenet_v1_050", "mobilenet_v1_025"])
def test_nothing_is_skipped(name: str) -> None:
    with torch.device("meta"):
        model = getattr(mobilenet_v1, name)()
    assert not skipkb.trace_skips(model, (1, 3, 224, 224)).skips


def test_multiplications_are_those_of_the_authors_list() -> None:
    """The comment in front of their code: 567,716,352 without the classifier, which adds one thousand times 1024."""
    with torch.device("meta"):
        model = mobilenet_v1.mobilenet_v1()
    assert multiplications(model, 1, 3, 224, 224) == 567_716_352 + 1_024_000


@pytest.mark.parametrize(("m", "n"), [(32, 64), (64, 128), (512, 512), (7, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_costs_one_nth_plus_one_ninth(m: int, n: int, stride: int) -> None:
    """Section 3.1: exactly, as counted, in multiplications and in weights."""
    block = mobilenet_v1.DepthwiseSeparable(m, n, stride=stride)
    full = nn.Conv2d(m, n, 3, stride=stride, padding=1, bias=False)
    weights = Fraction(block.conv_dw.weight.numel() + block.conv_pw.weight.numel(), full.weight.numel())
    cost = Fraction(multiplications(block, 1, m, 8, 8), multiplications(full, 1, m, 8, 8))
    assert weights == cost == Fraction(1, n) + Fraction(1, 9)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_two_convolutions_are_one_whose_kernel_factorises(stride: int) -> None:
    block = mobilenet_v1.DepthwiseSeparable(5, 7, stride=stride)
    x = torch.randn(2, 5, 9, 8)
    kernel = block.conv_pw.weight * block.conv_dw.weight.transpose(0, 1)  # [7, 5, 1, 1] * [1, 5, 3, 3]
    torch.testing.assert_close(
        block.conv_pw(block.conv_dw(x)), F.conv2d(x, kernel, stride=stride, padding=1), rtol=1e-4, atol=1e-6
    )
    assert torch.linalg.matrix_rank(kernel.transpose(0, 1).flatten(2)).tolist() == [1] * 5
    assert torch.linalg.matrix_rank(torch.randn(5, 7, 9)).tolist() == [7] * 5  # a full convolution has more


def test_each_step_does_one_thing() -> None:
    """Depthwise: an input channel reaches its own output only. Pointwise: a position does."""
    block = mobilenet_v1.DepthwiseSeparable(4, 6)
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    block.conv_dw(x)[0, 2].sum().backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum((1, 2)).gt(0).tolist() == [False, False, True, False]
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    block.conv_pw(x)[0, :, 1, 3].sum().backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum(0).nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize(("activation", "limit"), [("relu6", 6.0), ("relu", float("inf"))])
def test_activation(activation: str, limit: float) -> None:
    """Both normalised maps of a block are activated; ReLU6 as released, ReLU as printed."""
    block = mobilenet_v1.DepthwiseSeparable(4, 4, activation=activation).eval()  # type: ignore[arg-type]
    y = block(3000 * torch.randn(2, 4, 6, 6))
    assert y.min() == 0
    assert (y.max() <= 6) == (limit == 6)
    with torch.device("meta"):
        kinds = {type(m) for m in mobilenet_v1.mobilenet_v1().modules() if isinstance(m, (nn.ReLU, nn.ReLU6))}
    assert kinds == {nn.ReLU6}


def test_widths_and_strides() -> None:
    """Table 1, except that its last stride does not fit its own sizes."""
    with torch.device("meta"):
        model = mobilenet_v1.mobilenet_v1()
    found = [m for m in model.modules() if isinstance(m, mobilenet_v1.DepthwiseSeparable)]
    assert [m.conv_dw.stride[0] for m in found] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    assert [m.conv_pw.out_channels for m in found] == [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    with torch.device("meta"):
        assert model.to("meta").blocks(torch.empty(1, 32, 112, 112)).shape == (1, 1024, 7, 7)
        tiny = mobilenet_v1.MobileNetV1(width_mult=0.01)
    assert tiny.classifier.in_features == 10
    assert tiny.conv_stem.out_channels == 8  # never fewer


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (1, 1)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = mobilenet_v1.MobileNetV1(width_mult=0.25, blocks=((64, 1, 1), (128, 2, 2)), num_classes=5).eval()
    assert model(torch.rand(2, 3, *shape)).shape == (2, 5)


@pytest.mark.parametrize("change", [{"width_mult": 0.0}, {"blocks": ()}, {"blocks": ((64, 1, 3),)}])
def test_mistakes(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="width_mult must be positive and blocks be lines of"):
        mobilenet_v1.MobileNetV1(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="activation must be 'relu' or 'relu6', got 'swish'"):
        mobilenet_v1.MobileNetV1(activation="swish")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        mobilenet_v1.MobileNetV1(width_mult=0.25)(torch.rand(1, 1, 8, 8))

"""MobileNetV3: the gate and the activation made of straight lines, and where the skips are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import skipkb
from skipkb.models.classification import mobilenet_v3
from skipkb.models.classification.mobilenet_v3 import ChannelGate, InvertedResidual, MobileNetV3

SMALL: tuple[mobilenet_v3.Line, ...] = ((3, 16, 16, True, "RE", 2), (5, 40, 16, True, "HS", 1))


def test_the_gate_is_a_hard_sigmoid_of_the_whole_map() -> None:
    """Between zero and one, both reached, by ReLU6(x + 3) / 6, one number for each picture and channel."""
    gate = ChannelGate(24)
    for layer in (gate.fc1, gate.fc2):
        nn.init.normal_(layer.weight, std=1.5)
    x = torch.rand(8, 24, 5, 4) + 0.5
    share = gate(x) / x
    torch.testing.assert_close(share, share[:, :, :1, :1].expand_as(share))
    assert share.min() == 0
    torch.testing.assert_close(share.max(), torch.tensor(1.0))
    score = gate.fc2(F.relu(gate.fc1(x.mean((2, 3), keepdim=True))))
    torch.testing.assert_close(share[:, :, :1, :1], F.relu6(score + 3) / 6)
    other = x.clone()
    other[0, 3, 1, 2] += 2
    changed = (gate(other) / other - share).abs().amax((1, 2, 3)) > 1e-6
    assert changed[0]
    assert not changed[1:].any()


def test_h_swish_is_the_printed_formula_in_the_deeper_half() -> None:
    x = torch.linspace(-8, 8, 101)
    torch.testing.assert_close(nn.Hardswish()(x), x * F.relu6(x + 3) / 6)
    for name in ("mobilenet_v3_large", "mobilenet_v3_small"):
        with torch.device("meta"):
            model = getattr(mobilenet_v3, name)()
        kinds = [
            any(isinstance(m, nn.Hardswish) for m in b.modules())
            for b in model.features
            if isinstance(b, InvertedResidual)
        ]
        first = kinds.index(True)
        assert kinds == [False] * first + [True] * (len(kinds) - first)
        for block in model.features:
            if isinstance(block, InvertedResidual):  # never both in one block
                found = {type(m) for m in block.block if isinstance(m, nn.Sequential) for m in m}
                assert len(found & {nn.ReLU, nn.Hardswish}) == 1


@pytest.mark.parametrize("table", [mobilenet_v3.TABLE_1, mobilenet_v3.TABLE_2])
def test_skips_only_where_stride_and_width_allow(table: tuple[mobilenet_v3.Line, ...]) -> None:
    with torch.device("meta"):
        blocks = [b for b in MobileNetV3(blocks=table).features if isinstance(b, InvertedResidual)]
    widths = [16, *(line[2] for line in table)]
    expected = [line[5] == 1 and widths[i] == line[2] for i, line in enumerate(table)]
    assert [block.residual for block in blocks] == expected
    assert [any(isinstance(m, ChannelGate) for m in block.block) for block in blocks] == [line[3] for line in table]


def test_skips_by_hand() -> None:
    """A block that does not expand crosses two convolutions only, so its skip is not a long one."""
    with torch.device("meta"):
        large, small = mobilenet_v3.mobilenet_v3_large(), mobilenet_v3.mobilenet_v3_small()
        plain = mobilenet_v3.mobilenet_v3_small(residual=False)
    shape = (1, 3, 224, 224)
    assert skipkb.trace_skips(large, shape).counts() == {"add": 10, "identity": 10, "gate": 8, "long": 9}
    assert skipkb.trace_skips(small, shape).counts() == {"add": 6, "identity": 6, "gate": 9, "long": 6}
    assert skipkb.trace_skips(plain, shape).counts() == {"gate": 9}


@pytest.mark.parametrize("gate", [True, False])
def test_the_skip_is_the_identity_and_the_bottleneck_is_linear(gate: bool) -> None:
    block = InvertedResidual(8, 48, 8, kernel_size=5, gate=gate, activation="HS", stride=1).eval()
    x = torch.randn(2, 8, 6, 6)
    y = block(x)
    assert y.min() < 0
    assert (y - x).min() < 0 < (y - x).max()
    nn.init.zeros_(block.block[-1][1].weight)  # type: ignore[index, arg-type]
    assert torch.equal(block(x), x)


def test_the_gate_stands_behind_the_activated_depthwise_convolution() -> None:
    block = InvertedResidual(8, 48, 12, kernel_size=3, gate=True, activation="RE", stride=2)
    assert [type(m) for m in block.block] == [nn.Sequential, nn.Sequential, ChannelGate, nn.Sequential]
    assert [type(m) for m in block.block[1]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]  # type: ignore[arg-type]
    assert block.block[1][0].groups == 48  # type: ignore[index, union-attr]
    assert [type(m) for m in block.block[3]] == [nn.Conv2d, nn.BatchNorm2d]  # type: ignore[arg-type]


def test_the_widest_layer_works_on_one_position() -> None:
    """Section 5.1: behind the pooling it costs a forty-ninth of what it would in front."""
    with torch.device("meta"), FlopCounterMode(display=False, depth=3) as counter:
        model = mobilenet_v3.mobilenet_v3_large().eval()
        model(torch.empty(1, 3, 224, 224))
        before = counter.get_total_flops()
        nn.Conv2d(960, 1280, 1)(torch.empty(1, 960, 7, 7))
        in_front = counter.get_total_flops() - before
        model.classifier[0](torch.empty(1, 960))
        behind = counter.get_total_flops() - before - in_front
    assert in_front == 49 * behind
    assert in_front > before / 4  # of the whole network as it is


@pytest.mark.parametrize(("channels", "rounded"), [(18, 24), (30, 32), (28, 32), (12, 16), (60, 64), (84, 88), (3, 8)])
def test_rounding(channels: float, rounded: int) -> None:
    assert mobilenet_v3.make_divisible(channels) == rounded


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (1, 1)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = MobileNetV3(blocks=SMALL, last=32, num_classes=5).eval()
    assert model(torch.rand(2, 3, *shape)).shape == (2, 5)


@pytest.mark.parametrize("change", [{"width_mult": 0.0}, {"blocks": ()}, {"blocks": ((3, 16, 16, True, "swish", 1),)}])
def test_mistakes(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="width_mult must be positive and blocks be lines of"):
        MobileNetV3(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        MobileNetV3(blocks=SMALL)(torch.rand(1, 1, 8, 8))

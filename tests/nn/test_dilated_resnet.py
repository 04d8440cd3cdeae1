"""Dilated trunks under two families of names: ResNet's values where nothing is dilated, and the skip in every block."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skipkb.models.classification.resnet import ResNet
from skipkb.nn.dilated_resnet import (
    DilatedBottleneck,
    DilatedResNet,
    MSRABottleneck,
    dilated_stage,
    msra_stage,
    msra_stem,
)
from skipkb.nn.pixel_loss import pixel_cross_entropy


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_without_dilation_it_is_resnet() -> None:
    origin = ResNet(block="bottleneck", layers=(1, 2), widths=(4, 6), num_classes=3).eval()
    trunk = DilatedResNet(layers=(1, 2), widths=(4, 6), strides=(1, 2), rates=([1], [1, 1]), in_channels=3).eval()
    state = {name: value for name, value in origin.state_dict().items() if not name.startswith("fc.")}
    trunk.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 33, 47)
    maps = trunk(x)
    assert [m.shape[1] for m in maps] == [16, 24]
    torch.testing.assert_close(origin.fc(maps[-1].mean(dim=(2, 3))), origin(x))


def test_a_stage_of_rates_in_place_of_a_stride_keeps_every_second_value() -> None:
    strided, dilated = dilated_stage(8, 4, [1, 1], stride=2).eval(), dilated_stage(8, 4, [1, 2]).eval()
    state = strided.state_dict()
    dilated.load_state_dict(state)
    x = torch.randn(1, 8, 17, 13)
    torch.testing.assert_close(dilated(x)[..., ::2, ::2], strided(x))


def test_the_same_with_the_stride_in_the_first_1x1() -> None:
    strided, dilated = msra_stage(8, 4, [1, 1], stride=2).eval(), msra_stage(8, 4, [2, 2]).eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 8, 17, 13)
    torch.testing.assert_close(dilated(x)[..., ::2, ::2], strided(x))


def test_blocks_add_their_input() -> None:
    plain = DilatedBottleneck(16, 4, dilation=3).eval()
    msra = MSRABottleneck(16, 4, stride=1, dilation=3, project=False, momentum=0.1).eval()
    x = torch.rand(2, 16, 7, 7)
    for block, last in ((plain, "bn3.weight"), (msra, "increase.bn.weight")):
        assert (block(x) - x).abs().max() > 1e-3
        nn.init.zeros_(block.get_parameter(last))
        assert torch.equal(block(x), x)


def test_names_strides_and_momentum_of_the_second_family() -> None:
    stage = msra_stage(8, 4, [1, 2], stride=2, momentum=0.25)
    layers = [f"block{i}.{part}" for i in (1, 2) for part in ("reduce", "conv3x3", "increase")]
    layers.insert(3, "block1.shortcut")
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in stage.state_dict()))
    assert names == [f"{layer}.{kind}" for layer in layers for kind in ("conv", "bn")]
    assert {m.momentum for m in stage.modules() if isinstance(m, nn.BatchNorm2d)} == {0.25}
    assert msra_stem(3, 4).eval()(torch.rand(1, 3, 97, 96)).shape == (1, 4, 25, 25)  # rounded up


@pytest.mark.parametrize("align", [True, False])
def test_the_loss_of_pixels(align: bool) -> None:
    logits, classes = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 13, 17))
    classes[:, :3] = 7
    large = F.interpolate(logits, (13, 17), mode="bilinear", align_corners=align)
    expected = F.cross_entropy(large[:, :, 3:], classes[:, 3:])
    torch.testing.assert_close(pixel_cross_entropy(logits, classes, ignore=7, align_corners=align), expected)
    same = pixel_cross_entropy(large, classes, ignore=7)
    torch.testing.assert_close(same, expected)

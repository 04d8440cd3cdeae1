"""The trunk that many papers share is ResNet: with ResNet's blocks it has ResNet's tensors and answers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import resnet
from skipkb.nn.resnet_trunk import (
    BasicBranch,
    BottleneckBranch,
    ResNetTrunk,
    Stem,
    check_stages,
    projection_shortcut,
    stages,
)


class Basic(BasicBranch):
    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__(in_channels, channels, stride=stride)
        self.downsample = projection_shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.function(x) + shortcut)


class Bottleneck(BottleneckBranch):
    def __init__(self, in_channels: int, channels: int, *, stride: int, **options: int) -> None:
        super().__init__(in_channels, channels, stride=stride, **options)
        self.downsample = projection_shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.function(x) + shortcut)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("stem", ["imagenet", "caffe", "cifar"])
@pytest.mark.parametrize(("block", "kind"), [("basic", Basic), ("bottleneck", Bottleneck)])
def test_with_resnets_blocks_it_is_resnet(block: str, kind: type[Basic | Bottleneck], stem: Stem) -> None:
    layers, widths = (2, 1, 2), (8, 16, 24)
    origin = resnet.ResNet(block=block, layers=layers, widths=widths, stem=stem, num_classes=5, in_channels=2)  # type: ignore[arg-type]
    trunk = ResNetTrunk(kind, layers=layers, widths=widths, stem=stem, stem_width=8, num_classes=5, in_channels=2)
    trunk.load_state_dict(origin.state_dict())
    for size in ((33, 47), (32, 32), (9, 8)):
        x = torch.randn(2, 2, *size)
        torch.testing.assert_close(trunk.eval()(x), origin.eval()(x))


def test_the_deep_stem_has_three_convolutions_and_halves_twice() -> None:
    trunk = ResNetTrunk(Basic, layers=(1,), widths=(8,), stem="deep", stem_width=8, num_classes=5, in_channels=3)
    convolutions = [m for m in trunk.conv1.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions] == [(4, 3, 2), (4, 3, 1), (8, 3, 1)]
    assert trunk.maxpool(trunk.conv1(torch.rand(1, 3, 32, 32))).shape == (1, 8, 8, 8)
    assert not isinstance(trunk.conv1[-1], nn.ReLU)  # type: ignore[index]  # bn1 and its ReLU follow


def test_what_a_stage_is_made_of() -> None:
    called = []

    def block(in_channels: int, width: int, *, stride: int) -> nn.Module:
        called.append((in_channels, width, stride))
        return Bottleneck(in_channels, width, stride=stride)

    made, channels = stages(block, (2, 1, 3), (4, 8, 16), 6)
    assert called == [(6, 4, 1), (16, 4, 1), (16, 8, 2), (32, 16, 2), (64, 16, 1), (64, 16, 1)]
    assert [len(stage) for stage in made] == [2, 1, 3]
    assert channels == 64


def test_width_and_groups_of_a_bottleneck() -> None:
    made, channels = stages(partial(Bottleneck, width=12, groups=4), (1,), (8,), 3)
    block = made[0][0]
    assert isinstance(block, Bottleneck)
    assert (block.conv2.in_channels, block.conv2.out_channels, block.conv2.groups) == (12, 12, 4)
    assert block.conv3.out_channels == channels == 32


def test_the_shortcut_projects_where_the_shape_changes_only() -> None:
    x = torch.randn(2, 4, 5, 7)
    assert projection_shortcut(4, 4, 1) is None
    for out_channels, stride, shape in ((6, 1, (2, 6, 5, 7)), (4, 2, (2, 4, 3, 4))):
        projection = projection_shortcut(4, out_channels, stride)
        assert projection is not None
        assert projection(x).shape == shape


class Named(ResNetTrunk):
    pass


def test_mistakes_carry_the_name_of_the_model() -> None:
    for layers, widths in (((1,), (4, 8)), ((), ()), ((1, 0), (4, 8)), ((1, 1), (4, 0))):
        with pytest.raises(ValueError, match="Named: layers and widths need one positive number per stage each, got"):
            Named(Basic, layers=layers, widths=widths, num_classes=2, in_channels=1)
        with pytest.raises(ValueError, match=r"X: layers .* got layers=.* and widths="):
            check_stages("X", layers, widths)
    with pytest.raises(ValueError, match="Named: stem must be one of imagenet, caffe, cifar, deep, got 'wide'"):
        Named(Basic, layers=(1,), widths=(4,), stem="wide", num_classes=2, in_channels=1)  # type: ignore[arg-type]
    named = Named(Basic, layers=(1,), widths=(4,), num_classes=2, in_channels=1)
    with pytest.raises(ValueError, match=r"Named: expected input \[N, 1, H, W\], got \[1, 3, 8, 8\]"):
        named(torch.rand(1, 3, 8, 8))
    caffe = Named(Basic, layers=(1,), widths=(4,), stem="caffe", num_classes=2, in_channels=1).eval()
    assert caffe(torch.rand(1, 1, 3, 3)).shape == (1, 2)
    with pytest.raises(ValueError, match="with H and W at least 3"):
        caffe(torch.rand(1, 1, 2, 9))

r"""Dilated Residual Networks: keep the map, and end without skips.

A ResNet for classification ends with maps of 7x7. DRN-A gives up the last two strides and dilates the convolutions
behind them by 2 and by 4 instead, so that every layer sees as much of the picture as before and the last map is 28x28
(Section 2). A dilated convolution reads a grid of pixels,

.. math::  (F *_l k)(p) = \sum_{s + l t = p} F(s)\, k(t),

and where the signal varies faster than the grid, the pattern of the grid shows in the output. DRN-C therefore drops the
maximum pooling, whose peaks start the pattern, and adds levels of dilation 2 and 1 at the end, which smooth it. These
have *no skip*: an addition would carry the pattern past the convolutions that are to remove it (Section 4, Figure 5).
DRN-D replaces the blocks of the first and last two levels by plain convolutions. In all other levels the skip is
ResNet's: the block's input, projected by a 1x1 convolution where the shape changes, in front of the last ReLU.

F. Yu, V. Koltun, T. Funkhouser: "Dilated Residual Networks", CVPR 2017, arXiv:1705.09914.

Deviations: in DRN-A the first 3x3 convolution of a group keeps the dilation of the group before, as Section 2 says, so
that a ResNet's weights give a ResNet's values on every fourth pixel. The authors' code, which departs from the paper
here, leaves the whole first block without dilation; ``released=True`` builds that. DRN-C and D are built as in the
code, with one dilation for a whole level. Names and initial values (zero-mean Gaussians of variance 2 / fan-out) are
also those of the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "DRN",
    "DRNA",
    "BasicBlock",
    "Bottleneck",
    "drn_a_18",
    "drn_a_34",
    "drn_a_50",
    "drn_c_26",
    "drn_c_42",
    "drn_d_22",
    "drn_d_38",
    "drn_d_54",
    "drn_d_105",
    "objective",
]  # fmt: skip


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution whose padding follows its dilation."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


class Block(nn.Module):
    """What both kinds of block share: the shortcut, or its absence.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 2 where the resolution halves, else 1.
        residual: False leaves the skip out.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if residual and (stride != 1 or in_channels != out_channels):
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        if not self.residual:
            return self.relu(self.function(x))  # type: ignore[no-any-return]  # the grid is not carried on
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.function(x) + shortcut)  # type: ignore[no-any-return]  # the skip

    def function(self, x: Tensor) -> Tensor:
        """The residual function."""
        raise NotImplementedError


class BasicBlock(Block):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        dilation: tuple[int, int] = (1, 1),
        residual: bool = True,
    ) -> None:
        super().__init__(in_channels, channels, stride=stride, residual=residual)
        self.conv1 = conv3x3(in_channels, channels, stride, dilation[0])
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, 1, dilation[1])
        self.bn2 = nn.BatchNorm2d(channels)

    def function(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))  # type: ignore[no-any-return]


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolution to four times the width."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        dilation: tuple[int, int] = (1, 1),
        residual: bool = True,
    ) -> None:
        out_channels = channels * self.expansion
        super().__init__(in_channels, out_channels, stride=stride, residual=residual)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride, dilation[0])
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)

    def function(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))  # type: ignore[no-any-return]


def _level(
    kind: type[BasicBlock | Bottleneck], in_channels: int, width: int, count: int, *, stride: int = 1,
    dilation: int = 1, first: tuple[int, int] | None = None, residual: bool = True,
) -> nn.Sequential:  # fmt: skip
    """Blocks of one level; ``first`` are the dilations in the first block, if they differ."""
    blocks = [kind(in_channels, width, stride=stride, dilation=first or (dilation, dilation), residual=residual)]
    for _ in range(1, count):
        blocks.append(kind(width * kind.expansion, width, dilation=(dilation, dilation), residual=residual))
    return nn.Sequential(*blocks)


def _plain_level(in_channels: int, width: int, count: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, normalisation and ReLU, ``count`` times, with no skip."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers.append(conv3x3(in_channels if i == 0 else width, width, stride if i == 0 else 1, dilation))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class DRNA(nn.Module):
    """DRN-A: ResNet with stem and pooling, whose last two strides are dilations (Figure 1).

    Args:
        block: "basic" or "bottleneck".
        layers: blocks of the four groups.
        released: as in the authors' code, the whole first block of a group is not dilated.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: an option that does not exist, or a number out of range.
    """

    def __init__(
        self,
        *,
        block: Literal["basic", "bottleneck"],
        layers: Sequence[int],
        released: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        kind = _kind(block)
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"DRNA: layers needs four positive numbers, got {tuple(layers)}")
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        e = kind.expansion
        self.layer1 = _level(kind, 64, 64, layers[0])
        self.layer2 = _level(kind, 64 * e, 128, layers[1], stride=2)
        self.layer3 = _level(kind, 128 * e, 256, layers[2], dilation=2, first=(1, 1) if released else (1, 2))
        self.layer4 = _level(kind, 256 * e, 512, layers[3], dilation=4, first=(1, 1) if released else (2, 4))
        self.fc = nn.Linear(512 * e, num_classes)
        self.apply(he_fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]. Any H and W; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        logits: Tensor = self.fc(self.forward_features(x).mean(dim=(2, 3)))
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, an eighth of the picture's size."""
        check_pictures("DRNA", x, self.in_channels)
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[no-any-return]


class DRN(nn.Module):
    """DRN-C and DRN-D: eight levels without pooling (Figure 5), then average and classifier.

    Args:
        arch: "C" with residual blocks in every level, the last two without skip, or "D" with plain convolutions in
            the first and last two levels.
        block: "basic" or "bottleneck", in levels 3 to 6.
        layers: blocks, or convolutions, of the eight levels.
        channels: width of the eight levels.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: an option that does not exist, or a number out of range.
    """

    def __init__(
        self,
        *,
        arch: Literal["C", "D"],
        block: Literal["basic", "bottleneck"],
        layers: Sequence[int],
        channels: Sequence[int] = (16, 32, 64, 128, 256, 512, 512, 512),
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        kind = _kind(block)
        if arch not in ("C", "D"):
            raise ValueError(f"DRN: arch must be one of C, D, got {arch!r}")
        if len(layers) != 8 or len(channels) != 8 or min(*layers, *channels) < 1:
            raise ValueError(
                "DRN: layers and channels need eight positive numbers each, "
                f"got layers={tuple(layers)} and channels={tuple(channels)}"
            )
        self.in_channels = in_channels
        self.arch = arch
        n, c, e = tuple(layers), tuple(channels), kind.expansion
        stem = nn.Conv2d(in_channels, c[0], 7, padding=3, bias=False)
        if arch == "C":
            self.conv1 = stem
            self.bn1 = nn.BatchNorm2d(c[0])
            self.layer1 = _level(BasicBlock, c[0], c[0], n[0])
            self.layer2 = _level(BasicBlock, c[0], c[1], n[1], stride=2)
        else:
            self.layer0 = nn.Sequential(stem, nn.BatchNorm2d(c[0]), nn.ReLU(inplace=True))
            self.layer1 = _plain_level(c[0], c[0], n[0])
            self.layer2 = _plain_level(c[0], c[1], n[1], stride=2)
        self.layer3 = _level(kind, c[1], c[2], n[2], stride=2)
        self.layer4 = _level(kind, c[2] * e, c[3], n[3], stride=2)
        self.layer5 = _level(kind, c[3] * e, c[4], n[4], dilation=2)
        self.layer6 = _level(kind, c[4] * e, c[5], n[5], dilation=4)
        if arch == "C":  # no skips from here on
            self.layer7 = _level(BasicBlock, c[5] * e, c[6], n[6], dilation=2, residual=False)
            self.layer8 = _level(BasicBlock, c[6], c[7], n[7], residual=False)
        else:
            self.layer7 = _plain_level(c[5] * e, c[6], n[6], dilation=2)
            self.layer8 = _plain_level(c[6], c[7], n[7])
        self.fc = nn.Conv2d(c[7], num_classes, 1)  # so that it can be applied to the map as well
        self.apply(he_fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]. Any H and W; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        x = self.forward_features(x).mean(dim=(2, 3), keepdim=True)
        return self.fc(x).flatten(1)  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, an eighth of the picture's size."""
        check_pictures("DRN", x, self.in_channels)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True) if self.arch == "C" else self.layer0(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.layer6(self.layer5(x))  # dilated
        return self.layer8(self.layer7(x))  # type: ignore[no-any-return]  # the grid removed


def _kind(block: str) -> type[BasicBlock | Bottleneck]:
    if block not in ("basic", "bottleneck"):
        raise ValueError(f"DRN: block must be one of basic, bottleneck, got {block!r}")
    return BasicBlock if block == "basic" else Bottleneck


# Table 1; DRN-D is of the authors' code.
# fmt: off
drn_a_18 = published(DRNA, block="basic", layers=(2, 2, 2, 2), free=["released"])
drn_a_34 = published(DRNA, block="basic", layers=(3, 4, 6, 3), free=["released"])
drn_a_50 = published(DRNA, block="bottleneck", layers=(3, 4, 6, 3), free=["released"])
drn_c_26 = published(DRN, arch="C", block="basic", layers=(1, 1, 2, 2, 2, 2, 1, 1))
drn_c_42 = published(DRN, arch="C", block="basic", layers=(1, 1, 3, 4, 6, 3, 1, 1))
drn_d_22 = published(DRN, arch="D", block="basic", layers=(1, 1, 2, 2, 2, 2, 1, 1))
drn_d_38 = published(DRN, arch="D", block="basic", layers=(1, 1, 3, 4, 6, 3, 1, 1))
drn_d_54 = published(DRN, arch="D", block="bottleneck", layers=(1, 1, 3, 4, 6, 3, 1, 1))
drn_d_105 = published(DRN, arch="D", block="bottleneck", layers=(1, 1, 3, 4, 23, 3, 1, 1))
# fmt: on

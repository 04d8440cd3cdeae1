r"""PyramidNet: every residual unit is a little wider than the one before.

A ResNet doubles its channels in the few units that also halve the resolution, and those are the units that can least
be spared. PyramidNet spreads the growth over the whole depth. With N units and a total widening of :math:`\alpha`
channels, unit k has the width (Section 3.1, equation 2)

.. math::  D_k = \lfloor D_0 + k \, \alpha / N \rceil

with D_0 channels behind the stem; a bottleneck puts out four times as many. Units have no ReLU in front of their first
convolution, and one more normalisation behind their last (Section 3.4 and Figure 6 (d)):

.. math::  x_{k+1} = \mathrm{pad}(x_k) + \mathrm{BN} \circ W_2 \circ \mathrm{ReLU} \circ \mathrm{BN} \circ W_1 \circ
           \mathrm{BN} (x_k)

The skip has no parameters: the input's channels pass unchanged, zeros stand for those that the input lacks, and 2x2
average pooling comes first where the resolution halves (Section 3.3). The new channels of a unit are therefore a plain
network's, the old ones a residual network's.

D. Han, J. Kim, J. Kim: "Deep Pyramidal Residual Networks", CVPR 2017, arXiv:1610.02915.

Deviations from the paper: equation 2 takes the floor in every step, so that 54 units with alpha = 48 would never get
wider. The authors' Torch and PyTorch code add up fractions and round each width, and so do we.

Where the paper gives no figure: convolutions start as in the code, zero-mean Gaussians of variance 2 / fan-out; in a
map of odd size, the last row and column are pooled alone (the code expects even sizes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.depth import blocks_of_depth
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import Block

__all__ = [
    "BasicUnit", "BottleneckUnit", "PyramidNet", "objective", "pyramid", "pyramid_widths", "pyramidnet110_a48",
    "pyramidnet110_a84", "pyramidnet110_a270", "pyramidnet164_a270", "pyramidnet200_a300", "pyramidnet272_a200",
]  # fmt: skip


def pyramid_widths(units: int, alpha: float, start: int) -> list[int]:
    """D_1 to D_N of equation 2: from ``start`` in N equal steps to ``start + alpha``, each rounded by itself."""
    return [math.floor(start + k * alpha / units + 0.5) for k in range(1, units + 1)]


class Unit(nn.Module):
    """The skip that both kinds of unit share: [N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)], C' >= C."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = out_channels - in_channels
        self.downsample: nn.Module | None = None
        if stride == 2:
            self.downsample = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        return self.function(x) + shortcut  # the skip

    def shortcut(self, x: Tensor) -> Tensor:
        """The input, averaged where the resolution halves, with zeros behind the old channels."""
        if self.downsample is not None:
            x = self.downsample(x)
        if self.new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return x

    def function(self, x: Tensor) -> Tensor:
        """The residual function."""
        raise NotImplementedError


class BasicUnit(Unit):
    """Two 3x3 convolutions.

    Args:
        in_channels: channels of the input.
        channels: width D_k of the unit, not less.
        stride: 2 in the unit that halves the resolution, else 1.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def function(self, x: Tensor) -> Tensor:
        x = self.conv1(self.bn1(x))  # no ReLU here
        x = self.conv2(self.relu(self.bn2(x)))
        return self.bn3(x)  # type: ignore[no-any-return]


class BottleneckUnit(Unit):
    """1x1, 3x3 and 1x1 to four times the width; arguments as in :class:`BasicUnit`."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, channels * self.expansion, stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)

    def function(self, x: Tensor) -> Tensor:
        x = self.conv1(self.bn1(x))  # no ReLU here
        x = self.conv2(self.relu(self.bn2(x)))
        x = self.conv3(self.relu(self.bn3(x)))
        return self.bn4(x)  # type: ignore[no-any-return]


def pyramid(unit: Block, layers: Sequence[int], alpha: float, start: int) -> tuple[list[nn.Sequential], int]:
    """Groups of units that widen by equation 2; the resolution halves between groups.

    Args:
        unit: makes a unit, called as ``unit(in_channels, width, stride=stride)``.
        layers: units per group.
        alpha: channels that all units together add to the width.
        start: channels in front of the first unit, D_0.

    Returns:
        The groups, and the channels behind the last one.
    """
    widths = iter(pyramid_widths(sum(layers), alpha, start))
    groups, channels = [], start
    for i, count in enumerate(layers):
        group = nn.Sequential()
        for j in range(count):
            width = next(widths)
            one: Any = unit(channels, width, stride=2 if i > 0 and j == 0 else 1)
            channels = width * one.expansion
            group.append(one)
        groups.append(group)
    return groups, channels


class PyramidNet(nn.Module):
    """Stem, units of growing width, normalisation, ReLU, global average, linear classifier (Table 1).

    Args:
        unit: "basic" or "bottleneck".
        layers: units per group; the resolution halves between groups.
        alpha: channels that all units together add to the width.
        stem: "imagenet" is a strided 7x7 convolution to 64 channels, ReLU and maximum pooling, "cifar" one 3x3 to 16.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: an option that does not exist, or a number out of range.
    """

    def __init__(
        self,
        *,
        unit: Literal["basic", "bottleneck"],
        layers: Sequence[int],
        alpha: float,
        stem: Literal["imagenet", "cifar"] = "cifar",
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if unit not in ("basic", "bottleneck"):
            raise ValueError(f"PyramidNet: unit must be one of basic, bottleneck, got {unit!r}")
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"PyramidNet: stem must be one of imagenet, cifar, got {stem!r}")
        if not layers or min(layers) < 1 or alpha < 0:
            raise ValueError(
                "PyramidNet: layers needs one positive number per group and alpha must not be negative, "
                f"got layers={tuple(layers)} and alpha={alpha}"
            )
        self.in_channels = in_channels
        channels = 64 if stem == "imagenet" else 16
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.stem: nn.Module = nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1))
        else:
            self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)  # without ReLU
            self.stem = nn.Identity()
        kind = BasicUnit if unit == "basic" else BottleneckUnit
        made, channels = pyramid(kind, layers, alpha, channels)
        self.groups = [f"layer{i}" for i in range(1, len(made) + 1)]
        for name, group in zip(self.groups, made, strict=True):
            self.add_module(name, group)
        self.bn_final = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_fan_out)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes].

        Any H and W; the paper has 32 x 32 (CIFAR) and 224 x 224 (ImageNet).

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("PyramidNet", x, self.in_channels)
        x = self.stem(self.bn1(self.conv1(x)))
        for name in self.groups:
            x = getattr(self, name)(x)
        x = F.relu(self.bn_final(x), inplace=True)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def pyramidnet_cifar(
    *, depth: int, alpha: float, bottleneck: bool, num_classes: int = 10, in_channels: int = 3
) -> PyramidNet:
    """Three equal groups for 32 x 32 pictures (Table 1).

    Raises:
        ValueError: depth is not 6n+2, with bottlenecks 9n+2.
    """
    n = blocks_of_depth("pyramidnet_cifar", depth, 9 if bottleneck else 6, 2)
    return PyramidNet(
        unit="bottleneck" if bottleneck else "basic", layers=(n, n, n), alpha=alpha,
        num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip


# Table 4, for CIFAR, and Table 5, for ImageNet.
pyramidnet110_a48 = published(pyramidnet_cifar, depth=110, alpha=48, bottleneck=False)
pyramidnet110_a84 = published(pyramidnet_cifar, depth=110, alpha=84, bottleneck=False)
pyramidnet110_a270 = published(pyramidnet_cifar, depth=110, alpha=270, bottleneck=False)
pyramidnet164_a270 = published(pyramidnet_cifar, depth=164, alpha=270, bottleneck=True)
pyramidnet272_a200 = published(pyramidnet_cifar, depth=272, alpha=200, bottleneck=True)
pyramidnet200_a300 = published(
    PyramidNet, unit="bottleneck", layers=(3, 24, 36, 3), alpha=300, stem="imagenet", num_classes=1000
)

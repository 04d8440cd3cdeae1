r"""Res2Net: a bottleneck whose middle is itself a small residual hierarchy.

A bottleneck has one 3x3 convolution and sees one neighbourhood. Res2Net splits the channels behind the first 1x1 into s
groups x_1 ... x_s, the *scale*, and lets each group hand its result to the next (Section 3.1, equation 1):

.. math::  y_1 = x_1, \qquad  y_2 = K_2(x_2), \qquad  y_i = K_i(x_i + y_{i-1}) \quad (2 < i \le s)

with a 3x3 convolution K_i per group. The y are concatenated and mixed by the last 1x1. So y_i has passed up to i - 1
convolutions, and one block sees neighbourhoods of 1, 3, 5 and 7 pixels. There are skips on two levels: the s - 2
additions between the groups, and the one of ResNet around the block, which ends in front of the last ReLU.

S.-H. Gao, M.-M. Cheng, K. Zhao, X.-Y. Zhang, M.-H. Yang, P. Torr: "Res2Net: A New Multi-scale Backbone Architecture",
IEEE TPAMI 43 (2), 2021, arXiv:1904.01169.

Deviations from the paper, as in the authors' code and their checkpoints: the first block of a stage leaves the inner
additions out, because its convolutions may stride, and averages the untouched group over 3x3 windows; the untouched
group is the last one instead of the first, which renumbers channels only; convolutions start as zero-mean Gaussians of
variance 2 / fan-out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.resnet_trunk import ResNetTrunk, projection_shortcut

__all__ = ["Bottle2neck", "Res2Net", "objective", "res2net50_26w_4s"]


class Bottle2neck(nn.Module):
    """1x1 to s groups of w channels, the hierarchy of 3x3 convolutions, 1x1 back, and the input added.

    Args:
        in_channels: channels of the input.
        channels: width of the ResNet block this one replaces; the output has four times as many.
        base_width: width w of a group in the first stage, where ``channels`` is 64.
        scale: number of groups s. One group is the bottleneck of ResNet.
        stride: 2 in the block that halves the resolution, else 1.
        first: the first block of a stage.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, *, base_width: int, scale: int, stride: int = 1, first: bool = False
    ) -> None:
        super().__init__()
        self.width = channels * base_width // 64
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, self.width * scale, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.width * scale)
        count = max(1, scale - 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.width, self.width, 3, stride=stride, padding=1, bias=False) for _ in range(count)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(self.width) for _ in range(count))
        self.conv3 = nn.Conv2d(self.width * scale, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.first = first
        self.pool = nn.AvgPool2d(3, stride=stride, padding=1) if first else nn.Identity()
        self.downsample = projection_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.function(x) + shortcut)  # type: ignore[no-any-return]  # the skip around the block

    def function(self, x: Tensor) -> Tensor:
        """The residual function: split, hierarchy, mix."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = torch.cat(self.hierarchy(x.split(self.width, 1)), 1)
        x = self.bn3(self.conv3(x))
        return x

    def hierarchy(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """Equation 1: s groups [N, w, H, W] -> s groups [N, w, H', W'], the untouched one last."""
        results: list[Tensor] = []
        for x, conv, norm in zip(groups, self.convs, self.bns, strict=False):  # no layer for the last group
            if results and not self.first:
                x = x + results[-1]  # the skip between groups
            results.append(self.relu(norm(conv(x))))
        if len(groups) > 1:
            results.append(self.pool(groups[-1]))
        return results


class Res2Net(ResNetTrunk):
    """ResNet with these blocks.

    Args:
        layers: blocks per stage, such as (3, 4, 6, 3) for 50 layers.
        base_width: width w of a group in the first stage.
        scale: groups per block, s.
        widths: width of the ResNet block that each stage replaces.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        base_width: int = 26,
        scale: int = 4,
        widths: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if scale < 1 or min(widths, default=0) * base_width < 64:
            raise ValueError(
                "Res2Net: scale must be at least 1 and a group one channel wide (base_width / 64 of the width), "
                f"got scale={scale}, base_width={base_width} and widths={tuple(widths)}"
            )
        first = iter([place == 0 for count in layers for place in range(count)])

        def block(in_channels: int, width: int, *, stride: int) -> nn.Module:
            return Bottle2neck(in_channels, width, base_width=base_width, scale=scale, stride=stride, first=next(first))

        super().__init__(block, layers=layers, widths=widths, num_classes=num_classes, in_channels=in_channels)
        self.apply(he_fan_out)


def res2net50_26w_4s(*, num_classes: int = 1000, in_channels: int = 3) -> Res2Net:
    """Res2Net-50, four groups of width 26."""
    return Res2Net(layers=(3, 4, 6, 3), base_width=26, scale=4, num_classes=num_classes, in_channels=in_channels)

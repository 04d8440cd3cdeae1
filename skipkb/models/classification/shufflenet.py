r"""ShuffleNet: grouped 1x1 convolutions, and a permutation that lets the groups talk.

In a small bottleneck most multiplications are those of the two 1x1 convolutions. ShuffleNet divides both into g
groups, at 1/g of the cost. Alone, that would leave g separate networks, since no group ever reads another. So the
channels in between are permuted (Section 3.1, Figure 1): with g groups of n channels, written as a g x n table and
read by columns,

.. math::  (i, j) \mapsto j \, g + i, \qquad 0 \le i < g, \; 0 \le j < n,

which costs nothing, and every group of the next convolution sees channels of all groups as soon as :math:`n \ge g`.

The unit is a bottleneck with a quarter of the channels inside, and the skip is the identity (Section 3.2, Figure 2 b),

.. math::  y = \sigma\bigl(x + G_2 \, D \, S \, \sigma(G_1 x)\bigr), \qquad
           y = \bigl[\,\mathrm{pool}(x),\; \sigma(G_2 \, D \, S \, \sigma(G_1 x))\,\bigr],

G grouped, D depthwise, S the shuffle, a normalisation behind each convolution and no activation behind D. On the
right the unit with stride 2 (Figure 2 c): the skip is average pooling, and it is concatenated, which gives more
channels at no cost.

X. Zhang, X. Zhou, M. Lin, J. Sun: "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
CVPR 2018, arXiv:1707.01083.

Deviations from the paper, all as in the authors' release: channels are read as an n x g table, which is the inverse
of the permutation in the text (``shuffle="printed"`` follows that); the shuffle stands behind the depthwise
convolution, which only renumbers its kernels; the classifier has no bias. Initial values and names of the parameters
are those of the release.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "ShuffleNet",
    "ShuffleUnit",
    "channel_shuffle",
    "objective",
    "shufflenet_g1",
    "shufflenet_g2",
    "shufflenet_g3",
    "shufflenet_g3_050",
    "shufflenet_g3_150",
    "shufflenet_g3_200",
    "shufflenet_g4",
    "shufflenet_g8",
    "shufflenet_g8_050",
]

Shuffle = Literal["released", "printed", "none"]


def channel_shuffle(x: Tensor, rows: int) -> Tensor:
    """Channels written into a table of so many rows, and read by columns: [N, C, H, W] -> [N, C, H, W].

    The text has g rows of n channels, the release n rows of g; one undoes the other.
    """
    table: Tensor = x.unflatten(1, (rows, -1))
    return table.transpose(1, 2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """A bottleneck of grouped, depthwise and grouped convolutions, with the shuffle in between (Figure 2).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; a quarter of them are inside.
        groups: g, of the 1x1 convolutions.
        first_groups: of the first of them, where it differs.
        stride: with 2 the pooled input is concatenated, with 1 the input is added.
        shuffle: which permutation, or "none".
        residual: False leaves out the skip of a unit with stride 1.

    Raises:
        ValueError: channels that do not divide into the groups, or that a skip cannot carry.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        first_groups: int | None = None,
        stride: int = 1,
        shuffle: Shuffle = "released",
        residual: bool = True,
    ) -> None:
        super().__init__()
        first_groups = first_groups or groups
        inside = out_channels // 4
        made = out_channels - in_channels if stride == 2 else out_channels
        if stride == 1 and in_channels != out_channels:
            raise ValueError(f"ShuffleUnit: stride 1 keeps the channels, got {in_channels} and {out_channels}")
        if made < 1 or in_channels % first_groups or inside % first_groups or inside % groups or made % groups:
            raise ValueError(
                f"ShuffleUnit: {groups} groups need multiples of {groups} channels, got {in_channels} in front, "
                f"{inside} inside and {made} made"
            )
        self.stride = stride
        self.residual = residual
        self.rows = {"released": inside // groups, "printed": groups, "none": 1}[shuffle] if groups > 1 else 1
        self.branch_main_1 = nn.Sequential(
            nn.Conv2d(in_channels, inside, 1, groups=first_groups, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, inside, 3, stride=stride, padding=1, groups=inside, bias=False),
            nn.BatchNorm2d(inside),
        )
        self.branch_main_2 = nn.Sequential(
            nn.Conv2d(inside, made, 1, groups=groups, bias=False),
            nn.BatchNorm2d(made),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)]."""
        y = self.branch_main_1(x)
        if self.rows > 1:
            y = channel_shuffle(y, self.rows)
        y = self.branch_main_2(y)
        if self.stride == 2:
            # Pooled outputs of a ReLU are never negative, so a ReLU on both parts would be the same.
            return torch.cat([F.avg_pool2d(x, 3, stride=2, padding=1), F.relu(y, inplace=True)], dim=1)
        return F.relu(x + y if self.residual else y, inplace=True)


class ShuffleNet(nn.Module):
    """A strided 3x3 convolution, max pooling, three stages of units, global average, classifier (Table 1).

    Args:
        groups: g.
        channels: of the first stage; every other one has twice as many as the one before.
        stem: channels of the first convolution.
        blocks: units in each stage, of which the first one strides.
        shuffle: "released" or "printed" (Deviations), or "none" for groups that never meet.
        residual: False leaves out the skips of the units with stride 1.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: no stages, no such shuffle, or channels that do not divide into the groups.
    """

    def __init__(
        self,
        *,
        groups: int = 3,
        channels: int = 240,
        stem: int = 24,
        blocks: tuple[int, ...] = (4, 8, 4),
        shuffle: Shuffle = "released",
        residual: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not blocks or min(blocks) < 1 or min(groups, channels, stem) < 1:
            raise ValueError(
                f"ShuffleNet: groups, channels, stem and blocks must be positive, got {groups}, {channels}, {stem} and "
                f"{blocks}"
            )
        if shuffle not in ("released", "printed", "none"):
            raise ValueError(f"ShuffleNet: shuffle must be 'released', 'printed' or 'none', got {shuffle!r}")
        self.in_channels = in_channels
        self.first_conv = nn.Sequential(
            nn.Conv2d(in_channels, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        units = []
        width = stem
        for stage, count in enumerate(blocks):
            for j in range(count):
                units.append(
                    ShuffleUnit(
                        width,
                        channels * 2**stage,
                        groups=groups,
                        first_groups=1 if stage == j == 0 else None,  # too few channels to divide
                        stride=2 if j == 0 else 1,
                        shuffle=shuffle,
                        residual=residual,
                    )
                )
                width = channels * 2**stage
        self.features = nn.Sequential(*units)
        self.classifier = nn.Sequential(nn.Linear(width, num_classes, bias=False))
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=1 / module.weight.shape[1])
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 0.0001)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
        nn.init.normal_(self.first_conv[0].weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("ShuffleNet", x, self.in_channels)
        x = F.max_pool2d(self.first_conv(x), 3, stride=2, padding=1)
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


# Groups, and channels of the first stage (Table 1); then half, one and a half, and twice the width.
shufflenet_g1 = published(ShuffleNet, groups=1, channels=144)
shufflenet_g2 = published(ShuffleNet, groups=2, channels=200)
shufflenet_g3 = published(ShuffleNet, groups=3, channels=240, free=["shuffle", "residual"])
shufflenet_g4 = published(ShuffleNet, groups=4, channels=272)
shufflenet_g8 = published(ShuffleNet, groups=8, channels=384)
shufflenet_g3_050 = published(ShuffleNet, groups=3, channels=120, stem=12)
shufflenet_g3_150 = published(ShuffleNet, groups=3, channels=360)
shufflenet_g3_200 = published(ShuffleNet, groups=3, channels=480, stem=48)
shufflenet_g8_050 = published(ShuffleNet, groups=8, channels=192, stem=16)  # the stem of the release

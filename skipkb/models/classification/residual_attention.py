r"""Residual Attention Network: a mask that can only emphasise, so that many of them can be stacked.

An attention module has two branches. The trunk computes features T, the mask branch a weight M between zero and one for
each of them. Multiplying them would make the signal smaller with every module, and a closed mask would cut the gradient
off. *Attention residual learning* (Section 3.1, equation 3) therefore outputs

.. math::  H(x) = (1 + M(x)) \cdot T(x)

With a mask of zero the module is its trunk, and the gradient of the trunk is multiplied by 1 + M, never by less than
one. There are three kinds of skips: around each pre-activated bottleneck of trunk and mask; from the trunk past the
mask (the one in 1 + M); and, within the mask branch, a small encoder and decoder, from each resolution on the way down
to the same on the way up (Section 3.2, Figure 2).

F. Wang, M. Jiang, C. Qian, S. Yang, C. Li, H. Zhang, X. Wang, X. Tang: "Residual Attention Network for Image
Classification", CVPR 2017, arXiv:1704.06904.

Deviations from the paper: where it gives no answer, we follow the authors' Caffe definitions: which skips the mask
branch has, one residual unit on each of them, normalisation and ReLU in front of both of its last convolutions, pooling
without padding whose last window may reach over the border, and interpolation that keeps the corners. (Their first
definitions ended the mask in a tanh; the later ones and the paper have the sigmoid.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.initial_values import he_fan_in
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "AttentionModule", "MaskBranch", "ResidualAttentionNet", "ResidualUnit", "attention56", "attention92", "objective",
]  # fmt: skip


class ResidualUnit(nn.Module):
    """Pre-activated bottleneck: three times normalisation, ReLU and convolution, 1x1, 3x3, 1x1.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; a quarter of them inside.
        stride: of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        width = out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.projection: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        active = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.projection is None else self.projection(active)
        y = self.conv1(active)
        y = self.conv2(F.relu(self.bn2(y), inplace=True))
        y = self.conv3(F.relu(self.bn3(y), inplace=True))
        return shortcut + y  # type: ignore[no-any-return]  # the skip


def _units(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualUnit(channels, channels) for _ in range(count)))


class MaskBranch(nn.Module):
    """Down by pooling and up by interpolation, ``depth`` times, then two 1x1 convolutions and a sigmoid.

    Args:
        channels: of input and mask.
        depth: how often the resolution halves.
        r: residual units at each resolution and in each direction.
    """

    def __init__(self, channels: int, *, depth: int, r: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.down = nn.ModuleList(_units(channels, r) for _ in range(depth))
        self.up = nn.ModuleList(_units(channels, r) for _ in range(depth))
        self.skip = nn.ModuleList(ResidualUnit(channels, channels) for _ in range(depth - 1))
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape, values in (0, 1)."""
        levels = [x]
        for down in self.down:
            x = down(self.pool(x))
            levels.append(x)
        for i in range(len(self.down) - 1, -1, -1):
            x = self.up[i](x)
            x = F.interpolate(x, size=levels[i].shape[2:], mode="bilinear", align_corners=True)
            if i > 0:
                x = x + self.skip[i - 1](levels[i])  # the skip within the mask
        x = self.conv1(F.relu(self.bn1(x), inplace=True))
        x = self.conv2(F.relu(self.bn2(x), inplace=True))
        return torch.sigmoid(x)


class AttentionModule(nn.Module):
    """p residual units, then trunk and mask side by side, joined by (1 + M) * T, then p residual units.

    Args:
        channels: of input and output.
        depth: how often the mask branch halves the resolution.
        p: residual units before, and again after.
        t: residual units of the trunk.
        r: residual units of the mask branch at each resolution and in each direction.
    """

    def __init__(self, channels: int, *, depth: int, p: int = 1, t: int = 2, r: int = 1) -> None:
        super().__init__()
        self.first = _units(channels, p)
        self.mask = MaskBranch(channels, depth=depth, r=r)
        self.trunk = _units(channels, t)
        self.last = _units(channels, p)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        x = self.first(x)
        trunk = self.trunk(x)
        x = (1 + self.mask(x)) * trunk  # attention residual learning: the one is the skip past the mask
        return self.last(x)  # type: ignore[no-any-return]


class ResidualAttentionNet(nn.Module):
    """Stem; three stages of a residual unit and attention modules; a stage of three units; classifier (Table 2).

    Args:
        modules: attention modules of the three stages.
        widths: channels of the four stages.
        p: residual units before and after the branches of each module.
        t: residual units of the trunk branch.
        r: residual units of the mask branch between two poolings.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        modules: Sequence[int],
        widths: Sequence[int] = (256, 512, 1024, 2048),
        p: int = 1,
        t: int = 2,
        r: int = 1,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(modules) != 3 or len(widths) != 4 or min(modules) < 0 or any(w < 4 or w % 4 for w in widths):
            raise ValueError(
                "ResidualAttentionNet: needs the modules of three stages and four widths that are multiples of 4, "
                f"got modules={tuple(modules)} and widths={tuple(widths)}"
            )
        if min(p, t, r) < 1:
            raise ValueError(f"ResidualAttentionNet: p, t and r must be at least 1, got {p}, {t} and {r}")
        self.in_channels = in_channels
        channels = widths[0] // 4
        self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        stages = []
        for i, (count, width) in enumerate(zip((*modules, 0), widths, strict=True)):
            stage = nn.Sequential(ResidualUnit(channels, width, stride=1 if i == 0 else 2))
            channels = width
            for _ in range(count):
                stage.append(AttentionModule(width, depth=3 - i, p=p, t=t, r=r))
            stages.append(stage)
        stages[-1].extend((ResidualUnit(channels, channels), ResidualUnit(channels, channels)))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_fan_in)  # after He et al. (Section 4.1)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W], 224 x 224 in the paper -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or smaller than 32 x 32.
        """
        check_pictures("ResidualAttentionNet", x, self.in_channels, least=32)
        x = self.pool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        x = F.relu(self.bn(x), inplace=True).mean(dim=(2, 3))
        logits: Tensor = self.fc(x)
        return logits


# Trunks of 56 and 92 layers.
attention56 = published(ResidualAttentionNet, modules=(1, 1, 1))
attention92 = published(ResidualAttentionNet, modules=(1, 2, 3))

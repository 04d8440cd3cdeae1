"""Trunks of two PyTorch ports of DeepLabv3+ that are not the paper's Xception-65 but that weights were trained for.

Their names are those of Xception's first PyTorch port. In a separable convolution ``conv1`` is the depthwise and
``pointwise`` the 1x1 part; blocks keep their layers in ``rep`` and the projection of the shortcut in ``skip``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PortBlock", "PortSeparable", "PortXception"]


class PortSeparable(nn.Module):
    """Depthwise 3x3, perhaps a normalisation, pointwise: [N, C, H, W] -> [N, C', h, w]."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1, padding: int, norm: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride, padding, dilation, groups=in_channels, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(in_channels) if norm else nn.Identity()
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.bn(self.conv1(x)))  # type: ignore[no-any-return]


class PortBlock(nn.Module):
    """ReLU, separable convolution and normalisation, two or three times, and the input added.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        count: separable convolutions before one that strides.
        stride: of the block.
        dilation: of those convolutions.
        start: whether it starts with a ReLU.
        grow: which of them changes the channels: the first one, or the last one.
        aligned: Xception-65 strides, and in two blocks ends, with one more separable convolution. It normalises between
            depthwise and pointwise, and its first ReLU writes over its input, so that the shortcut sees no negative
            values. Without it the block is of 2017: a maximum pooling strides, and the shortcut sees the input itself.
        last: of an aligned block without a stride, whether one more convolution ends it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        count: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        start: bool = True,
        grow: bool = True,
        aligned: bool,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.rectified = aligned and start
        self.skip: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.skip = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.skipbn = nn.BatchNorm2d(out_channels)
        layers: list[nn.Module] = []
        between = out_channels if grow else in_channels
        channels = [in_channels, *([between] * (count - 1)), out_channels]
        for before, after in pairwise(channels):
            separable = PortSeparable(before, after, dilation=dilation, padding=dilation, norm=aligned)
            layers += [nn.ReLU(), separable, nn.BatchNorm2d(after)]
        if aligned and (stride != 1 or last):
            separable = PortSeparable(out_channels, out_channels, stride=stride, padding=1, norm=True)
            layers += [nn.ReLU(), separable, nn.BatchNorm2d(out_channels)]
        elif stride != 1:
            layers.append(nn.MaxPool2d(3, stride, padding=1))
        self.rep = nn.Sequential(*layers[0 if start else 1 :])

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        if self.rectified:
            x = F.relu(x)
        shortcut = x if self.skip is None else self.skipbn(self.skip(x))
        return self.rep(x) + shortcut  # type: ignore[no-any-return]  # the skip


class PortXception(nn.Module):
    """Either trunk, with an output stride of 16.

    Args:
        aligned: Xception-65, 16 blocks in the middle; else the one of 2017 with 8, whose first two and last two
            convolutions are not padded enough to keep the size of the map.
        middle: blocks in the middle.
        widths: of the stem, of the first three blocks, and of the last layers.
        in_channels: channels of the picture.
    """

    def __init__(self, *, aligned: bool, middle: int, widths: Sequence[int], in_channels: int) -> None:
        super().__init__()
        self.aligned = aligned
        a, b, c, d, e, f, g, h = widths
        padding = 1 if aligned else 0
        self.conv1 = nn.Conv2d(in_channels, a, 3, stride=2, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, b, 3, padding=padding, bias=False)
        self.bn2 = nn.BatchNorm2d(b)
        self.block1 = PortBlock(b, c, 2, stride=2, start=False, aligned=aligned)
        self.block2 = PortBlock(c, d, 2, stride=2, start=not aligned, aligned=aligned)
        self.block3 = PortBlock(d, e, 2, stride=2, aligned=aligned)
        self.blocks = [f"block{i}" for i in range(2, middle + 5)]
        for i in range(middle):
            self.add_module(f"block{4 + i}", PortBlock(e, e, 3, aligned=aligned))
        rate = 1 if aligned else 2
        end = PortBlock(e, f, 2, dilation=rate, grow=False, aligned=aligned, last=True)
        self.add_module(f"block{4 + middle}", end)
        self.conv3 = PortSeparable(f, g, dilation=2, padding=2 if aligned else 1, norm=aligned)
        self.bn3 = nn.BatchNorm2d(g)
        self.conv4 = PortSeparable(g, g if aligned else h, dilation=2, padding=2 if aligned else 1, norm=aligned)
        if aligned:
            self.bn4 = nn.BatchNorm2d(g)
            self.conv5 = PortSeparable(g, h, dilation=2, padding=2, norm=True)
            self.bn5 = nn.BatchNorm2d(h)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [N, in_channels, H, W] -> the map at a quarter and the last one, at about a sixteenth."""
        x = F.relu(self.bn1(self.conv1(x)))
        low = self.block1(F.relu(self.bn2(self.conv2(x))))
        if self.aligned:
            low = F.relu(low)
        x = low
        for name in self.blocks:
            x = getattr(self, name)(x)
        if not self.aligned:
            return low, self.conv4(F.relu(self.bn3(self.conv3(x))))
        x = F.relu(self.bn3(self.conv3(F.relu(x))))
        x = F.relu(self.bn4(self.conv4(x)))
        return low, F.relu(self.bn5(self.conv5(x)))

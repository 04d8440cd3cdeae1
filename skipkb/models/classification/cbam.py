r"""CBAM: which channels matter, and then where.

Squeeze-and-excitation weighs channels by what the average of each map says. The convolutional block attention module
also uses the maximum of each map, and then does the same for positions (Section 3, equations 1 to 3). For a map F,

.. math::  M_c(F) = \sigma\bigl(\mathrm{MLP}(\mathrm{avg}_{hw} F) + \mathrm{MLP}(\max\nolimits_{hw} F)\bigr), \quad
           F' = M_c(F) \otimes F

.. math::  M_s(F') = \sigma\bigl(f^{7 \times 7}[\max\nolimits_c F';\, \mathrm{avg}_c F']\bigr), \quad
           F'' = M_s(F') \otimes F'

The first gate has one number per channel, from one MLP shared by both vectors; the second one number per position,
from a 7x7 convolution of two maps. Sigmoids keep both between zero and one. In a residual block they act on the branch,
and the skip is that of ResNet (Figure 3): y = ReLU(F''(x) + x). What passes the shortcut is not gated.

S. Woo, J. Park, J.-Y. Lee, I. S. Kweon: "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521.

Deviations from the paper, all as in the authors' code: the layers of the MLP have biases; the 7x7 convolution has none
and is followed by batch normalisation (momentum 0.01), which starts at zero, so that the spatial gate begins as 1/2
everywhere; the 3x3 convolution of a bottleneck carries the stride. Convolutions start as Gaussians of variance 2 /
fan-out. That code leaves out the projections of the skips: they and the channel gates' weights start as PyTorch has
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import BasicBranch, BottleneckBranch, ResNetTrunk, projection_shortcut

__all__ = [
    "CBAM", "BasicBlock", "Bottleneck", "CBAMResNet", "ChannelGate", "SpatialGate", "cbam_resnet18", "cbam_resnet50",
    "objective",
]  # fmt: skip


class ChannelGate(nn.Module):
    """M_c of equation 2: a number between 0 and 1 for each channel.

    Args:
        channels: channels of the map.
        reduction_ratio: the hidden layer of the MLP has channels / reduction_ratio units.
    """

    def __init__(self, channels: int, reduction_ratio: int) -> None:
        super().__init__()
        hidden = channels // reduction_ratio
        # Four layers, since checkpoints number them so; the first one only drops the two pooled dimensions.
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, 1, 1]."""
        logits = self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))
        return torch.sigmoid(logits)[:, :, None, None]


class SpatialConvolution(nn.Module):
    """The 7x7 convolution of equation 3 with its batch normalisation: [N, 2, H, W] -> [N, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)
        nn.init.zeros_(self.bn.weight)  # the gate starts as one half everywhere

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))  # type: ignore[no-any-return]


class SpatialGate(nn.Module):
    """M_s of equation 3: a number between 0 and 1 for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = SpatialConvolution()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 1, H, W]."""
        compressed = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.spatial(compressed))


class CBAM(nn.Module):
    """Both gates in series, channels first (equation 1): [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int, *, reduction_ratio: int = 16) -> None:
        super().__init__()
        self.ChannelGate = ChannelGate(channels, reduction_ratio)  # capitals: the names of the authors' checkpoints
        self.SpatialGate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.ChannelGate(x)
        x = x * self.SpatialGate(x)
        return x


class BasicBlock(BasicBranch):
    """ResNet's two 3x3 convolutions, the gates, and the input added.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: 2 in the block that halves the resolution, else 1.
        reduction_ratio: of the channel gate.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, reduction_ratio: int) -> None:
        super().__init__(in_channels, channels, stride=stride)
        self.downsample = projection_shortcut(in_channels, channels, stride)
        self.cbam = CBAM(channels, reduction_ratio=reduction_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.cbam(self.function(x)) + shortcut)  # type: ignore[no-any-return]  # the skip


class Bottleneck(BottleneckBranch):
    """ResNet's 1x1, 3x3 and 1x1, the gates, and the input added. Arguments as in :class:`BasicBlock`."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, reduction_ratio: int) -> None:
        super().__init__(in_channels, channels, stride=stride)
        out_channels = channels * self.expansion
        self.downsample = projection_shortcut(in_channels, out_channels, stride)
        self.cbam = CBAM(out_channels, reduction_ratio=reduction_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.cbam(self.function(x)) + shortcut)  # type: ignore[no-any-return]  # the skip


class CBAMResNet(ResNetTrunk):
    """ResNet with the gates in every block.

    Args:
        block: "basic" or "bottleneck".
        layers: blocks per stage, such as (3, 4, 6, 3) for 50 layers.
        widths: channels of each stage; a bottleneck puts out four times as many.
        reduction_ratio: of the channel gates, r.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: an option that does not exist, or numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        block: Literal["basic", "bottleneck"],
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        reduction_ratio: int = 16,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if block not in ("basic", "bottleneck"):
            raise ValueError(f"CBAMResNet: block must be one of basic, bottleneck, got {block!r}")
        kind = BasicBlock if block == "basic" else Bottleneck
        narrowest = min(widths, default=0) * kind.expansion
        if not 1 <= reduction_ratio <= narrowest:
            raise ValueError(
                f"CBAMResNet: reduction_ratio must be between 1 and the {narrowest} channels of the narrowest block, "
                f"got {reduction_ratio}"
            )
        super().__init__(
            partial(kind, reduction_ratio=reduction_ratio), layers=layers, widths=widths, stem_width=widths[0],
            num_classes=num_classes, in_channels=in_channels,
        )  # fmt: skip
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and "downsample" not in name:
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.kaiming_normal_(self.fc.weight)


# Table 4
cbam_resnet18 = published(CBAMResNet, block="basic", layers=(2, 2, 2, 2))
cbam_resnet50 = published(CBAMResNet, block="bottleneck", layers=(3, 4, 6, 3))

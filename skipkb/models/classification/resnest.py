r"""ResNeSt: the groups of ResNeXt, split once more, and attention over the splits.

The channels of a bottleneck are divided into K cardinal groups, and each of these into R splits, the *radix*. Inside a
cardinal group the splits compete for every channel (Section 3.1). With :math:`U_1 \dots U_R` the splits of group k,
their sum averaged over all positions, s, and two small layers G,

.. math::  V_c = \sum_{i=1}^{R} a_{i,c}\, U_{i,c}, \qquad
           a_{i,c} = \frac{e^{G_{i,c}(s)}}{\sum_{j} e^{G_{j,c}(s)}} ,

so that the weights of the splits sum to one. With R = 1 nothing competes, the softmax becomes a sigmoid, and what is
left is squeeze-and-excitation, applied behind the 3x3 convolution. All splits have the same 3x3 kernel, so one
convolution with K R groups computes them. The skip is that of ResNet around the bottleneck.

ResNeSt-50 has K = 1 and R = 2. With it come the refinements of ResNet-D: a stem of three 3x3 convolutions, and
shortcuts that average over 2x2 before they project. Blocks that halve the resolution do so by a 3x3 average behind the
attention.

H. Zhang, C. Wu, Z. Zhang, Y. Zhu, H. Lin, Z. Zhang, Y. Sun, T. He, J. Mueller, R. Manmatha, M. Li, A. Smola: "ResNeSt:
Split-Attention Networks", CVPR Workshops 2022, arXiv:2004.08955.

Deviations from the paper, as in the authors' code: the small layers have C R / 4 units, at least 32, and biases;
convolutions start as zero-mean Gaussians of variance 2 / fan-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.resnet_trunk import ResNetTrunk

__all__ = ["Bottleneck", "ResNeSt", "SplitAttention", "objective", "resnest50"]


class SplitAttention(nn.Module):
    """A 3x3 convolution into R splits of each group, and their weighted sum.

    Args:
        channels: channels of input and output, C.
        radix: splits per cardinal group, R.
        cardinality: groups, K.
    """

    def __init__(self, channels: int, *, radix: int, cardinality: int) -> None:
        super().__init__()
        self.radix = radix
        self.cardinality = cardinality
        hidden = max(channels * radix // 4, 32)
        self.conv = nn.Conv2d(channels, channels * radix, 3, padding=1, groups=cardinality * radix, bias=False)
        self.bn0 = nn.BatchNorm2d(channels * radix)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Conv2d(channels, hidden, 1, groups=cardinality)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.fc2 = nn.Conv2d(hidden, channels * radix, 1, groups=cardinality)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        splits = self.relu(self.bn0(self.conv(x))).chunk(self.radix, dim=1)
        weights = self.weights(splits)
        result: Tensor = splits[0] * weights[0]
        for split, weight in zip(splits[1:], weights[1:], strict=True):
            result = result + split * weight
        return result

    def weights(self, splits: Sequence[Tensor]) -> Sequence[Tensor]:
        """R maps [N, C, H, W] -> R weights [N, C, 1, 1]; split i of all cardinal groups lies in map i."""
        fused = splits[0]
        for split in splits[1:]:
            fused = fused + split
        squeezed = fused.mean(dim=(2, 3), keepdim=True)
        logits = self.fc2(self.relu(self.bn1(self.fc1(squeezed))))
        if self.radix == 1:
            return (torch.sigmoid(logits),)
        # The last layer lists its outputs by cardinal group, and in each by split.
        n = logits.shape[0]
        attention = logits.view(n, self.cardinality, self.radix, -1).softmax(dim=2)
        weights: Sequence[Tensor] = attention.transpose(1, 2).reshape(n, self.radix, -1, 1, 1).unbind(1)
        return weights


class Bottleneck(nn.Module):
    """1x1, split attention, 3x3 average where the resolution falls, 1x1, and the input added.

    Args:
        in_channels: channels of the input.
        channels: width of the ResNet block this one replaces; the output has four times as many.
        radix: R.
        cardinality: K.
        base_width: channels of a cardinal group in the first stage, where ``channels`` is 64.
        stride: 2 in the block that halves the resolution, else 1.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, *, radix: int, cardinality: int, base_width: int, stride: int = 1
    ) -> None:
        super().__init__()
        width = channels * base_width // 64 * cardinality
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = SplitAttention(width, radix=radix, cardinality=cardinality)
        self.avd_layer: nn.Module = nn.AvgPool2d(3, stride, padding=1) if stride != 1 else nn.Identity()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            average = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            projection = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.downsample = nn.Sequential(
                average if stride != 1 else nn.Identity(), projection, nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.function(x) + shortcut)  # type: ignore[no-any-return]  # the skip

    def function(self, x: Tensor) -> Tensor:
        """The residual function."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.avd_layer(self.conv2(x))
        x = self.bn3(self.conv3(x))
        return x


class ResNeSt(ResNetTrunk):
    """ResNet-D with these blocks.

    Args:
        layers: blocks per stage, such as (3, 4, 6, 3) for 50 layers.
        radix: splits per cardinal group, R.
        cardinality: cardinal groups, K.
        base_width: channels of a cardinal group in the first stage.
        stem_width: channels of the first two convolutions; the third one has twice as many.
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
        radix: int = 2,
        cardinality: int = 1,
        base_width: int = 64,
        stem_width: int = 32,
        widths: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        groups = [width * base_width // 64 for width in widths]
        if radix < 1 or cardinality < 1 or any(group < 1 or group % radix for group in groups):
            raise ValueError(
                "ResNeSt: radix and cardinality must be positive, and radix divide the channels of a cardinal group, "
                f"got radix={radix}, cardinality={cardinality} and groups of {groups}"
            )
        block = partial(Bottleneck, radix=radix, cardinality=cardinality, base_width=base_width)
        super().__init__(
            block, layers=layers, widths=widths, stem="deep", stem_width=2 * stem_width, num_classes=num_classes,
            in_channels=in_channels,
        )  # fmt: skip
        self.apply(he_fan_out)


def resnest50(*, num_classes: int = 1000, in_channels: int = 3) -> ResNeSt:
    """ResNeSt-50 (2s1x64d), Table 1."""
    return ResNeSt(layers=(3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels)

r"""SENet: look at the whole map, then decide how much each channel counts.

A convolution sees a small window, and its weights are the same for every picture. The squeeze-and-excitation block lets
the whole picture decide. *Squeeze*: each channel is averaged over all positions to one number z. *Excitation*: two
fully connected layers with a narrow middle of C / r units make a gate between zero and one for each channel from all
of them (Section 3, equations 2 to 4):

.. math::  z_c = \frac{1}{HW} \sum_{i,j} u_c(i, j), \qquad  s = \sigma(W_2\, \delta(W_1 z)), \qquad
           \tilde u_c = s_c\, u_c

with :math:`\delta` ReLU and :math:`\sigma` the sigmoid. The block has no skip. Put into a residual block, it scales
what the branch has computed, behind the last normalisation and in front of the addition (Figure 3):
y = ReLU(s F(x) + x).

SE-ResNet-50 is ResNet-50 with a gate in every block. SENet-154 is built on ResNeXt-152 (64x4d) with further changes
(Appendix): the first 1x1 of each bottleneck has half the channels, the stem three 3x3 convolutions, projections where
the resolution falls are 3x3, and dropout precedes the classifier.

J. Hu, L. Shen, S. Albanie, G. Sun, E. Wu: "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507.

Deviations from the paper, as in the authors' Caffe models: a bottleneck of SE-ResNet-50 strides in its first 1x1
convolution, one of SENet-154 in its 3x3, and the maximum pooling is not padded but rounds up. The fully connected
layers are 1x1 convolutions with biases, which is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import check_stages, projection_shortcut, stages

__all__ = ["Bottleneck", "SEBlock", "SENet", "objective", "se_resnet50", "senet154"]


class SEBlock(nn.Module):
    """The gate s of equation 3: squeeze, excite.

    Args:
        channels: channels of the map, C.
        reduction: C / reduction units in the middle, r.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the gate [N, C, 1, 1]."""
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.fc2(self.relu(self.fc1(squeezed))))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, the gate, and the input added.

    Args:
        in_channels: channels of the input.
        channels: width of the ResNet block of this stage; the output has four times as many.
        reduction: of the gate.
        groups: of the 3x3 convolution. With more than one it is the block of SENet-154: twice the width at the first
            convolution, four times at the second, and the stride in the 3x3.
        stride: 2 in the block that halves the resolution, else 1.
        projection: kernel of the shortcut's convolution where the resolution falls.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, *, reduction: int, groups: int = 1, stride: int = 1, projection: int = 1
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        first, second = (channels, channels) if groups == 1 else (2 * channels, 4 * channels)
        strides = (stride, 1) if groups == 1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, first, 1, stride=strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride=strides[1], padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.se_module = SEBlock(out_channels, reduction)
        kernel_size = projection if stride != 1 else 1
        self.downsample = projection_shortcut(in_channels, out_channels, stride, kernel_size=kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        u = self.function(x)
        return self.relu(self.se_module(u) * u + shortcut)  # type: ignore[no-any-return]  # the skip

    def function(self, x: Tensor) -> Tensor:
        """The residual function, before it is scaled."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return x


class SENet(nn.Module):
    """Stem, stages of gated blocks (the resolution halves between stages), global average, linear classifier.

    Args:
        layers: blocks per stage, such as (3, 4, 6, 3) for 50 layers.
        widths: width of the ResNet block in each stage.
        reduction: of the gates, r.
        groups: of the 3x3 convolutions.
        deep_stem: three 3x3 convolutions instead of one 7x7.
        projection: kernel of the shortcut's convolution where the resolution falls, 1 or 3.
        dropout: in front of the classifier.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        reduction: int = 16,
        groups: int = 1,
        deep_stem: bool = False,
        projection: int = 1,
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_stages("SENet", layers, widths)
        if not 1 <= reduction <= 4 * min(widths):
            raise ValueError(
                f"SENet: reduction must be between 1 and the {4 * min(widths)} channels of the narrowest block, "
                f"got {reduction}"
            )
        if groups < 1 or any(2 * width % groups for width in widths):
            raise ValueError(f"SENet: groups must divide twice each width, got groups={groups}, widths={tuple(widths)}")
        if projection not in (1, 3):
            raise ValueError(f"SENet: projection must be 1 or 3, got {projection}")
        self.in_channels = in_channels
        self.layer0 = nn.Sequential()
        channels = in_channels
        for i, (width, kernel) in enumerate([(64, 3), (64, 3), (128, 3)] if deep_stem else [(64, 7)], start=1):
            stride = 2 if i == 1 else 1
            convolution = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
            self.layer0.add_module(f"conv{i}", convolution)
            self.layer0.add_module(f"bn{i}", nn.BatchNorm2d(width))
            self.layer0.add_module(f"relu{i}", nn.ReLU(inplace=True))
            channels = width
        self.pool0 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        block = partial(Bottleneck, reduction=reduction, groups=groups, projection=projection)
        made, channels = stages(block, layers, widths, channels)
        self.stages = [f"layer{i}" for i in range(1, len(made) + 1)]
        for name, stage in zip(self.stages, made, strict=True):
            self.add_module(name, stage)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(channels, num_classes)
        self.apply(he_fan_out)  # He et al. (2015), whom the paper follows

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes].

        Any H and W of at least 3; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or too small.
        """
        check_pictures("SENet", x, self.in_channels, least=3)
        x = self.pool0(self.layer0(x))
        for name in self.stages:
            x = getattr(self, name)(x)
        logits: Tensor = self.last_linear(self.dropout(x.mean(dim=(2, 3))))
        return logits


# Table 1, and Appendix.
# fmt: off
se_resnet50 = published(SENet, layers=(3, 4, 6, 3))
senet154 = published(SENet, layers=(3, 8, 36, 3), groups=64, deep_stem=True, projection=3, dropout=0.2)
# fmt: on

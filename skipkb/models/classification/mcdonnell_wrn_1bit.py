r"""A wide residual network for deployment whose every weight is one bit.

In the forward pass each convolution uses only the signs of its weights, times a constant of the layer (Section 2,
equation 1):

.. math::  \hat W = \sqrt{\frac{2}{k^2\,C_{in}}}\;\operatorname{sign}(W)

The constant is the standard deviation with which such a layer is initialised; it is neither learned nor computed from
the weights. The gradient with respect to :math:`\hat W` is applied to W unchanged (straight through), so that training
moves numbers of full precision until their sign flips, and afterwards only the signs are kept.

What makes this cost little accuracy is the rest: a network that is wide, normalisations that learn neither scale nor
offset, a 1x1 convolution as the classifier, and skips without any weight. Where the width doubles, the input is average
pooled and the missing channels are zero; sums always run in full precision.

M. D. McDonnell: "Training wide residual networks for deployment using a single bit for each weight", ICLR 2018,
arXiv:1802.08530.

Deviations from the paper: the author published two programs that differ in details. This one has the layers of the
Keras version, which has the results for CIFAR, and like it keeps 0.99 of the running values of its normalisations; its
MATLAB predecessor has a ReLU behind the normalisation of the picture (``input_activation``). Strided layers are padded
by one on all sides, as in MATLAB, while TensorFlow pads below and to the right. Weights start as plain Gaussians, as
in MATLAB, while Keras cuts these off at two deviations. A weight that is exactly zero counts as positive (or, as minus
zero, negative), where both programs would use a third value, zero, in training.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.depth import blocks_of_depth
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = ["Block", "McDonnellWRN", "OneBitConv2d", "objective", "wrn20_10_1bit", "wrn20_10_32bit"]


MOMENTUM = 0.01
"""Share of a batch in the running values of a normalisation."""


class _StraightThrough(torch.autograd.Function):
    """Plus or minus the scale; the gradient passes as if this were not there."""

    @staticmethod
    def forward(weight: Tensor, scale: float) -> Tensor:
        return torch.copysign(weight.new_full((), scale), weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class OneBitConv2d(nn.Conv2d):
    """A convolution that uses the signs of its weights, times :math:`\\sqrt{2 / (k^2 C_{in})}`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: edge k of the kernel; the padding keeps the resolution at stride 1.
        stride: of the convolution.
        binary: False uses the weights as they are, for comparison.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, binary: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.scale = math.sqrt(2 / (in_channels * kernel_size**2))
        self.binary = binary
        nn.init.normal_(self.weight, std=self.scale)

    def used_weight(self) -> Tensor:
        """What the forward pass multiplies with, [C_out, C_in, k, k]: two values, unless ``binary`` is False."""
        return _StraightThrough.apply(self.weight, self.scale) if self.binary else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, ceil(H/stride), ceil(W/stride)]."""
        return F.conv2d(x, self.used_weight(), stride=self.stride, padding=self.padding)


class Block(nn.Module):
    """Twice normalisation, ReLU and 3x3 convolution, and a skip that has no weights.

    Args:
        in_channels: channels of the input.
        out_channels: the same, or twice as many; then the resolution halves.
        binary: as for :class:`OneBitConv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, binary: bool = True) -> None:
        super().__init__()
        self.grows = out_channels != in_channels
        self.bn0 = nn.BatchNorm2d(in_channels, affine=False, momentum=MOMENTUM)
        self.conv0 = OneBitConv2d(in_channels, out_channels, 3, stride=2 if self.grows else 1, binary=binary)
        self.bn1 = nn.BatchNorm2d(out_channels, affine=False, momentum=MOMENTUM)
        self.conv1 = OneBitConv2d(out_channels, out_channels, 3, binary=binary)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape, or [N, 2C, ceil(H/2), ceil(W/2)]."""
        return self.shortcut(x) + self.function(x)  # the skip

    def shortcut(self, x: Tensor) -> Tensor:
        """The input; where the width doubles, its local averages and as many channels of zeros."""
        if not self.grows:
            return x
        x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return F.pad(x, (0, 0, 0, 0, 0, x.shape[1]))

    def function(self, x: Tensor) -> Tensor:
        """The two layers that the shortcut bypasses."""
        x = self.conv0(F.relu(self.bn0(x), inplace=True))
        x = self.conv1(F.relu(self.bn1(x), inplace=True))
        return x


class McDonnellWRN(nn.Module):
    """Normalised picture, 3x3 convolution, three groups of blocks, and a 1x1 convolution whose maps are averaged.

    Args:
        depth: 6n + 2 layers with weights.
        widen_factor: k; the groups have 16k, 32k and 64k channels, the first convolution 16k.
        binary: False trains and runs with weights of full precision, the paper's baseline.
        input_activation: a ReLU between the normalisation of the picture and the first convolution.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a depth that is not 6n + 2, or a widen_factor below one.
    """

    def __init__(
        self,
        *,
        depth: int,
        widen_factor: int,
        binary: bool = True,
        input_activation: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        n = blocks_of_depth("McDonnellWRN", depth, 6, 2)
        if widen_factor < 1:
            raise ValueError(f"McDonnellWRN: widen_factor must be at least 1, got {widen_factor}")
        self.in_channels = in_channels
        self.input_activation = input_activation
        channels = 16 * widen_factor
        self.bn_input = nn.BatchNorm2d(in_channels, momentum=MOMENTUM)  # the only one that learns scale and offset
        self.conv0 = OneBitConv2d(in_channels, channels, 3, binary=binary)
        groups = []
        for width in (channels, 2 * channels, 4 * channels):
            group = nn.Sequential()
            for j in range(n):
                group.add_module(f"block{j}", Block(channels, width, binary=binary))
                channels = width
            groups.append(group)
        self.group0, self.group1, self.group2 = groups
        self.bn = nn.BatchNorm2d(channels, affine=False, momentum=MOMENTUM)
        self.conv_last = OneBitConv2d(channels, num_classes, 1, binary=binary)
        self.bn_last = nn.BatchNorm2d(num_classes, affine=False, momentum=MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W], 32 x 32 in the paper -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("McDonnellWRN", x, self.in_channels)
        x = self.bn_input(x)
        if self.input_activation:
            x = F.relu(x)
        x = self.group2(self.group1(self.group0(self.conv0(x))))
        x = self.conv_last(F.relu(self.bn(x), inplace=True))
        return self.bn_last(x).mean(dim=(2, 3))  # type: ignore[no-any-return]


# 20 layers, ten times as wide, with one bit per weight, and with weights of full precision, the paper's baseline.
wrn20_10_1bit = published(McDonnellWRN, depth=20, widen_factor=10)
wrn20_10_32bit = published(McDonnellWRN, depth=20, widen_factor=10, binary=False)

r"""Deformable convolution: the features say where to look.

A convolution samples a rigid grid :math:`\mathcal R`, nine points for a 3x3 kernel, whatever an object's size or pose.
A deformable one moves each point by an offset (Section 2.1, equation 2):

.. math::  y(p_0) = \sum_{p_n \in \mathcal R} w(p_n) \cdot x(p_0 + p_n + \Delta p_n)

A second convolution of the same map x predicts the offsets, two numbers for every point of the kernel at every
position. They are fractions, so x is read by bilinear interpolation, through which the gradient reaches them; nobody
tells the network where to look. Offsets start at zero, where the operation is the plain convolution.

It has no skip of its own. It takes the place of the 3x3 convolution in the last three bottlenecks of ResNet-101, res5,
inside their skips (Section 2.3 and Table 1):

.. math::  y = \mathrm{ReLU}\bigl(x + W_3 * \mathrm{ReLU}(W_2 \circledast \mathrm{ReLU}(W_1 * x))\bigr)

The network here is Deformable DeepLab for semantic segmentation, as the authors released it for MXNet: res5 keeps the
resolution of res4 (16 pixels) and has dilation 2, two 1x1 convolutions give class scores, and a fixed bilinear filter
brings them back to the size of the picture.

J. Dai, H. Qi, Y. Xiong, Y. Li, G. Zhang, H. Hu, Y. Wei: "Deformable Convolutional Networks", ICCV 2017,
arXiv:1703.06211.

Deviations from the paper: the paper gives the convolution of the offsets the dilation of the one it serves. The
released DeepLab has none there, and we have none either; ``offset_dilation=2`` follows the paper.

Weights have torchvision's names in the ResNet, and mmcv's ``conv2.conv_offset`` for the offsets. Batch normalisations
are fixed, as in the release, which also trains biases twice as fast and leaves conv1 and res2 as ImageNet has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d, deform_conv2d

from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = [
    "Bottleneck", "DeformConv2d", "DeformableDeepLab", "deformable_deeplab_r50", "deformable_deeplab_r101",
    "deformable_deeplab_r101_voc", "objective",
]  # fmt: skip


class DeformConv2d(nn.Module):
    """Equation 2 with its offsets: [N, C, H, W] -> [N, C', H, W].

    Args:
        in_channels, out_channels: channels of the maps; no bias.
        kernel_size: k, odd.
        dilation: distance between the points of the kernel before they move.
        groups: deformable groups, which move apart from each other; each has an equal share of the input channels.
        offset_dilation: dilation of the convolution that predicts the offsets.

    Raises:
        ValueError: an even kernel, or groups that do not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        dilation: int = 1,
        groups: int = 1,
        offset_dilation: int = 1,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"DeformConv2d: kernel_size must be odd for the map to keep its size, got {kernel_size}")
        if groups < 1 or in_channels % groups:
            raise ValueError(f"DeformConv2d: groups must divide the {in_channels} input channels, got {groups}")
        self.dilation, self.padding = dilation, dilation * (kernel_size // 2)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.conv_offset = nn.Conv2d(
            in_channels, 2 * kernel_size**2 * groups, kernel_size,
            padding=offset_dilation * (kernel_size // 2), dilation=offset_dilation,
        )  # fmt: skip
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def offsets(self, x: Tensor) -> Tensor:
        """[N, 2 k k groups, H, W] in pixels: group by group, point by point in rows, first down and then right."""
        return self.conv_offset(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.weight.dtype  # positions are read at full precision under autocast
        offsets, x = self.offsets(x).to(dtype), x.to(dtype)
        y: Tensor = deform_conv2d(x, offsets, self.weight, padding=self.padding, dilation=self.dilation)
        return y

    def extra_repr(self) -> str:
        out_channels, in_channels, size, _ = self.weight.shape
        return f"{in_channels}, {out_channels}, kernel_size={size}, dilation={self.dilation}"


class FixedBatchNorm2d(FrozenBatchNorm2d):  # type: ignore[misc]
    """Scale, shift and statistics as they were loaded; in one operation."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the skip; a stride is the first convolution's, as in the authors' ResNet.

    Args:
        in_channels: channels of the input.
        width: channels of the 3x3 convolution; the output has four times as many.
        stride: 2 in the block that halves the resolution, else 1.
        dilation: of the 3x3 convolution.
        norm: makes a normalisation for a number of channels.
        deform: options of :class:`DeformConv2d` for the 3x3 convolution; None makes it a plain one.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, *, stride: int, dilation: int, norm: Any, deform: dict[str, int] | None
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False)
        self.bn1 = norm(width)
        self.conv2: nn.Module
        if deform is None:
            self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        else:
            self.conv2 = DeformConv2d(width, width, dilation=dilation, **deform)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4 width, ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.function(x) + shortcut)  # type: ignore[no-any-return]

    def function(self, x: Tensor) -> Tensor:
        """The residual function."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))  # type: ignore[no-any-return]


class Upsampling(nn.Module):
    """Every score is spread by a fixed triangle of 2s x 2s pixels, s apart, and the margin of s/2 pixels cut off."""

    weight: Tensor

    def __init__(self, channels: int, step: int) -> None:
        super().__init__()
        self.step = step
        line = 1 - (torch.arange(2 * step) + 0.5 - step).abs() / step
        self.register_buffer("weight", (line[:, None] * line).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """[N, C, h, w] -> [N, C, *size], size at most s h + s/2."""
        x = F.conv_transpose2d(x, self.weight, stride=self.step, groups=x.shape[1])
        half = self.step // 2
        return x[:, :, half : half + size[0], half : half + size[1]]


class DeformableDeepLab(nn.Module):
    """ResNet with deformable convolutions in its last blocks, class scores, upsampling.

    Args:
        layers: bottlenecks in the four stages; (3, 4, 23, 3) is ResNet-101.
        num_classes: classes; 19 in Cityscapes, 21 in PASCAL VOC with the background.
        deformable: how many of the last bottlenecks have a deformable convolution; 0 is the authors' DeepLab.
        groups, offset_dilation: as in :class:`DeformConv2d`.
        width: channels of the first stage's 3x3 convolutions.
        fc_channels: channels between trunk and scores.
        frozen_bn: fixed normalisations (buffers); False trains them.
        in_channels: channels of the picture.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int] = (3, 4, 23, 3),
        num_classes: int = 19,
        deformable: int = 3,
        groups: int = 1,
        offset_dilation: int = 1,
        width: int = 64,
        fc_channels: int = 1024,
        frozen_bn: bool = True,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"DeformableDeepLab: layers needs the four stages of a ResNet, got {tuple(layers)}")
        if not 0 <= deformable <= sum(layers):
            raise ValueError(f"DeformableDeepLab: deformable must lie in [0, {sum(layers)}], got {deformable}")
        self.in_channels = in_channels
        norm: Any = FixedBatchNorm2d if frozen_bn else nn.BatchNorm2d
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels, stages, left = width, [], sum(layers)
        for i, count in enumerate(layers):
            stage = nn.Sequential()
            for j in range(count):
                options = {"groups": groups, "offset_dilation": offset_dilation} if left <= deformable else None
                stride = 2 if i in (1, 2) and j == 0 else 1
                dilation = 2 if i == 3 else 1
                stage.append(
                    Bottleneck(channels, width * 2**i, stride=stride, dilation=dilation, norm=norm, deform=options)
                )
                channels, left = width * 2**i * Bottleneck.expansion, left - 1
            stages.append(stage)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.fc6 = nn.Conv2d(channels, fc_channels, 1)
        self.score = nn.Conv2d(fc_channels, num_classes, 1)
        for layer in (self.fc6, self.score):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.upsampling = Upsampling(num_classes, 16)

    def features(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, 32 width, about H/16, about W/16]."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W], H and W at least 3 -> class scores [N, num_classes, H, W].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or they are too small.
        """
        check_pictures("DeformableDeepLab", x, self.in_channels, least=3)
        scores = self.score(F.relu(self.fc6(self.features(x)), inplace=True))
        upsampled: Tensor = self.upsampling(scores, x.shape[2:])
        return upsampled


# fmt: off


# For Cityscapes and PASCAL VOC; and with ResNet-50, which the paper does not have.
deformable_deeplab_r101 = published(DeformableDeepLab, layers=(3, 4, 23, 3), num_classes=19)
deformable_deeplab_r101_voc = published(DeformableDeepLab, layers=(3, 4, 23, 3), num_classes=21)
deformable_deeplab_r50 = published(DeformableDeepLab, layers=(3, 4, 6, 3), num_classes=19)


def objective(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of scores [N, num_classes, H, W] and classes [N, H, W], mean over all pixels that are not 255."""
    return F.cross_entropy(output, target, ignore_index=255)

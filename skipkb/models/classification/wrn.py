r"""Wide Residual Networks: fewer layers, each with more channels.

Each of the last points of accuracy costs a ResNet a doubling of its depth, and layers that run one after another are
slow. This work keeps the block with full pre-activation and multiplies its channels by a *widening factor* k instead
(Section 2, equation 1):

.. math::  x_{l+1} = x_l + \mathcal F(x_l, W_l)

:math:`\mathcal F` is twice normalisation, ReLU and 3x3 convolution, with dropout between the convolutions if wanted
(Section 2.4). WRN-d-k has d convolutions: the first, 6n in three groups of n blocks, and one in the shortcut of each
group. The groups have 16k, 32k and 64k channels (Table 1). k = 1 is the thin network of the same depth; parameters and
operations grow with the square of k, while the chain of layers keeps its length. The skip is the identity, and where
the number of channels changes, a 1x1 convolution of the block's input, already normalised and activated.

For ImageNet the inner 3x3 convolution of ResNet's bottleneck is widened instead: WRN-50-2 (Section 3).

S. Zagoruyko, N. Komodakis: "Wide Residual Networks", BMVC 2016, arXiv:1605.07146.

Deviations from the paper, which gives no initial values: convolutions start as in the authors' Torch code, zero-mean
Gaussians of variance 2 / fan-out; their PyTorch functions have variance 2 / fan-in. These name the CIFAR weights
``group0.block0.conv0``; as modules they end in ``.weight``. WRN-50-2 has the names of torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.depth import blocks_of_depth
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import BottleneckBranch, projection_shortcut, stages

__all__ = [
    "WideBasicBlock", "WideBottleneck", "WideBottleneckNet", "WideResNet", "objective", "wide_resnet50_2", "wrn16_8",
    "wrn28_1", "wrn28_10", "wrn40_4",
]  # fmt: skip


class WideBasicBlock(nn.Module):
    """B(3,3) of Section 2.1, pre-activated, with dropout between its convolutions (Figure 1 (c) and (d)).

    Args:
        in_channels: channels of the input.
        out_channels: channels of both convolutions.
        stride: 2 in the block that halves the resolution, else 1.
        drop_rate: probability of dropout.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(in_channels)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.drop_rate = drop_rate
        self.convdim: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.convdim = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        active = self.relu(self.bn0(x))
        shortcut = x if self.convdim is None else self.convdim(active)
        return self.function(active) + shortcut  # the skip

    def function(self, active: Tensor) -> Tensor:
        """F of equation 1, behind its first normalisation and ReLU."""
        y = self.relu(self.bn1(self.conv0(active)))
        if self.drop_rate:
            y = F.dropout(y, self.drop_rate, self.training)
        return self.conv1(y)  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """WRN-d-k for small pictures: 3x3 convolution, three groups, normalisation, ReLU, average, classifier (Table 1).

    Args:
        depth: 6n + 4 layers.
        widen_factor: k, by which the widths 16, 32 and 64 are multiplied.
        drop_rate: dropout inside each block; the paper has 0.3 for CIFAR and 0.4 for SVHN where it uses it.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a depth that is not 6n + 4, or a number out of range.
    """

    def __init__(
        self, *, depth: int, widen_factor: int, drop_rate: float = 0.0, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        n = blocks_of_depth("WideResNet", depth, 6, 4)
        if widen_factor < 1 or not 0 <= drop_rate < 1:
            raise ValueError(
                "WideResNet: widen_factor must be at least 1 and drop_rate in [0, 1), "
                f"got widen_factor={widen_factor} and drop_rate={drop_rate}"
            )
        self.in_channels = in_channels
        channels = 16  # the first convolution stays thin
        self.conv0 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        groups = []
        for i, width in enumerate((16 * widen_factor, 32 * widen_factor, 64 * widen_factor)):
            group = nn.Sequential()
            for j in range(n):
                stride = 2 if i > 0 and j == 0 else 1
                group.add_module(f"block{j}", WideBasicBlock(channels, width, stride=stride, drop_rate=drop_rate))
                channels = width
            groups.append(group)
        self.group0, self.group1, self.group2 = groups
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_fan_out)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]. Any H and W; the paper has 32 x 32.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("WideResNet", x, self.in_channels)
        x = self.group2(self.group1(self.group0(self.conv0(x))))
        x = F.relu(self.bn(x), inplace=True)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class WideBottleneck(BottleneckBranch):
    """ResNet's bottleneck, ReLU behind the addition, with a 3x3 convolution of k times the width.

    Args:
        in_channels: channels of the input.
        channels: width of ResNet's bottleneck; the output has four times as many.
        widen_factor: k.
        stride: 2 in the block that halves the resolution, else 1.
    """

    def __init__(self, in_channels: int, channels: int, *, widen_factor: int, stride: int = 1) -> None:
        super().__init__(in_channels, channels, stride=stride, width=channels * widen_factor)
        self.downsample = projection_shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.function(x) + shortcut)  # type: ignore[no-any-return]  # the skip


class WideBottleneckNet(nn.Module):
    """ResNet for large pictures with widened bottlenecks: 7x7 stem, pooling, four stages, average, classifier.

    Args:
        layers: blocks of each of the four stages.
        widen_factor: k, by which the inner widths 64, 128, 256 and 512 are multiplied.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self, *, layers: Sequence[int], widen_factor: int, num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        if len(layers) != 4 or min(*layers, widen_factor) < 1:
            raise ValueError(
                "WideBottleneckNet: layers needs four positive numbers and widen_factor must be at least 1, "
                f"got layers={tuple(layers)} and widen_factor={widen_factor}"
            )
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        block = partial(WideBottleneck, widen_factor=widen_factor)
        made, channels = stages(block, layers, (64, 128, 256, 512), 64)
        self.layer1, self.layer2, self.layer3, self.layer4 = made
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_fan_out)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]. Any H and W; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("WideBottleneckNet", x, self.in_channels)
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


# Table 4, for CIFAR; WRN-28-1 is the thin network of the same depth. Table 8, for ImageNet.
wrn28_10 = published(WideResNet, depth=28, widen_factor=10, free=["drop_rate"])
wrn28_1 = published(WideResNet, depth=28, widen_factor=1, free=["drop_rate"])
wrn16_8 = published(WideResNet, depth=16, widen_factor=8, free=["drop_rate"])
wrn40_4 = published(WideResNet, depth=40, widen_factor=4, free=["drop_rate"])
wide_resnet50_2 = published(WideBottleneckNet, layers=(3, 4, 6, 3), widen_factor=2)

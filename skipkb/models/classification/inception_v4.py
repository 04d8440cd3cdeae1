r"""Inception-v4: a deep Inception network without residual connections, built to see whether they are needed.

An Inception module sends its input through several branches at once and concatenates what they find:

.. math::  y = [\, b_0(x),\ b_1(x),\ b_2(x),\ b_3(x) \,]

The branches differ in what they see of the picture: a 1x1 convolution one place, two 3x3 five by five places, a 1x7 and
a 7x1 seven by seven. None of them hands x on as it is, so nothing bypasses a module. In the paper it is the opponent of
the residual Inception networks (:mod:`~skipkb.models.classification.inception_resnet`): of equal cost, without the
skip. It trains more slowly and ends almost as well.

Where the resolution halves, in the stem and the two reduction modules, one branch is a maximum pooling without weights.
These four poolings are all that a signal can pass without a convolution; what they carry is joined, never added.

C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi: "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", AAAI 2017, arXiv:1602.07261. Figures 3 to 9 of the paper define the network.

Deviations from the paper: where the text gives no answer, we follow the authors' TF-Slim release: the order of 1xn and
nx1 kernels, batch normalisation with epsilon 0.001 before each ReLU, and the initial values. The release gives its
normalisations no learned scale, keeps 0.9997 of their running values and trains an auxiliary classifier beside the
network; here, as in the PyTorch versions that carry its weights, the scale is a parameter that starts at one, 0.9 is
kept, and there is no second classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective

__all__ = [
    "Conv", "InceptionA", "InceptionB", "InceptionC", "InceptionV4", "Mixed", "ReductionA", "ReductionB",
    "inception_v4", "objective",
]  # fmt: skip


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: a number, or height and width.
        stride: of the convolution.
        valid: no padding ("V" in the figures); otherwise stride 1 keeps the resolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        valid: bool = False,
    ) -> None:
        super().__init__()
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        padding = (0, 0) if valid else (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H', W']."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average_pool() -> nn.Module:
    # Zeros at the border are not counted, as in TensorFlow.
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


class Mixed(nn.Module):
    """Branches with a common input, concatenated in order: branch0, branch1, ..."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, sum of the branches' channels, H', W']."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class Stem3(nn.Module):
    """Pooling beside a convolution of stride 2, first in the stem: 64 -> 160 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.maxpool = nn.MaxPool2d(3, stride=2)
        self.conv = Conv(64, 96, 3, stride=2, valid=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, H, W] -> [N, 160, (H-1)//2, (W-1)//2]."""
        return torch.cat([self.maxpool(x), self.conv(x)], dim=1)


class Stem4(Mixed):
    """Two branches, one of them 7 wide: 160 -> 192 channels, two pixels less."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(Conv(160, 64, 1), Conv(64, 96, 3, valid=True)),
            nn.Sequential(Conv(160, 64, 1), Conv(64, 64, (1, 7)), Conv(64, 64, (7, 1)), Conv(64, 96, 3, valid=True)),
        )


class Stem5(nn.Module):
    """A convolution of stride 2 beside pooling, last in the stem: 192 -> 384 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(192, 192, 3, stride=2, valid=True)
        self.maxpool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 192, H, W] -> [N, 384, (H-1)//2, (W-1)//2]."""
        return torch.cat([self.conv(x), self.maxpool(x)], dim=1)


class InceptionA(Mixed):
    """Figure 4, at 35 x 35: 384 -> 384 channels; branches see 1, 3, 5 and 3 pixels."""

    def __init__(self) -> None:
        super().__init__(
            Conv(384, 96, 1),
            nn.Sequential(Conv(384, 64, 1), Conv(64, 96, 3)),
            nn.Sequential(Conv(384, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3)),
            nn.Sequential(_average_pool(), Conv(384, 96, 1)),
        )


class ReductionA(Mixed):
    """Figure 7 with k, l, m, n = 192, 224, 256, 384: 384 -> 1024 channels at half the resolution."""

    def __init__(self) -> None:
        super().__init__(
            Conv(384, 384, 3, stride=2, valid=True),
            nn.Sequential(Conv(384, 192, 1), Conv(192, 224, 3), Conv(224, 256, 3, stride=2, valid=True)),
            nn.MaxPool2d(3, stride=2),
        )


class InceptionB(Mixed):
    """Figure 5, at 17 x 17: 1024 -> 1024 channels; branches see 1, 7, 13 and 3 pixels."""

    def __init__(self) -> None:
        super().__init__(
            Conv(1024, 384, 1),
            nn.Sequential(Conv(1024, 192, 1), Conv(192, 224, (1, 7)), Conv(224, 256, (7, 1))),
            nn.Sequential(
                Conv(1024, 192, 1),
                *(Conv(192, 192, (7, 1)), Conv(192, 224, (1, 7))),
                *(Conv(224, 224, (7, 1)), Conv(224, 256, (1, 7))),
            ),
            nn.Sequential(_average_pool(), Conv(1024, 128, 1)),
        )


class ReductionB(Mixed):
    """Figure 8: 1024 -> 1536 channels at half the resolution."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(Conv(1024, 192, 1), Conv(192, 192, 3, stride=2, valid=True)),
            nn.Sequential(
                *(Conv(1024, 256, 1), Conv(256, 256, (1, 7)), Conv(256, 320, (7, 1))),
                Conv(320, 320, 3, stride=2, valid=True),
            ),
            nn.MaxPool2d(3, stride=2),
        )


class InceptionC(nn.Module):
    """Figure 6, at 8 x 8: 1536 -> 1536 channels; two branches fork once more, into 1x3 and 3x1."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = Conv(1536, 256, 1)
        self.branch1_0 = Conv(1536, 384, 1)
        self.branch1_1a = Conv(384, 256, (1, 3))
        self.branch1_1b = Conv(384, 256, (3, 1))
        self.branch2_0 = Conv(1536, 384, 1)
        self.branch2_1 = Conv(384, 448, (3, 1))
        self.branch2_2 = Conv(448, 512, (1, 3))
        self.branch2_3a = Conv(512, 256, (1, 3))
        self.branch2_3b = Conv(512, 256, (3, 1))
        self.branch3 = nn.Sequential(_average_pool(), Conv(1536, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1536, H, W] -> the same shape."""
        fork1 = self.branch1_0(x)
        fork2 = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        branches = [
            self.branch0(x),
            self.branch1_1a(fork1), self.branch1_1b(fork1),
            self.branch2_3a(fork2), self.branch2_3b(fork2),
            self.branch3(x),
        ]  # fmt: skip
        return torch.cat(branches, dim=1)


class InceptionV4(nn.Module):
    """Stem, modules A, reduction, modules B, reduction, modules C, average, dropout, classifier (Figure 9).

    Args:
        blocks: modules of kind A, B and C.
        dropout: probability of zeroing a feature in front of the classifier.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: blocks are not three numbers, or dropout is not a probability.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (4, 7, 3),
        dropout: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(blocks) != 3 or min(blocks) < 0:
            raise ValueError(f"InceptionV4: blocks needs a number of modules A, B and C each, got {tuple(blocks)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"InceptionV4: dropout must be in [0, 1), got {dropout}")
        self.in_channels = in_channels
        a, b, c = blocks
        self.features = nn.Sequential(
            *(Conv(in_channels, 32, 3, stride=2, valid=True), Conv(32, 32, 3, valid=True), Conv(32, 64, 3)),
            *(Stem3(), Stem4(), Stem5()),
            *(InceptionA() for _ in range(a)),
            ReductionA(),
            *(InceptionB() for _ in range(b)),
            ReductionB(),
            *(InceptionC() for _ in range(c)),
        )
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(1536, num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W], 299 x 299 in the paper -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or smaller than 75 x 75.
        """
        check_pictures("InceptionV4", x, self.in_channels, least=75)
        x = self.features(x).mean(dim=(2, 3))
        logits: Tensor = self.last_linear(self.dropout(x))
        return logits


def _init_weights(module: nn.Module) -> None:
    """As in the release: normal with variance 2 / fan-in, cut off at two standard deviations."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        std = math.sqrt(1.3 * 2 / module.weight[0].numel())  # 1.3 makes up for what is cut off
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def inception_v4(*, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2) -> InceptionV4:
    """4, 7 and 3 modules."""
    return InceptionV4(num_classes=num_classes, in_channels=in_channels, dropout=dropout)

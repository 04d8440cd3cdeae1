r"""Inception-ResNet: Inception modules inside residual blocks, their output scaled down before it is added.

The branches of a slim Inception module are concatenated, a 1x1 convolution without activation brings them back to the
width of the input, and a small part of that is added (Figures 10 to 19):

.. math::  y = \mathrm{ReLU}\bigl(x + s \cdot \mathrm{Linear}_{1\times1}[\,b_0(x), \dots, b_n(x)\,]\bigr)

The skip carries x unchanged past the whole module. The scale s, 0.1 to 0.3, is there because networks with more than a
thousand filters died early in training: nothing but zeros came out in front of the last pooling (Section 3.3). Neither
a lower learning rate nor more normalisation prevented it, scaling did. The two reduction modules have no skip.

There are two sizes. Version 1 is meant to cost as much as Inception-v3, version 2 as much as Inception-v4, which has
wider modules and no skip (:mod:`~skipkb.models.classification.inception_v4`).

C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi: "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", AAAI 2017, arXiv:1602.07261.

Deviations from the paper: version 2 is built as the authors released it in TF-Slim, with 10, 20 and 10 blocks where
the paper has 5, 10 and 5, a simpler stem with an Inception module at its end, and a 1x1 convolution before the
classifier; its last block is neither scaled nor rectified. Version 1 follows the paper; the scales, which the paper
gives as a range, and the initial values are those of the release. As in the PyTorch versions of the released weights,
batch normalisation has a learned scale that starts at one (the release has none) and keeps 0.9 of its running values
(in the release 0.9997). There is no auxiliary classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "Block", "Conv", "InceptionResNet", "Mixed", "asymmetric_block", "block35", "inception_resnet_v1",
    "inception_resnet_v2", "objective", "reduction_a", "reduction_b",
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


class Mixed(nn.Module):
    """Branches with a common input, concatenated in order: branch0, branch1, ..."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, sum of the branches' channels, H', W']."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class Block(nn.Module):
    """The skip around an Inception module.

    Args:
        channels: of input and output.
        branches: each takes ``channels`` channels and keeps the resolution.
        mixed: channels of all branches together.
        scale: of what is added to the input.
        activation: False leaves out the ReLU on the sum.
    """

    def __init__(
        self, channels: int, *branches: nn.Module, mixed: int, scale: float = 1.0, activation: bool = True
    ) -> None:
        super().__init__()
        self.scale = scale
        self.activation = activation
        self.branches = [f"branch{i}" for i in range(len(branches))]
        for name, branch in zip(self.branches, branches, strict=True):
            self.add_module(name, branch)
        self.conv2d = nn.Conv2d(mixed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        x = torch.add(x, self.residual(x), alpha=self.scale)  # the skip: x + scale * residual, in one pass
        return F.relu(x, inplace=True) if self.activation else x

    def residual(self, x: Tensor) -> Tensor:
        """The branches, concatenated, and a linear 1x1 convolution that has no normalisation."""
        x = torch.cat([getattr(self, name)(x) for name in self.branches], dim=1)
        x = self.conv2d(x)
        return x


def block35(channels: int, third: tuple[int, int], *, scale: float) -> Block:
    """Inception-ResNet-A for maps of 35 x 35 (Figures 10 and 16).

    Args:
        channels: of input and output.
        third: widths of the two 3x3 convolutions in the third branch.
        scale: of the residual.
    """
    return Block(
        channels,
        Conv(channels, 32, 1),
        nn.Sequential(Conv(channels, 32, 1), Conv(32, 32, 3)),
        nn.Sequential(Conv(channels, 32, 1), Conv(32, third[0], 3), Conv(third[0], third[1], 3)),
        mixed=64 + third[1],
        scale=scale,
    )


def asymmetric_block(
    channels: int, n: int, straight: int, bent: Sequence[int], *, scale: float = 1.0, activation: bool = True
) -> Block:
    """Inception-ResNet-B (n = 7, 17 x 17) and C (n = 3, 8 x 8): Figures 11, 13, 17 and 19.

    Args:
        channels: of input and output.
        n: the second branch has a 1xn and an nx1 convolution.
        straight: width of the first branch, a 1x1 convolution.
        bent: widths of the three convolutions of the second branch.
        scale: of the residual.
        activation: False leaves out the ReLU on the sum.
    """
    a, b, c = bent
    return Block(
        channels,
        Conv(channels, straight, 1),
        nn.Sequential(Conv(channels, a, 1), Conv(a, b, (1, n)), Conv(b, c, (n, 1))),
        mixed=straight + c,
        scale=scale,
        activation=activation,
    )


def reduction_a(channels: int, k: int, l: int, m: int, n: int) -> Mixed:  # noqa: E741 (the paper's letters)
    """35 x 35 to 17 x 17 with the filters of Table 1 (Figure 7); pooling keeps all channels."""
    return Mixed(
        Conv(channels, n, 3, stride=2, valid=True),
        nn.Sequential(Conv(channels, k, 1), Conv(k, l, 3), Conv(l, m, 3, stride=2, valid=True)),
        nn.MaxPool2d(3, stride=2),
    )


def reduction_b(channels: int, second: int, third: tuple[int, int]) -> Mixed:
    """17 x 17 to 8 x 8 (Figures 12 and 18); pooling keeps all channels."""
    return Mixed(
        nn.Sequential(Conv(channels, 256, 1), Conv(256, 384, 3, stride=2, valid=True)),
        nn.Sequential(Conv(channels, 256, 1), Conv(256, second, 3, stride=2, valid=True)),
        nn.Sequential(Conv(channels, 256, 1), Conv(256, third[0], 3), Conv(*third, 3, stride=2, valid=True)),
        nn.MaxPool2d(3, stride=2),
    )


class InceptionResNet(nn.Module):
    """Stem, blocks A, reduction, blocks B, reduction, blocks C, average, dropout, classifier (Figure 15).

    Args:
        version: "v1" of the paper or "v2" of the release.
        blocks: of kind A, B and C.
        scales: of the residuals of kind A, B and C.
        dropout: probability of zeroing a feature in front of the classifier.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a version that does not exist, not three blocks and scales, or a dropout that is not a probability.
    """

    def __init__(
        self,
        *,
        version: Literal["v1", "v2"] = "v2",
        blocks: Sequence[int] = (10, 20, 10),
        scales: Sequence[float] = (0.17, 0.10, 0.20),
        dropout: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if version not in ("v1", "v2"):
            raise ValueError(f"InceptionResNet: version must be one of v1, v2, got {version!r}")
        if len(blocks) != 3 or len(scales) != 3 or min(blocks) < 1:
            raise ValueError(
                "InceptionResNet: blocks and scales need one positive number for A, B and C each, "
                f"got blocks={tuple(blocks)} and scales={tuple(scales)}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"InceptionResNet: dropout must be in [0, 1), got {dropout}")
        self.in_channels = in_channels
        (a, b, c), (scale_a, scale_b, scale_c) = blocks, scales
        self.conv2d_1a = Conv(in_channels, 32, 3, stride=2, valid=True)
        self.conv2d_2a = Conv(32, 32, 3, valid=True)
        self.conv2d_2b = Conv(32, 64, 3)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = Conv(64, 80, 1)
        self.conv2d_4a = Conv(80, 192, 3, valid=True)
        if version == "v1":
            self.conv2d_4b = Conv(192, 256, 3, stride=2, valid=True)
            self.repeat = nn.Sequential(*(block35(256, (32, 32), scale=scale_a) for _ in range(a)))
            self.mixed_6a = reduction_a(256, 192, 192, 256, 384)
            self.repeat_1 = nn.Sequential(
                *(asymmetric_block(896, 7, 128, (128, 128, 128), scale=scale_b) for _ in range(b))
            )
            self.mixed_7a = reduction_b(896, 256, (256, 256))
            self.repeat_2 = nn.Sequential(
                *(asymmetric_block(1792, 3, 192, (192, 192, 192), scale=scale_c) for _ in range(c))
            )
            features = 1792
        else:
            self.maxpool_5a = nn.MaxPool2d(3, stride=2)
            self.mixed_5b = Mixed(
                Conv(192, 96, 1),
                nn.Sequential(Conv(192, 48, 1), Conv(48, 64, 5)),
                nn.Sequential(Conv(192, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3)),
                # Zeros at the border are not counted, as in TensorFlow.
                nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), Conv(192, 64, 1)),
            )
            self.repeat = nn.Sequential(*(block35(320, (48, 64), scale=scale_a) for _ in range(a)))
            self.mixed_6a = reduction_a(320, 256, 256, 384, 384)
            self.repeat_1 = nn.Sequential(
                *(asymmetric_block(1088, 7, 192, (128, 160, 192), scale=scale_b) for _ in range(b))
            )
            self.mixed_7a = reduction_b(1088, 288, (288, 320))
            self.repeat_2 = nn.Sequential(
                *(asymmetric_block(2080, 3, 192, (192, 224, 256), scale=scale_c) for _ in range(c - 1))
            )
            self.block8 = asymmetric_block(2080, 3, 192, (192, 224, 256), activation=False)
            self.conv2d_7b = Conv(2080, 1536, 1)
            features = 1536
        self.body = [name for name, _ in self.named_children()]
        self.dropout = nn.Dropout(dropout)
        self.classif = nn.Linear(features, num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W], 299 x 299 in the paper -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or smaller than 75 x 75.
        """
        check_pictures("InceptionResNet", x, self.in_channels, least=75)
        for name in self.body:
            x = getattr(self, name)(x)
        logits: Tensor = self.classif(self.dropout(x.mean(dim=(2, 3))))
        return logits


def _init_weights(module: nn.Module) -> None:
    """As in the release: uniform after Glorot and Bengio, biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# The first version as in the paper, the second one as released.
inception_resnet_v1 = published(InceptionResNet, version="v1", blocks=(5, 10, 5), free=["dropout"])
inception_resnet_v2 = published(InceptionResNet, free=["dropout"])

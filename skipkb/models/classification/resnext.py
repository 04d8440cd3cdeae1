r"""ResNeXt: many equal small transformations, added up, instead of one large one.

Inception modules split the channels, transform each part and merge the results, and every branch has its own design.
ResNeXt keeps split, transform and merge and gives all branches the same shape, so that only their number is left to
choose: the *cardinality* C, a dimension beside depth and width (Section 3.3, equations 2 and 3):

.. math::  y = x + \sum_{i=1}^{C} \mathcal T_i(x)

Each :math:`\mathcal T_i` is a thin bottleneck: 1x1 to d channels, 3x3 there, 1x1 back. The skip carries the input
around all of them, as in ResNet, and a ReLU acts on the sum. The same function can be written in three ways (Figure 3):

- (a) C separate paths whose outputs are summed: :meth:`Bottleneck.split_transform_merge`;
- (b) C paths that are concatenated in front of one common 1x1: :meth:`Bottleneck.early_concatenation`;
- (c) one bottleneck of width C*d whose 3x3 convolution has C groups: :meth:`Bottleneck.function`, which is what runs.

S. Xie, R. Girshick, P. Dollár, Z. Tu, K. He: "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017,
arXiv:1611.05431.

Deviations from the paper, which says "we follow [14, 11]": as in the authors' Torch code the shortcut projects where
the shape changes (option B), the 3x3 carries the stride, convolutions start as zero-mean Gaussians of variance 2 /
fan-out, and the classifier as PyTorch has it, with a bias of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import BottleneckBranch, ResNetTrunk, projection_shortcut

__all__ = [
    "Bottleneck", "ResNeXt", "objective", "resnext29_8x64d", "resnext29_16x64d", "resnext50_32x4d", "resnext101_32x4d",
    "resnext101_32x8d", "resnext101_64x4d",
]  # fmt: skip


class Bottleneck(BottleneckBranch):
    """Form (c): 1x1 to C*d channels, 3x3 in C groups, 1x1 to the output, and the input added.

    Args:
        in_channels: channels of the input.
        channels: width of the ResNet block this one replaces; the output has four times as many.
        cardinality: number of paths C.
        base_width: width d of a path in the first stage, where ``channels`` is 64.
        stride: 2 in the block that halves the resolution, else 1.
    """

    def __init__(self, in_channels: int, channels: int, *, cardinality: int, base_width: int, stride: int = 1) -> None:
        width = channels * base_width // 64 * cardinality
        super().__init__(in_channels, channels, stride=stride, width=width, groups=cardinality)
        self.cardinality = cardinality
        self.downsample = projection_shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.function(x) + shortcut)  # type: ignore[no-any-return]  # the skip

    def split_transform_merge(self, x: Tensor) -> Tensor:
        """Form (a), the same function from the same weights: each path by itself, then the sum. To read, not to run.

        The last normalisation follows the sum, as Section 4 (implementation details) says.
        """
        last = self.conv3.weight.chunk(self.cardinality, dim=1)
        paths = [F.conv2d(y, weight) for y, weight in zip(self._paths(x), last, strict=True)]
        merged = paths[0]
        for path in paths[1:]:
            merged = merged + path
        return self.bn3(merged)  # type: ignore[no-any-return]

    def early_concatenation(self, x: Tensor) -> Tensor:
        """Form (b): the paths are concatenated in front of one common 1x1 convolution, as in Inception-ResNet."""
        return self.bn3(self.conv3(torch.cat(self._paths(x), dim=1)))  # type: ignore[no-any-return]

    def _paths(self, x: Tensor) -> list[Tensor]:
        """1x1 and 3x3 of each path with its own part of the weights; in eval mode, as statistics are per channel."""
        weights = zip(self.conv1.weight.chunk(self.cardinality), self.conv2.weight.chunk(self.cardinality), strict=True)
        paths = []
        for i, (first, second) in enumerate(weights):
            y = F.relu(_part(self.bn1, i, self.cardinality, F.conv2d(x, first)))
            y = F.conv2d(y, second, stride=self.conv2.stride, padding=1)
            paths.append(F.relu(_part(self.bn2, i, self.cardinality, y)))
        return paths


def _part(norm: nn.BatchNorm2d, index: int, count: int, x: Tensor) -> Tensor:
    """``x`` normalised by part ``index`` of ``count`` equal parts of the channels of ``norm``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance, weight, bias = (
        tensor.chunk(count)[index] for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return F.batch_norm(x, mean, variance, weight, bias, eps=norm.eps)


class ResNeXt(ResNetTrunk):
    """ResNet with these blocks (Table 1).

    Args:
        layers: blocks per stage, such as (3, 4, 6, 3) for 50 layers.
        cardinality: paths per block, C.
        base_width: width of a path in the first stage, d.
        widths: width of the ResNet block that each stage replaces.
        stem: "imagenet" is a strided 7x7 convolution and a maximum pooling, "cifar" one 3x3 convolution.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: an option that does not exist, or numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        cardinality: int,
        base_width: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: Literal["imagenet", "cifar"] = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if cardinality < 1 or min(widths, default=0) * base_width < 64:
            raise ValueError(
                "ResNeXt: cardinality must be at least 1 and a path one channel wide (base_width / 64 of the stage's "
                f"width), got cardinality={cardinality}, base_width={base_width} and widths={tuple(widths)}"
            )
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"ResNeXt: stem must be one of imagenet, cifar, got {stem!r}")
        super().__init__(
            partial(Bottleneck, cardinality=cardinality, base_width=base_width), layers=layers, widths=widths,
            stem=stem, num_classes=num_classes, in_channels=in_channels,
        )  # fmt: skip
        self.apply(he_fan_out)
        nn.init.zeros_(self.fc.bias)


# Tables 1, 3 and 4. The 32x8d is not in the paper; torchvision and later work have it.
resnext50_32x4d = published(ResNeXt, layers=(3, 4, 6, 3), cardinality=32, base_width=4)
resnext101_32x4d = published(ResNeXt, layers=(3, 4, 23, 3), cardinality=32, base_width=4)
resnext101_64x4d = published(ResNeXt, layers=(3, 4, 23, 3), cardinality=64, base_width=4)
resnext101_32x8d = published(ResNeXt, layers=(3, 4, 23, 3), cardinality=32, base_width=8)

# Table 7, for CIFAR.
# fmt: off
resnext29_8x64d = published(
    ResNeXt, layers=(3, 3, 3), cardinality=8, base_width=64, widths=(64, 128, 256), stem="cifar", num_classes=10,
)
resnext29_16x64d = published(
    ResNeXt, layers=(3, 3, 3), cardinality=16, base_width=64, widths=(64, 128, 256), stem="cifar", num_classes=10,
)
# fmt: on

r"""Pre-activation ResNet: nothing touches the sum.

In the first ResNet a ReLU follows each addition, so that the identity is broken at every unit. If nothing follows, and
the shortcut is the identity, the recursion can be unrolled (Section 2, equations 3 to 5):

.. math::  x_{l+1} = x_l + \mathcal F(x_l), \qquad x_L = x_l + \sum_{i=l}^{L-1} \mathcal F(x_i), \qquad
           \frac{\partial\mathcal E}{\partial x_l} = \frac{\partial\mathcal E}{\partial x_L}
           \Bigl(1 + \frac{\partial}{\partial x_l} \sum_{i=l}^{L-1} \mathcal F(x_i)\Bigr)

Any signal reaches any later unit as it is, and the gradient any earlier one. Normalisation and ReLU therefore move in
front of each convolution (full pre-activation, Figure 4 (e)). Where the width changes, the skip is a 1x1 convolution of
the activated input. Two places need care (Appendix): the activation behind the first convolution comes before the
paths split, and the last sum is followed by one more normalisation and ReLU.

K. He, X. Zhang, S. Ren, J. Sun: "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027.

Deviations from the paper, as in the authors' code: the stride of a bottleneck stands in the first 1x1 convolution for
CIFAR, in the 3x3 for ImageNet (Facebook's Torch code, which trained ResNet-200); convolutions start as zero-mean
Gaussians of variance 2 / fan-out. There is no PyTorch release; names are ResNet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.depth import blocks_of_depth
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import check_stages, stages

__all__ = [
    "BasicUnit", "BottleneckUnit", "PreActResNet", "objective", "preact_resnet110", "preact_resnet164",
    "preact_resnet200", "preact_resnet1001",
]  # fmt: skip


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A padded convolution without bias: map size divided by the stride."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


class Unit(nn.Module):
    """First activation and shortcut, which both kinds of unit share.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 2 in the unit that halves the resolution, else 1.
        activate: False in the first unit behind a stem that has already normalised and activated.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, activate: bool) -> None:
        super().__init__()
        self.bn1: nn.Module | None = nn.BatchNorm2d(in_channels) if activate else None
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        active = x if self.bn1 is None else self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        return self.function(active) + shortcut  # the skip, and nothing behind it

    def function(self, active: Tensor) -> Tensor:
        """F of equation 3, behind its first activation."""
        raise NotImplementedError


class BasicUnit(Unit):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, activate: bool = True) -> None:
        super().__init__(in_channels, channels, stride=stride, activate=activate)
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3)

    def function(self, active: Tensor) -> Tensor:
        x = self.conv1(active)
        return self.conv2(self.relu(self.bn2(x)))  # type: ignore[no-any-return]


class BottleneckUnit(Unit):
    """1x1 to a quarter of the output's channels, 3x3 there, 1x1 back."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        activate: bool = True,
        stride_in: Literal["1x1", "3x3"] = "1x1",
    ) -> None:
        super().__init__(in_channels, channels * self.expansion, stride=stride, activate=activate)
        self.conv1 = conv(in_channels, channels, 1, stride if stride_in == "1x1" else 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, stride if stride_in == "3x3" else 1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = conv(channels, channels * self.expansion, 1)

    def function(self, active: Tensor) -> Tensor:
        x = self.conv1(active)
        x = self.conv2(self.relu(self.bn2(x)))
        return self.conv3(self.relu(self.bn3(x)))  # type: ignore[no-any-return]


class PreActResNet(nn.Module):
    """Stem, stages of units, normalisation and ReLU, global average, linear classifier.

    Args:
        unit: "basic" or "bottleneck".
        layers: units per stage.
        widths: channels of each stage; a bottleneck puts out four times as many.
        stem: "imagenet" is a strided 7x7 convolution, normalisation, ReLU and maximum pooling; "cifar" one 3x3
            convolution to 16 channels.
        stride_in: convolution of a bottleneck that carries the stride.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: an option that does not exist, or layers and widths that do not match.
    """

    def __init__(
        self,
        *,
        unit: Literal["basic", "bottleneck"],
        layers: Sequence[int],
        widths: Sequence[int],
        stem: Literal["imagenet", "cifar"] = "cifar",
        stride_in: Literal["1x1", "3x3"] = "1x1",
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("unit", unit, ("basic", "bottleneck")),
            ("stem", stem, ("imagenet", "cifar")),
            ("stride_in", stride_in, ("1x1", "3x3")),
        ):
            if value not in allowed:
                raise ValueError(f"PreActResNet: {name} must be one of {', '.join(allowed)}, got {value!r}")
        check_stages("PreActResNet", layers, widths)
        self.in_channels = in_channels
        if stem == "imagenet":
            channels = 64
            self.conv1 = conv(in_channels, channels, 7, 2)
            self.stem: nn.Module = nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
            )
        else:
            channels = 16
            self.conv1 = conv(in_channels, channels, 3)
            self.stem = nn.Identity()  # the first unit's activation follows, before its paths split
        activate = iter([stem == "cifar", *[True] * sum(layers)])

        def block(in_channels: int, width: int, *, stride: int) -> Unit:
            if unit == "basic":
                return BasicUnit(in_channels, width, stride=stride, activate=next(activate))
            return BottleneckUnit(in_channels, width, stride=stride, activate=next(activate), stride_in=stride_in)

        made, channels = stages(block, layers, widths, channels)
        self.stages = [f"layer{i}" for i in range(1, len(made) + 1)]
        for name, stage in zip(self.stages, made, strict=True):
            self.add_module(name, stage)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_fan_out)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes].

        Any H and W; the paper has 32 x 32 (CIFAR) and 224 x 224 (ImageNet).

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("PreActResNet", x, self.in_channels)
        x = self.stem(self.conv1(x))
        for name in self.stages:
            x = getattr(self, name)(x)
        x = F.relu(self.bn(x), inplace=True)  # the extra activation behind the last sum
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def preact_resnet_cifar(
    *, depth: int, bottleneck: bool = True, num_classes: int = 10, in_channels: int = 3
) -> PreActResNet:
    """Three equal stages for 32 x 32 pictures: 9n+2 layers of bottlenecks, or 6n+2 of basic units.

    Raises:
        ValueError: a depth that does not fit.
    """
    n = blocks_of_depth("preact_resnet_cifar", depth, 9 if bottleneck else 6, 2)
    return PreActResNet(
        unit="bottleneck" if bottleneck else "basic", layers=(n, n, n), widths=(16, 32, 64),
        num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip


# Tables 2 and 3, for CIFAR: the first of basic units, with projections. Table 5, for ImageNet.
# fmt: off
preact_resnet110 = published(preact_resnet_cifar, depth=110, bottleneck=False)
preact_resnet164 = published(preact_resnet_cifar, depth=164)
preact_resnet1001 = published(preact_resnet_cifar, depth=1001)
preact_resnet200 = published(
    PreActResNet, unit="bottleneck", layers=(3, 24, 36, 3), widths=(64, 128, 256, 512), stem="imagenet",
    stride_in="3x3", num_classes=1000,
)
# fmt: on

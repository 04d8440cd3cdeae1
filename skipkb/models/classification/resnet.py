r"""ResNet: blocks that learn what to *add* to their input.

A deep stack of layers should not be worse than a shallow one, because its extra layers could copy their input. In
training, deep plain stacks do get worse, even on the training set: copying is hard to learn. Therefore every few layers
get a shortcut, and only learn the difference between wanted output and input, which is zero where copying is best
(Section 3.1, equations 1 and 2):

.. math::  y = \mathrm{ReLU}\bigl(\mathcal F(x, \{W_i\}) + x\bigr), \qquad
           y = \mathrm{ReLU}\bigl(\mathcal F(x, \{W_i\}) + W_s x\bigr)

:math:`\mathcal F` is two 3x3 convolutions (:class:`BasicBlock`) or 1x1, 3x3, 1x1 (:class:`Bottleneck`), each
followed by batch normalisation, with ReLUs in between. The skip starts at the block's input and ends in front
of the last ReLU, which acts on the sum. It is the identity wherever shapes agree. Where they change, there
are two options: A subsamples and pads the missing channels with zeros (no parameters), B projects by
:math:`W_s`, a strided 1x1 convolution. With option C every shortcut is a projection. ``residual=False``
leaves the skips out and gives the paper's plain networks.

K. He, X. Zhang, S. Ren, J. Sun: "Deep Residual Learning for Image Recognition", CVPR 2016, pp. 770-778,
arXiv:1512.03385.

Deviations from the paper:

- A bottleneck that halves the resolution does so in its 3x3 convolution by default. The authors' Caffe models
  do it in the first 1x1, and only that fits the 3.8, 7.6 and 11.3 billion multiply-adds the paper prints.
  Names, shapes and parameters are the same, so a checkpoint loads into either form but is right only in its
  own; torchvision and timm publish theirs for the 3x3. ``stride_in="1x1"`` puts the stride where the authors had it.
- The maximum pooling is padded by 1, again as torchvision and timm have it. Caffe does not pad and rounds up;
  the windows then lie one pixel further down and right. ``stem="caffe"`` builds that.
- The first convolution has no bias. In the authors' ResNet-50 it has one, in their deeper networks it does not.
  :func:`resnet50_2015` is their ResNet-50 in all three respects.

Where the paper gives no figure: the zero channels of option A come after the copied ones; batch normalisation uses
epsilon 1e-5 and starts as the identity; biases start at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.depth import blocks_of_depth
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "BasicBlock", "Bottleneck", "ResNet", "ZeroPadShortcut", "objective", "resnet18", "resnet20", "resnet34",
    "resnet50", "resnet50_2015", "resnet56", "resnet101", "resnet110", "resnet152", "resnet_cifar",
]  # fmt: skip

Shortcut = Literal["A", "B", "C"]
StrideIn = Literal["1x1", "3x3"]


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """A padded convolution: map size divided by the stride. The bias is left to the batch normalisation."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias)


class ZeroPadShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, and zeros for the new channels. Nothing to learn.

    [N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)], C' >= C.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = out_channels - in_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        return f"new_channels={self.new_channels}, stride={self.stride}"


class Block(nn.Module):
    """What both kinds of block share: the shortcut, and its addition to the residual function.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 2 in the block that halves the resolution, else 1.
        shortcut: option A, B or C of Section 3.3.
        residual: False leaves the shortcut out (plain network).
    """

    expansion: int
    """Channels of the output, as a multiple of the block's width."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, shortcut: Shortcut, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.downsample: nn.Module = nn.Identity()  # the name under which checkpoints keep a projection
        same_shape = stride == 1 and in_channels == out_channels
        if not residual or (same_shape and shortcut != "C"):
            return
        if shortcut == "A":
            self.downsample = ZeroPadShortcut(in_channels, out_channels, stride)
        else:
            projection = conv(in_channels, out_channels, 1, stride)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def function(self, x: Tensor) -> Tensor:
        """The residual function F of equation 1."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        if not self.residual:
            return F.relu(self.function(x))
        return F.relu(self.function(x) + self.downsample(x))  # the skip


class BasicBlock(Block):
    """Two 3x3 convolutions (Figure 5, left)."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        shortcut: Shortcut = "B",
        residual: bool = True,
    ) -> None:
        super().__init__(in_channels, channels, stride=stride, shortcut=shortcut, residual=residual)
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)

    def function(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return x


class Bottleneck(Block):
    """1x1 to a quarter of the channels, 3x3 there, 1x1 back (Figure 5, right)."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        shortcut: Shortcut = "B",
        residual: bool = True,
        stride_in: StrideIn = "3x3",
    ) -> None:
        out_channels = channels * self.expansion
        super().__init__(in_channels, out_channels, stride=stride, shortcut=shortcut, residual=residual)
        self.conv1 = conv(in_channels, channels, 1, stride if stride_in == "1x1" else 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, stride if stride_in == "3x3" else 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv(channels, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)

    def function(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return x


class ResNet(nn.Module):
    """Stem, stages of blocks (the resolution halves between stages), global average, linear classifier.

    Args:
        block: "basic" or "bottleneck".
        layers: blocks per stage, such as (3, 4, 6, 3) for 34 and 50 layers (Table 1).
        widths: channels of each stage; a bottleneck puts out four times as many.
        stem: "imagenet" is a strided 7x7 convolution and a maximum pooling that is padded by 1, "caffe" the same
            without padding and rounded up, "cifar" one 3x3 convolution.
        stem_bias: whether that convolution has a bias.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.
        shortcut: "A" zero padding, "B" projection where the shape changes, "C" projection everywhere.
        residual: False builds the plain network of the same depth and width.
        stride_in: convolution of a bottleneck that carries the stride: "3x3", or "1x1" as the authors had it.

    Raises:
        ValueError: an option that does not exist, or layers and widths that do not match.
    """

    def __init__(
        self,
        *,
        block: Literal["basic", "bottleneck"],
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: Literal["imagenet", "caffe", "cifar"] = "imagenet",
        stem_bias: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        shortcut: Shortcut = "B",
        residual: bool = True,
        stride_in: StrideIn = "3x3",
    ) -> None:
        super().__init__()
        _check("block", block, ("basic", "bottleneck"))
        _check("stem", stem, ("imagenet", "caffe", "cifar"))
        _check("shortcut", shortcut, ("A", "B", "C"))
        _check("stride_in", stride_in, ("1x1", "3x3"))
        if len(layers) != len(widths) or not layers or min(*layers, *widths) < 1:
            raise ValueError(
                "ResNet: layers and widths need one positive number per stage each, "
                f"got layers={tuple(layers)} and widths={tuple(widths)}"
            )
        if shortcut == "A" and any(after < before for before, after in pairwise(widths)):
            raise ValueError(f"ResNet: shortcut A can only add channels, got widths={tuple(widths)}")
        self.in_channels = in_channels
        kernel_size, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.conv1 = conv(in_channels, widths[0], kernel_size, stride, bias=stem_bias)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool: nn.Module = nn.Identity()
        if stem == "imagenet":
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        elif stem == "caffe":
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        make: Callable[..., Block] = partial(BasicBlock, shortcut=shortcut, residual=residual)
        if block == "bottleneck":
            make = partial(Bottleneck, shortcut=shortcut, residual=residual, stride_in=stride_in)
        self.stages = [f"layer{i}" for i in range(1, len(layers) + 1)]
        channels = widths[0]
        for i, (name, count, width) in enumerate(zip(self.stages, layers, widths, strict=True)):
            blocks = []
            for j in range(count):
                one = make(channels, width, stride=2 if i > 0 and j == 0 else 1)
                channels = width * one.expansion
                blocks.append(one)
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes].

        Any H and W; the paper has 224 x 224 (ImageNet) and 32 x 32 (CIFAR).

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("ResNet", x, self.in_channels)
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"ResNet: {name} must be one of {', '.join(allowed)}, got {value!r}")


def _init_weights(module: nn.Module) -> None:
    """Section 3.4, which follows He et al. (2015): zero-mean Gaussian of variance 2 / fan-in, no bias."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        fan_in = module.weight[0].numel()
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def resnet_cifar(
    *,
    depth: int,
    widths: Sequence[int] = (16, 32, 64),
    num_classes: int = 10,
    in_channels: int = 3,
    shortcut: Shortcut = "A",
    residual: bool = True,
) -> ResNet:
    """The CIFAR-10 networks of Section 4.2: 6n+2 layers, three stages of n basic blocks, option A.

    Parameters, for the paper's widths: 97,216 n - 21,926. A 3x3 convolution from a to b channels has 9ab
    weights, its batch normalisation 2b. Hence 464 for the stem; 2n times 2,336 in the first stage; 4,672 and
    2n-1 times 9,280 in the second; 18,560 and 2n-1 times 36,992 in the third; 650 in the classifier, bias
    included; nothing in the shortcuts.

    Raises:
        ValueError: depth is not 6n+2 with n >= 1.
    """
    n = blocks_of_depth("resnet_cifar", depth, 6, 2)
    return ResNet(
        block="basic",
        layers=(n, n, n),
        widths=widths,
        stem="cifar",
        num_classes=num_classes,
        in_channels=in_channels,
        shortcut=shortcut,
        residual=residual,
    )


# The networks for ImageNet (Table 1); with residual=False the plain ones.
# fmt: off
resnet18 = published(ResNet, block="basic", layers=(2, 2, 2, 2), free=["shortcut", "residual"])
resnet34 = published(ResNet, block="basic", layers=(3, 4, 6, 3), free=["shortcut", "residual"])  # Figure 3
resnet50 = published(ResNet, block="bottleneck", layers=(3, 4, 6, 3), free=["shortcut", "residual", "stride_in"])
resnet101 = published(ResNet, block="bottleneck", layers=(3, 4, 23, 3), free=["shortcut", "residual", "stride_in"])
resnet152 = published(ResNet, block="bottleneck", layers=(3, 8, 36, 3), free=["shortcut", "residual", "stride_in"])

# As the authors released it for Caffe.
resnet50_2015 = published(
    ResNet, block="bottleneck", layers=(3, 4, 6, 3), stem="caffe", stem_bias=True, stride_in="1x1",
)

# The networks for CIFAR-10 (Section 4.2).
resnet20 = published(resnet_cifar, depth=20, free=["shortcut", "residual"])
resnet56 = published(resnet_cifar, depth=56, free=["shortcut", "residual"])
resnet110 = published(resnet_cifar, depth=110, free=["shortcut", "residual"])
# fmt: on

"""What is left of ResNet when a paper replaces its block: stem, stages, shortcut, classifier.

ResNet itself, with the options of its paper, is :mod:`skipkb.models.classification.resnet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

from torch import Tensor, nn

from skipkb.nn.input_check import check_pictures

__all__ = [
    "BasicBranch", "Block", "BottleneckBranch", "ResNetTrunk", "Stem", "check_stages", "projection_shortcut", "stages",
]  # fmt: skip

Stem = Literal["imagenet", "caffe", "cifar", "deep"]


class Block(Protocol):
    """Makes one block, whose attribute ``expansion`` times ``width`` is the number of its output channels."""

    def __call__(self, in_channels: int, width: int, /, *, stride: int) -> nn.Module: ...


class BasicBranch(nn.Module):
    """The residual function of a basic block, two 3x3 convolutions; the block that inherits it adds the skip.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: 2 in the block that halves the resolution, else 1.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def function(self, x: Tensor) -> Tensor:
        """The residual function: [N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return x


class BottleneckBranch(nn.Module):
    """The residual function of a bottleneck, 1x1, 3x3, 1x1; the block that inherits it adds the skip.

    Args:
        in_channels: channels of the input.
        channels: width of ResNet's bottleneck; the output has four times as many.
        stride: of the 3x3 convolution, 2 in the block that halves the resolution, else 1.
        width: channels of the 3x3 convolution, if they are not ResNet's.
        groups: of the 3x3 convolution.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, width: int | None = None, groups: int = 1
    ) -> None:
        super().__init__()
        width, out_channels = width or channels, channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def function(self, x: Tensor) -> Tensor:
        """The residual function: [N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return x


def projection_shortcut(
    in_channels: int, out_channels: int, stride: int, *, kernel_size: int = 1
) -> nn.Sequential | None:
    """ResNet's option B: a strided 1x1 convolution and its normalisation, or None where the shape stays the same.

    [N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)].
    """
    if stride == 1 and in_channels == out_channels:
        return None
    padding = kernel_size // 2
    projection = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))


def stages(
    block: Block, layers: Sequence[int], widths: Sequence[int], in_channels: int
) -> tuple[list[nn.Sequential], int]:
    """ResNet's stages: the first block of each, but not of the first one, halves the resolution.

    Args:
        block: makes a block, called as ``block(in_channels, width, stride=stride)``.
        layers: blocks of each stage.
        widths: of each stage; a block puts out ``expansion`` times as many channels.
        in_channels: channels in front of the first stage.

    Returns:
        The stages, and the channels behind the last one.
    """
    made = []
    channels = in_channels
    for i, (count, width) in enumerate(zip(layers, widths, strict=True)):
        blocks = []
        for j in range(count):
            one: Any = block(channels, width, stride=2 if i > 0 and j == 0 else 1)
            channels = width * one.expansion
            blocks.append(one)
        made.append(nn.Sequential(*blocks))
    return made, channels


class ResNetTrunk(nn.Module):
    """ResNet for blocks of another kind: stem, stages, global average, linear classifier.

    The parts have torchvision's names: ``conv1``, ``bn1``, ``maxpool``, ``layer1`` to ``layerN``, ``fc``.

    Args:
        block: makes a block, as for :func:`stages`.
        layers: blocks of each stage, such as (3, 4, 6, 3) for 50 layers.
        widths: of each stage.
        stem: "imagenet" is a strided 7x7 convolution and a maximum pooling that is padded by 1, as in PyTorch; "caffe"
            the same with a pooling that is not padded and rounds up; "deep" three 3x3 convolutions, the first two half
            as wide, and the padded pooling; "cifar" one 3x3 convolution and no pooling.
        stem_width: channels behind the stem.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: layers and widths that do not fit together, or a stem that does not exist.
    """

    def __init__(
        self,
        block: Block,
        *,
        layers: Sequence[int],
        widths: Sequence[int],
        stem: Stem = "imagenet",
        stem_width: int = 64,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        check_stages(type(self).__name__, layers, widths)
        if stem not in get_args(Stem):
            raise ValueError(f"{type(self).__name__}: stem must be one of {', '.join(get_args(Stem))}, got {stem!r}")
        self.in_channels = in_channels
        self.smallest = 3 if stem == "caffe" else 1  # what leaves the pooling a pixel
        self.conv1 = _first_layers(stem, in_channels, stem_width)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity()
        if stem == "caffe":
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        elif stem != "cifar":
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        made, channels = stages(block, layers, widths, stem_width)
        self.stages = [f"layer{i}" for i in range(1, len(made) + 1)]
        for name, stage in zip(self.stages, made, strict=True):
            self.add_module(name, stage)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] of any size, with the Caffe stem at least 3 x 3 -> logits [N, K].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or too small.
        """
        check_pictures(type(self).__name__, x, self.in_channels, least=self.smallest)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def check_stages(model: str, layers: Sequence[int], widths: Sequence[int]) -> None:
    """Refuse layers and widths that do not fit together.

    Raises:
        ValueError: with the name of the model and the numbers.
    """
    if len(layers) != len(widths) or not layers or min(*layers, *widths) < 1:
        raise ValueError(
            f"{model}: layers and widths need one positive number per stage each, "
            f"got layers={tuple(layers)} and widths={tuple(widths)}"
        )


def _first_layers(stem: Stem, in_channels: int, width: int) -> nn.Module:
    """The stem up to its last convolution."""
    if stem == "cifar":
        return nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    if stem != "deep":
        return nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
    half = width // 2
    return nn.Sequential(
        *(
            nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        ),
        *(nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        nn.Conv2d(half, width, 3, padding=1, bias=False),
    )

"""ResNet for segmentation: the last strides are given up, and the convolutions behind them dilated instead.

The last map is then an eighth or a sixteenth of the picture, and every kernel still covers what it covered. The skip
is ResNet's. Two families of checkpoints name its tensors in two ways, and both are here: :class:`DilatedResNet` as
torchvision does, and :func:`msra_stage` as ports of the Caffe networks do, whose stride is in the first 1x1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.resnet_trunk import BottleneckBranch, check_stages, projection_shortcut

__all__ = ["DilatedBottleneck", "DilatedResNet", "MSRABottleneck", "dilated_stage", "msra_stage", "msra_stem", "unit"]


class DilatedBottleneck(BottleneckBranch):
    """ResNet's bottleneck, 1x1, 3x3, 1x1, and the input added.

    Args:
        in_channels: channels of the input.
        channels: width; the output has four times as many.
        stride: of the 3x3 convolution.
        dilation: of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(in_channels, channels, stride=stride)
        self.conv2.dilation = self.conv2.padding = (dilation, dilation)
        self.downsample = projection_shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.function(x) + shortcut)  # type: ignore[no-any-return]  # the skip


def dilated_stage(in_channels: int, width: int, rates: Sequence[int], *, stride: int = 1) -> nn.Sequential:
    """One block for each of the rates; the first one has the stride: [N, C, H, W] -> [N, 4 width, h, w]."""
    blocks = [DilatedBottleneck(in_channels, width, stride=stride, dilation=rates[0])]
    blocks += [DilatedBottleneck(4 * width, width, dilation=rate) for rate in rates[1:]]
    return nn.Sequential(*blocks)


class DilatedResNet(nn.Module):
    """Stem and stages under torchvision's names, without a classifier.

    Args:
        layers: blocks of each of the four stages, such as (3, 4, 6, 3).
        widths: of each stage; a block puts out four times as many channels.
        strides: of each stage.
        rates: dilations of each stage, one for each block.
        in_channels: channels of the picture.

    Raises:
        ValueError: layers and widths that do not fit together.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        rates: Sequence[Sequence[int]],
        in_channels: int,
    ) -> None:
        super().__init__()
        check_stages(type(self).__name__, layers, widths)
        channels = widths[0]
        self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = [f"layer{i}" for i in range(1, len(layers) + 1)]
        for name, width, stride, dilations in zip(self.stages, widths, strides, rates, strict=True):
            self.add_module(name, dilated_stage(channels, width, dilations, stride=stride))
            channels = 4 * width

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures [N, in_channels, H, W] -> the map behind each stage."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for name in self.stages:
            x = getattr(self, name)(x)
            maps.append(x)
        return maps


# ------------------------------------------------------------------------- under the names of the Caffe ports


def unit(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1, relu: bool = True,
    momentum: float = 0.1,
) -> nn.Sequential:  # fmt: skip
    """Convolution, normalisation and perhaps ReLU, as ``conv``, ``bn`` and ``relu``."""
    padding = dilation * (kernel_size // 2)
    layers: list[tuple[str, nn.Module]] = [
        ("conv", nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)),
        ("bn", nn.BatchNorm2d(out_channels, momentum=momentum)),
    ]
    return nn.Sequential(OrderedDict(layers + [("relu", nn.ReLU())] * relu))


class MSRABottleneck(nn.Module):
    """The bottleneck of the Caffe networks: the first 1x1 convolution has the stride, and so has the projection.

    Args:
        in_channels: channels of the input.
        channels: width; the output has four times as many.
        stride: of the block.
        dilation: of the 3x3 convolution.
        project: the shortcut is a 1x1 convolution; without it the input itself.
        momentum: of the normalisations.
    """

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, dilation: int, project: bool, momentum: float
    ) -> None:
        super().__init__()
        self.reduce = unit(in_channels, channels, 1, stride=stride, momentum=momentum)
        self.conv3x3 = unit(channels, channels, 3, dilation=dilation, momentum=momentum)
        self.increase = unit(channels, 4 * channels, 1, relu=False, momentum=momentum)
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = unit(in_channels, 4 * channels, 1, stride=stride, relu=False, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4C', ceil(H/stride), ceil(W/stride)]."""
        return F.relu(self.increase(self.conv3x3(self.reduce(x))) + self.shortcut(x))  # the skip


def msra_stem(in_channels: int, channels: int, *, momentum: float = 0.1) -> nn.Sequential:
    """A strided 7x7 convolution, and a padded maximum pooling that rounds up: a quarter of the resolution."""
    convolution = unit(in_channels, channels, 7, stride=2, momentum=momentum)
    return nn.Sequential(OrderedDict(conv1=convolution, pool=nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)))


def msra_stage(
    in_channels: int, width: int, rates: Sequence[int], *, stride: int = 1, momentum: float = 0.1
) -> nn.Sequential:
    """One block for each of the rates, ``block1`` and so on; the first one has the stride and a projection."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for i, rate in enumerate(rates):
        first = i == 0
        blocks[f"block{i + 1}"] = MSRABottleneck(
            in_channels if first else 4 * width, width, stride=stride if first else 1, dilation=rate, project=first,
            momentum=momentum,
        )  # fmt: skip
    return nn.Sequential(blocks)

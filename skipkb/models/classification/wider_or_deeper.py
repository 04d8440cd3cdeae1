r"""Wider or Deeper: a residual network no deeper than gradients reach, and as wide as memory allows.

Written out, a chain of residual units is a sum over paths (the unravelled view). For two units

.. math::  y = x + f_1(x) + f_2\bigl(x + f_1(x)\bigr)

and with n units every unit is passed or bypassed, which makes 2^n paths of 0 to n units. Gradients arrive through paths
up to some *effective depth* only. A network with more units than that is not trained end to end: it behaves like an
ensemble of shallower networks. The paper therefore stays within that depth, with 17 units, and doubles the width from
level to level, up to 4096 channels (Model A, 38 layers with weights).

All units are of the pre-activation kind. The skip is the identity; in the first unit of a level, where the width
changes, it is a 1x1 projection of the normalised and activated input. Levels 2 to 5 have units of two 3x3 convolutions,
B(3,3), levels 6 and 7 one unit of 1x1, 3x3, 1x1 each, B(1,3,1).

Z. Wu, C. Shen, A. van den Hengel: "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", Pattern
Recognition 90, 2019, arXiv:1611.10080. Layers, initial values and the dilated forms follow the authors' MXNet symbols.

Deviations: the released weights of Model A come from an older MXNet whose pooling did not pad the map; like the
symbols for new training, this network pads it. Dropout is off in the released symbols, and an argument here.
State-dict names are those of the PyTorch version that came with In-Place Activated BatchNorm.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = [
    "NormReLU", "Unit", "WiderResNet", "objective", "wider_resnet38", "wider_resnet38_a1", "wider_resnet38_a1_fcn",
]  # fmt: skip

WIDTHS = ((128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096))
"""Output channels of the convolutions in a unit, levels 2 to 7."""


class NormReLU(nn.BatchNorm2d):
    """Batch normalisation and ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape, not negative."""
        return F.relu(super().forward(x), inplace=True)


class Unit(nn.Module):
    """A pre-activation residual unit: B(3,3) for two widths, B(1,3,1) for three.

    Args:
        in_channels: channels of the input.
        widths: output channels of the convolutions.
        project: first of its level; the shortcut is a 1x1 convolution.
        stride: of the first convolution and the projection.
        dilation: of the first convolution, where it is 3x3.
        later_dilation: of the other 3x3 convolution; twice ``dilation`` where a stride of 2 was turned into dilation.
        dropout: probability of zeroing a value in front of the last convolution.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        project: bool,
        stride: int = 1,
        dilation: int = 1,
        later_dilation: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for i, (kernel, width) in enumerate(zip(kernels, widths, strict=True), start=1):
            if i > 1:
                layers[f"bn{i}"] = NormReLU(channels)
            if i == len(kernels) and dropout > 0:
                layers["dropout"] = nn.Dropout(dropout)
            reach = 1 if kernel == 1 else dilation if i == 1 else later_dilation
            layers[f"conv{i}"] = nn.Conv2d(
                channels, width, kernel, stride=stride if i == 1 else 1,
                padding=kernel // 2 * reach, dilation=reach, bias=False,
            )  # fmt: skip
            channels = width
        self.bn1 = NormReLU(in_channels)
        self.convs = nn.Sequential(layers)
        self.proj_conv: nn.Module | None = None
        if project:
            self.proj_conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        active = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(active)
        return shortcut + self.convs(active)  # type: ignore[no-any-return]  # the skip


class WiderResNet(nn.Module):
    """A convolution, six levels of units, batch normalisation and ReLU, then a classifier or a dilated head.

    Args:
        blocks: units in levels 2 to 7.
        widths: output channels of the convolutions in the units of each level, two or three numbers.
        stem_width: channels of the first convolution.
        pools: how many of the five halvings, from the first, are maximum poolings in front of their level; in the
            others the first convolution of the level has stride 2. 5 is Model A, 0 Model A1.
        output_stride: pixels per place of the last map. 16 and 8 leave out the last one or two halvings, and dilate
            what follows so that every place still computes the same.
        dropout: probability in levels 6 and 7.
        head: "classifier" averages the map; "fcn" scores every place by two 3x3 convolutions of dilation 12.
        num_classes: outputs of the head.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together, or an option that does not exist.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (3, 3, 6, 3, 1, 1),
        widths: Sequence[Sequence[int]] = WIDTHS,
        stem_width: int = 64,
        pools: int = 5,
        output_stride: int = 32,
        dropout: Sequence[float] = (0.0, 0.0),
        head: Literal["classifier", "fcn"] = "classifier",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(blocks) != 6 or len(widths) != 6 or min(blocks) < 1 or any(len(each) not in (2, 3) for each in widths):
            raise ValueError(
                "WiderResNet: blocks needs a number and widths two or three channel numbers for each of levels 2 to 7, "
                f"got blocks={tuple(blocks)} and widths={tuple(widths)}"
            )
        if not 0 <= pools <= 5 or output_stride not in (8, 16, 32) or (pools == 5 and output_stride == 8):
            raise ValueError(
                "WiderResNet: pools must be 0 to 5 and output_stride one of 8 (with at most 4 poolings), 16, 32, "
                f"got pools={pools} and output_stride={output_stride}"
            )
        if len(dropout) != 2 or not all(0 <= p < 1 for p in dropout):
            raise ValueError(f"WiderResNet: dropout needs two probabilities below 1, got {tuple(dropout)}")
        if head not in ("classifier", "fcn"):
            raise ValueError(f"WiderResNet: head must be one of classifier, fcn, got {head!r}")
        self.in_channels = in_channels
        self.mod1 = nn.Sequential(OrderedDict(conv1=nn.Conv2d(in_channels, stem_width, 3, padding=1, bias=False)))
        self.levels = ["mod1"]
        channels, dilation, total = stem_width, 1, 1
        for level, (count, level_widths) in enumerate(zip(blocks, widths, strict=True), start=2):
            before = dilation
            stride = 1
            if level <= 6:  # in front of level 7 nothing is halved
                total *= 2
                stride = 2 if total <= output_stride else 1
                dilation *= 2 // stride
            if level - 1 <= pools:
                self.add_module(f"pool{level}", nn.MaxPool2d(3, stride=stride, padding=before, dilation=before))
                self.levels.append(f"pool{level}")
                before, stride = dilation, 1
            units: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(1, count + 1):
                units[f"block{i}"] = Unit(
                    channels,
                    level_widths,
                    project=i == 1,
                    stride=stride if i == 1 else 1,
                    dilation=before if i == 1 else dilation,
                    later_dilation=dilation,
                    dropout=dropout[level - 6] if level >= 6 else 0.0,
                )
                channels = level_widths[-1]
            self.add_module(f"mod{level}", nn.Sequential(units))
            self.levels.append(f"mod{level}")
        self.bn_out = NormReLU(channels)
        if head == "classifier":
            average = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.classifier = nn.Sequential(OrderedDict(avg_pool=average, fc=nn.Linear(channels, num_classes)))
        else:
            self.classifier = nn.Sequential(
                OrderedDict(
                    conv6a=nn.Conv2d(channels, 512, 3, padding=12, dilation=12),
                    relu=nn.ReLU(inplace=True),
                    linear=nn.Conv2d(512, num_classes, 3, padding=12, dilation=12),
                )
            )
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W], 224 x 224 in the paper.

        Returns:
            Logits [N, num_classes], or with the dilated head [N, num_classes, H / stride, W / stride], rounded up.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("WiderResNet", x, self.in_channels)
        for name in self.levels:
            x = getattr(self, name)(x)
        logits: Tensor = self.classifier(self.bn_out(x))
        return logits


def _init_weights(module: nn.Module) -> None:
    """As in the authors' code: Gaussians of variance 2 / fan-in, and PyTorch's own values in the linear classifier."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# Model A halves by pooling, Model A1 by convolutions of stride 2. The last one, "A1, 2 conv.", scores the 150 classes
# of ADE20K for each 8 x 8 pixels.
wider_resnet38 = published(WiderResNet)
wider_resnet38_a1 = published(WiderResNet, pools=0)
wider_resnet38_a1_fcn = published(WiderResNet, pools=0, output_stride=8, head="fcn", num_classes=150)


def objective(output: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy, the mean over what is labelled; 255 marks a pixel without a label.

    Args:
        output: logits [N, K], or [N, K, H, W].
        target: classes [N], or [N, H, W], long.
    """
    return F.cross_entropy(output, target, ignore_index=255 if output.dim() == 4 else -100)

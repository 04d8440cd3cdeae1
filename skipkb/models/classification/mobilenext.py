r"""MobileNeXt: the skip goes back to the wide ends, and so do the spatial filters.

MobileNetV2 joins narrow maps by its skips. The authors of this paper hold that too little information passes there,
and that gradients of different depths get in each other's way (Section 3.1). Their *sandglass block* is a bottleneck
again, wide outside and narrow inside. What a classical bottleneck does in the middle, the spatial filter, is done
twice at the wide ends, where a depthwise convolution has more channels to work on and is still cheap (Section 3.2,
Figure 3 b),

.. math::  y = x + D_2\,\sigma\bigl(E\,R\,\sigma(D_1 x)\bigr), \qquad
           D_1, D_2 \text{ depthwise}, \quad R: c \to c/t, \quad E: c/t \to c,

with :math:`\sigma` = ReLU6 and a normalisation behind each convolution. Neither R nor :math:`D_2` is followed by an
activation: the one because its output is narrow, the other because it is added. Since the wide map on the skip costs
memory traffic, only its first :math:`\alpha c` channels may take it (*identity tensor multiplier*, Section 3.3),

.. math::  y_{1 \dots \alpha c} = x_{1 \dots \alpha c} + F(x)_{1 \dots \alpha c}, \qquad
           y_{\alpha c + 1 \dots c} = F(x)_{\alpha c + 1 \dots c} .

D. Zhou, Q. Hou, Y. Chen, J. Feng, S. Yan: "Rethinking Bottleneck Structure for Efficient Mobile Network Design", ECCV
2020, arXiv:2007.02269.

Deviations from the paper, all as in the authors' code: a block that opens a stage and changes the width has no first
depthwise convolution, and no second one either unless it strides; those of the first stage, and of stages of a single
block that does not stride, keep both. The code also decides the rounding of channels, the initial values and the
names of the parameters.
"""

from __future__ import annotations

import math

from timm.layers.helpers import make_divisible
from torch import Tensor, nn

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "MobileNeXt",
    "SandglassBlock",
    "mobilenext",
    "mobilenext_035",
    "mobilenext_050",
    "mobilenext_075",
    "mobilenext_140",
    "objective",
]

TABLE_2 = (
    (2, 96, 1, 2),
    (6, 144, 1, 1),
    (6, 192, 3, 2),
    (6, 288, 3, 2),
    (6, 384, 4, 1),
    (6, 576, 4, 2),
    (6, 960, 3, 1),
    (6, 1280, 1, 1),
)
"""Reduction t, channels c, blocks b and stride s of the first block, line by line."""


def depthwise(channels: int, *, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution of each channel by itself, and a normalisation."""
    return [
        nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
    ]


def pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    """A 1x1 convolution and a normalisation."""
    return [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]


class SandglassBlock(nn.Module):
    """Filter, reduce, expand, filter; add the input, or some of its channels, where the shapes agree.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        reduction: t; the narrow map always has at least a sixth of the output's channels.
        stride: 1 or 2, of the last depthwise convolution.
        first, last: whether the depthwise convolutions at the two ends are there.
        alpha: share of the channels that take the skip.
        residual: False leaves the skip out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        reduction: int = 6,
        stride: int = 1,
        first: bool = True,
        last: bool = True,
        alpha: float = 1.0,
        residual: bool = True,
    ) -> None:
        super().__init__()
        skips = residual and stride == 1 and in_channels == out_channels
        self.carried = int(alpha * in_channels + 1e-6) if skips else 0  # a third of 96 is 32, also in floats
        narrow = in_channels // reduction
        if narrow < out_channels / 6:
            narrow = make_divisible(math.ceil(out_channels / 6), 16)
        self.conv = nn.Sequential(
            *([*depthwise(in_channels), nn.ReLU6(inplace=True)] if first else []),
            *pointwise(in_channels, narrow),  # and no activation
            *pointwise(narrow, out_channels),
            nn.ReLU6(inplace=True),
            *(depthwise(out_channels, stride=stride) if last else []),  # and none here
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)]."""
        y: Tensor = self.conv(x)
        if self.carried == x.shape[1]:
            return x + y  # the skip, between the wide ends
        if self.carried:
            y[:, : self.carried] += x[:, : self.carried]  # a skip for some of the channels
        return y


class MobileNeXt(nn.Module):
    """A strided 3x3 convolution, 20 sandglass blocks, global average, classifier (Table 2).

    Args:
        width_mult: factor on all channels; the last block keeps its 1280 at widths below one.
        blocks: lines of Table 2 as (reduction, channels, blocks, stride).
        alpha: identity tensor multiplier, the share of the channels that take the skips.
        dropout: in front of the classifier.
        residual: False leaves the skips out.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a width that is not positive, no blocks, or a share outside (0, 1].
    """

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        blocks: tuple[tuple[int, int, int, int], ...] = TABLE_2,
        alpha: float = 1.0,
        dropout: float = 0.2,
        residual: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if width_mult <= 0 or not blocks or any(min(line) < 1 or line[3] > 2 for line in blocks):
            raise ValueError(
                "MobileNeXt: width_mult must be positive and blocks be lines of (reduction, channels, blocks, stride "
                f"1 or 2), got width_mult={width_mult} and {blocks}"
            )
        if not 0 < alpha <= 1:
            raise ValueError(f"MobileNeXt: alpha is a share of the channels, above 0 and at most 1, got {alpha}")
        self.in_channels = in_channels
        channels = make_divisible(32 * width_mult)
        layers: list[nn.Module] = [
            nn.Sequential(
                nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU6(inplace=True),
            )
        ]
        for number, (reduction, width, count, first_stride) in enumerate(blocks):
            out_channels = make_divisible(width * width_mult)
            if width == 1280 and width_mult < 1:
                out_channels = 1280
            for j in range(count):
                stride = first_stride if j == 0 else 1
                opens = j == 0 and number > 0 and channels != out_channels
                layers.append(
                    SandglassBlock(
                        channels,
                        out_channels,
                        reduction=reduction,
                        stride=stride,
                        first=not opens or (count == 1 and stride == 1),
                        last=not opens or count == 1 or stride == 2,
                        alpha=alpha,
                        residual=residual,
                    )
                )
                channels = out_channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("MobileNeXt", x, self.in_channels)
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]  # groups or not
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


# Widths of Table 4
mobilenext = published(MobileNeXt, free=["alpha", "residual"])
mobilenext_035 = published(MobileNeXt, width_mult=0.35)
mobilenext_050 = published(MobileNeXt, width_mult=0.5)
mobilenext_075 = published(MobileNeXt, width_mult=0.75)
mobilenext_140 = published(MobileNeXt, width_mult=1.4)

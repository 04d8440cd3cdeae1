r"""MobileNetV2: the skip joins the narrow ends.

A residual bottleneck is wide outside and narrow inside, and its skip carries the wide map. Here it is the other way
round, an *inverted residual* (Section 3.3, Figure 3): a narrow map is expanded t times by a 1x1 convolution, filtered
by a depthwise 3x3 convolution, which is cheap at any width, and projected back. What the skip has to keep is small,

.. math::  y = x + P\,\sigma\bigl(D\,\sigma(E x)\bigr), \qquad
           E: k \to tk, \quad D: tk \to tk \text{ per channel}, \quad P: tk \to k',

with :math:`\sigma` = ReLU6 and a normalisation behind each convolution. Nothing activates the output of P, nor the sum
(*linear bottleneck*, Section 3.2): in few channels a ReLU destroys what it sets to zero. In many it does not, because
other channels still hold the information. The skip is there only where the block keeps resolution and channels; it is
the identity.

M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen: "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR
2018, arXiv:1801.04381.

Deviations from the paper: channels are rounded to multiples of 8, by at most a tenth downwards, as in the authors'
code, and widths below one keep the 1280 channels of the last convolution. Initial values, epsilon and momentum of the
normalisations, and a padding on all sides are torchvision's, whose names the parameters have; the authors' TF-Slim
code has others.
"""

from __future__ import annotations

from timm.layers.helpers import make_divisible
from torch import Tensor, nn

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = ["InvertedResidual", "MobileNetV2", "mobilenet_v2", "mobilenet_v2_050", "mobilenet_v2_140", "objective"]

TABLE_2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion t, channels c, blocks n and stride s of the first block, line by line."""


def conv(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without activation; add the input where the shapes agree (Table 1).

    Args:
        in_channels: channels of the input, k.
        out_channels: channels of the output, k'.
        stride: 1 or 2.
        expansion: t; with 1 there is nothing to expand.
        residual: False leaves the skip out.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, expansion: int, residual: bool = True
    ) -> None:
        super().__init__()
        self.residual = residual and stride == 1 and in_channels == out_channels
        width = in_channels * expansion
        self.conv = nn.Sequential(
            *([conv(in_channels, width, 1)] if expansion != 1 else []),
            conv(width, width, 3, stride=stride, groups=width),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),  # and no activation
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, k, H, W] -> [N, k', ceil(H/stride), ceil(W/stride)]."""
        if self.residual:
            return x + self.conv(x)  # type: ignore[no-any-return]  # the skip, between the narrow ends
        return self.conv(x)  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """A strided 3x3 convolution, 17 inverted residuals, a 1x1 convolution, global average, classifier (Table 2).

    Args:
        width_mult: factor on all channels.
        blocks: lines of Table 2 as (expansion, channels, blocks, stride).
        dropout: in front of the classifier.
        residual: False leaves the skips out.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a width that is not positive, or no blocks.
    """

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        blocks: tuple[tuple[int, int, int, int], ...] = TABLE_2,
        dropout: float = 0.2,
        residual: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if width_mult <= 0 or not blocks or any(min(line) < 1 or line[3] > 2 for line in blocks):
            raise ValueError(
                "MobileNetV2: width_mult must be positive and blocks be lines of (expansion, channels, blocks, stride "
                f"1 or 2), got width_mult={width_mult} and {blocks}"
            )
        self.in_channels = in_channels
        channels = make_divisible(32 * width_mult)
        last = make_divisible(1280 * max(1.0, width_mult))
        layers: list[nn.Module] = [conv(in_channels, channels, 3, stride=2)]
        for expansion, width, count, first_stride in blocks:
            out_channels = make_divisible(width * width_mult)
            for j in range(count):
                stride = first_stride if j == 0 else 1
                layers.append(
                    InvertedResidual(channels, out_channels, stride=stride, expansion=expansion, residual=residual)
                )
                channels = out_channels
        layers.append(conv(channels, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("MobileNetV2", x, self.in_channels)
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


mobilenet_v2 = published(MobileNetV2, free=["residual"])
mobilenet_v2_050 = published(MobileNetV2, width_mult=0.5)
mobilenet_v2_140 = published(MobileNetV2, width_mult=1.4)  # Table 4

r"""MobileNet: one expensive convolution becomes two cheap ones, and nothing bypasses them.

A k x k convolution from M to N channels filters space and mixes channels in one step, at :math:`k^2 M N`
multiplications for every position. Here a *depthwise* convolution filters each channel by itself, and a *pointwise* 1x1
convolution mixes them (Section 3.1, Equations 3 to 5),

.. math::  y_n = \sum_m P_{nm} \, (D_m * x_m), \qquad
           \frac{k^2 M + M N}{k^2 M N} = \frac1N + \frac1{k^2} .

Without what stands between them, the pair is one full convolution whose kernel is a product,
:math:`K_{nm} = P_{nm} D_m`. In between are a normalisation and an activation, as behind every convolution (Figure 3).

There is no skip. The network is a chain of 27 convolutions and one fully connected layer; MobileNetV2, which has skips,
is built on it. A width multiplier makes all layers thinner (Section 3.3); the resolution multiplier of Section 3.4 is
the size of the picture.

A. G. Howard, M. Zhu, B. Chen, D. Kalenichenko, W. Wang, T. Weyand, M. Andreetto, H. Adam: "MobileNets: Efficient
Convolutional Neural Networks for Mobile Vision Applications", 2017, arXiv:1704.04861.

Deviations from the paper: the activation is ReLU6, as in the authors' code and every released checkpoint, where the
paper writes ReLU; ``activation="relu"`` follows the text. The last depthwise convolution has stride 1: Table 1 prints
2, but keeps the 7 x 7 positions. Initial values and the dropout, which the paper does not give, are those of the
authors' code; epsilon and momentum of the normalisations, and a padding on all sides, are timm's, whose names the
parameters have.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "DepthwiseSeparable",
    "MobileNetV1",
    "mobilenet_v1",
    "mobilenet_v1_025",
    "mobilenet_v1_050",
    "mobilenet_v1_075",
    "objective",
]

TABLE_1 = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
"""Channels, number of separable convolutions, and stride of the first one, for each resolution."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class DepthwiseSeparable(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution across channels (Figure 3, right).

    Args:
        in_channels: M.
        out_channels: N.
        stride: of the depthwise convolution, 1 or 2.
        activation: "relu6" or "relu", behind both.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, activation: Literal["relu", "relu6"] = "relu6"
    ) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act = ACTIVATIONS[activation](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, M, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)]."""
        x = self.act(self.bn1(self.conv_dw(x)))  # filters, channel by channel
        return self.act(self.bn2(self.conv_pw(x)))  # type: ignore[no-any-return]  # mixes, position by position


class MobileNetV1(nn.Module):
    """A strided 3x3 convolution, 13 separable ones, global average, classifier (Table 1).

    Args:
        width_mult: the width multiplier alpha; a layer keeps 8 channels at least.
        blocks: lines of Table 1 as (channels, separable convolutions, stride of the first).
        activation: "relu6" as released, or "relu" as printed.
        dropout: in front of the classifier.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a width that is not positive, no blocks, or an activation of another name.
    """

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        blocks: tuple[tuple[int, int, int], ...] = TABLE_1,
        activation: Literal["relu", "relu6"] = "relu6",
        dropout: float = 0.001,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if width_mult <= 0 or not blocks or any(min(line) < 1 or line[2] > 2 for line in blocks):
            raise ValueError(
                "MobileNetV1: width_mult must be positive and blocks be lines of (channels, convolutions, stride "
                f"1 or 2), got width_mult={width_mult} and {blocks}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"MobileNetV1: activation must be 'relu' or 'relu6', got {activation!r}")
        self.in_channels = in_channels
        channels = max(8, int(32 * width_mult))
        self.conv_stem = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = ACTIVATIONS[activation](inplace=True)
        stages = []
        for width, count, first_stride in blocks:
            out_channels = max(8, int(width * width_mult))
            stage = []
            for j in range(count):
                stride = first_stride if j == 0 else 1
                stage.append(DepthwiseSeparable(channels, out_channels, stride=stride, activation=activation))
                channels = out_channels
            stages.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]; the paper has 224 x 224 and smaller ones.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("MobileNetV1", x, self.in_channels)
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        logits: Tensor = self.classifier(self.dropout(x.mean(dim=(2, 3))))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.09, a=-0.18, b=0.18)  # cut at two deviations, as TensorFlow does
        if module.bias is not None:
            nn.init.zeros_(module.bias)


mobilenet_v1 = published(MobileNetV1, free=["activation"])
mobilenet_v1_075 = published(MobileNetV1, width_mult=0.75)
mobilenet_v1_050 = published(MobileNetV1, width_mult=0.5)
mobilenet_v1_025 = published(MobileNetV1, width_mult=0.25)

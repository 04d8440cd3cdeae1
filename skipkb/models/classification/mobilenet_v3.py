r"""MobileNetV3: searched inverted residuals with gates and cheap activations.

The block is that of MobileNetV2: a 1x1 convolution expands a narrow map, a depthwise one filters it, another 1x1
projects it back, and a skip joins the narrow ends where stride and width allow it. New is what happens to the wide
map (Section 5, Figure 4),

.. math::  y = x + P\,\bigl(z \cdot g(z)\bigr), \quad z = a\bigl(D\,a(E x)\bigr), \quad
           g(z) = \mathrm{hsig}\bigl(W_2\,\mathrm{ReLU}(W_1\,\mathrm{mean}(z))\bigr),

namely a channel gate g, which is itself a short skip around two small layers, and in the deeper half another
activation a (Section 5.2). The sigmoid of both is replaced by straight lines, so that nothing has to compute an
exponential:

.. math::  \mathrm{hsig}(x) = \frac{\mathrm{ReLU6}(x + 3)}{6}, \qquad \mathrm{hswish}(x) = x \cdot \mathrm{hsig}(x).

Which block stands where is the outcome of a search (Tables 1 and 2). The end was redesigned by hand: the widest 1x1
convolution works behind the global pooling, on one position instead of 49 (Section 5.1, Figure 5).

A. Howard, M. Sandler, G. Chu, L.-C. Chen, B. Chen, M. Tan, W. Wang, Y. Zhu, R. Pang, V. Vasudevan, Q. V. Le, H. Adam:
"Searching for MobileNetV3", ICCV 2019, arXiv:1905.02244.

Deviations from the paper: channels, also those inside the gates, are rounded to multiples of 8, by at most a tenth
downwards; expansions multiply the rounded width, and widths below one keep the channels in front of the classifier, as
the authors' code does. Initial values and a padding on all sides are torchvision's, whose names the parameters have.
"""

from __future__ import annotations

from typing import Literal

from timm.layers.helpers import make_divisible
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "ChannelGate",
    "InvertedResidual",
    "MobileNetV3",
    "mobilenet_v3_large",
    "mobilenet_v3_large_075",
    "mobilenet_v3_small",
    "mobilenet_v3_small_075",
    "objective",
]

Line = tuple[int, int, int, bool, Literal["RE", "HS"], int]

TABLE_1: tuple[Line, ...] = (
    (3, 16, 16, False, "RE", 1),
    (3, 64, 24, False, "RE", 2),
    (3, 72, 24, False, "RE", 1),
    (5, 72, 40, True, "RE", 2),
    (5, 120, 40, True, "RE", 1),
    (5, 120, 40, True, "RE", 1),
    (3, 240, 80, False, "HS", 2),
    (3, 200, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 480, 112, True, "HS", 1),
    (3, 672, 112, True, "HS", 1),
    (5, 672, 160, True, "HS", 2),
    (5, 960, 160, True, "HS", 1),
    (5, 960, 160, True, "HS", 1),
)
"""Large: kernel, expanded channels, channels, gate, activation (ReLU or h-swish), stride."""

TABLE_2: tuple[Line, ...] = (
    (3, 16, 16, True, "RE", 2),
    (3, 72, 24, False, "RE", 2),
    (3, 88, 24, False, "RE", 1),
    (5, 96, 40, True, "HS", 2),
    (5, 240, 40, True, "HS", 1),
    (5, 240, 40, True, "HS", 1),
    (5, 120, 48, True, "HS", 1),
    (5, 144, 48, True, "HS", 1),
    (5, 288, 96, True, "HS", 2),
    (5, 576, 96, True, "HS", 1),
    (5, 576, 96, True, "HS", 1),
)
"""Small: the same columns."""


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Literal["RE", "HS"] | None = None,
) -> nn.Sequential:
    """Convolution, normalisation with a slow average (Section 6.1.1), activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels, eps=0.001, momentum=0.01),
    ]
    if activation is not None:
        layers.append(nn.Hardswish(inplace=True) if activation == "HS" else nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class ChannelGate(nn.Module):
    """Squeeze-and-excitation with a quarter of the channels inside and a hard sigmoid (Section 5.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = make_divisible(channels / 4)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]: each channel times a number in [0, 1] that the whole map decides."""
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(squeezed), inplace=True)))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, gate, project without activation; add the input where the shapes agree.

    Args:
        in_channels: channels of the input.
        expanded: channels of the wide map; equal to in_channels, there is nothing to expand.
        out_channels: channels of the output.
        kernel_size: of the depthwise convolution.
        gate: whether the wide map is gated.
        activation: "RE" or "HS".
        stride: 1 or 2.
        residual: False leaves the skip out.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        *,
        kernel_size: int,
        gate: bool,
        activation: Literal["RE", "HS"],
        stride: int,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual and stride == 1 and in_channels == out_channels
        self.block = nn.Sequential(
            *([conv(in_channels, expanded, 1, activation=activation)] if expanded != in_channels else []),
            conv(expanded, expanded, kernel_size, stride=stride, groups=expanded, activation=activation),
            *([ChannelGate(expanded)] if gate else []),
            conv(expanded, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)]."""
        if self.residual:
            return x + self.block(x)  # type: ignore[no-any-return]  # the skip, between the narrow ends
        return self.block(x)  # type: ignore[no-any-return]


class MobileNetV3(nn.Module):
    """A strided 3x3 convolution, inverted residuals, a 1x1 convolution, global average, two layers (Tables 1 and 2).

    Args:
        blocks: lines of Table 1 or 2 as (kernel, expanded channels, channels, gate, "RE" or "HS", stride).
        last: channels between the two layers behind the pooling.
        width_mult: factor on the channels in front of the pooling, and on ``last`` above one.
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
        blocks: tuple[Line, ...] = TABLE_1,
        last: int = 1280,
        width_mult: float = 1.0,
        dropout: float = 0.2,
        residual: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if (
            width_mult <= 0
            or not blocks
            or any(line[4] not in ("RE", "HS") or line[5] not in (1, 2) for line in blocks)
        ):
            raise ValueError(
                "MobileNetV3: width_mult must be positive and blocks be lines of (kernel, expanded channels, channels, "
                f"gate, 'RE' or 'HS', stride 1 or 2), got width_mult={width_mult} and {blocks}"
            )
        self.in_channels = in_channels
        printed, channels = 16, make_divisible(16 * width_mult)
        layers: list[nn.Module] = [conv(in_channels, channels, 3, stride=2, activation="HS")]
        for kernel_size, expanded, out, gate, activation, stride in blocks:
            out_channels = make_divisible(out * width_mult)
            layers.append(
                InvertedResidual(
                    channels,
                    make_divisible(channels * expanded / printed),
                    out_channels,
                    kernel_size=kernel_size,
                    gate=gate,
                    activation=activation,
                    stride=stride,
                    residual=residual,
                )
            )
            printed, channels = out, out_channels
        wide = make_divisible(6 * printed * width_mult)
        layers.append(conv(channels, wide, 1, activation="HS"))
        self.features = nn.Sequential(*layers)
        hidden = make_divisible(last * max(1.0, width_mult))
        self.classifier = nn.Sequential(
            nn.Linear(wide, hidden),  # on one position: no normalisation, but a bias
            nn.Hardswish(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("MobileNetV3", x, self.in_channels)
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)


mobilenet_v3_large = published(MobileNetV3, free=["residual"])  # Table 1
mobilenet_v3_large_075 = published(MobileNetV3, width_mult=0.75)
mobilenet_v3_small = published(MobileNetV3, blocks=TABLE_2, last=1024, free=["residual"])
mobilenet_v3_small_075 = published(MobileNetV3, blocks=TABLE_2, last=1024, width_mult=0.75)

r"""GhostNet: half of the channels are cheap copies of the other half.

Many maps of a trained network resemble each other. A *ghost module* computes only n/s of its n output channels by an
ordinary convolution, and from each of these s - 1 more by a depthwise one (Section 3.1, Equations 2 and 3),

.. math::  Y' = X * f', \qquad  y_{ij} = \Phi_{ij}(y'_i), \quad i = 1 \dots n/s, \; j = 1 \dots s,

where :math:`\Phi_{is}` is the identity: the intrinsic maps :math:`Y'` also go out as they are, which is a skip around
the cheap convolution, merged by concatenation. With c input channels, k x k kernels in front and d x d kernels in the
copies, it costs less than a convolution to n channels by the factor (Equation 4)

.. math::  r_s = \frac{c\,k^2}{\frac1s c\,k^2 + \frac{s-1}{s} d^2} \approx s .

A *ghost bottleneck* is two such modules, one to expand and one to project without activation, with a strided depthwise
convolution and a channel gate in between where the table says so (Section 3.2). A second skip adds the block's input:
the identity, or a depthwise and a 1x1 convolution where the shape changes.

K. Han, Y. Wang, Q. Tian, J. Guo, C. Xu, C. Xu: "GhostNet: More Features from Cheap Operations", CVPR 2020,
arXiv:1911.11907.

Deviations from the paper, which leaves this open, as in the authors' code: channels are rounded to multiples of 4, the
gate is a hard sigmoid, the 1x1 convolution behind the pooling has a bias and no normalisation, and weights start as
PyTorch has them. Parameters have the names of that code.
"""

from __future__ import annotations

import math

import torch
from timm.layers.helpers import make_divisible
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "ChannelGate",
    "GhostBottleneck",
    "GhostModule",
    "GhostNet",
    "ghostnet",
    "ghostnet_050",
    "ghostnet_130",
    "objective",
]

TABLE_1 = (
    ((3, 16, 16, False, 1),),
    ((3, 48, 24, False, 2),),
    ((3, 72, 24, False, 1),),
    ((5, 72, 40, True, 2),),
    ((5, 120, 40, True, 1),),
    ((3, 240, 80, False, 2),),
    (
        (3, 200, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 480, 112, True, 1),
        (3, 672, 112, True, 1),
    ),
    ((5, 672, 160, True, 2),),
    ((5, 960, 160, False, 1), (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 960, 160, True, 1)),
)
"""Stages of bottlenecks: kernel of the strided depthwise convolution, expanded channels, channels, gate, stride."""


class GhostModule(nn.Module):
    """An ordinary convolution for some of the channels, and depthwise convolutions of these for the others.

    Args:
        in_channels: c.
        out_channels: n; the last copies are dropped where s does not divide it.
        kernel_size: k, of the ordinary convolution.
        ratio: s, how many channels come of each ordinary one, itself included.
        dw_size: d, kernel of the cheap convolution.
        relu: False leaves both activations out.

    Raises:
        ValueError: a ratio below 2, or even kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        ratio: int = 2,
        dw_size: int = 3,
        relu: bool = True,
    ) -> None:
        super().__init__()
        if ratio < 2 or kernel_size % 2 == 0 or dw_size % 2 == 0:
            raise ValueError(
                f"GhostModule: ratio must be at least 2 and kernels odd, got ratio={ratio}, kernel_size={kernel_size}, "
                f"dw_size={dw_size}"
            )
        intrinsic = math.ceil(out_channels / ratio)
        copies = intrinsic * (ratio - 1)
        self.surplus = intrinsic + copies - out_channels
        self.primary_conv = nn.Sequential(
            nn.Conv2d(in_channels, intrinsic, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(intrinsic),
            nn.ReLU(inplace=True) if relu else nn.Identity(),
        )
        self.cheap_operation = nn.Sequential(
            nn.Conv2d(intrinsic, copies, dw_size, padding=dw_size // 2, groups=intrinsic, bias=False),
            nn.BatchNorm2d(copies),
            nn.ReLU(inplace=True) if relu else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, c, H, W] -> [N, n, H, W]: intrinsic maps first, then their ghosts."""
        intrinsic = self.primary_conv(x)
        maps = torch.cat([intrinsic, self.cheap_operation(intrinsic)], dim=1)
        return maps[:, : -self.surplus] if self.surplus else maps


class ChannelGate(nn.Module):
    """Squeeze-and-excitation with a hard sigmoid: every channel times a number in [0, 1] that the whole map decides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = make_divisible(channels / 4, 4)
        self.conv_reduce = nn.Conv2d(channels, hidden, 1)
        self.conv_expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        return x * F.hardsigmoid(self.conv_expand(F.relu(self.conv_reduce(squeezed), inplace=True)))


class GhostBottleneck(nn.Module):
    """Two ghost modules, with depthwise stride and gate in between; the input is added (Figure 3).

    Args:
        in_channels, mid_channels, out_channels: in front of, between and behind the modules.
        kernel_size: of the strided depthwise convolutions.
        stride: 1 or 2.
        gate: whether there is a channel gate.
        ratio, dw_size: s and d of both modules.
        residual: False leaves the skip out.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        gate: bool = False,
        ratio: int = 2,
        dw_size: int = 3,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.strided = stride > 1
        self.ghost1 = GhostModule(in_channels, mid_channels, ratio=ratio, dw_size=dw_size)
        if self.strided:
            self.conv_dw = nn.Conv2d(
                mid_channels,
                mid_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                groups=mid_channels,
                bias=False,
            )
            self.bn_dw = nn.BatchNorm2d(mid_channels)
        self.se = ChannelGate(mid_channels) if gate else None
        self.ghost2 = GhostModule(mid_channels, out_channels, ratio=ratio, dw_size=dw_size, relu=False)
        self.shortcut = nn.Sequential()
        if residual and (self.strided or in_channels != out_channels):
            self.shortcut = nn.Sequential(
                nn.Conv2d(
                    in_channels,
                    in_channels,
                    kernel_size,
                    stride=stride,
                    padding=kernel_size // 2,
                    groups=in_channels,
                    bias=False,
                ),
                nn.BatchNorm2d(in_channels),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)]."""
        y = self.ghost1(x)
        if self.strided:
            y = self.bn_dw(self.conv_dw(y))  # without activation
        if self.se is not None:
            y = self.se(y)
        y = self.ghost2(y)
        if self.residual:
            y += self.shortcut(x)  # the skip; nothing activates the sum
        return y  # type: ignore[no-any-return]


class GhostNet(nn.Module):
    """A strided 3x3 convolution, 16 ghost bottlenecks, 1x1 convolutions around a global average, classifier (Table 1).

    Args:
        width: factor on all channels but the 1280 in front of the classifier.
        blocks: the bottlenecks, as in ``TABLE_1``.
        ratio, dw_size: s and d of all ghost modules.
        dropout: in front of the classifier.
        residual: False leaves the added skips out, and their convolutions with them.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a width that is not positive, no blocks, or a ratio or kernel no ghost module can have.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        blocks: tuple[tuple[tuple[int, int, int, bool, int], ...], ...] = TABLE_1,
        ratio: int = 2,
        dw_size: int = 3,
        dropout: float = 0.2,
        residual: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if width <= 0 or not blocks or not all(blocks):
            raise ValueError(
                "GhostNet: width must be positive and blocks be stages of (kernel, expanded channels, channels, gate, "
                f"stride), got width={width} and {blocks}"
            )
        self.in_channels = in_channels
        channels = make_divisible(16 * width, 4)
        self.conv_stem = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages: list[nn.Module] = []
        for lines in blocks:
            stage = []
            for kernel_size, expanded, out, gate, stride in lines:
                mid_channels, out_channels = make_divisible(expanded * width, 4), make_divisible(out * width, 4)
                stage.append(
                    GhostBottleneck(
                        channels,
                        mid_channels,
                        out_channels,
                        kernel_size=kernel_size,
                        stride=stride,
                        gate=gate,
                        ratio=ratio,
                        dw_size=dw_size,
                        residual=residual,
                    )
                )
                channels = out_channels
            stages.append(nn.Sequential(*stage))
        last = nn.Sequential()
        last.add_module("conv", nn.Conv2d(channels, mid_channels, 1, bias=False))
        last.add_module("bn1", nn.BatchNorm2d(mid_channels))
        last.add_module("act1", nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*stages, nn.Sequential(last))
        self.conv_head = nn.Conv2d(mid_channels, 1280, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("GhostNet", x, self.in_channels)
        x = self.blocks(F.relu(self.bn1(self.conv_stem(x)), inplace=True))
        x = F.relu(self.conv_head(x.mean(dim=(2, 3), keepdim=True)), inplace=True)
        logits: Tensor = self.classifier(self.dropout(x.flatten(1)))
        return logits


ghostnet = published(GhostNet, free=["residual"])
ghostnet_050 = published(GhostNet, width=0.5)
ghostnet_130 = published(GhostNet, width=1.3)

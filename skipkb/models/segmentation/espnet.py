r"""ESPNet: a convolution taken apart into a pyramid of dilated ones, and the sums that hide its gaps.

The efficient spatial pyramid (ESP) module reduces N channels to N/K by a 1x1 convolution and then runs K = 5
convolutions of 3x3 side by side, with dilations from 1 to 16. Together they see 33 x 33 positions, at a cost below that
of one ordinary 3x3 convolution. But a kernel with dilation 16 sees nine single positions with wide gaps, and
neighbouring outputs have no input in common: the map falls apart into a grid. So before the branches are concatenated,
each is added to the sum of the smaller ones (hierarchical feature fusion):

.. math::  s_2 = D_2(r), \qquad s_{2d} = s_d + D_{2d}(r), \qquad
           y = [\,D_1(r),\, s_2,\, s_4,\, s_8,\, s_{16}\,] + x, \qquad r = W_{1 \times 1} * x

The sums cost nothing. Where the shapes agree the module's input is added, the short skip. Longer skips:

- the picture, shrunken by average pooling, is concatenated to the maps of half and of a quarter of its size;
- the first map of a resolution is concatenated to the last one (levels 2 and 3);
- the decoder concatenates encoder maps of its resolution: at a quarter projected to the classes, at half directly.

ESPNet-C is the encoder with a classifier, an eighth of the picture's size; ESPNet adds the decoder.

S. Mehta, M. Rastegari, A. Caspi, L. Shapiro, H. Hajishirzi: "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions
for Semantic Segmentation", ECCV 2018, arXiv:1803.06815.

Deviations from the paper, all as in the authors' code:

- The branch of dilation 1 is not part of the sums.
- Each branch has N/5 channels, rounded down, and that of dilation 1 has the rest.
- Batch normalisations add 1e-3 to the variance; each channel has a slope of its own in the PReLU.
- The loss weighs a class by 1 / ln(1.1 + its share of the pixels).

Where the paper gives no figure: initial values are PyTorch's; weights of classes that are not given are those of the
batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = ["ESP", "ESPNet", "ESPNetC", "class_weights", "espnet", "espnet_c", "objective"]

DILATIONS = (1, 2, 4, 8, 16)
EPSILON = 1e-3


class Conv(nn.Module):
    """A convolution without a bias, padded to keep the size, or half of it with the stride 2."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 * dilation
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class NormAct(nn.Module):
    """Batch normalisation and PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=EPSILON)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))  # type: ignore[no-any-return]


class ConvNormAct(nn.Module):
    """A 3x3 convolution, batch normalisation and PReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=EPSILON)
        self.act = nn.PReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """Reduce, split, transform, merge: what both kinds of ESP module have in common.

    Args:
        in_channels: channels of the input.
        out_channels: N, at least 5.
        kernel_size: of the convolution that reduces: 1, or 3 in the module that halves the resolution.
        stride: of the same.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 1, stride: int = 1) -> None:
        super().__init__()
        width = out_channels // len(DILATIONS)
        rest = out_channels - width * (len(DILATIONS) - 1)
        self.c1 = Conv(in_channels, width, kernel_size, stride=stride)
        for dilation in DILATIONS:
            self.add_module(f"d{dilation}", Conv(width, rest if dilation == 1 else width, 3, dilation=dilation))

    def pyramid(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)]."""
        x = self.c1(x)
        first, *others = [self.get_submodule(f"d{dilation}")(x) for dilation in DILATIONS]
        sums = [others[0]]
        for branch in others[1:]:
            sums.append(sums[-1] + branch)  # each hides the gaps of the next
        return torch.cat([first, *sums], dim=1)


class ESP(Pyramid):
    """The ESP module. Arguments as in :class:`Pyramid`; ``residual`` says whether the input is added."""

    def __init__(self, in_channels: int, out_channels: int, *, residual: bool = True) -> None:
        super().__init__(in_channels, out_channels)
        self.bn = NormAct(out_channels)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out_channels, H, W]."""
        y = self.pyramid(x)
        if self.residual:
            y = y + x  # the short skip
        return self.bn(y)  # type: ignore[no-any-return]


class StridedESP(Pyramid):
    """The ESP module that halves the resolution: the reduction is a strided 3x3 convolution, and nothing is added."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2)
        self.bn = nn.BatchNorm2d(out_channels, eps=EPSILON)
        self.act = nn.PReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out_channels, ceil(H/2), ceil(W/2)]."""
        return self.act(self.bn(self.pyramid(x)))  # type: ignore[no-any-return]


class ESPNetC(nn.Module):
    """The encoder with a classifier.

    Args:
        num_classes: 20 for Cityscapes, 19 and one for the rest.
        in_channels: channels of the picture.
        widths: channels behind the first convolution, and of the ESP modules at levels 2 and 3.
        alpha2: ESP modules at level 2.
        alpha3: ESP modules at level 3.

    Raises:
        ValueError: fewer than five channels in an ESP module, or no module at a level.
    """

    def __init__(
        self,
        *,
        num_classes: int = 20,
        in_channels: int = 3,
        widths: tuple[int, int, int] = (16, 64, 128),
        alpha2: int = 2,
        alpha3: int = 8,
    ) -> None:
        super().__init__()
        first, second, third = widths
        if min(second, third) < len(DILATIONS):
            raise ValueError(f"ESPNet: an ESP module has five branches, so at least 5 channels; got widths={widths}")
        if min(alpha2, alpha3) < 1:
            raise ValueError(f"ESPNet: alpha2 and alpha3 must be at least 1, got {alpha2} and {alpha3}")
        self.in_channels = in_channels
        self.level1 = ConvNormAct(in_channels, first, stride=2)
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1)
        self.b1 = NormAct(first + in_channels)
        self.level2_0 = StridedESP(first + in_channels, second)
        self.level2 = nn.ModuleList(ESP(second, second) for _ in range(alpha2))
        self.b2 = NormAct(2 * second + in_channels)
        self.level3_0 = StridedESP(2 * second + in_channels, third)
        self.level3 = nn.ModuleList(ESP(third, third) for _ in range(alpha3))
        self.b3 = NormAct(2 * third)
        self.classifier = Conv(2 * third, num_classes, 1)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The maps of half, a quarter and an eighth of the size, with all that is concatenated to them."""
        half = self.shrink(x)
        quarter = self.shrink(half)
        level1 = self.b1(torch.cat([self.level1(x), half], dim=1))  # the picture is handed on
        start = y = self.level2_0(level1)
        for module in self.level2:
            y = module(y)
        level2 = self.b2(torch.cat([y, start, quarter], dim=1))  # the first map of the level, and the picture
        start = y = self.level3_0(level2)
        for module in self.level3:
            y = module(y)
        level3 = self.b3(torch.cat([start, y], dim=1))
        return level1, level2, level3

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] of any size -> class scores [N, num_classes, ceil(H/8), ceil(W/8)].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("ESPNetC", x, self.in_channels)
        return self.classifier(self.levels(x)[2])  # type: ignore[no-any-return]


class ESPNet(nn.Module):
    """The encoder and the light decoder, which works on maps of as many channels as there are classes.

    Args:
        num_classes: at least 5, since the decoder has an ESP module of that width; 20 for Cityscapes.
        in_channels: channels of the picture.
        widths: of the encoder, see :class:`ESPNetC`.
        alpha2: ESP modules at level 2.
        alpha3: ESP modules at level 3.

    Raises:
        ValueError: fewer than five classes, or an encoder that cannot be.
    """

    def __init__(
        self,
        *,
        num_classes: int = 20,
        in_channels: int = 3,
        widths: tuple[int, int, int] = (16, 64, 128),
        alpha2: int = 2,
        alpha3: int = 8,
    ) -> None:
        super().__init__()
        if num_classes < len(DILATIONS):
            raise ValueError(f"ESPNet: the decoder's ESP module needs at least 5 classes, got {num_classes}")
        k = num_classes
        self.in_channels = in_channels
        self.encoder = ESPNetC(num_classes=k, in_channels=in_channels, widths=widths, alpha2=alpha2, alpha3=alpha3)
        self.level3_C = Conv(2 * widths[1] + in_channels, k, 1)
        self.br = nn.BatchNorm2d(k, eps=EPSILON)
        self.conv = ConvNormAct(widths[0] + in_channels + k, k)
        self.up_l3 = nn.Sequential(_double(k))
        self.combine_l2_l3 = nn.Sequential(NormAct(2 * k), ESP(2 * k, k, residual=False))
        self.up_l2 = nn.Sequential(_double(k), NormAct(k))
        self.classifier = _double(k)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W], H and W multiples of 8 -> class scores [N, num_classes, H, W].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or their size does not fit.
        """
        check_pictures("ESPNet", x, self.in_channels, multiple=8)
        level1, level2, level3 = self.encoder.levels(x)
        x = self.up_l3(self.br(self.encoder.classifier(level3)))
        x = self.combine_l2_l3(torch.cat([self.level3_C(level2), x], dim=1))  # a long skip, projected
        x = self.up_l2(x)
        x = self.conv(torch.cat([x, level1], dim=1))  # a long skip, as it is
        return self.classifier(x)  # type: ignore[no-any-return]


def _double(channels: int) -> nn.ConvTranspose2d:
    """Twice the size, learned: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)


espnet = published(ESPNet, free=["alpha2", "alpha3"])
espnet_c = published(ESPNetC, free=["alpha2", "alpha3"])


def class_weights(target: Tensor, num_classes: int) -> Tensor:
    """1 / ln(1.1 + share of the pixels), [K]: from 1.35 for a class that fills all to 10.5 for a rare one.

    Args:
        target: classes [N, H, W], long.
        num_classes: K.
    """
    share = torch.stack([(target == k).float().mean() for k in range(num_classes)])
    return 1 / (1.1 + share).log()


def objective(output: Tensor, target: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Weighted softmax cross-entropy, averaged over the pixels by their weights: a scalar.

    Args:
        output: class scores [N, K, h, w]; where they are smaller than the target, the nearest of its pixels count.
        target: classes [N, H, W], long.
        weights: [K], of the whole training set; by default those of ``target``.
    """
    if weights is None:
        weights = class_weights(target, output.shape[1])
    if output.shape[2:] != target.shape[1:]:
        target = F.interpolate(target[:, None].float(), size=output.shape[2:])[:, 0].long()
    return F.cross_entropy(output, target, weight=weights)

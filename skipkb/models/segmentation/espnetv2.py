r"""ESPNetv2: ESPNet's module from grouped and depthwise convolutions, and the picture handed on at each halving.

The EESP unit reduces by a grouped 1x1 convolution, runs K = 4 depthwise dilated 3x3 convolutions :math:`D_k`, adds each
to the sum of the smaller ones, concatenates, and mixes by another grouped 1x1 convolution G. Its input is added:

.. math::  s_1 = D_1(r), \qquad s_k = s_{k-1} + D_k(r), \qquad
           y = \mathrm{PReLU}\bigl(G([\,s_1, \dots, s_K\,]) + x\bigr)

Dilations grow with k as long as the kernel is not wider than a limit, which shrinks with the resolution from 13 to 5; a
branch beyond it has dilation 1. Where the resolution halves, nothing can be added, and two other skips take over: the
input, shrunken by average pooling, is concatenated to the unit's output, and the picture I itself, shrunken as often as
needed, is added after a 3x3 and a 1x1 convolution F:

.. math::  y = \mathrm{PReLU}\bigl([\,\mathrm{avg}(x),\; \mathrm{EESP}_2(x)\,] + F(\mathrm{avg}^n(I))\bigr)

For segmentation the levels up to a sixteenth of the resolution are kept. A decoder concatenates the map of each level
with the enlarged one of the level below, three long skips, and looks at a pyramid of pooled maps at an eighth.

S. Mehta, M. Rastegari, L. Shapiro, H. Hajishirzi: "ESPNetv2: A Light-weight, Power Efficient, and General Purpose
Convolutional Neural Network", CVPR 2019, arXiv:1811.11431.

Deviations from the paper, all as in the authors' code:

- The last strided unit of the classifier is not given the picture, although it has the layers for it; and strided units
  have slopes of a PReLU that they do not use. Both are kept for the checkpoints, and not trained.
- The segmentation network in training has a second output, from an eighth of the resolution, with the same loss.
- Enlarging is bilinear and aligns the corners.
- The convolutions of trunk and classifier start as Gaussians of variance 2 / fan-out, the classifier's matrix with the
  standard deviation 0.001; the decoder starts as PyTorch has it.
- Drop-out: 0.2 in front of the classifier; of whole maps in the decoder, 0.2, or 0.1 up to the scale 0.5.

Where the paper gives no figure: the loss of segmentation weighs classes as ESPNet's does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation.espnet import class_weights
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = [
    "EESP", "ESPNetv2", "ESPNetv2Seg", "StridedUnit", "Trunk", "dilations", "espnetv2_050", "espnetv2_100",
    "espnetv2_125", "espnetv2_150", "espnetv2_200", "espnetv2_seg_050", "espnetv2_seg_200", "objective",
]  # fmt: skip

K = 4  # branches of a unit, and groups of its 1x1 convolutions
LIMITS = (13, 11, 9, 7, 5)  # widest kernel at each level


class Conv(nn.Module):
    """A convolution without a bias, padded to keep the size, or half of it with the stride 2."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 * dilation
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class ConvNorm(Conv):
    """A convolution and batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, groups=groups)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))  # type: ignore[no-any-return]


class ConvNormAct(Conv):
    """A convolution, batch normalisation and PReLU with a slope per channel."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.PReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class NormAct(nn.Module):
    """Batch normalisation and PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))  # type: ignore[no-any-return]


def dilations(limit: int) -> list[int]:
    """Of the K branches of a unit whose kernels may be ``limit`` pixels wide: 1, 2, ... in rising order.

    A 3x3 kernel with dilation d is 2d + 1 pixels wide; a branch that would be too wide has dilation 1.
    """
    return sorted(d if 2 * d + 1 <= limit else 1 for d in range(1, K + 1))


class EESP(nn.Module):
    """Extremely efficient spatial pyramid: reduce, split, transform, merge.

    Args:
        in_channels: a multiple of 4.
        out_channels: a multiple of 16.
        limit: width of the widest kernel.
        stride: 2 in the unit that halves the resolution, which leaves its sum and PReLU to :class:`StridedUnit`.

    Raises:
        ValueError: channels that do not fit the groups.
    """

    def __init__(self, in_channels: int, out_channels: int, *, limit: int, stride: int = 1) -> None:
        super().__init__()
        if in_channels % K or out_channels % K**2 or out_channels < K**2:
            raise ValueError(
                f"EESP: {in_channels} to {out_channels} channels; the input needs a multiple of {K}, "
                f"the output a multiple of {K**2}"
            )
        width = out_channels // K
        self.stride = stride
        self.residual = stride == 1 and in_channels == out_channels
        self.proj_1x1 = ConvNormAct(in_channels, width, 1, groups=K)
        self.spp_dw = nn.ModuleList(
            Conv(width, width, 3, stride=stride, dilation=d, groups=width) for d in dilations(limit)
        )
        self.br_after_cat = NormAct(out_channels)
        self.conv_1x1_exp = ConvNorm(out_channels, out_channels, 1, groups=K)
        self.module_act = nn.PReLU(out_channels)
        if stride != 1:
            self.module_act.requires_grad_(False)  # not used

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out_channels, ceil(H/stride), ceil(W/stride)]."""
        reduced = self.proj_1x1(x)
        sums = [self.spp_dw[0](reduced)]
        for branch in self.spp_dw[1:]:
            sums.append(sums[-1] + branch(reduced))  # each hides the gaps of the next
        y = self.conv_1x1_exp(self.br_after_cat(torch.cat(sums, dim=1)))
        if self.stride != 1:
            return y  # type: ignore[no-any-return]
        if self.residual:
            y = y + x  # the skip
        return self.module_act(y)  # type: ignore[no-any-return]


class StridedUnit(nn.Module):
    """Halves the resolution: the shrunken input is concatenated, and the shrunken picture added.

    Args:
        in_channels: channels of the input, which are the first of the output.
        out_channels: channels of the output.
        picture_channels: of the picture.
        limit: width of the widest kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, picture_channels: int, limit: int) -> None:
        super().__init__()
        self.eesp = EESP(in_channels, out_channels - in_channels, limit=limit, stride=2)
        self.inp_reinf = nn.Sequential(
            ConvNormAct(picture_channels, picture_channels, 3), ConvNorm(picture_channels, out_channels, 1)
        )
        self.act = nn.PReLU(out_channels)

    def forward(self, x: Tensor, picture: Tensor | None) -> Tensor:
        """x: [N, C, H, W], picture: [N, 3, H/2, W/2] or None -> [N, out_channels, H/2, W/2], sizes rounded up."""
        y = torch.cat([shrink(x), self.eesp(x)], dim=1)  # a skip
        if picture is not None:
            y = y + self.inp_reinf(picture)  # a long skip
        return self.act(y)  # type: ignore[no-any-return]


def shrink(x: Tensor) -> Tensor:
    """Half the resolution, by the average of 3x3 pixels: [N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)]."""
    return F.avg_pool2d(x, kernel_size=3, stride=2, padding=1)


class Trunk(nn.Module):
    """Levels 1 to 4, from a half to a sixteenth of the resolution.

    Args:
        s: scale of the widths; published are 0.5, 1.0, 1.25, 1.5 and 2.0.
        in_channels: channels of the picture.
        repeats: units behind the strided ones of levels 3, 4 and 5.

    Raises:
        ValueError: a scale whose channels do not fit the groups, or no unit at a level.
    """

    def __init__(self, *, s: float = 1.0, in_channels: int = 3, repeats: Sequence[int] = (3, 7, 3)) -> None:
        super().__init__()
        if len(repeats) != 3 or min(repeats) < 1:
            raise ValueError(f"{type(self).__name__}: repeats needs three numbers of at least 1, got {tuple(repeats)}")
        base = math.ceil(int(32 * s) / K) * K
        self.in_channels = in_channels
        self.widths = (min(base, 32), *(base * 2**i for i in range(1, 5)))
        self.level1 = ConvNormAct(in_channels, self.widths[0], 3, stride=2)
        self.level2_0 = self._strided(2)
        self.level3_0 = self._strided(3)
        self.level3 = self._units(3, repeats[0])
        self.level4_0 = self._strided(4)
        self.level4 = self._units(4, repeats[1])

    def _strided(self, level: int) -> StridedUnit:
        before, width = self.widths[level - 2 : level]
        return StridedUnit(before, width, picture_channels=self.in_channels, limit=LIMITS[level - 2])

    def _units(self, level: int, count: int) -> nn.ModuleList:
        width = self.widths[level - 1]
        return nn.ModuleList(EESP(width, width, limit=LIMITS[level - 1]) for _ in range(count))

    def levels(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The maps of levels 1 to 4."""
        small = shrink(picture)
        level1 = self.level1(picture)
        small = shrink(small)
        level2 = self.level2_0(level1, small)
        small = shrink(small)
        x = self.level3_0(level2, small)
        for unit in self.level3:
            x = unit(x)
        level3 = x
        x = self.level4_0(level3, shrink(small))
        for unit in self.level4:
            x = unit(x)
        return level1, level2, level3, x

    def start(self) -> None:
        """Initial values of the authors' code."""
        self.apply(he_fan_out)


class ESPNetv2(Trunk):
    """The classifier. Arguments as in :class:`Trunk`, and

    Args:
        num_classes: outputs; 1,000 for ImageNet.
        dropout: probability of zeroing a value in front of the classifier, in training only.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        s: float = 1.0,
        in_channels: int = 3,
        repeats: Sequence[int] = (3, 7, 3),
        dropout: float = 0.2,
    ) -> None:
        super().__init__(s=s, in_channels=in_channels, repeats=repeats)
        width, last = self.widths[4], 1024 if s <= 1.5 else 1280
        self.level5_0 = self._strided(5)
        self.level5_0.inp_reinf.requires_grad_(False)  # not used
        self.level5 = self._units(5, repeats[2])
        self.level5.append(ConvNormAct(width, width, 3, groups=width))
        self.level5.append(ConvNormAct(width, last, 1, groups=K))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes)
        self.start()
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] of any size -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("ESPNetv2", x, self.in_channels)
        x = self.level5_0(self.levels(x)[3], None)
        for unit in self.level5:
            x = unit(x)
        return self.classifier(self.dropout(x.mean(dim=(2, 3))))  # type: ignore[no-any-return]


class PooledPyramid(nn.Module):
    """A map and its averages over ever larger windows, each with a depthwise convolution, concatenated and mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Conv(channels, channels, 3, groups=channels) for _ in range(4))
        self.project = ConvNormAct(5 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        maps, small = [x], x
        for stage in self.stages:
            small = shrink(small)
            maps.append(_enlarge(stage(small), x.shape[-2:]))
        return self.project(torch.cat(maps, dim=1))  # type: ignore[no-any-return]


class ESPNetv2Seg(nn.Module):
    """The segmentation network: levels 1 to 4, and a decoder that takes up the map of each.

    Args:
        num_classes: 20 for Cityscapes, 19 and one for the rest.
        s: scale of the widths, see :class:`Trunk`.
        in_channels: channels of the picture.
        repeats: units of levels 3 and 4.
        auxiliary: whether the output from an eighth of the resolution is given also outside of training.

    Raises:
        ValueError: as for :class:`Trunk`.
    """

    def __init__(
        self,
        *,
        num_classes: int = 20,
        s: float = 1.0,
        in_channels: int = 3,
        repeats: Sequence[int] = (3, 7),
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.auxiliary = auxiliary
        self.net = Trunk(s=s, in_channels=in_channels, repeats=(*repeats, 1))
        self.net.start()
        first, second, third, fourth = self.net.widths[:4]
        k, dropped = num_classes, 0.1 if s <= 0.5 else 0.2
        self.proj_L4_C = ConvNormAct(fourth, third, 1)
        self.pspMod = nn.Sequential(EESP(2 * third, third, limit=7), PooledPyramid(third))
        self.project_l3 = nn.Sequential(nn.Dropout2d(dropped), Conv(third, k, 1))
        self.act_l3 = NormAct(k)
        self.project_l2 = ConvNormAct(second + k, k, 1)
        self.project_l1 = nn.Sequential(nn.Dropout2d(dropped), Conv(first + k, k, 1))

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """x: pictures [N, in_channels, H, W], H and W multiples of 16 -> class scores [N, num_classes, H, W].

        In training, and if asked for, a dictionary of these as ``out`` and of those from an eighth as ``aux``.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or their size does not fit.
        """
        check_pictures("ESPNetv2Seg", x, self.net.in_channels, multiple=16)
        level1, level2, level3, level4 = self.net.levels(x)
        y = torch.cat([level3, _double(self.proj_L4_C(level4))], dim=1)  # a long skip
        coarse = self.project_l3(self.pspMod(y))
        y = torch.cat([level2, _double(self.act_l3(coarse))], dim=1)  # a long skip
        y = torch.cat([level1, _double(self.project_l2(y))], dim=1)  # a long skip
        out = _double(self.project_l1(y))
        if not (self.training or self.auxiliary):
            return out
        return {"out": out, "aux": _double(_double(_double(coarse)))}


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation whose corners are those of the map."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _double(x: Tensor) -> Tensor:
    """Twice the size: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return _enlarge(x, (2 * x.shape[-2], 2 * x.shape[-1]))


espnetv2_050 = published(ESPNetv2, s=0.5)
espnetv2_100 = published(ESPNetv2, s=1.0)
espnetv2_125 = published(ESPNetv2, s=1.25)
espnetv2_150 = published(ESPNetv2, s=1.5)
espnetv2_200 = published(ESPNetv2, s=2.0)
espnetv2_seg_050 = published(ESPNetv2Seg, s=0.5, free=["auxiliary"])
espnetv2_seg_200 = published(ESPNetv2Seg, s=2.0, free=["auxiliary"])


def objective(output: Tensor | dict[str, Tensor], target: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy, of segmentation with weighted classes and added over the outputs: a scalar.

    Args:
        output: class scores [N, K, H, W], or several; or the classifier's logits [N, K].
        target: classes [N, H, W] or [N], long.
        weights: [K] for segmentation; by default those of ``target``.
    """
    outputs = list(output.values()) if isinstance(output, dict) else [output]
    if target.dim() == 3 and weights is None:
        weights = class_weights(target, outputs[0].shape[1])
    losses = [F.cross_entropy(scores, target, weight=weights) for scores in outputs]
    return torch.stack(losses).sum()

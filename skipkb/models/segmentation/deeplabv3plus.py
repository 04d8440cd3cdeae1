r"""DeepLabv3+: a decoder with one skip.

DeepLabv3 knows a great deal about each sixteenth of the picture and nothing of what lies between. DeepLabv3+ takes it
as the encoder and gives it a short decoder (Section 3.1, Figure 2, :class:`Decoder`). The pyramid's output is enlarged
fourfold and *concatenated* with one early map of the trunk, at a quarter of the resolution, and two 3x3 convolutions
mix them:

.. math::  y = f_2\bigl(f_1\bigl([\,\mathrm{up}_4(\mathrm{ASPP}(x_{16})),\; P\,x_4\,]\bigr)\bigr)

The 1x1 convolution P reduces the early map to 48 channels, so that it does not outweigh the 256 of the pyramid.

The trunk is an *aligned Xception* (Section 3.2, Figure 4, :class:`AlignedXception`), with 16 blocks in the middle, a
strided separable convolution in place of every pooling, and a normalisation behind every depthwise convolution. The
skips in it are those of Xception, an addition around three separable convolutions. The convolutions of pyramid and
decoder are *atrous separable*: a dilated depthwise one and a pointwise one.

L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff, H. Adam: "Encoder-Decoder with Atrous Separable Convolution for Semantic
Image Segmentation", ECCV 2018, arXiv:1802.02611.

Deviations from the paper:

- In the blocks of the trunk, but for the last one, the ReLU stands in front of a separable convolution and none behind
  its depthwise part. Figure 4 speaks of one there; the authors' code, whose weights timm has, is built so.
- Three ports are here too, each with its own names and ways. :class:`DeepLabV3PlusResNet` has plain convolutions and a
  ResNet with multi-grid. :class:`DeepLabV3PlusPort` has plain convolutions in pyramid and decoder, shortcuts without
  negative values, and takes the early map behind the first block. :class:`DeepLabV3PlusPort2017` has the Xception of
  2017, with pooling, one convolution in the decoder, and the early map first.

Where the paper gives no figure: the early map is the one behind the second separable convolution of the second block;
convolutions start as zero-mean Gaussians of variance 2 / fan-out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation.deeplabv3 import ASPP, ImagePooling, MultiGridASPP, branch, rates_of, strides_of
from skipkb.nn.dilated_resnet import msra_stage, msra_stem, unit
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.pixel_loss import pixel_cross_entropy as objective
from skipkb.nn.published import published
from skipkb.nn.xception_ports import PortXception

__all__ = [
    "AlignedXception", "Decoder", "DeepLabV3Plus", "DeepLabV3PlusPort", "DeepLabV3PlusPort2017", "DeepLabV3PlusResNet",
    "SeparableConv", "XceptionBlock", "deeplabv3plus_resnet101", "deeplabv3plus_xception65",
    "deeplabv3plus_xception_2017_port", "deeplabv3plus_xception_port", "objective",
]  # fmt: skip


class SeparableConv(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each normalised: [N, C, H, W] -> [N, C', h, w].

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the depthwise one.
        dilation: of the depthwise one.
        act: whether a ReLU follows both normalisations.
        eps: of the normalisations.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1, act: bool, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.act = act
        self.conv_dw = nn.Conv2d(
            in_channels, in_channels, 3, stride, dilation, dilation, groups=in_channels, bias=False
        )
        self.bn_dw = nn.BatchNorm2d(in_channels, eps=eps)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn_pw = nn.BatchNorm2d(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_dw(self.conv_dw(x))
        x = self.bn_pw(self.conv_pw(F.relu(x) if self.act else x))
        return F.relu(x) if self.act else x


class XceptionBlock(nn.Module):
    """Three separable convolutions, and the input added.

    Args:
        in_channels: channels of the input.
        widths: channels behind each convolution.
        stride: of the last one, and of the shortcut.
        dilation: of all three.
        residual: False leaves the skip out and puts the ReLUs behind the convolutions, as in the last block.
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], *, stride: int = 1, dilation: int = 1, residual: bool = True
    ) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut: nn.Module | None = None
        if residual and (stride != 1 or in_channels != widths[2]):
            projection = nn.Conv2d(in_channels, widths[2], 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=projection, bn=nn.BatchNorm2d(widths[2], eps=1e-3)))
        self.stack = nn.Module()
        for i, (before, after) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            separable = SeparableConv(
                before, after, stride=stride if i == 2 else 1, dilation=dilation, act=not residual, eps=1e-3
            )
            self.stack.add_module(f"conv{i + 1}", separable)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] -> [N, C', h, w], and the map in front of the last convolution."""
        y = middle = x
        for separable in self.stack.children():
            middle = y
            y = separable(F.relu(y) if self.residual else y)
        if self.residual:
            y = y + (x if self.shortcut is None else self.shortcut(x))  # the skip
        return y, middle


class AlignedXception(nn.Module):
    """Xception-65 without a classifier, under the names of timm.

    Args:
        middle: blocks of the middle flow.
        widths: of the stem, of the three blocks of the entry flow, and of the last three layers.
        output_stride: 8 or 16; strides that are given up become dilation.
        in_channels: channels of the picture.
    """

    def __init__(self, *, middle: int, widths: Sequence[int], output_stride: int, in_channels: int) -> None:
        super().__init__()
        a, b, c, d, e, f, g, h = widths
        self.stem = nn.Sequential(_named(in_channels, a, 2), _named(a, b, 1))
        sparse = output_stride == 16
        rate = 1 if sparse else 2
        blocks = [
            XceptionBlock(b, (c, c, c), stride=2),
            XceptionBlock(c, (d, d, d), stride=2),
            XceptionBlock(d, (e, e, e), stride=2 if sparse else 1),
            *(XceptionBlock(e, (e, e, e), dilation=rate) for _ in range(middle)),
            XceptionBlock(e, (e, f, f), dilation=rate),
            XceptionBlock(f, (g, g, h), dilation=2 * rate, residual=False),
        ]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [N, in_channels, H, W] -> the early map at a quarter and the last one."""
        x = self.stem(x)
        early = x
        for i, block in enumerate(self.blocks):
            x, middle = block(x)
            if i == 1:
                early = middle
        return early, x


def _named(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Convolution, normalisation and ReLU of the stem."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels, eps=1e-3), act=nn.ReLU()))


def enlarge(x: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Bilinear, to a size."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)


class Decoder(nn.Module):
    """The pyramid's output and the early map, joined and mixed: [N, C, h, w], [N, C', H, W] -> [N, K, H, W].

    Args:
        channels: of the pyramid.
        early_channels: of the early map.
        reduced: channels it is reduced to.
        num_classes: channels of the output.
    """

    def __init__(self, channels: int, early_channels: int, reduced: int, num_classes: int) -> None:
        super().__init__()
        self.reduce = branch(early_channels, reduced, 0)
        self.mix = nn.Sequential(
            SeparableConv(channels + reduced, channels, act=True), SeparableConv(channels, channels, act=True)
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor, early: Tensor) -> Tensor:
        x = torch.cat([enlarge(x, early.shape[2:]), self.reduce(early)], dim=1)  # the skip
        return self.classifier(self.mix(x))  # type: ignore[no-any-return]


class DeepLabV3Plus(nn.Module):
    """The network of the paper.

    Args:
        middle: blocks of the trunk's middle flow.
        widths: of the trunk, see :class:`AlignedXception`.
        output_stride: 8 or 16.
        rates: of the pyramid, for an output stride of 16; twice as much for 8.
        channels: of pyramid and decoder.
        reduced: channels that the early map is reduced to.
        num_classes: channels of the output.
        in_channels: channels of the picture.

    Raises:
        ValueError: an output stride that is neither.
    """

    def __init__(
        self,
        *,
        middle: int = 16,
        widths: Sequence[int] = (32, 64, 128, 256, 728, 1024, 1536, 2048),
        output_stride: int = 16,
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
        reduced: int = 48,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16):
            raise ValueError(f"DeepLabV3Plus: output_stride must be 8 or 16, got {output_stride}")
        self.in_channels = in_channels
        self.backbone = AlignedXception(
            middle=middle, widths=widths, output_stride=output_stride, in_channels=in_channels
        )
        rates = [rate * 16 // output_stride for rate in rates]
        self.aspp = ASPP(widths[-1], channels, rates)
        for i, rate in enumerate(rates):
            self.aspp.convs[1 + i] = SeparableConv(widths[-1], channels, dilation=rate, act=True)
        self.aspp.project[3] = nn.Dropout(0.1)
        self.decoder = Decoder(channels, widths[3], reduced, num_classes)
        self.apply(he_fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] of any size -> logits [N, K, H, W].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or a single one while training.
        """
        check(self, x)
        early, last = self.backbone(x)
        return enlarge(self.decoder(self.aspp(last), early), x.shape[2:])


def check(model: nn.Module, x: Tensor, least: int = 1) -> None:
    """The shape; and in training more than one picture, since normalising one picture's average leaves nothing."""
    name = type(model).__name__
    check_pictures(name, x, int(model.in_channels), least=least)  # type: ignore[arg-type]
    if model.training and x.shape[0] < 2:
        raise ValueError(f"{name}: training needs at least 2 pictures for the image-level feature, got {list(x.shape)}")


# ------------------------------------------------------------------------------------------------- three ports


class DeepLabV3PlusResNet(nn.Module):
    """ResNet with multi-grid 1-2-4 and plain convolutions, output stride 16."""

    def __init__(
        self, *, layers: Sequence[int], widths: Sequence[int] = (64, 128, 256, 512), num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels = in_channels
        self.layer1 = msra_stem(in_channels, widths[0])
        incoming = (widths[0], *(4 * width for width in widths))
        rates = rates_of(16, layers, (1, 2, 4))
        for i, stride in enumerate(strides_of(16)):
            self.add_module(f"layer{i + 2}", msra_stage(incoming[i], widths[i], rates[i], stride=stride))
        self.aspp = MultiGridASPP(incoming[4], 256, (6, 12, 18), 0.1)
        self.fc1 = unit(5 * 256, 256, 1)
        self.reduce = unit(incoming[1], 48, 1)
        last = nn.Conv2d(256, num_classes, 1)
        self.fc2 = nn.Sequential(OrderedDict(conv1=unit(304, 256, 3), conv2=unit(256, 256, 3), conv3=last))
        self.apply(he_fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """As :class:`DeepLabV3Plus`."""
        check(self, x)
        quarter = self.get_submodule("layer2")(self.layer1(x))
        y = quarter
        for name in ("layer3", "layer4", "layer5"):
            y = self.get_submodule(name)(y)
        early = self.reduce(quarter)
        y = torch.cat([enlarge(self.fc1(self.aspp(y)), early.shape[2:]), early], dim=1)  # the skip
        return enlarge(self.fc2(y), x.shape[2:])


class PortASPP(nn.Module):
    """The pyramid of :class:`DeepLabV3PlusPort`: [N, C, H, W] -> [N, 256, H, W]."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        for i, rate in enumerate((0, 6, 12, 18)):
            conv, bn, relu = branch(in_channels, 256, rate)
            self.add_module(f"aspp{i + 1}", nn.Sequential(OrderedDict(atrous_conv=conv, bn=bn, relu=relu)))
        self.global_avg_pool = ImagePooling(in_channels, 256)
        self.conv1 = nn.Conv2d(5 * 256, 256, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(256)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.get_submodule(f"aspp{i + 1}")(x) for i in range(4)]
        x = torch.cat([*branches, self.global_avg_pool(x)], dim=1)
        return self.dropout(F.relu(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]


class PortDecoder(nn.Module):
    """The decoder of :class:`DeepLabV3PlusPort`; corner pixels lie on each other."""

    def __init__(self, early_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(early_channels, 48, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(48)
        self.last_conv = nn.Sequential(
            *branch_3x3(304), nn.Dropout(0.5), *branch_3x3(256), nn.Dropout(0.1), nn.Conv2d(256, num_classes, 1)
        )

    def forward(self, x: Tensor, early: Tensor) -> Tensor:
        early = F.relu(self.bn1(self.conv1(early)))
        x = torch.cat([enlarge(x, early.shape[2:], align_corners=True), early], dim=1)  # the skip
        return self.last_conv(x)  # type: ignore[no-any-return]


def branch_3x3(in_channels: int) -> nn.Sequential:
    """A 3x3 convolution to 256 channels, normalisation, ReLU."""
    return branch(in_channels, 256, 1)


class DeepLabV3PlusPort(nn.Module):
    """Xception-65 as one port has it, with plain convolutions in pyramid and decoder."""

    def __init__(
        self, *, middle: int = 16, widths: Sequence[int] = (32, 64, 128, 256, 728, 1024, 1536, 2048),
        num_classes: int = 21, in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels = in_channels
        self.backbone = PortXception(aligned=True, middle=middle, widths=widths, in_channels=in_channels)
        self.aspp = PortASPP(widths[-1])
        self.decoder = PortDecoder(widths[2], num_classes)
        self.apply(he_fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """As :class:`DeepLabV3Plus`."""
        check(self, x)
        early, last = self.backbone(x)
        return enlarge(self.decoder(self.aspp(last), early), x.shape[2:], align_corners=True)


class Port2017Head(nn.Module):
    """Pyramid and decoder of :class:`DeepLabV3PlusPort2017`; the early map comes first."""

    def __init__(self, in_channels: int, early_channels: int, num_classes: int) -> None:
        super().__init__()
        self.project = branch(early_channels, 48, 0)
        self.aspp = ASPP(in_channels, 256, (6, 12, 18))
        self.aspp.project[3] = nn.Dropout(0.1)
        self.classifier = nn.Sequential(*branch_3x3(304), nn.Conv2d(256, num_classes, 1))

    def forward(self, x: Tensor, early: Tensor) -> Tensor:
        early = self.project(early)
        x = torch.cat([early, enlarge(self.aspp(x), early.shape[2:])], dim=1)  # the skip
        return self.classifier(x)  # type: ignore[no-any-return]


class DeepLabV3PlusPort2017(nn.Module):
    """The Xception of 2017, whose convolutions at both ends make the map smaller, and a decoder of one convolution."""

    def __init__(
        self, *, middle: int = 8, widths: Sequence[int] = (32, 64, 128, 256, 728, 1024, 1536, 2048),
        num_classes: int = 21, in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels = in_channels
        self.backbone = PortXception(aligned=False, middle=middle, widths=widths, in_channels=in_channels)
        self.classifier = Port2017Head(widths[-1], widths[2], num_classes)
        self.apply(he_fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """As :class:`DeepLabV3Plus`, for pictures of at least 71 x 71."""
        check(self, x, least=71)
        early, last = self.backbone(x)
        return enlarge(self.classifier(last, early), x.shape[2:])


deeplabv3plus_xception65 = published(DeepLabV3Plus, free=["output_stride"])
deeplabv3plus_resnet101 = published(DeepLabV3PlusResNet, layers=(3, 4, 23, 3))
deeplabv3plus_xception_port = published(DeepLabV3PlusPort)
deeplabv3plus_xception_2017_port = published(DeepLabV3PlusPort2017)

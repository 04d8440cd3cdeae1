r"""DeepLabv3: dilated branches side by side, and the average of the whole picture beside them.

A classifier's trunk throws resolution away, and dilation gives it back: where a stage does not stride, the kernels
behind it skip pixels,

.. math::  y[i] = \sum_k x[i + r\,k]\; w[k],

so that they see what they saw before, at every position (Section 3.1). The *output stride* is how much smaller the last
map is: 16 while training, 8 afterwards, with all rates doubled and the same weights (:func:`rates_of`). Within the last
stage a *multi-grid* multiplies the rates of its three blocks, by (1, 2, 4).

Objects come in all sizes, so several rates look at the map at once (Section 3.3). With ever larger rates fewer taps of
a 3x3 kernel fall on the map, until only the middle one is left; the very large context is therefore the *average of
the whole map*, spread again over all positions. 1x1 convolution, three 3x3 ones and this image-level feature are
concatenated and mixed (:class:`ASPP`):

.. math::  y = W [\, w_1 * x,\; w_6 * x,\; w_{12} * x,\; w_{18} * x,\; \mathrm{up}(w\, \mathrm{avg}(x)) \,]

The only skips are those of ResNet, the block's input added to the output of its third convolution. There is no decoder.
The logits are interpolated to the picture's size, where the cross-entropy is taken.

L.-C. Chen, G. Papandreou, F. Schroff, H. Adam: "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
arXiv:1706.05587.

Deviations from the paper:

- :class:`DeepLabV3` is torchvision's network, whose weights are the ones in use: output stride 8 with rates 12, 24
  and 36, no multi-grid, the first block of a dilated stage with the rate before, one more 3x3 convolution behind the
  pyramid, dropout, and an auxiliary classifier on the third stage, whose loss counts half.
  :class:`DeepLabV3MultiGrid` is the paper's.
- The authors' trunk is a ResNet of TensorFlow. Here the stride is in the 3x3 convolution (torchvision) or in the first
  1x1 (the multi-grid network, as in ports of the Caffe ResNet), and the maximum pooling of the second rounds up.

Where the paper gives no figure: convolutions start as zero-mean Gaussians of variance 2 / fan-out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.dilated_resnet import DilatedResNet, msra_stage, msra_stem, unit
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.pixel_loss import pixel_cross_entropy
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import check_stages

__all__ = [
    "ASPP", "DeepLabV3", "DeepLabV3MultiGrid", "ImagePooling", "MultiGridASPP", "deeplabv3_resnet50",
    "deeplabv3_resnet101", "deeplabv3_resnet101_multigrid", "objective", "rates_of", "strides_of",
]  # fmt: skip

OUTPUT_STRIDES = (8, 16)


def strides_of(output_stride: int) -> tuple[int, int, int, int]:
    """Strides of ResNet's four stages, which follow a stem of stride 4."""
    return (1, 2, output_stride // 8, 1)


def rates_of(output_stride: int, layers: Sequence[int], multi_grid: Sequence[int] | None) -> list[list[int]]:
    """The dilation of every block (Sections 3.1 and 3.2.1).

    Args:
        output_stride: 8 or 16.
        layers: blocks of each stage.
        multi_grid: factors for the blocks of the last stage, used in turn. None is torchvision's way: no factors, and
            the first block of a stage has the rate of the stage before.
    """
    rates = (1, 1, 2, 4) if output_stride == 8 else (1, 1, 1, 2)
    blocks = [[rate] * count for rate, count in zip(rates, layers, strict=True)]
    if multi_grid is None:
        return [[before, *stage[1:]] for before, stage in zip((1, *rates), blocks, strict=False)]
    blocks[3] = [rates[3] * multi_grid[i % len(multi_grid)] for i in range(layers[3])]
    return blocks


class ImagePooling(nn.Sequential):
    """The image-level feature: average, 1x1 convolution, and the one vector at every position.

    [N, C, H, W] -> [N, C', H, W].
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        vector = x
        for layer in self:
            vector = layer(vector)
        return vector.expand(-1, -1, *x.shape[2:])  # what interpolation from one pixel gives


def branch(in_channels: int, out_channels: int, rate: int) -> nn.Sequential:
    """One branch of the pyramid: 1x1 for a rate of 0, else 3x3 with that rate."""
    kernel_size = 3 if rate else 1
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=rate, dilation=max(rate, 1), bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: [N, C, H, W] -> [N, C', H, W].

    Args:
        in_channels: channels of the trunk.
        channels: of each branch and of the result.
        rates: of the 3x3 convolutions.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        dilated = [branch(in_channels, channels, rate) for rate in rates]
        self.convs = nn.ModuleList([branch(in_channels, channels, 0), *dilated, ImagePooling(in_channels, channels)])
        mixed = nn.Conv2d(len(self.convs) * channels, channels, 1, bias=False)
        self.project = nn.Sequential(mixed, nn.BatchNorm2d(channels), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))  # type: ignore[no-any-return]


class DeepLabV3(nn.Module):
    """The network of torchvision, with its names.

    Args:
        layers: blocks of each stage, such as (3, 4, 23, 3) for ResNet-101.
        widths: of the stages; a block puts out four times as many channels.
        output_stride: 8 or 16.
        multi_grid: factors of the rates in the last stage, see :func:`rates_of`.
        aspp_rates: of the pyramid, for an output stride of 8; half of it for 16.
        aspp_channels: of each branch.
        aux_loss: a second classifier on the third stage, for training.
        num_classes: channels of the output.
        in_channels: channels of the picture.

    Raises:
        ValueError: an output stride that is neither, or layers and widths that do not fit together.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        output_stride: int = 8,
        multi_grid: Sequence[int] | None = None,
        aspp_rates: Sequence[int] = (12, 24, 36),
        aspp_channels: int = 256,
        aux_loss: bool = True,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        _check("DeepLabV3", output_stride, layers, widths)
        self.in_channels = in_channels
        self.backbone = DilatedResNet(
            layers=layers, widths=widths, strides=strides_of(output_stride), in_channels=in_channels,
            rates=rates_of(output_stride, layers, multi_grid),
        )  # fmt: skip
        aspp_rates = [rate * 8 // output_stride for rate in aspp_rates]
        self.classifier = nn.Sequential(
            ASPP(4 * widths[3], aspp_channels, aspp_rates),
            nn.Conv2d(aspp_channels, aspp_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(aspp_channels),
            nn.ReLU(),
            nn.Conv2d(aspp_channels, num_classes, 1),
        )
        self.aux_classifier: nn.Module | None = None
        if aux_loss:
            self.aux_classifier = nn.Sequential(
                nn.Conv2d(4 * widths[2], widths[2], 3, padding=1, bias=False),
                nn.BatchNorm2d(widths[2]),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Conv2d(widths[2], num_classes, 1),
            )
        self.apply(he_fan_out)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pictures [N, in_channels, H, W] of any size -> ``out`` and perhaps ``aux``, logits [N, K, H, W].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or a single one while training.
        """
        _check_batch(self, x)
        maps = self.backbone(x)
        logits = {"out": self.classifier(maps[3])}
        if self.aux_classifier is not None:
            logits["aux"] = self.aux_classifier(maps[2])
        size = x.shape[2:]
        return {name: F.interpolate(y, size, mode="bilinear", align_corners=False) for name, y in logits.items()}


# ------------------------------------------------------------------------------- the network of the paper


class NamedImagePooling(nn.Module):
    """:class:`ImagePooling` under the names of the multi-grid network."""

    def __init__(self, in_channels: int, out_channels: int, momentum: float) -> None:
        super().__init__()
        self.conv = unit(in_channels, out_channels, 1, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])  # type: ignore[no-any-return]


class MultiGridASPP(nn.Module):
    """The five branches concatenated, not yet mixed: [N, C, H, W] -> [N, 5 C', H, W]."""

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int], momentum: float) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({"c0": unit(in_channels, channels, 1, momentum=momentum)})
        for i, rate in enumerate(rates):
            self.stages[f"c{i + 1}"] = unit(in_channels, channels, 3, dilation=rate, momentum=momentum)
        self.stages["imagepool"] = NamedImagePooling(in_channels, channels, momentum)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([stage(x) for stage in self.stages.values()], dim=1)


class DeepLabV3MultiGrid(nn.Module):
    """The paper's network: output stride 16 or 8, multi-grid (1, 2, 4), rates 6, 12, 18 or twice that.

    Args:
        layers, widths, output_stride, multi_grid, aspp_channels, num_classes, in_channels: as in :class:`DeepLabV3`.
        aspp_rates: of the pyramid, for an output stride of 16; twice as much for 8.
        bn_decay: how much of its running values a normalisation keeps in each step (Section 4).

    Raises:
        ValueError: as :class:`DeepLabV3`.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        output_stride: int = 16,
        multi_grid: Sequence[int] = (1, 2, 4),
        aspp_rates: Sequence[int] = (6, 12, 18),
        aspp_channels: int = 256,
        bn_decay: float = 0.9997,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        _check("DeepLabV3MultiGrid", output_stride, layers, widths)
        self.in_channels = in_channels
        momentum = 1 - bn_decay
        self.layer1 = msra_stem(in_channels, widths[0], momentum=momentum)
        rates, strides = rates_of(output_stride, layers, multi_grid), strides_of(output_stride)
        incoming = (widths[0], *(4 * width for width in widths))
        for i in range(4):
            stage = msra_stage(incoming[i], widths[i], rates[i], stride=strides[i], momentum=momentum)
            self.add_module(f"layer{i + 2}", stage)
        aspp_rates = [rate * 16 // output_stride for rate in aspp_rates]
        self.aspp = MultiGridASPP(4 * widths[3], aspp_channels, aspp_rates, momentum)
        self.fc1 = unit((len(aspp_rates) + 2) * aspp_channels, aspp_channels, 1, momentum=momentum)
        self.fc2 = nn.Conv2d(aspp_channels, num_classes, 1)
        self.apply(he_fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] of any size -> logits [N, K, h, w], about H and W over the
        output stride.

        Raises:
            ValueError: as in :class:`DeepLabV3`.
        """
        _check_batch(self, x)
        for i in range(1, 6):
            x = getattr(self, f"layer{i}")(x)
        logits: Tensor = self.fc2(self.fc1(self.aspp(x)))
        return logits


def objective(output: dict[str, Tensor] | Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of every pixel at full resolution, and half of the auxiliary classifier's.

    Args:
        output: logits [N, K, h, w], or a dict of them with ``out`` and perhaps ``aux``. They are interpolated to the
            labels' size where it is another.
        target: classes [N, H, W], long; 255 does not count.
    """
    if isinstance(output, Tensor):
        return pixel_cross_entropy(output, target)
    loss = pixel_cross_entropy(output["out"], target)
    return loss + 0.5 * pixel_cross_entropy(output["aux"], target) if "aux" in output else loss


def _check(model: str, output_stride: int, layers: Sequence[int], widths: Sequence[int]) -> None:
    check_stages(model, layers, widths)
    if output_stride not in OUTPUT_STRIDES or len(layers) != 4:
        raise ValueError(
            f"{model}: output_stride must be 8 or 16 and there must be four stages, "
            f"got {output_stride} and {len(layers)} stages"
        )


def _check_batch(model: nn.Module, x: Tensor) -> None:
    """Beside the shape: normalising one picture's average leaves nothing of it."""
    name = type(model).__name__
    check_pictures(name, x, int(model.in_channels))  # type: ignore[arg-type]
    if model.training and x.shape[0] < 2:
        raise ValueError(f"{name}: training needs at least 2 pictures for the image-level feature, got {list(x.shape)}")


# torchvision's
deeplabv3_resnet50 = published(DeepLabV3, layers=(3, 4, 6, 3), free=["aux_loss", "output_stride"])
deeplabv3_resnet101 = published(DeepLabV3, layers=(3, 4, 23, 3), free=["aux_loss", "output_stride"])

# The paper's
deeplabv3_resnet101_multigrid = published(DeepLabV3MultiGrid, layers=(3, 4, 23, 3), free=["output_stride"])

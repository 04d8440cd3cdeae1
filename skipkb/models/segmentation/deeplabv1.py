r"""DeepLab v1: kernels with holes keep the resolution, and a random field finds the outlines.

A VGG-16 read as convolutions gives one score for every 32 pixels. DeepLab leaves out the subsampling of the last two
poolings. What follows would then see half and a quarter of what it was trained for, unless zeros are put between the
values of its kernels (Section 3.1): the *hole algorithm*,

.. math::  y[i] = \sum_k x[i + r\,k]\; w[k], \qquad r = 2 \text{ in the fifth block},

gives, at every second position, exactly what the strided network gave. In *LargeFOV* the first fully connected layer
becomes a 3x3 convolution of rate 12 with 1024 channels, which sees as much as one of 7x7 and needs far fewer weights.
Scores at an eighth of the resolution are smooth, so that bilinear interpolation enlarges them. The outlines come from a
*fully connected random field* (Section 4.2, equations 1 and 2, :func:`refine`; its mean field is in
:mod:`skipkb.nn.dense_crf`).

VGG has no skips. The multi-scale variant, *MSc*, has five (Section 4.3): the picture and the outputs of the first
four poolings pass two small convolutions each, and are concatenated with the last map in front of the classifier,

.. math::  s = W\,[\,x_{fc7},\; m_0(\text{picture}),\; m_1(p_1),\; m_2(p_2),\; m_3(p_3),\; m_4(p_4)\,].

L.-C. Chen, G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille: "Semantic Image Segmentation with Deep Convolutional
Nets and Fully Connected CRFs", ICLR 2015, arXiv:1412.7062.

Deviations from the paper:

- All poolings are 3x3, padded by 1 and rounded up, and an average of 3x3 stands in front of fc6, as in ports of the
  definitions that the authors released. The paper's 306 x 306 pixels then give 40 x 40 scores; with VGG's poolings of
  2x2 there are the 39 x 39 that it counts.
- The loss is averaged over the positions, where the paper sums.
- :class:`DeepLabV1ResNet` is a port's ResNet-101 in place of VGG-16.

Where the paper gives no figure: the first convolutions of MSc have strides of 8, 4, 2, 1 and 1, and half of the
values are dropped behind fc6, fc7 and both convolutions of MSc; convolutions start as zero-mean Gaussians of variance
2 / fan-in, the classifier with a standard deviation of 0.01.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.dense_crf import dense_crf
from skipkb.nn.dilated_resnet import msra_stage, msra_stem
from skipkb.nn.initial_values import he_fan_in, he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import check_stages

__all__ = [
    "DeepLabV1", "DeepLabV1ResNet", "deeplabv1_largefov", "deeplabv1_msc_largefov", "deeplabv1_resnet101_port",
    "objective", "refine",
]  # fmt: skip

LAYERS = (2, 2, 3, 3, 3)  # convolutions of VGG-16's five blocks
STRIDES = (2, 2, 2, 1, 1)  # of the poolings behind them; VGG has 2 everywhere


class DeepLabV1(nn.Module):
    """VGG-16 with holes, and perhaps five skips. Layers have VGG's names.

    Args:
        widths: channels of the five blocks.
        fc_channels: of fc6 and fc7.
        rate: of fc6.
        msc_channels: of the two convolutions on each skip; none without skips.
        num_classes: channels of the scores.
        in_channels: channels of the picture.

    Raises:
        ValueError: not five widths, or a number below one.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        fc_channels: int = 1024,
        rate: int = 12,
        msc_channels: int = 0,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(widths) != 5 or min(*widths, fc_channels, rate) < 1 or msc_channels < 0:
            raise ValueError(
                "DeepLabV1: there must be five widths and positive numbers, "
                f"got widths={tuple(widths)}, fc_channels={fc_channels}, rate={rate} and msc_channels={msc_channels}"
            )
        self.in_channels = in_channels
        incoming = (in_channels, *widths)
        for i, count in enumerate(LAYERS):
            hole = 2 if i == 4 else 1  # one pooling before it has lost its stride
            for j in range(count):
                channels = incoming[i] if j == 0 else widths[i]
                layer = nn.Conv2d(channels, widths[i], 3, padding=hole, dilation=hole)
                self.add_module(f"conv{i + 1}_{j + 1}", layer)
        self.fc6 = nn.Conv2d(widths[4], fc_channels, 3, padding=rate, dilation=rate)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        self.drop = nn.Dropout(0.5)
        self.msc = nn.ModuleList()
        if msc_channels:
            # At the picture and behind the first four poolings, each brought to the last map's resolution.
            self.msc.extend(multi_scale(c, msc_channels, s) for c, s in zip(incoming[:5], (8, 4, 2, 1, 1), strict=True))
        self.fc8 = nn.Conv2d(fc_channels + len(self.msc) * msc_channels, num_classes, 1)
        self.apply(he_fan_in)
        nn.init.normal_(self.fc8.weight, std=0.01)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pictures [N, in_channels, H, W] -> ``out``, scores [N, K, h, w] at about an eighth.

        Any size; with skips H and W must be multiples of 8, plus 1, so that all maps fall on each other.

        Raises:
            ValueError: x is not a batch of such pictures.
        """
        check_pictures("DeepLabV1", x, self.in_channels)
        if len(self.msc) and any(edge % 8 != 1 for edge in x.shape[2:]):
            raise ValueError(f"DeepLabV1: with skips H and W must be 8k + 1, such as 321, got {list(x.shape)}")
        taps = [x]
        for i, count in enumerate(LAYERS):
            for j in range(count):
                x = F.relu(self.get_submodule(f"conv{i + 1}_{j + 1}")(x))
            x = F.max_pool2d(x, 3, STRIDES[i], padding=1, ceil_mode=True)
            taps.append(x)
        x = F.avg_pool2d(x, 3, stride=1, padding=1)
        x = self.drop(F.relu(self.fc6(x)))
        x = self.drop(F.relu(self.fc7(x)))
        if len(self.msc):
            maps = [branch(tap) for branch, tap in zip(self.msc, taps[:5], strict=True)]
            x = torch.cat([x, *maps], dim=1)  # the five skips
        return {"out": self.fc8(x)}


def multi_scale(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """A strided 3x3 and a 1x1 convolution, the way of a skip."""
    return nn.Sequential(
        *(nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Dropout(0.5)),
    )


class DeepLabV1ResNet(nn.Module):
    """ResNet with holes and a 1x1 classifier, under the names of a port.

    Args:
        layers: blocks of each stage, such as (3, 4, 23, 3) for ResNet-101.
        widths: of the stages; a block puts out four times as many channels.
        num_classes: channels of the scores.
        in_channels: channels of the picture.

    Raises:
        ValueError: layers and widths that do not fit together.
    """

    def __init__(
        self, *, layers: Sequence[int], widths: Sequence[int] = (64, 128, 256, 512), num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        check_stages("DeepLabV1ResNet", layers, widths)
        self.in_channels = in_channels
        self.layer1 = msra_stem(in_channels, widths[0])
        channels = widths[0]
        for i, (count, width) in enumerate(zip(layers, widths, strict=True)):
            stage = msra_stage(channels, width, [(1, 1, 2, 4)[i]] * count, stride=2 if i == 1 else 1)
            self.add_module(f"layer{i + 2}", stage)
            channels = 4 * width
        self.fc = nn.Conv2d(channels, num_classes, 1)
        self.apply(he_fan_out)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """As :class:`DeepLabV1`; any size."""
        check_pictures("DeepLabV1ResNet", x, self.in_channels)
        for i in range(1, 6):
            x = self.get_submodule(f"layer{i}")(x)
        return {"out": self.fc(x)}


def objective(output: dict[str, Tensor], target: Tensor) -> Tensor:
    """Cross-entropy at the resolution of the scores (Section 3.1).

    Args:
        output: scores ``out``, [N, K, h, w].
        target: classes [N, H, W], long, of which the nearest pixel is taken; 255 does not count.
    """
    labels = F.interpolate(target[:, None].float(), output["out"].shape[2:], mode="nearest")[:, 0].long()
    return F.cross_entropy(output["out"], labels, ignore_index=255)


def refine(
    scores: Tensor,
    picture: Tensor,
    *,
    colour_weight: float = 4.0,
    colour_position_std: float = 121.0,
    colour_std: float = 5.0,
    exact: bool = False,
) -> Tensor:
    """Scores, enlarged and sharpened by the random field; w2 and its deviation are 3 (Section 5).

    Args:
        scores: of one picture, [K, h, w].
        picture: [C, H, W], from 0 to 255.
        colour_weight, colour_position_std, colour_std: w1 and its deviations, which the paper finds by trial.
        exact: all pairs of pixels; for small pictures.

    Returns:
        Probabilities [K, H, W].
    """
    large = F.interpolate(scores[None], picture.shape[1:], mode="bilinear", align_corners=True)[0]
    return dense_crf(
        large.softmax(dim=0), picture, position_weight=3.0, position_std=3.0, colour_weight=colour_weight,
        colour_position_std=colour_position_std, colour_std=colour_std, exact=exact,
    )  # fmt: skip


deeplabv1_largefov = published(DeepLabV1)
deeplabv1_msc_largefov = published(DeepLabV1, msc_channels=128)
deeplabv1_resnet101_port = published(DeepLabV1ResNet, layers=(3, 4, 23, 3))

r"""DeepLab v2: four rates at once, three sizes of the picture, and a random field for the borders.

A ResNet-101 whose last two strides are replaced by dilation gives scores at an eighth of the resolution. Objects come
in all sizes, and the second DeepLab meets them twice. *Atrous spatial pyramid pooling* classifies the last map by
four 3x3 convolutions of rates 6, 12, 18 and 24, and sums their scores (Section 3.2, :class:`ASPP`):

.. math::  s[i] = \sum_{r} \Bigl( b_r + \sum_k w_{r,k}\, x[i + r\,k] \Bigr)

And the whole network, with one set of weights, sees the picture at three *scales*, 1, 0.75 and 0.5; at each position
the largest score of the three counts (:class:`DeepLabV2`). What is left is smooth. A *fully connected random field*,
with a term for every pair of pixels, moves the borders to where colours change (Section 3.3, equations 2 and 3,
:func:`refine`; its mean field is :mod:`skipkb.nn.dense_crf`).

The only skips are those of ResNet, the block's input added to the output of its third convolution. There is no decoder.

L.-C. Chen, G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille: "DeepLab: Semantic Image Segmentation with Deep
Convolutional Nets, Atrous Convolution, and Fully Connected CRFs", TPAMI 40(4), 2018, arXiv:1606.00915.

Deviations from the paper:

- The kernels of the random field are divided by the roots of their row sums, and a pixel is its own neighbour too. So
  it is in the inference code that the paper uses, and only then have its weights of 3 and 4 their effect.
- As in the port that converts the authors' Caffe weights, the maximum pooling is padded by 1 and rounds up.

Where the paper gives no figure: convolutions of the trunk start as zero-mean Gaussians of variance 2 / fan-out, those
of the pyramid with a standard deviation of 0.01 and no bias. The paper starts from trained weights and keeps the
batch normalisation frozen, which is left to the training loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.dense_crf import dense_crf
from skipkb.nn.dilated_resnet import msra_stage, msra_stem
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import check_stages

__all__ = ["ASPP", "DeepLabV2", "DeepLabV2Base", "deeplabv2_resnet101", "objective", "refine"]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: [N, C, H, W] -> scores [N, K, H, W].

    Args:
        in_channels: channels of the trunk.
        num_classes: channels of the scores, K.
        rates: of the 3x3 convolutions.
    """

    def __init__(self, in_channels: int, num_classes: int, rates: Sequence[int]) -> None:
        super().__init__()
        for i, rate in enumerate(rates):
            branch = nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate)
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)  # type: ignore[arg-type]  # it has one
            self.add_module(f"c{i}", branch)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (branch(x) for branch in self.children())
        scores: Tensor = first
        for other in others:
            scores = scores + other
        return scores


class DeepLabV2Base(nn.Module):
    """The network for one scale: dilated ResNet of output stride 8 and the pyramid.

    Args:
        layers: blocks of each stage, such as (3, 4, 23, 3) for ResNet-101.
        widths: of the stages; a block puts out four times as many channels.
        rates: of the pyramid.
        num_classes: channels of the scores.
        in_channels: channels of the picture.
    """

    def __init__(
        self, *, layers: Sequence[int], widths: Sequence[int], rates: Sequence[int], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.layer1 = msra_stem(in_channels, widths[0])
        self.layer2 = msra_stage(widths[0], widths[0], [1] * layers[0])
        self.layer3 = msra_stage(4 * widths[0], widths[1], [1] * layers[1], stride=2)
        self.layer4 = msra_stage(4 * widths[1], widths[2], [2] * layers[2])
        self.layer5 = msra_stage(4 * widths[2], widths[3], [4] * layers[3])
        self.apply(he_fan_out)
        self.aspp = ASPP(4 * widths[3], num_classes, rates)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [N, in_channels, H, W] -> scores [N, K, h, w] at an eighth, rounded up."""
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.aspp(self.layer5(self.layer4(x)))  # type: ignore[no-any-return]


class DeepLabV2(nn.Module):
    """Three scales of the picture through one network, and the maximum of their scores.

    Args:
        layers, widths, num_classes, in_channels: as in :class:`DeepLabV2Base`.
        rates: of the pyramid; (6, 12, 18, 24) is the paper's ASPP-L, (2, 4, 8, 12) its ASPP-S.
        scales: of the picture, beside 1.

    Raises:
        ValueError: layers and widths that do not fit together, no rate, or a scale that is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (0.5, 0.75),
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_stages("DeepLabV2", layers, widths)
        if len(layers) != 4 or not rates or not all(0 < scale < 1 for scale in scales):
            raise ValueError(
                "DeepLabV2: there must be four stages, a rate, and scales between 0 and 1, "
                f"got {len(layers)} stages, rates={tuple(rates)} and scales={tuple(scales)}"
            )
        self.in_channels = in_channels
        self.scales = tuple(scales)
        self.base = DeepLabV2Base(
            layers=layers, widths=widths, rates=rates, num_classes=num_classes, in_channels=in_channels
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Pictures [N, in_channels, H, W] -> ``max``, scores [N, K, h, w] at an eighth of H and W, rounded up.

        In training the scores of every scale come too, each of its own size: ``1`` and the other scales.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or too small for the smallest scale.
        """
        check_pictures("DeepLabV2", x, self.in_channels, least=int(-(-1 // min(self.scales, default=1))))
        scores = {"1": self.base(x)}
        size = scores["1"].shape[2:]
        for scale in self.scales:
            smaller = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
            scores[f"{scale:g}"] = self.base(smaller)
        same_size = [F.interpolate(y, size, mode="bilinear", align_corners=False) for y in scores.values()]
        largest = torch.stack(same_size).amax(dim=0)
        return (scores if self.training else {}) | {"max": largest}


def objective(output: dict[str, Tensor], target: Tensor) -> Tensor:
    """The sum of cross-entropies of every scale and of the maximum, at the scores' resolution.

    Args:
        output: scores [N, K, h, w] by name.
        target: classes [N, H, W], long, brought to each size by the nearest pixel; 255 does not count.
    """
    loss = target.new_zeros((), dtype=torch.float32)
    for scores in output.values():
        labels = F.interpolate(target[:, None].float(), scores.shape[2:], mode="nearest")[:, 0].long()
        loss = loss + F.cross_entropy(scores, labels, ignore_index=255)
    return loss


def refine(scores: Tensor, picture: Tensor, *, exact: bool = False) -> Tensor:
    """Scores, enlarged and sharpened by the random field, with the numbers of the port for ResNet-101.

    Args:
        scores: of one picture, [K, h, w].
        picture: [C, H, W], from 0 to 255.
        exact: all pairs of pixels; for small pictures.

    Returns:
        Probabilities [K, H, W].
    """
    large = F.interpolate(scores[None], picture.shape[1:], mode="bilinear", align_corners=False)[0]
    return dense_crf(large.softmax(dim=0), picture, exact=exact)


deeplabv2_resnet101 = published(DeepLabV2, layers=(3, 4, 23, 3))

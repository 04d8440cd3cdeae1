r"""DiSegNet: SegNet with dilated convolutions of several scales on several stages, for small and rare lymph nodes.

In a slice of a PET/CT scan a lymph node is small, of any size and shape, and a tiny part of the whole. SegNet's decoder
(:mod:`skipkb.models.segmentation.segnet`) knows where the maxima of its encoder were, but the map that it starts from
has seen a narrow range of scales. DiSegNet puts a module between the two, multi-stage and multi-scale atrous spatial
pyramid pooling (MS-ASPP): the pooled maps p of several encoder stages go through parallel convolutions with dilations
r, and what all of them found is brought to the coarsest resolution, concatenated and mixed,

.. math::  y = W * \bigl[\,\mathrm{shrink}(D_{s,r} * p_s)\,\bigr]_{s \in S,\; r \in R}

so that maps of earlier stages reach the decoder past the later ones: a skip, beside the positions of the maxima.

The second part is a loss of cosine and sine: cross-entropy whose terms are turned down by what is known already.
The many easy pixels of the background then do not drown the few of a node. With p the probability of a node and y the
truth,

.. math::  L = -\frac{1}{n} \sum \Bigl( y \cos\bigl(\tfrac{\pi}{2} p\bigr) \ln p
               + (1 - y) \sin\bigl(\tfrac{\pi}{2} p\bigr) \ln(1 - p) \Bigr)

G. Xu, H. Cao, J. K. Udupa, Y. Tong, D. A. Torigian: "DiSegNet: A Deep Dilated Convolutional Encoder-Decoder
Architecture for Lymph Node Segmentation on PET/CT Images", Computerized Medical Imaging and Graphics 88, 2021, 101851.

Deviations from the paper. Neither the article nor code is openly available. What its abstract and highlights say is
kept: SegNet, the kind of module, what the loss is made of and what it does. The rest is our reading:

- The widths are SegNet's, and slices are two-dimensional, with CT and PET as two channels.
- The module takes the pooled maps of the last three stages, with dilations 1, 2, 4 and 8; each branch has a quarter of
  the last stage's channels, batch normalisation and ReLU; maps are shrunk by averages, and a 1x1 convolution mixes.
- The loss turns down what is well classified and keeps what is not, as the highlights say; its formula is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation.segnet import SegNet
from skipkb.nn.published import published

__all__ = ["MSASPP", "DiSegNet", "disegnet", "objective"]


def branch(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """A dilated convolution that keeps the size, batch normalisation and ReLU."""
    padding = kernel_size // 2 * dilation
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class MSASPP(nn.Module):
    """Multi-stage, multi-scale atrous spatial pyramid pooling.

    Args:
        widths: channels of the maps that it takes, from fine to coarse; it gives as many as the last has.
        dilations: of the parallel convolutions, the same for each map.

    Raises:
        ValueError: no map or no dilation, or fewer channels than dilations.
    """

    def __init__(self, widths: Sequence[int], *, dilations: Sequence[int]) -> None:
        super().__init__()
        if not widths or not dilations or widths[-1] < len(dilations):
            raise ValueError(
                f"MSASPP: needs maps, dilations, and a channel for each dilation, "
                f"got widths={tuple(widths)} and dilations={tuple(dilations)}"
            )
        width = widths[-1] // len(dilations)
        self.stages = nn.ModuleList(
            nn.ModuleList(branch(before, width, 3, dilation) for dilation in dilations) for before in widths
        )
        self.mix = branch(width * len(dilations) * len(widths), widths[-1], 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [N, widths[i], H_i, W_i] -> [N, widths[-1], H, W], the size of the last."""
        height, width = maps[-1].shape[-2:]
        found = []
        for x, branches in zip(maps, self.stages, strict=True):
            for convolve in branches:  # type: ignore[attr-defined]
                found.append(F.adaptive_avg_pool2d(convolve(x), (height, width)))
        return self.mix(torch.cat(found, dim=1))  # type: ignore[no-any-return]  # the skip: all stages meet


class DiSegNet(SegNet):
    """SegNet, and MS-ASPP in front of its decoder.

    Args:
        num_classes: 2, node or none.
        in_channels: channels of a slice; CT and PET.
        widths: channels at each resolution, from fine to coarse.
        layers: convolutions at each resolution, on either side.
        stages: how many of the last encoder stages the module takes.
        dilations: of its parallel convolutions.

    Raises:
        ValueError: widths, layers or stages that do not fit together.
    """

    def __init__(
        self,
        *,
        num_classes: int = 2,
        in_channels: int = 2,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        layers: Sequence[int] = (2, 2, 3, 3, 3),
        stages: int = 3,
        dilations: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, widths=widths, layers=layers)
        if not 1 <= stages <= len(widths):
            raise ValueError(f"DiSegNet: stages must be between 1 and {len(widths)}, got {stages}")
        self.stages = stages
        self.ms_aspp = MSASPP(widths[-stages:], dilations=dilations)
        self.start()

    def bridge(self, maps: Sequence[Tensor]) -> Tensor:
        """What the decoder starts from: the module's output on the last stages."""
        return self.ms_aspp(maps[-self.stages :])  # type: ignore[no-any-return]


disegnet = published(DiSegNet)


def objective(output: Tensor, target: Tensor) -> Tensor:
    """The cosine-sine loss, averaged over the pixels: a scalar.

    The sine of the probability of one of two classes is the cosine of the other's, so one term is enough, with the
    probability of the true class.

    Args:
        output: class scores [N, K, H, W].
        target: classes [N, H, W], long.
    """
    log_p = output.log_softmax(dim=1).gather(1, target[:, None])
    return -((math.pi / 2 * log_p.exp()).cos() * log_p).mean()

r"""Dual Path Networks: a residual path to reuse features, a dense path to find new ones.

Addition lets later layers reuse what is there, concatenation lets them add something new; the paper derives both from
one recurrent form (Section 3). A dual path block does both at once (Section 4.1, equations 5 to 8). The state between
blocks has two parts, a residual one r and a dense one d. Every block reads all of it, and its output is split:

.. math::  (u, v) = \mathcal F([r, d]), \qquad r \leftarrow r + u, \qquad d \leftarrow [d, v]

so that r keeps its width and d grows by an increment with every block. :math:`\mathcal F` is a ResNeXt bottleneck of
1x1, grouped 3x3 and 1x1 convolution, each with normalisation and ReLU in front. There are two skips around each block,
the sum and the concatenation. In the first block of a stage, which halves the resolution except in the first stage,
a 1x1 convolution makes the new r and a d of two increments from the old state.

Y. Chen, J. Li, H. Xiao, X. Jin, S. Yan, J. Feng: "Dual Path Networks", NIPS 2017, arXiv:1707.01629.

Deviations from the paper: normalisation has an epsilon of 0.001, as in the models that its authors released;
convolutions start as zero-mean Gaussians of variance 2 / fan-in, as neither the paper nor the release gives initial
values. State dicts have the names of timm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = ["DPN", "DualPathBlock", "dpn92", "dpn98", "dpn131", "objective"]

EPS = 1e-3


class PreActivatedConv(nn.Module):
    """Normalisation, ReLU, convolution without bias, in this order."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1):
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels, eps=EPS)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size,
            stride=stride, padding=kernel_size // 2, groups=groups, bias=False,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.bn(x), inplace=True))  # type: ignore[no-any-return]


class DualPathBlock(nn.Module):
    """One block (Figure 2 (d)): both paths in, both paths out, the dense one wider by the increment.

    Args:
        in_channels: channels of the state, both paths together.
        width: channels of the bottleneck.
        residual: channels R of the residual path behind the block.
        increment: channels that the block adds to the dense path.
        groups: groups of the 3x3 convolution.
        projection: None inside a stage; else the stride of the 1x1 convolution that makes a new state of R + 2
            increments from the old one, in the first block of a stage.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        width: int,
        residual: int,
        increment: int,
        groups: int,
        projection: int | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        stride = projection or 1
        self.project = "" if projection is None else f"c1x1_w_s{stride}"
        if self.project:
            project = PreActivatedConv(in_channels, residual + 2 * increment, 1, stride=stride)
            self.add_module(self.project, project)
        self.c1x1_a = PreActivatedConv(in_channels, width, 1)
        self.c3x3_b = PreActivatedConv(width, width, 3, stride=stride, groups=groups)
        self.c1x1_c = PreActivatedConv(width, residual + increment, 1)

    def forward(self, paths: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """([N, R, H, W], [N, D, H, W]), or the stem's output alone -> ([N, R, H, W], [N, D + increment, H, W])."""
        x = torch.cat(paths, 1) if len(paths) > 1 else paths[0]
        if self.project:
            new = getattr(self, self.project)(x)
            residual, dense = new[:, : self.residual], new[:, self.residual :]
        else:
            residual, dense = paths
        y = self.c1x1_c(self.c3x3_b(self.c1x1_a(x)))
        # The two skips: one path is added to, the other one is extended.
        return residual + y[:, : self.residual], torch.cat((dense, y[:, self.residual :]), 1)


class DPN(nn.Module):
    """Stem, stages of blocks, normalisation, ReLU, global average, classifier (Table 1).

    Args:
        layers: blocks of each stage.
        increments: what each block of a stage adds to the dense path.
        width: channels of the bottlenecks in the first stage; they double with every stage.
        groups: groups of the 3x3 convolutions.
        stem_width: channels behind the strided 7x7 convolution.
        residual: channels of the residual path in the first stage; they double with every stage.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers out of range or that do not fit together.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        increments: Sequence[int],
        width: int,
        groups: int,
        stem_width: int = 64,
        residual: int = 256,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(layers) != len(increments) or not layers or min(*layers, *increments) < 1:
            raise ValueError(
                "DPN: layers and increments need one positive number per stage each, "
                f"got layers={tuple(layers)} and increments={tuple(increments)}"
            )
        if min(width, groups, stem_width, residual) < 1 or width % groups:
            raise ValueError(
                "DPN: width, stem_width and residual must be positive and width a multiple of groups, "
                f"got width={width}, groups={groups}, stem_width={stem_width} and residual={residual}"
            )
        self.in_channels = in_channels
        stem = OrderedDict(
            conv=nn.Conv2d(in_channels, stem_width, 7, stride=2, padding=3, bias=False),
            bn=nn.BatchNorm2d(stem_width, eps=EPS),
            relu=nn.ReLU(inplace=True),
        )
        self.features = nn.Sequential(OrderedDict(conv1_1=nn.Sequential(stem)))
        self.features.add_module("conv1_pool", nn.MaxPool2d(3, stride=2, padding=1))
        channels = stem_width
        for i, (count, increment) in enumerate(zip(layers, increments, strict=True)):
            for j in range(count):
                first = 1 if i == 0 else 2
                block = DualPathBlock(
                    channels, width=width * 2**i, residual=residual * 2**i, increment=increment, groups=groups,
                    projection=first if j == 0 else None,
                )  # fmt: skip
                self.features.add_module(f"conv{i + 2}_{j + 1}", block)
                channels = residual * 2**i + (3 + j) * increment
        last = OrderedDict(bn=nn.BatchNorm2d(channels, eps=EPS), relu=nn.ReLU(inplace=True))
        self.features.add_module("conv5_bn_ac", nn.Sequential(last))
        self.classifier = nn.Conv2d(channels, num_classes, 1)  # a linear layer in the form of the released weights
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]. Any H and W; the paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("DPN", x, self.in_channels)
        stem, pool, *blocks, last = self.features.children()
        paths: tuple[Tensor, ...] = (pool(stem(x)),)
        for block in blocks:
            paths = block(paths)
        x = last(torch.cat(paths, 1)).mean(dim=(2, 3), keepdim=True)
        return self.classifier(x).flatten(1)  # type: ignore[no-any-return]


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# Table 1: DPN-92 (32x3d) and DPN-98 (40x4d); Table 2: DPN-131 (40x4d).
# fmt: off
dpn92 = published(DPN, layers=(3, 4, 20, 3), increments=(16, 32, 24, 128), width=96, groups=32)
dpn98 = published(DPN, layers=(3, 6, 20, 3), increments=(16, 32, 32, 128), width=160, groups=40, stem_width=96)
dpn131 = published(DPN, layers=(4, 8, 28, 3), increments=(16, 32, 32, 128), width=160, groups=40, stem_width=128)
# fmt: on

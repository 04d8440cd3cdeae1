r"""DCU-net: two U-Nets in a row whose convolutions bend along the vessels.

A vessel of the retina is thin and winding; a square kernel on it sees mostly what lies beside it. A deformable
convolution (:mod:`skipkb.models.detection.dcn`) moves each of its nine points by an offset that a second convolution
predicts from the same map, so that the kernel can lie along the vessel,

.. math::  y(p_0) = \sum_{p_n} w(p_n) \cdot x(p_0 + p_n + \Delta p_n), \qquad \Delta p = V * x

DCU-net puts such convolutions into a U-Net and sets two of them in a row. Within each, the map of a resolution on the
way down is concatenated with the enlarged one on the way up, the long skip of U-Net. Between the two, the picture and
the first network's last map m go into the second, so that it refines what was found, with the picture still before it:

.. math::  m = U_1(I), \qquad \text{scores} = W * U_2([\,I,\; m\,])

X. Yang, Z. Li, Y. Guo, D. Zhou: "DCU-net: A Deformable Convolutional Neural Network Based on Cascade U-net for Retinal
Vessel Segmentation", Multimedia Tools and Applications 81(11), 2022, pp. 15593-15607.

Deviations from the paper. Neither the article nor code is openly available. What its title says is kept: deformable
convolutions, and a cascade of U-Nets. The rest is our reading:

- Each U-Net has four resolutions with 32, 64, 128 and 256 channels; every 3x3 convolution is deformable, has no bias
  and is followed by batch normalisation and ReLU; 2x2 transposed convolutions enlarge.
- The picture is concatenated with the first network's last map for the second network.
- Both networks have a head, and their cross-entropies are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.detection.dcn import DeformConv2d
from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = ["DCUNet", "DeformableUNet", "dcu_net", "objective"]


class DeformableBlock(nn.Module):
    """Two deformable 3x3 convolutions, each with batch normalisation and ReLU: [N, C, H, W] -> [N, C', H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = DeformConv2d(in_channels, out_channels)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = DeformConv2d(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return x


class DeformableUNet(nn.Module):
    """A U-Net of deformable convolutions, up to its last map.

    Args:
        in_channels: channels of the input.
        widths: channels at each resolution, from fine to coarse; one pooling between neighbours.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        befores = (in_channels, *widths[:-1])
        self.down = nn.ModuleList(DeformableBlock(a, b) for a, b in zip(befores, widths, strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(below, width, 2, stride=2) for width, below in pairwise(widths))
        self.up = nn.ModuleList(DeformableBlock(2 * width, width) for width in widths[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W], H and W multiples of 2 per pooling -> [N, widths[0], H, W]."""
        maps: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            maps.append(x)
        x = maps.pop()
        for level in reversed(range(len(self.up))):
            x = torch.cat([maps[level], self.enlarge[level](x)], dim=1)  # the long skip
            x = self.up[level](x)
        return x


class DCUNet(nn.Module):
    """The cascade.

    Args:
        num_classes: 2, vessel or none.
        in_channels: channels of the picture.
        widths: channels at each resolution of both networks, from fine to coarse.

    Raises:
        ValueError: fewer than two widths.
    """

    def __init__(
        self, *, num_classes: int = 2, in_channels: int = 3, widths: Sequence[int] = (32, 64, 128, 256)
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"DCUNet: widths needs at least two resolutions, got {tuple(widths)}")
        self.in_channels, self.multiple = in_channels, 2 ** (len(widths) - 1)
        self.first = DeformableUNet(in_channels, widths)
        self.first_head = nn.Conv2d(widths[0], num_classes, 1)
        self.second = DeformableUNet(in_channels + widths[0], widths)
        self.second_head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pictures [N, in_channels, H, W], H and W multiples of 2 per pooling, 8 in the whole network.

        Returns:
            Class scores [N, num_classes, H, W]: ``out`` of the second network, and ``first`` of the first.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or their size does not fit.
        """
        check_pictures("DCUNet", x, self.in_channels, multiple=self.multiple)
        found = self.first(x)
        refined = self.second(torch.cat([x, found], dim=1))  # the skip around the first network, and its result
        return {"out": self.second_head(refined), "first": self.first_head(found)}


dcu_net = published(DCUNet)


def objective(output: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """Softmax cross-entropy, averaged over the pixels and added over the two networks: a scalar.

    Args:
        output: class scores [N, K, H, W] by name.
        target: classes [N, H, W], long.
    """
    return torch.stack([F.cross_entropy(scores, target) for scores in output.values()]).sum()

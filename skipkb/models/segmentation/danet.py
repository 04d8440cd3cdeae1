r"""DANet: attention between positions, attention between channels, and the input added to both.

A convolution sees its neighbourhood. To tell a distant car from a bus a pixel has to know what stands elsewhere, and a
channel which other channels answer with it. DANet puts two attentions side by side on a dilated ResNet (Figure 2). For
a map A of N = HW positions and C channels, position j gathers from all positions i (equations 1 and 2),

.. math::  E_j = \alpha \sum_i s_{ji}\, D_i + A_j, \qquad
           s_{ji} = \frac{e^{B_i \cdot C_j}}{\sum_i e^{B_i \cdot C_j}} ,

with B, C and D 1x1 convolutions of A, the first two to an eighth of the channels. Between channels there are no further
weights, A is compared with itself (equations 3 and 4):

.. math::  E_j = \beta \sum_i x_{ji}\, A_i + A_j

The skips are the two terms :math:`+ A_j`. The factors :math:`\alpha` and :math:`\beta` are learned and *start at zero*:
at first each module is the identity, and attention is mixed in as far as it helps. Each result passes a 3x3
convolution, and the two are summed. The sum and both branches are classified; the loss is the sum of the three.

J. Fu, J. Liu, H. Tian, Y. Li, Y. Bao, Z. Fang, H. Lu: "Dual Attention Network for Scene Segmentation", CVPR 2019,
arXiv:1809.02983.

Deviations from the paper:

- The channel attention weighs with :math:`e^{-A_i \cdot A_j}`, normalised over i, so that a channel gathers from those
  that are *unlike* it; equation 3 has no minus. The authors' code takes the row's maximum minus the product.
- Each attention has a 3x3 convolution of its own in front, where Section 3.1 speaks of one feature A, and a tenth of
  the channels is dropped in front of each classifier while training. Both are as in the authors' code.

Where the paper gives no figure: convolutions of the trunk start as zero-mean Gaussians of variance 2 / fan-out, those
of the head as PyTorch has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.dilated_resnet import DilatedResNet
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.pixel_loss import pixel_cross_entropy
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import check_stages

__all__ = [
    "ChannelAttention", "DANet", "DANetHead", "PositionAttention", "danet_resnet50", "danet_resnet101", "objective",
]  # fmt: skip


class PositionAttention(nn.Module):
    """Every position gathers from all positions (Section 3.2): [N, C, H, W] -> [N, C, H, W].

    Args:
        channels: channels of the map; queries and keys have an eighth.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, HW, HW]: how much each position (row) takes from each other one; rows sum to one."""
        query, key = self.query_conv(x).flatten(2), self.key_conv(x).flatten(2)
        return torch.softmax(query.transpose(1, 2) @ key, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        gathered = self.value_conv(x).flatten(2) @ self.attention(x).transpose(1, 2)
        y: Tensor = self.gamma * gathered.view_as(x) + x  # the skip
        return y


class ChannelAttention(nn.Module):
    """Every channel gathers from all channels (Section 3.3): [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, C]: how much each channel (row) takes from each other one; rows sum to one."""
        rows = x.flatten(2)
        energy = rows @ rows.transpose(1, 2)
        return torch.softmax(energy.amax(dim=2, keepdim=True) - energy, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        gathered = self.attention(x) @ x.flatten(2)
        y: Tensor = self.gamma * gathered.view_as(x) + x  # the skip
        return y


def convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, normalisation, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def classifier(channels: int, num_classes: int) -> nn.Sequential:
    """Dropout of whole channels and a 1x1 convolution to the classes."""
    return nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(channels, num_classes, 1))


class DANetHead(nn.Module):
    """Both attentions, each between two convolutions, and three classifiers.

    Args:
        in_channels: channels of the trunk; the attentions work on a quarter.
        num_classes: channels of each output.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        channels = in_channels // 4
        self.conv5a = convolution(in_channels, channels)
        self.conv5c = convolution(in_channels, channels)
        self.sa = PositionAttention(channels)
        self.sc = ChannelAttention()
        self.conv51 = convolution(channels, channels)
        self.conv52 = convolution(channels, channels)
        self.conv6 = classifier(channels, num_classes)
        self.conv7 = classifier(channels, num_classes)
        self.conv8 = classifier(channels, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, C, H, W] -> logits [N, K, H, W] of the sum, ``out``, and of the branches ``position`` and ``channel``."""
        position = self.conv51(self.sa(self.conv5a(x)))
        channel = self.conv52(self.sc(self.conv5c(x)))
        return {
            "out": self.conv8(position + channel),
            "position": self.conv6(position),
            "channel": self.conv7(channel),
        }


class DANet(nn.Module):
    """Dilated ResNet of output stride 8 and the head with both attentions.

    Args:
        layers: blocks of each stage, such as (3, 4, 23, 3) for ResNet-101.
        widths: of the stages; a block puts out four times as many channels.
        multi_grid: dilations in the last stage, used in turn.
        num_classes: channels of each output; 19 for Cityscapes.
        in_channels: channels of the picture.

    Raises:
        ValueError: layers and widths that do not fit together, or a last stage too narrow for the attention.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        multi_grid: Sequence[int] = (4, 8, 16),
        num_classes: int = 19,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_stages("DANet", layers, widths)
        if len(layers) != 4 or widths[3] < 8:
            raise ValueError(
                f"DANet: there must be four stages and the last width at least 8, got {len(layers)} stages "
                f"and widths={tuple(widths)}"
            )
        self.in_channels = in_channels
        last = [multi_grid[i % len(multi_grid)] for i in range(layers[3])]
        self.pretrained = DilatedResNet(
            layers=layers, widths=widths, strides=(1, 2, 1, 1), in_channels=in_channels,
            rates=([1] * layers[0], [1] * layers[1], [1] + [2] * (layers[2] - 1), last),
        )  # fmt: skip
        self.pretrained.apply(he_fan_out)
        self.head = DANetHead(4 * widths[3], num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pictures [N, in_channels, H, W] of any size -> ``out``, ``position`` and ``channel``, logits [N, K, H, W].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("DANet", x, self.in_channels)
        logits = self.head(self.pretrained(x)[3])
        size = x.shape[2:]  # the corner pixels of both maps lie on each other
        return {name: F.interpolate(y, size, mode="bilinear", align_corners=True) for name, y in logits.items()}


def objective(output: dict[str, Tensor], target: Tensor) -> Tensor:
    """The sum of three cross-entropies, each averaged over the pixels.

    Args:
        output: logits of the sum and of both branches, [N, K, H, W] each.
        target: classes [N, H, W], long; -1 does not count.
    """
    fused, position, channel = (pixel_cross_entropy(logits, target, ignore=-1) for logits in output.values())
    return fused + position + channel


danet_resnet50 = published(DANet, layers=(3, 4, 6, 3))
danet_resnet101 = published(DANet, layers=(3, 4, 23, 3))

r"""CCNet: attention along row and column, twice.

Attention between all N = HW positions of a map needs N x N weights. In criss-cross attention a position u looks only
at the H + W - 1 positions of its own row and column, itself among them once (Section 3.2, equations 1 and 2):

.. math::  A_{i,u} = \operatorname{softmax}_i\,(Q_u \cdot \Omega_{i,u}), \qquad
           H'_u = \gamma \sum_{i=0}^{H+W-2} A_{i,u}\, \Phi_{i,u} + H_u

with :math:`Q`, :math:`\Omega` and :math:`\Phi` queries, keys and values by 1x1 convolutions. Of what lies elsewhere a
position learns in the second round: whatever is at (x', y') is known at (x, y') and (x', y) after the first one, and
these are in the row and the column of (x, y). So *two rounds reach everything* (Section 3.3, Figure 4), and the same
module serves both: the second round costs no weights.

The first skip is the term :math:`H_u` in each round; :math:`\gamma` is learned and starts at zero, so that the
untrained rounds are identities. The second one is long: the trunk's output passes all of this by and is concatenated
with the attended map in front of the last 3x3 convolution (Figure 2).

Z. Huang, X. Wang, L. Huang, C. Huang, Y. Wei, W. Liu: "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV
2019, arXiv:1811.11721.

Deviations from the paper:

- Head and auxiliary classifier normalise by batch normalisation and a leaky ReLU of slope 0.01 (:class:`LeakyNorm`).
  The authors' code has their in-place form, which uses the absolute value of the scale, plus 1e-5.
- The trunk starts with three 3x3 convolutions and its maximum pooling rounds up, all blocks of the dilated stages have
  the full rate, and an auxiliary classifier on the third stage has 0.4 of a loss: all as in the authors' code.

Where the paper gives no figure: weights start as PyTorch has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.dilated_resnet import dilated_stage
from skipkb.nn.input_check import check_pictures
from skipkb.nn.pixel_loss import pixel_cross_entropy
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import check_stages

__all__ = ["CCNet", "CrissCrossAttention", "LeakyNorm", "RCCAModule", "ccnet_resnet101", "objective"]


class CrissCrossAttention(nn.Module):
    """One round: [N, C, H, W] -> [N, C, H, W].

    Args:
        channels: channels of the map; queries and keys have an eighth.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What each position takes from its column, [N, H, W, H], and from its row, [N, H, W, W]; together one."""
        query, key = self.query_conv(x), self.key_conv(x)
        along_column = torch.einsum("nchw,ncgw->nhwg", query, key)
        along_row = torch.einsum("nchw,nchv->nhwv", query, key)
        itself = torch.eye(x.shape[2], dtype=torch.bool, device=x.device)[:, None]
        along_column = along_column.masked_fill(itself, float("-inf"))  # it counts once, in the row
        weights = torch.softmax(torch.cat([along_column, along_row], dim=3), dim=3)
        column, row = weights.split([x.shape[2], x.shape[3]], dim=3)
        return column, row

    def forward(self, x: Tensor) -> Tensor:
        value = self.value_conv(x)
        column, row = self.attention(x)
        gathered = torch.einsum("nhwg,ncgw->nchw", column, value) + torch.einsum("nhwv,nchv->nchw", row, value)
        return self.gamma * gathered + x  # the skip


class LeakyNorm(nn.BatchNorm2d):
    """Batch normalisation and a leaky ReLU of slope 0.01, as one layer: [N, C, H, W] -> [N, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(input), 0.01)


class RCCAModule(nn.Module):
    """The head: a convolution to a quarter of the channels, the rounds, and what joins them with the trunk's output.

    Args:
        in_channels: channels of the trunk.
        out_channels: channels in front of the classifier.
        num_classes: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int, num_classes: int) -> None:
        super().__init__()
        channels = in_channels // 4
        self.conva = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), LeakyNorm(channels))
        self.cca = CrissCrossAttention(channels)
        self.convb = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), LeakyNorm(channels))
        self.bottleneck = nn.Sequential(
            nn.Conv2d(in_channels + channels, out_channels, 3, padding=1, bias=False),
            LeakyNorm(out_channels),
            nn.Dropout2d(0.1),
            nn.Conv2d(out_channels, num_classes, 1),
        )

    def forward(self, x: Tensor, recurrence: int) -> Tensor:
        """[N, C, H, W] -> logits [N, K, H, W], after so many rounds with the same weights."""
        attended = self.conva(x)
        for _ in range(recurrence):
            attended = self.cca(attended)
        attended = self.convb(attended)
        logits: Tensor = self.bottleneck(torch.cat([x, attended], dim=1))  # the long skip
        return logits


class CCNet(nn.Module):
    """Dilated ResNet of output stride 8, recurrent criss-cross attention, and a classifier on the third stage.

    Args:
        layers: blocks of each stage, such as (3, 4, 23, 3) for ResNet-101.
        widths: of the stages; a block puts out four times as many channels.
        recurrence: rounds of attention, R.
        num_classes: channels of the output; 19 for Cityscapes.
        in_channels: channels of the picture.

    Raises:
        ValueError: layers and widths that do not fit together, a last stage too narrow, or less than no round.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        recurrence: int = 2,
        num_classes: int = 19,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_stages("CCNet", layers, widths)
        if len(layers) != 4 or widths[3] < 8 or recurrence < 0:
            raise ValueError(
                "CCNet: there must be four stages, the last width at least 8 and recurrence not below 0, "
                f"got {len(layers)} stages, widths={tuple(widths)} and recurrence={recurrence}"
            )
        self.in_channels = in_channels
        self.recurrence = recurrence
        stem = widths[0]
        self.conv1 = nn.Conv2d(in_channels, stem, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = nn.Conv2d(stem, stem, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem)
        self.conv3 = nn.Conv2d(stem, 2 * stem, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * stem)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.layer1 = dilated_stage(2 * stem, widths[0], [1] * layers[0])
        self.layer2 = dilated_stage(4 * widths[0], widths[1], [1] * layers[1], stride=2)
        self.layer3 = dilated_stage(4 * widths[1], widths[2], [2] * layers[2])
        self.layer4 = dilated_stage(4 * widths[2], widths[3], [4] * layers[3])
        self.head = RCCAModule(4 * widths[3], widths[3], num_classes)
        self.dsn = nn.Sequential(
            nn.Conv2d(4 * widths[2], 2 * widths[2], 3, padding=1),
            LeakyNorm(2 * widths[2]),
            nn.Dropout2d(0.1),
            nn.Conv2d(2 * widths[2], num_classes, 1),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pictures [N, in_channels, H, W] of any size -> ``out`` and ``dsn``, logits [N, K, h, w], about an eighth.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("CCNet", x, self.in_channels)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.maxpool(F.relu(self.bn3(self.conv3(x))))
        third = self.layer3(self.layer2(self.layer1(x)))
        return {"out": self.head(self.layer4(third), self.recurrence), "dsn": self.dsn(third)}


def objective(output: dict[str, Tensor], target: Tensor) -> Tensor:
    """Cross-entropy of every pixel, and 0.4 of the auxiliary classifier's.

    Args:
        output: logits ``out`` and ``dsn``, [N, K, h, w] each; interpolated to the labels, corner pixel on corner pixel.
        target: classes [N, H, W], long; 255 does not count.
    """
    main = pixel_cross_entropy(output["out"], target, align_corners=True)
    return main + 0.4 * pixel_cross_entropy(output["dsn"], target, align_corners=True)


ccnet_resnet101 = published(CCNet, layers=(3, 4, 23, 3), free=["recurrence"])

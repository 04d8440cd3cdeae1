r"""Xception: Inception taken to the extreme, where every channel has a spatial filter of its own.

An Inception module looks at channels with 1x1 convolutions and at space in a few groups of channels. With as many
groups as channels the two are separate altogether. A depthwise separable convolution filters each channel in space,
then mixes channels at each place; together they are one full convolution whose kernel is a product:

.. math::  K_{o,i}(u, v) = P_{o,i}\, D_i(u, v)

Nothing stands between the two: with a ReLU or ELU there, the network learns worse (Figure 10 of the paper). All spatial
convolutions but the first two are of this kind. ReLU comes in front of each, batch normalisation behind.

The skip goes around every module but the first and the last, twelve of fourteen, and is linear, like the sum: identity
in the eight modules of the middle flow, a strided 1x1 convolution with batch normalisation in the other four. Without
skips the network was much slower to learn (Figure 9).

F. Chollet: "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017, arXiv:1610.02357. Figure 5 is
the network.

Deviations from the paper: where it gives no answer, we follow the author's Keras release, and so Keras. Batch
normalisation has epsilon 0.001 and keeps 0.99 of its running values; a pooling pads the end of an even side and both
ends of an odd one; weights start uniform after Glorot. PyTorch ports have epsilon 0.00001, keep 0.9 and pad both ends;
``port=True`` builds that network. State-dict names are timm's (legacy_xception), and the same for both.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective

__all__ = ["Block", "MaxPool", "SeparableConv2d", "Xception", "objective", "xception"]

Intermediate = Literal["relu", "elu"] | None


class SeparableConv2d(nn.Module):
    """A 3x3 filter for each channel, then a 1x1 convolution; no bias, and no activation between unless asked for.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        intermediate: activation between the two, "relu" or "elu" (Section 4.7), or None.
    """

    def __init__(self, in_channels: int, out_channels: int, *, intermediate: Intermediate = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.intermediate = {None: None, "relu": F.relu, "elu": F.elu}[intermediate]

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H, W]."""
        x = self.conv1(x)
        if self.intermediate is not None:
            x = self.intermediate(x)
        return self.pointwise(x)  # type: ignore[no-any-return]


class MaxPool(nn.Module):
    """The largest of 3x3 places, at every second: a side of n becomes ceil(n / 2).

    Args:
        both_ends: pad both ends of every side by one. Otherwise, as in Keras, both ends of an odd side, and of an even
            side the end only.
    """

    def __init__(self, *, both_ends: bool) -> None:
        super().__init__()
        self.both_ends = both_ends

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)]."""
        if self.both_ends:
            return F.max_pool2d(x, 3, stride=2, padding=1)
        return F.max_pool2d(x, 3, stride=2, padding=(x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)


class Block(nn.Module):
    """A module of Figure 5: ReLU, separable convolution and batch normalisation, two or three times, around a skip.

    Args:
        in_channels: channels of the input.
        widths: output channels of the separable convolutions.
        halve: end in a maximum pooling, beside a projecting shortcut.
        start_with_relu: False in the first module, whose input is active already.
        residual: with the skip; False is the network of Section 4.6, without any.
        intermediate: activation inside the separable convolutions.
        both_ends: padding of the pooling, see :class:`MaxPool`.
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, ...],
        *,
        halve: bool = False,
        start_with_relu: bool = True,
        residual: bool = True,
        intermediate: Intermediate = None,
        both_ends: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.skip: nn.Module | None = None
        if residual and (halve or in_channels != widths[-1]):
            self.skip = nn.Conv2d(in_channels, widths[-1], 1, stride=2 if halve else 1, bias=False)
            self.skipbn = nn.BatchNorm2d(widths[-1])
        layers: list[nn.Module] = []
        channels = in_channels
        for i, width in enumerate(widths):
            if i > 0 or start_with_relu:
                layers.append(nn.ReLU(inplace=i > 0))  # the first one leaves the input to the skip
            layers += [SeparableConv2d(channels, width, intermediate=intermediate), nn.BatchNorm2d(width)]
            channels = width
        if halve:
            layers.append(MaxPool(both_ends=both_ends))
        self.rep = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H, W], or half of H and W, rounded up."""
        if not self.residual:
            return self.rep(x)  # type: ignore[no-any-return]
        shortcut = x if self.skip is None else self.skipbn(self.skip(x))
        return self.rep(x) + shortcut  # type: ignore[no-any-return]  # the skip


class Xception(nn.Module):
    """Entry flow to 1/16 of the resolution, middle flow, exit flow, average, dropout, classifier (Figure 5).

    Args:
        middle: modules of the middle flow.
        dropout: probability of zeroing a feature in front of the classifier (Section 4.5.2, ImageNet).
        residual: with skips; False leaves all twelve out.
        intermediate: activation between depthwise and pointwise convolutions, "relu", "elu" or None.
        port: as PyTorch ports have it, see above.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: an option that does not exist, or a number out of range.
    """

    def __init__(
        self,
        *,
        middle: int = 8,
        dropout: float = 0.5,
        residual: bool = True,
        intermediate: Intermediate = None,
        port: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if middle < 0 or not 0 <= dropout < 1:
            raise ValueError(
                f"Xception: middle must not be negative and dropout in [0, 1), got middle={middle}, dropout={dropout}"
            )
        if intermediate not in (None, "relu", "elu"):
            raise ValueError(f"Xception: intermediate must be one of relu, elu, None, got {intermediate!r}")
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, 32, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)

        def block(channels: int, *widths: int, halve: bool = False, start_with_relu: bool = True) -> Block:
            return Block(
                channels, widths, halve=halve, start_with_relu=start_with_relu,
                residual=residual, intermediate=intermediate, both_ends=port,
            )  # fmt: skip

        self.block1 = block(64, 128, 128, halve=True, start_with_relu=False)
        self.block2 = block(128, 256, 256, halve=True)
        self.block3 = block(256, 728, 728, halve=True)
        for i in range(4, 4 + middle):
            self.add_module(f"block{i}", block(728, 728, 728, 728))
        self.add_module(f"block{4 + middle}", block(728, 728, 1024, halve=True))
        self.blocks = [f"block{i}" for i in range(1, 5 + middle)]
        self.conv3 = SeparableConv2d(1024, 1536, intermediate=intermediate)
        self.bn3 = nn.BatchNorm2d(1536)
        self.conv4 = SeparableConv2d(1536, 2048, intermediate=intermediate)
        self.bn4 = nn.BatchNorm2d(2048)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not port:
                module.eps, module.momentum = 0.001, 0.01
            elif isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W], 299 x 299 in the paper -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or smaller than 7 x 7.
        """
        check_pictures("Xception", x, self.in_channels, least=7)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        for name in self.blocks:
            x = getattr(self, name)(x)
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)
        x = F.relu(self.bn4(self.conv4(x)), inplace=True)
        logits: Tensor = self.fc(self.dropout(x.mean(dim=(2, 3))))
        return logits


def xception(*, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, port: bool = False) -> Xception:
    """The published network (Figure 5)."""
    return Xception(num_classes=num_classes, in_channels=in_channels, dropout=dropout, port=port)

r"""Highway networks: every layer learns how much of its input to transform and how much to carry.

A plain layer computes :math:`y = H(x, W_H)`. A highway layer adds a transform gate :math:`T`, a sigmoid layer
of the same form as H (here a convolution with the same kernel, padding and width), and mixes both ends of the
skip element by element (equation 3 of the papers):

.. math::  y = H(x, W_H) \cdot T(x, W_T) + x \cdot \bigl(1 - T(x, W_T)\bigr), \qquad
           T(x) = \sigma(W_T^\top x + b_T)

The carry gate is tied to the transform gate, so the result always lies between x and H(x): T = 0 copies the
input and its gradient, T = 1 is the plain layer. The bias :math:`b_T` starts negative; the network begins
close to copying, however deep it is, and learns where to open its gates. The skip starts at the input of each
highway layer and ends at its output, one convolution later. It needs equal shapes, so plain layers change the
width and pooling changes the resolution, both without a skip.

R. K. Srivastava, K. Greff, J. Schmidhuber: "Highway Networks", ICML 2015 Deep Learning Workshop,
arXiv:1505.00387; and, by the same authors, with the networks built here: "Training Very Deep Networks",
NeurIPS 2015, arXiv:1507.06228.

Deviations from the paper: none.

Where the papers give no figure, the authors' Caffe files decide (widths, kernels, pooling, drop-out, initial
values): weights are drawn from a zero-mean Gaussian of variance 2 / fan-in (their filler called "xavier" does
that), biases start at zero, the classifier at the standard deviation they give. Their CIFAR file also gives
0.05 for the first convolution, in a field which that filler ignores, so that their own runs started at 1;
here it is 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = ["HighwayCifar", "HighwayConv", "HighwayMnist", "PlainConv", "highway10", "highway19", "objective"]


class PlainConv(nn.Module):
    """y = H(x), a convolution with ReLU. [N, C, H, W] -> [N, C', H', W']."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, padding: int = 1) -> None:
        super().__init__()
        self.H = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
        _he_init(self.H)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.H(x))


class HighwayConv(nn.Module):
    """One convolutional highway layer (equation 3). [N, C, H, W] -> the same shape.

    Args:
        channels: maps of input, block state H, gate T and output.
        kernel_size: odd edge of the kernels of H and T.
        transform_bias: initial :math:`b_T`; sigmoid of it is the share that gets transformed at the start.
    """

    def __init__(self, channels: int, *, kernel_size: int = 3, transform_bias: float) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"HighwayConv: kernel_size must be odd to keep the map's size, got {kernel_size}")
        self.H = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.T = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        _he_init(self.H)
        _he_init(self.T)
        nn.init.constant_(self.T.bias, transform_bias)  # type: ignore[arg-type]

    def gate(self, x: Tensor) -> Tensor:
        """T(x), between 0 (carry) and 1 (transform), for every element of x."""
        return torch.sigmoid(self.T(x))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.H(x))
        t = self.gate(x)
        return h * t + x * (1 - t)  # the skip


class HighwayCifar(nn.Module):
    """The 19-layer network for CIFAR: 3 plain and 14 highway layers, a 1x1 convolution, a classifier.

    Three stages with maximum pooling between them. Each begins with a plain layer that sets its width and
    goes on with highway layers. A 1x1 convolution to ``head_maps`` maps and their global average replace the
    large fully connected layer.

    Args:
        in_channels: channels of the picture.
        num_classes: outputs of the classifier.
        widths: maps of each stage.
        layers: highway layers of each stage.
        head_maps: maps that are averaged for the classifier.
        transform_bias: initial bias of all transform gates.
        dropout: probabilities of zeroing a value of the picture, behind each pooling, and before the
            classifier; one more than there are stages.
        highway: False builds every highway layer as a plain one, for comparison.

    Raises:
        ValueError: widths, layers and dropout do not fit together.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        widths: Sequence[int] = (32, 80, 128),
        layers: Sequence[int] = (4, 5, 5),
        head_maps: int = 100,
        transform_bias: float = -2.0,
        dropout: Sequence[float] = (0.2, 0.2, 0.2, 0.2),
        highway: bool = True,
    ) -> None:
        super().__init__()
        if len(widths) != len(layers) or not widths:
            raise ValueError(
                "HighwayCifar: widths and layers need one entry per stage each, "
                f"got widths={tuple(widths)} and layers={tuple(layers)}"
            )
        self.in_channels = in_channels
        self.dropout = _dropouts("HighwayCifar", dropout, len(widths) + 1)
        self.stages = nn.ModuleList(
            nn.Sequential(PlainConv(before, width), *_stack(width, count, transform_bias, highway))
            for before, width, count in zip((in_channels, *widths), widths, layers, strict=False)
        )
        self.head = PlainConv(widths[-1], head_maps, kernel_size=1, padding=0)
        self.classifier = nn.Linear(head_maps, num_classes)
        nn.init.normal_(self.stages[0][0].H.weight, std=0.05)  # type: ignore[index]
        nn.init.normal_(self.classifier.weight, std=0.05)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W], 32 x 32 in the paper -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or too small for the poolings.
        """
        check_pictures("HighwayCifar", x, self.in_channels, least=2 ** (len(self.stages) - 1))
        for i, stage in enumerate(self.stages):
            x = self.dropout[i](x if i == 0 else F.max_pool2d(x, kernel_size=2))
            x = stage(x)
        x = self.head(x).mean(dim=(2, 3))
        logits: Tensor = self.classifier(self.dropout[-1](x))
        return logits


class HighwayMnist(nn.Module):
    """The 10-layer network for MNIST: one plain and 8 highway layers of one width, a classifier.

    A 5x5 convolution without padding, then three stages of highway layers, each followed by maximum pooling.
    What is left (3 x 3 maps for 28 x 28 pictures) goes to the classifier.

    Args:
        in_channels: channels of the picture.
        num_classes: outputs of the classifier.
        image_size: edge of the square pictures, in pixels.
        width: maps of every layer; the paper has 32 and 16.
        layers: highway layers of the three stages.
        transform_bias: initial bias of all transform gates.
        dropout: probability of zeroing a value of the picture, and behind each of the three poolings.
        highway: False builds every highway layer as a plain one, for comparison.

    Raises:
        ValueError: layers or dropout have the wrong length, or the pictures are too small for the poolings.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
        width: int = 32,
        layers: Sequence[int] = (2, 3, 3),
        transform_bias: float = -1.0,
        dropout: Sequence[float] = (0.2, 0.3, 0.4, 0.5),
        highway: bool = True,
    ) -> None:
        super().__init__()
        if len(layers) != 3:
            raise ValueError(f"HighwayMnist: layers needs one entry for each of 3 stages, got {tuple(layers)}")
        self.in_channels = in_channels
        self.image_size = image_size
        self.dropout = _dropouts("HighwayMnist", dropout, 4)
        self.stem = PlainConv(in_channels, width, kernel_size=5, padding=0)
        self.stages = nn.ModuleList(nn.Sequential(*_stack(width, count, transform_bias, highway)) for count in layers)
        # Caffe rounds the size of a pooled map up; 24 pixels become 12, 6 and 3.
        self.pools = nn.ModuleList(nn.MaxPool2d(k, stride=2, ceil_mode=True) for k in (3, 3, 2))
        edge = image_size - 4
        for k in (3, 3, 2):
            edge = math.ceil((edge - k) / 2) + 1 if edge >= k else 0
        if edge < 1:
            raise ValueError(f"HighwayMnist: image_size must be at least 12 pixels, got {image_size}")
        self.classifier = nn.Linear(width * edge * edge, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.1)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, image_size, image_size] -> logits [N, num_classes].

        Raises:
            ValueError: x has another shape.
        """
        check_pictures("HighwayMnist", x, self.in_channels, size=(self.image_size, self.image_size))
        x = self.stem(self.dropout[0](x))
        for stage, pool, dropout in zip(self.stages, self.pools, self.dropout[1:], strict=True):
            x = dropout(pool(stage(x)))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def _stack(channels: int, count: int, transform_bias: float, highway: bool) -> list[nn.Module]:
    """``count`` highway layers, or as many plain ones."""
    if highway:
        return [HighwayConv(channels, transform_bias=transform_bias) for _ in range(count)]
    return [PlainConv(channels, channels) for _ in range(count)]


def _dropouts(owner: str, probabilities: Sequence[float], count: int) -> nn.ModuleList:
    if len(probabilities) != count or not all(0 <= p < 1 for p in probabilities):
        raise ValueError(f"{owner}: dropout needs {count} probabilities in [0, 1), got {tuple(probabilities)}")
    return nn.ModuleList(nn.Dropout(p) for p in probabilities)


def _he_init(conv: nn.Conv2d) -> None:
    nn.init.normal_(conv.weight, std=math.sqrt(2 / conv.weight[0].numel()))
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]


# For CIFAR, and for MNIST, where the paper also has a width of 16.
# fmt: off
highway19 = published(
    HighwayCifar, free=["widths", "layers", "head_maps", "transform_bias", "dropout", "highway"],
)
highway10 = published(
    HighwayMnist, free=["image_size", "width", "layers", "transform_bias", "dropout", "highway"],
)
# fmt: on

r"""Network in Network: a small multilayer perceptron in place of each linear filter.

A convolution is one linear filter and a nonlinearity at each place. NIN slides a perceptron of several layers over the
picture instead. With :math:`x_{ij}` the patch at place (i, j), an *mlpconv* layer is (equation 2)

.. math::  f^1_{ij} = \max(W_1 x_{ij} + b_1, 0), \quad f^2_{ij} = \max(W_2 f^1_{ij} + b_2, 0), \quad
           f^3_{ij} = \max(W_3 f^2_{ij} + b_3, 0)

The first layer is an ordinary convolution. The others look at one place only: they are 1x1 convolutions, which the
paper calls cascaded cross-channel parametric pooling (cccp). The last layer of the network has one map for each class,
and the score of a class is the mean of its map: global average pooling, which has no parameters and does not care where
in the map something is found (Section 3.2).

There is no skip: the network is a chain. Later residual networks took over its 1x1 convolution and its last pooling.

M. Lin, Q. Chen, S. Yan: "Network In Network", ICLR 2014, arXiv:1312.4400.

Deviations from the paper: widths, kernels, poolings, dropout and initial values, which are in the supplementary
material, are those of the authors' cuda-convnet definitions; nin_imagenet is the first author's Caffe definition.
State-dict names are the names of the layers there.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective

__all__ = ["NIN", "nin_cifar10", "nin_cifar100", "nin_imagenet", "nin_mnist", "nin_svhn", "objective"]


class NIN(nn.Module):
    """mlpconv layers with maximum pooling and dropout between them, then the mean of each class map (Figure 2).

    Args:
        stages: output channels of the layers in each mlpconv; the last one ends in a further layer, one map for each
            class.
        kernels: kernel of the first layer of each mlpconv.
        stride: of the first convolution, which pads only where this is 1.
        dropout: probability behind each pooling.
        initial: standard deviation of the initial weights, one for all, or one for each layer in order; biases start at
            zero.
        num_classes: classes, and maps of the last layer.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Sequence[int]] = ((192, 160, 96), (192, 192, 192), (192, 192)),
        kernels: Sequence[int] = (5, 5, 3),
        stride: int = 1,
        dropout: Sequence[float] = (0.5, 0.5),
        initial: float | Sequence[float] = 0.05,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not stages or len(kernels) != len(stages) or len(dropout) != len(stages) - 1 or not all(stages):
            raise ValueError(
                "NIN: stages needs channels for each mlpconv, kernels one number each, dropout one less, "
                f"got {len(stages)}, {len(kernels)} and {len(dropout)}"
            )
        if any(kernel % 2 == 0 for kernel in kernels) or not all(0 <= p < 1 for p in dropout):
            raise ValueError(
                "NIN: kernels must be odd and dropout in [0, 1), "
                f"got kernels={tuple(kernels)} and dropout={tuple(dropout)}"
            )
        layers = sum(len(widths) for widths in stages) + 1
        stds = [initial] * layers if isinstance(initial, int | float) else list(initial)
        if len(stds) != layers:
            raise ValueError(f"NIN: initial must be one number or one for each of {layers} layers, got {len(stds)}")
        self.in_channels = in_channels
        padding = kernels[0] // 2 if stride == 1 else 0
        # Poolings round up and need two places each.
        self.smallest = kernels[0] - 2 * padding + stride * (2 ** (len(stages) - 1) - 1)
        channels = in_channels
        self.layers: list[tuple[str, bool]] = []  # name, and whether a ReLU follows
        cccp = 0
        for i, (widths, kernel) in enumerate(zip(stages, kernels, strict=True), start=1):
            if i > 1:
                self._append(f"pool{i - 1}", nn.MaxPool2d(3, stride=2, ceil_mode=True))
                self._append(f"dropout{i - 1}", nn.Dropout(dropout[i - 2]))
                padding = kernel // 2
            for j, width in enumerate([*widths, num_classes] if i == len(stages) else widths):
                if j == 0:
                    convolution = nn.Conv2d(channels, width, kernel, stride=stride if i == 1 else 1, padding=padding)
                    self._append(f"conv{i}", convolution, relu=True)
                else:
                    cccp += 1
                    convolution = nn.Conv2d(channels, width, 1)
                    self._append(f"cccp{cccp}", convolution, relu=True)
                nn.init.normal_(convolution.weight, std=stds[i - 1 + cccp])
                assert convolution.bias is not None
                nn.init.zeros_(convolution.bias)
                channels = width

    def _append(self, name: str, layer: nn.Module, *, relu: bool = False) -> None:
        self.add_module(name, layer)
        self.layers.append((name, relu))

    def maps(self, x: Tensor) -> Tensor:
        """Pictures [N, in_channels, H, W] -> one map for each class [N, num_classes, H', W'], not negative.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or too small for the poolings.
        """
        check_pictures("NIN", x, self.in_channels, least=self.smallest)
        for name, relu in self.layers:
            x = getattr(self, name)(x)
            if relu:
                x = F.relu(x, inplace=True)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [N, in_channels, H, W] -> scores [N, num_classes]: means of the maps, in front of the softmax.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or too small for the poolings.
        """
        return self.maps(x).mean(dim=(2, 3))


def nin_cifar10(*, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.5) -> NIN:
    """The network for CIFAR-10."""
    return NIN(num_classes=num_classes, in_channels=in_channels, dropout=(dropout, dropout))


def nin_cifar100(*, num_classes: int = 100, in_channels: int = 3, dropout: float = 0.5) -> NIN:
    """The network for CIFAR-100, which starts from smaller weights in the first mlpconv."""
    return NIN(
        initial=(0.001, 0.01, 0.01, *[0.05] * 6), dropout=(dropout, dropout),
        num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip


def nin_svhn(*, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.5) -> NIN:
    """The network for SVHN, narrower towards the end of each mlpconv."""
    return NIN(
        stages=((128, 96, 64), (320, 256, 128), (384, 256)), kernels=(5, 5, 5), dropout=(dropout, dropout),
        num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip


def nin_mnist(*, num_classes: int = 10, in_channels: int = 1, dropout: float = 0.5) -> NIN:
    """The network for MNIST, 28 x 28 in one channel."""
    return NIN(
        stages=((96, 64, 48), (128, 96, 48), (128, 96)), kernels=(5, 5, 5), dropout=(dropout, dropout),
        num_classes=num_classes, in_channels=in_channels,
    )  # fmt: skip


def nin_imagenet(*, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> NIN:
    """Four mlpconv layers for ImageNet at 224 x 224, the Caffe definition."""
    return NIN(
        stages=((96, 96, 96), (256, 256, 256), (384, 384, 384), (1024, 1024)),
        kernels=(11, 5, 3, 3),
        stride=4,
        dropout=(0.0, 0.0, dropout),
        initial=(0.01, 0.05, 0.05, 0.05, 0.05, 0.05, 0.01, 0.05, 0.05, 0.05, 0.05, 0.01),
        num_classes=num_classes,
        in_channels=in_channels,
    )

r"""SegNet: a decoder that knows where the maxima were.

Maximum pooling keeps a value and forgets its place. An outline is made of places, so a decoder that enlarges a map of
a 32nd of the resolution has to guess. SegNet remembers: each pooling p gives, beside the maxima, where in its window
each of them lay, and the decoder's stage of the same resolution puts its values back there, among zeros.

.. math::  (p_l, i_l) = \mathrm{pool}(x_l), \qquad
           u_l(k) = \begin{cases} y_{l+1}(j) & k = i_l(j) \\ 0 & \text{otherwise} \end{cases}, \qquad
           y_l = f_l(u_l)

:math:`f_l`, convolutions with batch normalisation, fill the gaps. Of the encoder's features nothing crosses; what
passes the long link from encoder to decoder is an index of two bits for each maximum. Nothing is learned to enlarge a
map.

SegNet's encoder is that of VGG-16, its decoder the mirror image. :class:`SegNetBasic` is the smaller network of the
paper's comparisons: four 7x7 convolutions down, four up, and no ReLU on the way up.

V. Badrinarayanan, A. Kendall, R. Cipolla: "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", IEEE TPAMI 39(12), 2017, pp. 2481-2495, arXiv:1511.00561.

Deviations from the paper, all as in the authors' network definitions except the last:

- Convolutions have biases, also in front of a batch normalisation; of SegNet-Basic the paper says that it has none.
- The shift of a batch normalisation starts at 0.001.
- SegNet-Basic normalises the picture locally across its channels.
- A pooling whose input is odd rounds its size up, and the decoder is told the size to go back to: any picture fits.
- A batch normalisation adds 1e-5 to the variance, as PyTorch does, and not 1e-9; and it keeps running statistics, where
  the authors compute them over the training pictures when the training is over.

Where the paper gives no figure: the loss is averaged over the pixels that have a class, each times the weight of its
class; weights that are not given are those of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.initial_values import he_fan_in
from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = ["SegNet", "SegNetBasic", "median_frequency", "objective", "segnet", "segnet_basic", "unpool"]

Link = tuple[Tensor, torch.Size]
"""What passes from a pooling to its unpooling: positions of the maxima, and the size of the map before it."""


def unpool(x: Tensor, link: Link) -> Tensor:
    """Put each value of x [N, C, h, w] where the pooling found its maximum, and zeros elsewhere: [N, C, H, W]."""
    indices, size = link
    return F.max_unpool2d(x, indices, kernel_size=[2, 2], stride=[2, 2], output_size=size)


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    """No automatic mixed precision: values rounded to bfloat16 tie, and then the maximum is somewhere else."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


class EncoderDecoder(nn.Module):
    """What both networks share: the check, the way down with its poolings, the way up with their indices.

    A network says what its convolutions are in ``encoder`` and ``decoder``; levels count from fine to coarse.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True, return_indices=True)

    @property
    def levels(self) -> int:
        """How many poolings there are."""
        raise NotImplementedError

    def encoder(self, level: int, x: Tensor) -> Tensor:
        """The convolutions in front of a pooling."""
        raise NotImplementedError

    def decoder(self, level: int, x: Tensor) -> Tensor:
        """The convolutions behind an unpooling."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> tuple[Tensor, list[Link]]:
        """The coarsest map, and for each pooling what its unpooling needs, from fine to coarse."""
        maps: list[Tensor] = []
        links: list[Link] = []
        with _full_precision(x):
            for level in range(self.levels):
                x = self.encoder(level, x)
                size = x.shape
                x, indices = self.pool(x)
                maps.append(x)
                links.append((indices, size))
        return self.bridge(maps), links

    def bridge(self, maps: Sequence[Tensor]) -> Tensor:
        """What the decoder starts from, of the pooled maps from fine to coarse: here the last one as it is."""
        return maps[-1]

    def decode(self, x: Tensor, links: Sequence[Link]) -> Tensor:
        """The way up: unpool with the indices of the way down, and convolve."""
        for level in reversed(range(self.levels)):
            x = unpool(x, links[level])  # the skip: positions only
            x = self.decoder(level, x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] of any size -> class scores [N, num_classes, H, W].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures(type(self).__name__, x, self.in_channels)
        x, links = self.encode(x)
        return self.decode(x, links)

    def add(self, name: str, in_channels: int, out_channels: int, kernel_size: int, *, normalised: bool = True) -> None:
        """Add a convolution that keeps the size, and its normalisation, by the names of the authors' definitions."""
        padding = kernel_size // 2
        self.add_module(name, nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding))
        if normalised:
            self.add_module(f"{name}_bn", nn.BatchNorm2d(out_channels))

    def convolve(self, name: str, x: Tensor) -> Tensor:
        """A convolution and its normalisation."""
        return getattr(self, f"{name}_bn")(getattr(self, name)(x))  # type: ignore[no-any-return]

    def start(self) -> None:
        """Initial values of the authors' definitions."""
        self.apply(he_fan_in)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 0.001)


class SegNet(EncoderDecoder):
    """The thirteen convolutions of VGG-16, and their mirror image.

    Args:
        num_classes: 11 for CamVid.
        in_channels: channels of the picture.
        widths: channels at each resolution, from fine to coarse.
        layers: convolutions at each resolution, on either side.

    Raises:
        ValueError: widths and layers that do not fit together.
    """

    def __init__(
        self,
        *,
        num_classes: int = 11,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        layers: Sequence[int] = (2, 2, 3, 3, 3),
    ) -> None:
        super().__init__(in_channels)
        if len(widths) != len(layers) or not layers or min(*layers, *widths) < 1:
            raise ValueError(
                f"SegNet: widths and layers need one positive number per resolution each, "
                f"got widths={tuple(widths)} and layers={tuple(layers)}"
            )
        self.layers = tuple(layers)
        channels = in_channels
        for level, width in enumerate(widths):
            for name in self._names(level):
                self.add(name, channels, width, 3)
                channels = width
        for level in reversed(range(self.levels)):
            for i, name in enumerate(reversed(self._names(level))):
                last = i == layers[level] - 1  # goes over to the next resolution, or to the classes
                out_channels = channels if not last else widths[level - 1] if level else num_classes
                self.add(f"{name}_D", channels, out_channels, 3, normalised=not (last and level == 0))
                channels = out_channels
        self.start()

    @property
    def levels(self) -> int:
        return len(self.layers)

    def _names(self, level: int) -> list[str]:
        return [f"conv{level + 1}_{i}" for i in range(1, self.layers[level] + 1)]

    def encoder(self, level: int, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, widths[level], H, W]."""
        for name in self._names(level):
            x = F.relu(self.convolve(name, x))
        return x

    def decoder(self, level: int, x: Tensor) -> Tensor:
        """[N, widths[level], H, W] -> [N, widths[level - 1], H, W], at the finest level the scores."""
        for name in reversed(self._names(level)):
            last = level == 0 and name == "conv1_1"  # no normalisation and no ReLU: these are the scores
            x = self.get_submodule("conv1_1_D")(x) if last else F.relu(self.convolve(f"{name}_D", x))
        return x


class SegNetBasic(EncoderDecoder):
    """Four 7x7 convolutions of the same width down, four up, and a 1x1 convolution to the classes.

    Args:
        num_classes: 11 for CamVid.
        in_channels: channels of the picture.
        width: channels of all maps.
        levels: poolings; 4 in the paper.

    Raises:
        ValueError: no pooling.
    """

    def __init__(self, *, num_classes: int = 11, in_channels: int = 3, width: int = 64, levels: int = 4) -> None:
        super().__init__(in_channels)
        if levels < 1:
            raise ValueError(f"SegNetBasic: levels must be at least 1, got {levels}")
        self.depth = levels
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        for level in range(levels):
            self.add(f"conv{level + 1}", width if level else in_channels, width, 7)
            self.add(f"conv_decode{level + 1}", width, width, 7)
        self.conv_classifier = nn.Conv2d(width, num_classes, 1)
        self.start()

    @property
    def levels(self) -> int:
        return self.depth

    def encoder(self, level: int, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, width, H, W]."""
        if level == 0:
            x = self.norm(x)
        return F.relu(self.convolve(f"conv{level + 1}", x))

    def decoder(self, level: int, x: Tensor) -> Tensor:
        """[N, width, H, W] -> the same, at the finest level the scores. There is no ReLU."""
        x = self.convolve(f"conv_decode{level + 1}", x)
        if level == 0:
            x = self.conv_classifier(x)
        return x


segnet = published(SegNet)
segnet_basic = published(SegNetBasic)


def median_frequency(target: Tensor, num_classes: int) -> Tensor:
    """Weights [K] of the classes: the median of their frequencies over the frequency of each (Section 4).

    The frequency of a class is its share of the pixels of those pictures in which it is. A class that is in no picture
    has the weight 0.

    Args:
        target: classes [N, H, W], long.
        num_classes: K; pixels of other values do not count.
    """
    count = torch.stack([(target == k).flatten(1).sum(dim=1) for k in range(num_classes)]).double()  # [K, N]
    pixels = ((target >= 0) & (target < num_classes)).flatten(1).sum(dim=1).double()
    frequency = count.sum(dim=1) / ((count > 0) * pixels).sum(dim=1).clamp(min=1)
    present = frequency > 0
    if not present.any():
        return torch.zeros(num_classes, device=target.device)
    weights = torch.where(present, frequency[present].quantile(0.5) / frequency, 0.0)
    return weights.float()


def objective(output: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy with balanced classes, averaged over the pixels that have a class: a scalar.

    Args:
        output: class scores [N, K, H, W].
        target: classes [N, H, W], long; K where a pixel has none.
        class_weights: [K], of the whole training set; by default those of ``target``.
    """
    num_classes = output.shape[1]
    if class_weights is None:
        class_weights = median_frequency(target, num_classes)
    loss = F.cross_entropy(output, target, weight=class_weights, ignore_index=num_classes, reduction="sum")
    return loss / (target != num_classes).sum().clamp(min=1)

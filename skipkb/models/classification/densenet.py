r"""DenseNet: every layer reads the outputs of all layers before it.

A shortcut that is added mixes old features with new ones, and both may blur. DenseNet concatenates them. Layer l of a
dense block sees everything that was computed before it (Section 3, equation 2),

.. math::  x_l = H_l\bigl([x_0, x_1, \dots, x_{l-1}]\bigr),

where [...] joins channels, and adds only k new ones, the *growth rate*; it has :math:`k_0 + k(l-1)` input channels if
the block's input has k_0. :math:`H_l` is batch normalisation, ReLU and a 3x3 convolution. With bottlenecks (B) a 1x1
convolution to 4k channels, normalised and activated in the same way, stands in front. The skips are the concatenations;
none leaves its block. Between blocks a transition of 1x1 convolution and average pooling halves the resolution and
keeps the fraction :math:`\theta` of the channels (C: compression, 1/2).

Old features are copied whenever new ones join, and the normalisation of the joined map is a copy again. Stored for the
backward pass, they need memory that is quadratic in the depth. ``memory_efficient=True`` computes both again in the
backward pass instead, as the authors' technical report proposes (arXiv:1707.06990); results are the same.

G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger: "Densely Connected Convolutional Networks", CVPR 2017,
arXiv:1608.06993.

Deviations from the paper, which gives no initial values: convolutions start as in the authors' code, zero-mean
Gaussians of variance 2 / fan-out, the bias of the classifier at zero. Dropout, if any, follows every convolution but
the first one, as Section 3 says.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from skipkb.nn.depth import blocks_of_depth
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "DenseBlock", "DenseLayer", "DenseNet", "densenet40_k12", "densenet100_k12_bc", "densenet121", "densenet161",
    "densenet169", "densenet190_k40_bc", "densenet201", "densenet250_k24_bc", "objective",
]  # fmt: skip


class DenseLayer(nn.Module):
    """H of equation 2: what one layer adds to the features of its block.

    Args:
        in_channels: channels of everything before.
        growth_rate: new channels k.
        bn_size: the bottleneck has bn_size * k channels; 0 leaves it out.
        drop_rate: probability of dropout behind each convolution.
    """

    def __init__(self, in_channels: int, growth_rate: int, *, bn_size: int = 4, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.bottleneck = bn_size > 0
        if self.bottleneck:
            width = bn_size * growth_rate
            self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, growth_rate, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, growth_rate, 3, padding=1, bias=False)
        self.drop_rate = drop_rate

    def forward(self, *features: Tensor) -> Tensor:
        """All features so far, k0 + k(l-1) channels together -> new features [N, k, H, W]."""
        return self.second(self.first(*features))

    def first(self, *features: Tensor) -> Tensor:
        """Join the features, normalise, activate, first convolution. The joined map is used only here."""
        x = torch.cat(features, 1)  # the skip: [x_0, ..., x_{l-1}]
        x = self.conv1(self.relu(self.norm1(x)))
        return self._dropout(x)

    def second(self, x: Tensor) -> Tensor:
        """The 3x3 convolution behind a bottleneck; without a bottleneck, the input."""
        if not self.bottleneck:
            return x
        return self._dropout(self.conv2(self.relu(self.norm2(x))))

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x


class DenseBlock(nn.ModuleDict):
    """Layers in which each sees all features before it (Figure 1): [N, k0, H, W] -> [N, k0 + L*k, H, W]."""

    def __init__(
        self,
        num_layers: int,
        in_channels: int,
        growth_rate: int,
        *,
        bn_size: int = 4,
        drop_rate: float = 0.0,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        self.memory_efficient = memory_efficient
        for i in range(num_layers):
            layer = DenseLayer(in_channels + i * growth_rate, growth_rate, bn_size=bn_size, drop_rate=drop_rate)
            self[f"denselayer{i + 1}"] = layer

    def forward(self, x: Tensor) -> Tensor:
        recompute = self.memory_efficient and torch.is_grad_enabled()
        features = [x]
        for layer in self.values():
            features.append(_recomputing(layer, features) if recompute else layer(*features))
        return torch.cat(features, 1)


def _recomputing(layer: nn.Module, features: Sequence[Tensor]) -> Tensor:
    """The layer's output; what joins and normalises the features is not kept, and runs again in the backward pass."""
    assert isinstance(layer, DenseLayer)
    contexts = partial(_first_run_and_second, layer.norm1)
    return layer.second(checkpoint(layer.first, *features, use_reentrant=False, context_fn=contexts))


def _first_run_and_second(
    norm: nn.BatchNorm2d,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    return contextlib.nullcontext(), _without_running_averages(norm)


@contextlib.contextmanager
def _without_running_averages(norm: nn.BatchNorm2d) -> Iterator[None]:
    """The second run normalises as the first did, and must not count the batch twice in the running averages."""
    momentum, count = norm.momentum, norm.num_batches_tracked
    norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, count


class Transition(nn.Module):
    """Between blocks: 1x1 convolution to fewer channels, then the mean of each 2x2 (Section 3, Pooling layers)."""

    def __init__(self, in_channels: int, out_channels: int, *, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.drop_rate = drop_rate
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.relu(self.norm(x)))
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return self.pool(x)  # type: ignore[no-any-return]


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, global average, linear classifier (Table 1).

    Args:
        growth_rate: channels k that each layer adds.
        block_config: layers of each block.
        num_init_features: channels behind the stem; the paper has 2k with BC and 16 without.
        bn_size: a bottleneck has bn_size * k channels, 4k in the paper; 0 for layers without one.
        compression: fraction of the channels that a transition keeps, 0 < compression <= 1.
        drop_rate: dropout behind every convolution but the first; the paper has 0.2 where pictures are not augmented.
        stem: "imagenet" is a strided 7x7 convolution and a maximum pooling, "cifar" one 3x3 convolution.
        memory_efficient: compute joined and normalised features again in the backward pass.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a number out of range or a stem that does not exist.
    """

    def __init__(
        self,
        *,
        growth_rate: int,
        block_config: Sequence[int],
        num_init_features: int,
        bn_size: int = 4,
        compression: float = 0.5,
        drop_rate: float = 0.0,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        memory_efficient: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not block_config or min(*block_config, growth_rate, num_init_features) < 1 or bn_size < 0:
            raise ValueError(
                "DenseNet: block_config, growth_rate and num_init_features must be positive and bn_size not negative, "
                f"got {tuple(block_config)}, {growth_rate}, {num_init_features} and {bn_size}"
            )
        if not 0 < compression <= 1 or not 0 <= drop_rate < 1:
            raise ValueError(
                "DenseNet: compression must lie in (0, 1] and drop_rate in [0, 1), "
                f"got compression={compression} and drop_rate={drop_rate}"
            )
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"DenseNet: stem must be one of imagenet, cifar, got {stem!r}")
        self.in_channels = in_channels
        self.features = nn.Sequential()
        channels = num_init_features
        if stem == "imagenet":
            self.features.add_module("conv0", nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False))
            self.features.add_module("norm0", nn.BatchNorm2d(channels))
            self.features.add_module("relu0", nn.ReLU(inplace=True))
            self.features.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
        else:
            self.features.add_module("conv0", nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
        for i, num_layers in enumerate(block_config, start=1):
            if i > 1:
                kept = math.floor(channels * compression)
                self.features.add_module(f"transition{i - 1}", Transition(channels, kept, drop_rate=drop_rate))
                channels = kept
            block = DenseBlock(
                num_layers, channels, growth_rate,
                bn_size=bn_size, drop_rate=drop_rate, memory_efficient=memory_efficient,
            )  # fmt: skip
            self.features.add_module(f"denseblock{i}", block)
            channels += num_layers * growth_rate
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes].

        Any H and W that are large enough for the poolings; the paper has 224 x 224 (ImageNet) and 32 x 32 (CIFAR).

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("DenseNet", x, self.in_channels)
        x = F.relu(self.features(x), inplace=True)
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def densenet_cifar(
    *,
    depth: int,
    growth_rate: int,
    bc: bool,
    drop_rate: float = 0.0,
    num_classes: int = 10,
    in_channels: int = 3,
    memory_efficient: bool = False,
) -> DenseNet:
    """Three equal blocks for 32 x 32 pictures (Section 3, Implementation Details), plain or BC.

    Raises:
        ValueError: depth is not 3n+4, with BC 6n+4.
    """
    n = blocks_of_depth("densenet_cifar", depth, 6 if bc else 3, 4)
    return DenseNet(
        growth_rate=growth_rate,
        block_config=(n, n, n),
        num_init_features=2 * growth_rate if bc else 16,
        bn_size=4 if bc else 0,
        compression=0.5 if bc else 1.0,
        drop_rate=drop_rate,
        stem="cifar",
        memory_efficient=memory_efficient,
        num_classes=num_classes,
        in_channels=in_channels,
    )


# Table 1, for ImageNet. DenseNet-161 is the wide one of the first version of the paper.
# fmt: off
densenet121 = published(
    DenseNet, growth_rate=32, block_config=(6, 12, 24, 16), num_init_features=64, free=["memory_efficient"],
)
densenet169 = published(
    DenseNet, growth_rate=32, block_config=(6, 12, 32, 32), num_init_features=64, free=["memory_efficient"],
)
densenet201 = published(
    DenseNet, growth_rate=32, block_config=(6, 12, 48, 32), num_init_features=64, free=["memory_efficient"],
)
densenet161 = published(
    DenseNet, growth_rate=48, block_config=(6, 12, 36, 24), num_init_features=96, free=["memory_efficient"],
)

# Table 2, for CIFAR: depth L and growth rate k, without bottlenecks and compression, or with both (BC).
densenet40_k12 = published(densenet_cifar, depth=40, growth_rate=12, bc=False, free=["drop_rate", "memory_efficient"])
densenet100_k12_bc = published(
    densenet_cifar, depth=100, growth_rate=12, bc=True, free=["drop_rate", "memory_efficient"],
)
densenet250_k24_bc = published(
    densenet_cifar, depth=250, growth_rate=24, bc=True, free=["drop_rate", "memory_efficient"],
)
densenet190_k40_bc = published(
    densenet_cifar, depth=190, growth_rate=40, bc=True, free=["drop_rate", "memory_efficient"],
)
# fmt: on

r"""SETR: segmentation as a sequence of patches, read by a plain Transformer and turned back into a picture three ways.

Convolutional encoders shrink the picture and see the whole of it only at the end. SETR encodes it with ViT-L: the
sequence of 16x16 patches keeps its length through 24 layers, and each layer sees all of it (Section 3.2),

.. math::  z' = \mathrm{MSA}(\mathrm{LN}(z)) + z, \qquad z = \mathrm{MLP}(\mathrm{LN}(z')) + z' .

What is compared are decoders on top (Section 3.3, Figure 1):

- :class:`UpHead` *naive*: two 1x1 convolutions and one enlargement by sixteen;
- :class:`UpHead` *PUP*, progressive upsampling: 3x3 convolutions alternate with enlargements by two;
- :class:`MLA`, multi-level aggregation: layers 6, 12, 18 and 24 are projected and *added* from the top down, so that a
  deep layer reaches all shallower ones; then each is convolved and enlarged, and all four are *concatenated*:

  .. math::  p_{24} = w_{24} z_{24}, \qquad p_l = w_l z_l + p_{l+6}, \qquad
             y = W [\, f_6(p_6),\, f_{12}(p_{12}),\, f_{18}(p_{18}),\, f_{24}(p_{24}) \,]

The first two have no skips but those of the Transformer's layers; the last has long ones, from layers to the decoder.
In training, further classifiers read several layers; each of their losses counts 0.4.

S. Zheng, J. Lu, H. Zhao, X. Zhu, Z. Luo, Y. Wang, Y. Fu, J. Feng, T. Xiang, P. H. S. Torr, L. Zhang: "Rethinking
Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers", CVPR 2021, arXiv:2012.15840.

Deviations from the paper, as in the authors' code:

- Every decoder inherits a classifier that is never used. It is part of the checkpoints, and does not train here.
- The encoder has a class token. The first two decoders leave it out of what they read; for multi-level aggregation it
  is removed before the first layer, and does not train.
- Layers are normalised where they leave the encoder, each reader with its own normalisation.
- Progressive upsampling enlarges the last time behind the classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from timm.layers.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification.vit import Block, PatchEmbed
from skipkb.nn.input_check import check_pictures
from skipkb.nn.pixel_loss import pixel_cross_entropy
from skipkb.nn.published import published

__all__ = [
    "MLA", "SETR", "AuxiliaryHead", "MLAHead", "UpHead", "objective", "setr_mla", "setr_naive", "setr_pup", "slide",
]  # fmt: skip

UNUSED_CHANNELS = 512
"""Of the classifier that decoders inherit."""


def enlarge(x: Tensor, size: int, *, corners: bool = False) -> Tensor:
    """Bilinear interpolation of [N, C, H, H] to [N, C, size, size]."""
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=corners)


def as_map(tokens: Tensor) -> Tensor:
    """[N, S * S, C] -> [N, C, S, S]."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


class Head(nn.Module):
    """What decoders have in common: a classifier that nothing goes through. It is in the authors' checkpoints."""

    def __init__(self, num_classes: int, img_size: int) -> None:
        super().__init__()
        self.img_size = img_size
        self.conv_seg = nn.Conv2d(UNUSED_CHANNELS, num_classes, 1).requires_grad_(False)


class UpHead(Head):
    """A decoder that reads one layer: class token and patches [N, 1 + S * S, D] -> logits [N, K, img_size, img_size].

    Args:
        hidden_size: D.
        channels: inside.
        num_classes: classes of a pixel.
        img_size: of the output.
        kernel_size: of the first convolutions.
        steps: how often the map is enlarged. 1: by sixteen, behind the classifier. 2: by four, then behind the
            classifier. 4: by two behind each of three convolutions, then behind a fourth and the classifier.
    """

    def __init__(
        self, hidden_size: int, channels: int, num_classes: int, img_size: int, *, kernel_size: int, steps: int
    ) -> None:
        super().__init__(num_classes, img_size)
        self.steps = steps
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.convs = 4 if steps == 4 else 1
        widths = [hidden_size, *[channels] * self.convs]
        for i, (before, after) in enumerate(pairwise(widths)):
            self.add_module(f"conv_{i}", nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2))
        self.add_module(f"conv_{self.convs}", nn.Conv2d(channels, num_classes, 1))
        for i in range(self.convs):
            self.add_module(f"syncbn_fc_{i}", nn.BatchNorm2d(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        x = as_map(self.norm(tokens[:, 1:]))
        for i in range(self.convs):
            x = F.relu(getattr(self, f"syncbn_fc_{i}")(getattr(self, f"conv_{i}")(x)))
            if self.steps == 2:
                x = enlarge(x, 4 * x.shape[-1])
            elif i < self.steps - 1:
                x = enlarge(x, 2 * x.shape[-1])
        x = getattr(self, f"conv_{self.convs}")(x)
        return enlarge(x, self.img_size)


def unit(in_channels: int, channels: int, kernel_size: int) -> list[nn.Module]:
    """Convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


class MLA(nn.Module):
    """Multi-level aggregation, first half: four layers projected, added from the top down, and convolved.

    Names count levels from 2 to 5, as in feature pyramids; level 5 is the deepest layer.
    """

    def __init__(self, hidden_size: int, channels: int) -> None:
        super().__init__()
        for level in range(2, 6):
            self.add_module(f"mla_p{level}_1x1", nn.Sequential(*unit(hidden_size, channels, 1)))
        for level in range(2, 6):
            self.add_module(f"mla_p{level}", nn.Sequential(*unit(channels, channels, 3)))

    def forward(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """layers: maps [N, D, S, S], the shallowest first -> as many maps [N, C, S, S]."""
        levels: list[Tensor] = []
        for level in range(5, 1, -1):
            x = getattr(self, f"mla_p{level}_1x1")(layers[level - 2])
            levels.insert(0, x + levels[0] if levels else x)  # a long skip, from a layer into the sum of deeper ones
        return [getattr(self, f"mla_p{level}")(x) for level, x in enumerate(levels, 2)]


class MLAHead(Head):
    """Multi-level aggregation, second half: each level enlarged by four, all side by side, classified."""

    def __init__(self, channels: int, head_channels: int, num_classes: int, img_size: int) -> None:
        super().__init__(num_classes, img_size)
        self.mlahead = nn.ModuleDict(
            {
                f"head{level}": nn.Sequential(*unit(channels, head_channels, 3), *unit(head_channels, head_channels, 3))
                for level in range(2, 6)
            }
        )
        self.cls = nn.Conv2d(4 * head_channels, num_classes, 3, padding=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """levels: [N, C, S, S] each -> logits [N, K, img_size, img_size]."""
        size = 4 * levels[0].shape[-1]
        large = [enlarge(head(x), size, corners=True) for head, x in zip(self.mlahead.values(), levels, strict=True)]
        return enlarge(self.cls(torch.cat(large, dim=1)), self.img_size)


class AuxiliaryHead(Head):
    """The classifier on one level that helps multi-level aggregation in training."""

    def __init__(self, channels: int, num_classes: int, img_size: int) -> None:
        super().__init__(num_classes, img_size)
        self.aux = nn.Conv2d(channels, num_classes, 1, bias=False)

    def forward(self, level: Tensor) -> Tensor:
        return enlarge(self.aux(level), self.img_size)


class Backbone(nn.Module):
    """ViT without its last normalisation and classifier. Names are timm's."""

    def __init__(
        self,
        *,
        img_size: int,
        patch_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        mlp_dim: int,
        dropout_rate: float,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_channels, hidden_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (img_size // patch_size) ** 2, hidden_size))
        self.pos_drop = nn.Dropout(dropout_rate)
        self.blocks = nn.ModuleList(
            Block(hidden_size, num_heads=num_heads, mlp_dim=mlp_dim, dropout_rate=dropout_rate)
            for _ in range(num_layers)
        )
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor, *, class_token: bool) -> list[Tensor]:
        """Pictures -> what each layer puts out, [N, S * S, D], or with the class token in front of the patches."""
        x = self.patch_embed(x) + self.pos_embed[:, 1:]
        if class_token:
            x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        x = self.pos_drop(x)
        layers = []
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        return layers


class SETR(nn.Module):
    """ViT-L, a decoder and the classifiers that help in training (Figure 1). Names of tensors are the authors'.

    Args:
        decoder: "naive", "pup" or "mla".
        img_size: height and width of the picture.
        patch_size, hidden_size, num_layers, num_heads, mlp_dim, dropout_rate: of the encoder.
        read: layers, counted from 1, that further classifiers read, or that are aggregated.
        channels: of the decoder.
        head_channels: of each level behind the aggregation.
        num_classes: classes of a pixel.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        decoder: Literal["naive", "pup", "mla"],
        read: Sequence[int],
        img_size: int = 768,
        patch_size: int = 16,
        hidden_size: int = 1024,
        num_layers: int = 24,
        num_heads: int = 16,
        mlp_dim: int = 4096,
        dropout_rate: float = 0.0,
        channels: int = 256,
        head_channels: int = 128,
        num_classes: int = 19,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if decoder not in ("naive", "pup", "mla"):
            raise ValueError(f"SETR: decoder must be naive, pup or mla, got {decoder!r}")
        if patch_size < 1 or img_size < patch_size or img_size % patch_size:
            raise ValueError(
                f"SETR: patch_size must divide img_size, got img_size={img_size} and patch_size={patch_size}"
            )
        if not all(1 <= layer <= num_layers for layer in read) or (decoder == "mla" and len(read) != 4):
            raise ValueError(
                f"SETR: read needs layers between 1 and {num_layers}, of which mla takes four, got {tuple(read)}"
            )
        if hidden_size % num_heads:
            raise ValueError(
                f"SETR: num_heads must divide hidden_size, got hidden_size={hidden_size} and num_heads={num_heads}"
            )
        self.decoder, self.read = decoder, tuple(read)
        self.in_channels, self.size = in_channels, (img_size, img_size)
        self.backbone = Backbone(
            img_size=img_size,
            patch_size=patch_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            dropout_rate=dropout_rate,
            in_channels=in_channels,
        )
        if decoder == "mla":
            self.backbone.cls_token.requires_grad_(False)
            self.backbone.add_module("mla", MLA(hidden_size, channels))
            for i in range(4):
                self.backbone.add_module(f"norm_{i}", nn.LayerNorm(hidden_size, eps=1e-6))
            self.decode_head: Head = MLAHead(channels, head_channels, num_classes, img_size)
            self.auxiliary_head = nn.ModuleList(AuxiliaryHead(channels, num_classes, img_size) for _ in read)
        else:
            kernel_size = 3 if decoder == "pup" else 1

            def head(steps: int) -> UpHead:
                return UpHead(hidden_size, channels, num_classes, img_size, kernel_size=kernel_size, steps=steps)

            self.decode_head = head(4 if decoder == "pup" else 1)
            self.auxiliary_head = nn.ModuleList(head(2 if decoder == "pup" else 1) for _ in read)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pictures [N, in_channels, img_size, img_size] -> logits ``out`` and ``aux0``, ``aux1``, ..., of that size.

        Raises:
            ValueError: x is not a batch of pictures of exactly that size.
        """
        check_pictures("SETR", x, self.in_channels, size=self.size)
        layers = self.backbone(x, class_token=self.decoder != "mla")
        read = [layers[number - 1] for number in self.read]
        if self.decoder == "mla":
            maps = [as_map(getattr(self.backbone, f"norm_{i}")(z)) for i, z in enumerate(read)]
            read = self.backbone.get_submodule("mla")(maps)
            output = {"out": self.decode_head(read)}
        else:
            output = {"out": self.decode_head(layers[-1])}
        return output | {f"aux{i}": head(z) for i, (head, z) in enumerate(zip(self.auxiliary_head, read, strict=True))}


def objective(output: dict[str, Tensor], target: Tensor) -> Tensor:
    """Cross-entropy of every pixel, and 0.4 times that of each further classifier: a scalar.

    Args:
        output: logits ``out`` [N, K, H, W], and others of that shape.
        target: classes [N, H, W], long; 255 does not count.
    """
    weights = {name: 1.0 if name == "out" else 0.4 for name in output}
    return torch.stack([weights[name] * pixel_cross_entropy(logits, target) for name, logits in output.items()]).sum()


@torch.no_grad()
def slide(model: SETR, picture: Tensor, *, stride: int = 512) -> Tensor:
    """A larger picture in overlapping windows, whose logits are averaged; the last ones end at its edge.

    Args:
        model: in eval mode.
        picture: [N, C, H, W], neither side smaller than the model's.
        stride: from one window to the next, at most the model's size.

    Returns:
        logits [N, K, H, W].

    Raises:
        ValueError: a picture smaller than a window, or a stride that leaves gaps.
    """
    size = model.size[0]
    if min(picture.shape[2:]) < size or not 1 <= stride <= size:
        raise ValueError(
            f"slide: windows of {size} need a picture of at least that and a stride up to that, "
            f"got {list(picture.shape)} and stride={stride}"
        )
    tops, lefts = ([*range(0, side - size, stride), side - size] for side in picture.shape[2:])
    total = picture.new_zeros(0)
    times = picture.new_zeros(picture.shape[2:])
    for top in tops:
        for left in lefts:
            window = (..., slice(top, top + size), slice(left, left + size))
            logits = model(picture[window])["out"]
            if not total.numel():
                total = logits.new_zeros(*logits.shape[:2], *picture.shape[2:])
            total[window] += logits
            times[window] += 1
    return total / times


def _init_weights(module: nn.Module) -> None:
    """As the authors' code: linear layers truncated normal 0.02, convolutions as PyTorch has them."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


# The configurations for Cityscapes
_FREE = ["img_size", "dropout_rate"]
setr_naive = published(SETR, decoder="naive", read=(10, 15, 20), free=_FREE)
setr_pup = published(SETR, decoder="pup", read=(10, 15, 20, 24), free=_FREE)
setr_mla = published(SETR, decoder="mla", read=(6, 12, 18, 24), free=_FREE)

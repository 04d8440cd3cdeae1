r"""MLP-Mixer: patches talk to each other through a plain MLP, and that is all.

A picture is cut into S patches, and each becomes a row of C channels: a table X of S x C numbers. Convolution and
attention both mix positions and channels; the Mixer does it with two MLPs in turn (Section 2, equation 1),

.. math::  U = X + \bigl(W_2\, \mathrm{GELU}(W_1\, \mathrm{LN}(X))\bigr), \qquad
           Y = U + \bigl(\mathrm{GELU}(\mathrm{LN}(U)\, W_3)\, W_4\bigr)

The first, *token mixing*, runs down every column: the same MLP for all channels, from S positions to S positions. The
second, *channel mixing*, runs along every row: the same for all positions. Around each lies a skip, the identity, that
starts in front of the layer normalisation. There is no position embedding: token mixing is the only part that knows
where a patch is, since its weights belong to positions. To all other parts the patches could be shuffled.

I. Tolstikhin, N. Houlsby, A. Kolesnikov, L. Beyer, X. Zhai, T. Unterthiner, J. Yung, A. Steiner, D. Keysers,
J. Uszkoreit, M. Lucic, A. Dosovitskiy: "MLP-Mixer: An all-MLP Architecture for Vision", NeurIPS 2021, arXiv:2105.01601.

Deviations from the paper, as in the authors' release: the GELU is the approximation with tanh; every kernel starts as a
truncated LeCun normal and every bias at zero; the classifier starts at zero altogether. The weights that timm converted
were trained so; timm itself has the exact GELU. Stochastic depth (0.1 for pre-training, Table 4) belongs to the recipe
and is off unless ``drop_path_rate`` asks for it.
"""

from __future__ import annotations

import math

from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = ["Mixer", "MixerBlock", "Mlp", "PatchEmbedding", "mixer_b16", "mixer_l16", "objective"]

EPSILON = 1e-6
"""Of every layer normalisation."""


class Mlp(nn.Module):
    """Two fully connected layers with a GELU between, on the last dimension: [..., features] -> [..., features]."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))  # type: ignore[no-any-return]


class MixerBlock(nn.Module):
    """Token mixing and channel mixing, each behind a normalisation and inside a skip (Figure 1).

    Args:
        tokens: number of patches S.
        channels: channels C of a patch.
        tokens_mlp_dim: hidden width D_S of the token-mixing MLP; it does not depend on S.
        channels_mlp_dim: hidden width D_C of the channel-mixing MLP.
        drop_path: probability that a picture skips an MLP in training.
    """

    def __init__(
        self, tokens: int, channels: int, *, tokens_mlp_dim: int, channels_mlp_dim: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=EPSILON)
        self.mlp_tokens = Mlp(tokens, tokens_mlp_dim)
        self.norm2 = nn.LayerNorm(channels, eps=EPSILON)
        self.mlp_channels = Mlp(channels, channels_mlp_dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, C] -> [N, S, C]."""
        x = x + self.drop_path(self.mix_tokens(x))  # the first skip
        x = x + self.drop_path(self.mix_channels(x))  # the second
        return x

    def mix_tokens(self, x: Tensor) -> Tensor:
        """What the token-mixing MLP adds: it acts on the columns of the table."""
        columns = self.norm1(x).transpose(1, 2)
        return self.mlp_tokens(columns).transpose(1, 2)  # type: ignore[no-any-return]

    def mix_channels(self, x: Tensor) -> Tensor:
        """What the channel-mixing MLP adds: it acts on the rows."""
        return self.mlp_channels(self.norm2(x))  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """The same linear projection for every patch: [N, in_channels, H, W] -> [N, S, C], rows from top left."""

    def __init__(self, in_channels: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Mixer(nn.Module):
    """Patch projection, Mixer layers, normalisation, average over patches, linear classifier (Figure 1, Table 1).

    Args:
        image_size: height and width of the picture; the token-mixing MLPs are made for it.
        patch_size: height and width of a patch, P.
        num_layers: Mixer layers.
        hidden_dim: channels of a patch, C.
        tokens_mlp_dim: hidden width D_S.
        channels_mlp_dim: hidden width D_C.
        drop_path_rate: stochastic depth of the last layer; it grows linearly from 0 at the first one.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        num_layers: int,
        hidden_dim: int,
        tokens_mlp_dim: int,
        channels_mlp_dim: int,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size < 1 or image_size % patch_size:
            raise ValueError(
                f"Mixer: patch_size must divide image_size, got image_size={image_size} and patch_size={patch_size}"
            )
        if min(num_layers, hidden_dim, tokens_mlp_dim, channels_mlp_dim) < 1:
            raise ValueError(
                f"Mixer: layers and widths must be positive, got num_layers={num_layers}, hidden_dim={hidden_dim}, "
                f"tokens_mlp_dim={tokens_mlp_dim} and channels_mlp_dim={channels_mlp_dim}"
            )
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"Mixer: drop_path_rate must be at least 0 and below 1, got {drop_path_rate}")
        self.in_channels, self.size = in_channels, (image_size, image_size)
        self.stem = PatchEmbedding(in_channels, hidden_dim, patch_size)
        blocks = [
            MixerBlock(
                (image_size // patch_size) ** 2,
                hidden_dim,
                tokens_mlp_dim=tokens_mlp_dim,
                channels_mlp_dim=channels_mlp_dim,
                drop_path=drop_path_rate * i / max(num_layers - 1, 1),
            )
            for i in range(num_layers)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(hidden_dim, eps=EPSILON)
        self.head = nn.Linear(hidden_dim, num_classes)
        self.apply(_init_weights)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, image_size, image_size] -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures of exactly that size.
        """
        check_pictures("Mixer", x, self.in_channels, size=self.size)
        x = self.norm(self.blocks(self.stem(x)))
        logits: Tensor = self.head(x.mean(dim=1))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        # LeCun normal, cut off at two deviations; the divisor restores the variance that the cut takes away.
        deviation = math.sqrt(1 / module.weight[0].numel()) / 0.87962566103423978
        nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


# Table 1
# fmt: off
mixer_b16 = published(
    Mixer, patch_size=16, num_layers=12, hidden_dim=768, tokens_mlp_dim=384, channels_mlp_dim=3072,
    free=["image_size", "drop_path_rate"],
)
mixer_l16 = published(
    Mixer, patch_size=16, num_layers=24, hidden_dim=1024, tokens_mlp_dim=512, channels_mlp_dim=4096,
    free=["image_size", "drop_path_rate"],
)
# fmt: on

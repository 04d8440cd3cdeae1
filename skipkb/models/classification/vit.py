r"""ViT: an image is a sentence of patches, and the skips carry every word of it from the first layer to the last.

A picture of H x W pixels is cut into N = HW/P^2 patches of P x P pixels, and a linear layer E makes a token of each. A
learned class token is put in front, learned positions are added, and a Transformer encoder follows (Section 3.1):

.. math::  z_0 &= [x_{class};\, x_p^1 E;\, \dots;\, x_p^N E] + E_{pos} \\
           z'_l &= \mathrm{MSA}(\mathrm{LN}(z_{l-1})) + z_{l-1} \\
           z_l  &= \mathrm{MLP}(\mathrm{LN}(z'_l)) + z'_l, \qquad l = 1 \dots L \\
           y    &= \mathrm{LN}(z_L^0)

Equations 2 and 3 are the skips: two in each layer, both the identity. The normalisation stands inside the branch, so
nothing touches the sum on its way, and the last token is the first one plus all that the 2L branches have added. The
classifier sees the class token only, which therefore has to collect by attention what the picture shows. Nothing but
E_pos knows where a patch is.

A. Dosovitskiy, L. Beyer, A. Kolesnikov, D. Weissenborn, X. Zhai, T. Unterthiner, M. Dehghani, M. Minderer, G. Heigold,
S. Gelly, J. Uszkoreit, N. Houlsby: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
ICLR 2021, arXiv:2010.11929.

Deviations from the paper:

- The GELU is exact, as in timm and torchvision. The authors' release calls Flax's function, which is the approximation
  with tanh; ``gelu="tanh"`` gives that one, for weights that were trained with it.
- There is no hidden layer in front of the classifier. The paper has one with tanh during pre-training only, and the
  release removes it for fine-tuning.
- Initial values and the epsilon of the normalisations (1e-6) are the release's; the paper does not give them.

Where the paper gives no figure: ViT-S comes from the same authors' later work, and its configuration from the release.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "Attention", "Block", "Mlp", "PatchEmbed", "ViT", "from_npz", "objective", "resize_positions", "vit_b16", "vit_b32",
    "vit_h14", "vit_l16", "vit_l32", "vit_s16",
]  # fmt: skip

EPSILON = 1e-6
"""Of every layer normalisation."""


class PatchEmbed(nn.Module):
    """The same linear layer for every patch: [N, in_channels, H, W] -> [N, HW/P^2, D], rows from top left."""

    def __init__(self, in_channels: int, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention (Appendix A): every token asks all tokens. [N, T, D] -> [N, T, D]."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(d)) v, of each head
        return self.proj(x.transpose(1, 2).reshape(n, tokens, width))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with a GELU between, the same for every token: [N, T, D] -> [N, T, D]."""

    def __init__(self, hidden_size: int, mlp_dim: int, *, dropout_rate: float, gelu: Literal["exact", "tanh"]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, mlp_dim)
        self.act = nn.GELU(approximate="tanh" if gelu == "tanh" else "none")
        self.drop = nn.Dropout(dropout_rate)
        self.fc2 = nn.Linear(mlp_dim, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.act(self.fc1(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer of the encoder (Figure 1, right): attention and MLP, each normalised first and inside its own skip.

    Args:
        hidden_size: D.
        num_heads: heads of the attention.
        mlp_dim: hidden width of the MLP.
        dropout_rate: of what the MLP's GELU and both branches put out, in training.
        gelu: "exact" or "tanh".
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        num_heads: int,
        mlp_dim: int,
        dropout_rate: float = 0.0,
        gelu: Literal["exact", "tanh"] = "exact",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=EPSILON)
        self.attn = Attention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=EPSILON)
        self.mlp = Mlp(hidden_size, mlp_dim, dropout_rate=dropout_rate, gelu=gelu)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] -> [N, T, D]."""
        x = x + self.dropout(self.attn(self.norm1(x)))  # equation 2: the first skip
        x = x + self.dropout(self.mlp(self.norm2(x)))  # equation 3: the second
        return x


class ViT(nn.Module):
    """Patches, class token, positions, encoder, classifier (Figure 1, Table 1). Names of tensors are those of timm.

    Args:
        image_size: height and width of the picture; the positions are made for it.
        patch_size: height and width of a patch, P.
        num_layers: layers of the encoder, L.
        hidden_size: width of a token, D.
        mlp_dim: hidden width of the MLPs.
        num_heads: heads of each attention.
        dropout_rate: in training, behind positions, dense layers and attention; 0.1 for pre-training on ImageNet
            (Table 3).
        gelu: "exact", or "tanh" for its approximation.
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
        hidden_size: int,
        mlp_dim: int,
        num_heads: int,
        dropout_rate: float = 0.0,
        gelu: Literal["exact", "tanh"] = "exact",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size < 1 or image_size % patch_size:
            raise ValueError(
                f"ViT: patch_size must divide image_size, got image_size={image_size} and patch_size={patch_size}"
            )
        if min(num_layers, hidden_size, mlp_dim, num_heads) < 1 or hidden_size % num_heads:
            raise ValueError(
                "ViT: layers and widths must be positive and num_heads must divide hidden_size, got "
                f"num_layers={num_layers}, hidden_size={hidden_size}, mlp_dim={mlp_dim} and num_heads={num_heads}"
            )
        if gelu not in ("exact", "tanh"):
            raise ValueError(f"ViT: gelu must be exact or tanh, got {gelu!r}")
        self.in_channels, self.size = in_channels, (image_size, image_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // patch_size) ** 2, hidden_size))
        self.patch_embed = PatchEmbed(in_channels, hidden_size, patch_size)
        self.dropout = nn.Dropout(dropout_rate)
        self.blocks = nn.Sequential(
            *(
                Block(hidden_size, num_heads=num_heads, mlp_dim=mlp_dim, dropout_rate=dropout_rate, gelu=gelu)
                for _ in range(num_layers)
            )
        )
        self.norm = nn.LayerNorm(hidden_size, eps=EPSILON)
        self.head = nn.Linear(hidden_size, num_classes)
        self._init_weights()

    def tokens(self, x: Tensor) -> Tensor:
        """Equation 1: pictures -> class token and patches, with their positions, [N, 1 + HW/P^2, D]."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.dropout(x + self.pos_embed)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, image_size, image_size] -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures of exactly that size.
        """
        check_pictures("ViT", x, self.in_channels, size=self.size)
        x = self.blocks(self.tokens(x))
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits

    def _init_weights(self) -> None:
        """As the release: Xavier's uniform for each linear map, LeCun's normal for patches, zero for the classifier."""
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, Attention):
                for one in module.qkv.weight.chunk(3):  # three maps in one tensor
                    nn.init.xavier_uniform_(one)
                nn.init.xavier_uniform_(module.proj.weight)
                nn.init.zeros_(module.qkv.bias)
                nn.init.zeros_(module.proj.bias)
            elif isinstance(module, Mlp):
                for layer in (module.fc1, module.fc2):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.normal_(layer.bias, std=1e-6)
        patches = self.patch_embed.proj
        # Cut off at two deviations; the divisor restores the variance that the cut takes away.
        deviation = math.sqrt(1 / patches.weight[0].numel()) / 0.87962566103423978
        nn.init.trunc_normal_(patches.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        assert patches.bias is not None
        for zero in (patches.bias, self.head.weight, self.head.bias):
            nn.init.zeros_(zero)


def resize_positions(pos_embed: Tensor, side: int) -> Tensor:
    """Section 3.2: positions for another number of patches, by interpolation in the plane of the picture.

    Args:
        pos_embed: [1, 1 + n * n, D], the class token first.
        side: patches in a row of the new picture, such as 24 for 384 pixels and patches of 16.

    Returns:
        [1, 1 + side * side, D]. The corners keep their values, as in the release.
    """
    old = math.isqrt(pos_embed.shape[1] - 1)
    if old * old + 1 != pos_embed.shape[1]:
        raise ValueError(f"ViT: positions {list(pos_embed.shape)} are not those of a square of patches")
    grid = pos_embed[:, 1:].transpose(1, 2).unflatten(2, (old, old))
    grid = F.interpolate(grid, (side, side), mode="bilinear", align_corners=True)
    return torch.cat([pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def from_npz(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """State dict of the weights in one of the release's ``.npz`` files, which ``numpy.load`` opens.

    Flax keeps query, key and value apart and by heads, and matrices with the input first. A hidden layer in front of
    the classifier (``pre_logits``) is left out; a classifier trained behind it is of no use then.
    """
    file = {name: torch.as_tensor(arrays[name]) for name in arrays}

    def linear(name: str) -> dict[str, Tensor]:
        return {"weight": file[f"{name}/kernel"].T, "bias": file[f"{name}/bias"]}

    def norm(name: str) -> dict[str, Tensor]:
        return {"weight": file[f"{name}/scale"], "bias": file[f"{name}/bias"]}

    layers: dict[str, dict[str, Tensor]] = {"norm": norm("Transformer/encoder_norm")}
    kernel = file["embedding/kernel"].permute(3, 2, 0, 1)  # height, width, in, out
    layers["patch_embed.proj"] = {"weight": kernel, "bias": file["embedding/bias"]}
    if "head/kernel" in file:
        layers["head"] = linear("head")
    number = 0
    while f"Transformer/encoderblock_{number}/LayerNorm_0/scale" in file:
        theirs, ours = f"Transformer/encoderblock_{number}", f"blocks.{number}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        qkv = [file[f"{attention}/{part}/kernel"].flatten(1).T for part in ("query", "key", "value")]
        biases = [file[f"{attention}/{part}/bias"].flatten() for part in ("query", "key", "value")]
        out = file[f"{attention}/out/kernel"].flatten(0, 1).T
        layers[f"{ours}.norm1"] = norm(f"{theirs}/LayerNorm_0")
        layers[f"{ours}.attn.qkv"] = {"weight": torch.cat(qkv), "bias": torch.cat(biases)}
        layers[f"{ours}.attn.proj"] = {"weight": out, "bias": file[f"{attention}/out/bias"]}
        layers[f"{ours}.norm2"] = norm(f"{theirs}/LayerNorm_2")
        layers[f"{ours}.mlp.fc1"] = linear(f"{theirs}/MlpBlock_3/Dense_0")
        layers[f"{ours}.mlp.fc2"] = linear(f"{theirs}/MlpBlock_3/Dense_1")
        number += 1
    state = {"cls_token": file["cls"], "pos_embed": file["Transformer/posembed_input/pos_embedding"]}
    return state | {f"{layer}.{name}": value for layer, pair in layers.items() for name, value in pair.items()}


# Table 1, and ViT-S of the release
_S = {"num_layers": 12, "hidden_size": 384, "mlp_dim": 1536, "num_heads": 6}
_B = {"num_layers": 12, "hidden_size": 768, "mlp_dim": 3072, "num_heads": 12}
_L = {"num_layers": 24, "hidden_size": 1024, "mlp_dim": 4096, "num_heads": 16}
_H = {"num_layers": 32, "hidden_size": 1280, "mlp_dim": 5120, "num_heads": 16}
_FREE = ["image_size", "dropout_rate", "gelu"]
vit_s16 = published(ViT, patch_size=16, **_S, free=_FREE)
vit_b16 = published(ViT, patch_size=16, **_B, free=_FREE)
vit_b32 = published(ViT, patch_size=32, **_B, free=_FREE)
vit_l16 = published(ViT, patch_size=16, **_L, free=_FREE)
vit_l32 = published(ViT, patch_size=32, **_L, free=_FREE)
vit_h14 = published(ViT, patch_size=14, **_H, free=_FREE)

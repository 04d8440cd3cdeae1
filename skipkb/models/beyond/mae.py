r"""MAE: hide three quarters of a picture, and learn by painting them in.

A picture is cut into patches, and a random quarter of them is kept. The *encoder*, a Vision Transformer, sees the kept
patches only, which makes it four times as cheap. The *decoder*, narrow and shallow, gets the codes, a learned mask
token for each hidden patch and the positions of all, and predicts pixels (Section 3). The loss is taken where nothing
was seen,

.. math::  \mathcal{L} = \frac{1}{|M|} \sum_{i \in M} \frac{1}{P^2 C} \lVert \hat x_i - x_i \rVert^2 ,

with M the hidden patches, and x_i their pixels, or better their pixels normalised within the patch. Afterwards the
decoder is thrown away, and the encoder goes on as an ordinary ViT (:func:`encoder_weights`).

The skips are those of the Transformer's layers, around attention and around the MLP, in encoder and decoder. What is
missing on purpose is a long skip from one to the other: all that the decoder knows of a picture has to pass the codes,
and a path around them would carry what the loss does not ask for.

K. He, X. Chen, S. Xie, Y. Li, P. Dollár, R. Girshick: "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022,
arXiv:2111.06377.

Deviations from the paper:

- The encoder has a class token, as in the authors' code; the paper says that it works without.
- Positions are sines and cosines in which the first half of the channels follows the columns, as in the authors' code.
- In eval mode the mask is the same for every picture, so that two runs agree; ``mask_in_eval="random"`` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from skipkb.models.classification.vit import Block, PatchEmbed
from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = [
    "MAE", "encoder_weights", "mae_vit_b16", "mae_vit_h14", "mae_vit_l16", "objective", "patchify", "positions",
    "unpatchify",
]  # fmt: skip

SPREAD = (0.7548776662466927, 0.5698402909980532)
"""Multiples of the two for row and column, added and taken modulo 1, are spread evenly over a picture: the inverse of
the root of x^3 = x + 1, and its square."""


def patchify(pictures: Tensor, patch_size: int) -> Tensor:
    """[N, C, H, W] -> [N, HW/P^2, P * P * C], patches from the top left, in each the channels of a pixel together."""
    n, c, h, w = pictures.shape
    x = pictures.reshape(n, c, h // patch_size, patch_size, w // patch_size, patch_size)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, patch_size**2 * c)


def unpatchify(patches: Tensor, channels: int = 3) -> Tensor:
    """The inverse of :func:`patchify` for square pictures."""
    n, count, length = patches.shape
    side, patch_size = math.isqrt(count), math.isqrt(length // channels)
    x = patches.reshape(n, side, side, patch_size, patch_size, channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(n, channels, side * patch_size, side * patch_size)


def positions(side: int, dim: int) -> Tensor:
    """Sines and cosines of a square of side x side patches, zeros for the class token first: [1, 1 + side * side, dim].

    A quarter of the channels each: sine and cosine of the column, sine and cosine of the row, at wavelengths that
    grow from 2 pi to 10000 times that.
    """
    frequency = 10000.0 ** (-torch.arange(dim // 4) / (dim // 4))
    waves = torch.arange(side)[:, None] * frequency
    axis = torch.cat([waves.sin(), waves.cos()], dim=1)  # [side, dim / 2]
    rows, columns = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
    table = torch.cat([columns, rows], dim=2).reshape(side * side, dim)
    return torch.cat([table.new_zeros(1, dim), table])[None]


class MAE(nn.Module):
    """Encoder on the kept patches, decoder on all (Figure 1). Names of tensors are the authors'.

    Args:
        img_size: height and width of the picture.
        patch_size: height and width of a patch, P.
        embed_dim, depth, num_heads: of the encoder; its MLPs are four times as wide.
        decoder_embed_dim, decoder_depth, decoder_num_heads: of the decoder.
        mask_ratio: share of the patches that is hidden.
        mask_in_eval: "fixed", the same evenly spread patches of every picture, or "random", as in training.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_ratio: float = 0.75,
        mask_in_eval: Literal["fixed", "random"] = "fixed",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if patch_size < 1 or img_size < patch_size or img_size % patch_size:
            raise ValueError(
                f"MAE: patch_size must divide img_size, got img_size={img_size} and patch_size={patch_size}"
            )
        for dim, heads in ((embed_dim, num_heads), (decoder_embed_dim, decoder_num_heads)):
            if dim % 4 or dim % heads:
                raise ValueError(f"MAE: a width must be a multiple of 4 and of its heads, got {dim} and {heads} heads")
        side = img_size // patch_size
        self.kept = int(side * side * (1 - mask_ratio))
        if not 0 < self.kept < side * side:
            raise ValueError(
                f"MAE: mask_ratio must leave some of {side * side} patches and hide some, got {mask_ratio}"
            )
        if mask_in_eval not in ("fixed", "random"):
            raise ValueError(f"MAE: mask_in_eval must be fixed or random, got {mask_in_eval!r}")
        self.in_channels, self.size = in_channels, (img_size, img_size)
        self.patch_size, self.mask_in_eval = patch_size, mask_in_eval

        def blocks(depth: int, dim: int, heads: int) -> nn.Sequential:
            return nn.Sequential(*(Block(dim, num_heads=heads, mlp_dim=4 * dim) for _ in range(depth)))

        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(positions(side, embed_dim), requires_grad=False)
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size)
        self.blocks = blocks(depth, embed_dim, num_heads)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(positions(side, decoder_embed_dim), requires_grad=False)
        self.decoder_blocks = blocks(decoder_depth, decoder_embed_dim, decoder_num_heads)
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_channels)
        self.apply(_init_weights)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))  # as a linear layer
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def order(self, count: int, patches: int, device: torch.device) -> Tensor:
        """A permutation of the patches for each picture, [N, L]: the first are kept, the others hidden."""
        if self.training or self.mask_in_eval == "random":
            return torch.rand(count, patches, device=device).argsort(dim=1)
        places = torch.arange(math.isqrt(patches), device=device)
        spread = (places[:, None] * SPREAD[0] + places * SPREAD[1]) % 1
        return spread.flatten().argsort().expand(count, -1)

    def encode(self, x: Tensor, kept: Tensor) -> Tensor:
        """Pictures and the numbers of the kept patches [N, K] -> codes [N, 1 + K, D], the class token first."""
        x = self.patch_embed(x) + self.pos_embed[:, 1:]
        x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([token, x], dim=1)))  # type: ignore[no-any-return]

    def decode(self, codes: Tensor, order: Tensor) -> Tensor:
        """Codes and the permutation that made them -> pixels of all patches, [N, L, P * P * C]."""
        x = self.decoder_embed(codes)
        hidden = self.mask_token.expand(len(x), order.shape[1] + 1 - x.shape[1], -1)
        patches = torch.cat([x[:, 1:], hidden], dim=1)
        back = order.argsort(dim=1)  # every patch to its place
        patches = patches.gather(1, back[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        pixels: Tensor = self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))
        return pixels[:, 1:]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pictures [N, in_channels, img_size, img_size] -> ``pred`` [N, L, P * P * C] and ``mask`` [N, L].

        The mask is 1 for a hidden patch and 0 for a kept one.

        Raises:
            ValueError: x is not a batch of pictures of exactly that size.
        """
        check_pictures("MAE", x, self.in_channels, size=self.size)
        order = self.order(len(x), self.pos_embed.shape[1] - 1, x.device)
        pred = self.decode(self.encode(x, order[:, : self.kept]), order)
        mask = (order.argsort(dim=1) >= self.kept).to(pred.dtype)
        return {"pred": pred, "mask": mask}


def objective(output: dict[str, Tensor], target: Tensor, *, norm_pix: bool = True) -> Tensor:
    """Mean squared error of the pixels of hidden patches: a scalar.

    Args:
        output: of :class:`MAE`.
        target: the pictures [N, C, H, W].
        norm_pix: bring the pixels of each patch to mean 0 and variance 1 first (Table 1d).
    """
    pred, mask = output["pred"], output["mask"]
    wanted = patchify(target, math.isqrt(pred.shape[2] // target.shape[1]))
    if norm_pix:
        variance, mean = torch.var_mean(wanted, dim=2, keepdim=True)
        wanted = (wanted - mean) / (variance + 1e-6).sqrt()
    error = ((pred - wanted) ** 2).mean(dim=2)
    return (error * mask).sum() / mask.sum()


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a trained MAE an ordinary ViT goes on with; all but the classifier, which is new."""
    return {k: v for k, v in state.items() if not k.startswith(("decoder_", "mask_token"))}


def _init_weights(module: nn.Module) -> None:
    """Xavier's uniform for linear layers, query, key and value in one; biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


# ViT-B, L and H with the decoder of Section 4: 8 layers of width 512
_FREE = ["img_size", "mask_ratio", "mask_in_eval"]
mae_vit_b16 = published(MAE, patch_size=16, embed_dim=768, depth=12, num_heads=12, free=_FREE)
mae_vit_l16 = published(MAE, patch_size=16, embed_dim=1024, depth=24, num_heads=16, free=_FREE)
mae_vit_h14 = published(MAE, patch_size=14, embed_dim=1280, depth=32, num_heads=16, free=_FREE)

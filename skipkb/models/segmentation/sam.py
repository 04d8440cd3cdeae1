r"""SAM: a picture is understood once, and then every click is answered by two small layers of attention.

The image encoder is a ViT on 16 x 16 patches (Section 3). Most of its layers attend inside windows of 14 x 14 tokens,
four attend to all of them. Each has the two skips of a Transformer, both the identity:

.. math::  z' = z + \mathrm{Attention}(\mathrm{LN}(z)), \qquad  z'' = z' + \mathrm{MLP}(\mathrm{LN}(z'))

and every attention adds to the product of query and key two learned products of the query with the distance of the
positions, one for rows and one for columns: :math:`q \cdot k + q \cdot r^h_{\Delta y} + q \cdot r^w_{\Delta x}`.
Two convolutions bring the tokens to 256 channels, and that is all the decoder ever sees: no map of an earlier layer is
carried to it.

A prompt becomes tokens too. A point is its position in random Fourier features plus a learned vector that says whether
it lies on the object; a box is its two corners; a rough mask is convolved down and *added* to the image embedding. The
mask decoder (Appendix A) has two layers in which tokens attend to themselves, tokens to the image and the image to the
tokens, each followed by a sum and a normalisation. Where positions matter they are added again, to queries and keys,
in each of these attentions. At the end a token for each mask gives weights, and their product with the upscaled
embedding is the mask. A click may mean a part or the whole: three masks answer it, each with an estimate of its own
IoU, and a fourth one is kept for prompts that are clear.

A. Kirillov, E. Mintun, N. Ravi, H. Mao, C. Rolland, L. Gustafson, T. Xiao, S. Whitehead, A. C. Berg, W.-Y. Lo,
P. Dollár, R. Girshick: "Segment Anything", ICCV 2023, arXiv:2304.02643.

Deviations from the paper:

- Training has two rounds, points and then the box with the mask that was found (:class:`Rounds`). The paper simulates a
  user in eleven, who clicks where the mask is wrong; that is not part of the release.
- Every prompt trains the best of the three masks and the fourth. The paper trains the fourth on several points only.
- Automatic masks are found on the whole picture. The paper also looks at enlarged crops, and fills small holes.

As released and not in the paper: the first attention among tokens has no skip around it; a prompt without a box gets
one more point that says nothing; normalisations of maps have an epsilon of 1e-6 and those of the decoder 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = [
    "SAM", "Block", "ImageEncoder", "MaskDecoder", "PromptEncoder", "Rounds", "TwoWayBlock", "automatic_masks",
    "masks_of_size", "objective", "prepare", "sam_vit_b", "sam_vit_h", "sam_vit_l",
]  # fmt: skip

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of the channels red, green, blue on the scale 0 to 255."""
MASKS = 4
"""One for a clear prompt, three for one that may mean several things."""


class MapNorm(nn.Module):
    """Layer normalisation over the channels of each position: [N, C, H, W] -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, eps=1e-6)
        return x.permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------------------- image encoder


def relative(table: Tensor, size: int) -> Tensor:
    """Rows of a table of distances for each pair of positions: [2 * side - 1, C] -> [size, size, C].

    A table made for another size is interpolated.
    """
    wanted = 2 * size - 1
    if len(table) != wanted:
        table = F.interpolate(table.T[None], wanted, mode="linear", align_corners=False)[0].T
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places[None, :] + size - 1]


class Attention(nn.Module):
    """Attention on maps with decomposed relative positions: [N, H, W, C] -> same."""

    def __init__(self, dim: int, *, num_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, dim = x.shape
        qkv = self.qkv(x).view(n, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        at = q.unflatten(2, (height, width))  # [N, heads, H, W, c]
        rows = torch.einsum("nhyxc,ykc->nhyxk", at, relative(self.rel_pos_h, height))
        columns = torch.einsum("nhyxc,xkc->nhyxk", at, relative(self.rel_pos_w, width))
        distance = (rows[..., :, None] + columns[..., None, :]).reshape(n, self.num_heads, height * width, -1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=distance)
        return self.proj(x.transpose(1, 2).reshape(n, height, width, dim))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with an activation between: [..., C] -> same."""

    def __init__(self, dim: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer of the encoder: attention, in windows or on the whole map, and MLP, each inside its skip.

    Args:
        dim: channels.
        num_heads: heads of the attention.
        size: height and width of the whole map.
        window: height and width of a window; 0 for attention on the whole map.
    """

    def __init__(self, dim: int, *, num_heads: int, size: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads=num_heads, size=window or size)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim, nn.GELU())

    def attend(self, x: Tensor) -> Tensor:
        """Attention; a map that windows do not divide is padded with zeros for it."""
        if not self.window:
            return self.attn(x)  # type: ignore[no-any-return]
        n, height, width, dim = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        down, across = x.shape[1] // side, x.shape[2] // side
        x = x.view(n, down, side, across, side, dim).transpose(2, 3)
        x = self.attn(x.reshape(-1, side, side, dim)).view(n, down, across, side, side, dim).transpose(2, 3)
        return x.reshape(n, down * side, across * side, dim)[:, :height, :width]

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> same."""
        x = x + self.attend(self.norm1(x))  # the first skip
        x = x + self.mlp(self.norm2(x))  # the second
        return x


class PatchEmbed(nn.Module):
    """A linear layer for every patch: [N, 3, H, W] -> [N, H/16, W/16, C]."""

    def __init__(self, in_channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """ViT and neck: pictures [N, 3, size, size] -> embedding [N, out, size / patch, size / patch]."""

    def __init__(
        self, *, img_size: int, patch: int, in_channels: int, dim: int, depth: int, num_heads: int,
        global_layers: Sequence[int], window: int, out: int,
    ) -> None:  # fmt: skip
        super().__init__()
        side = img_size // patch
        self.patch_embed = PatchEmbed(in_channels, dim, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, dim))
        self.blocks = nn.Sequential(
            *(
                Block(dim, num_heads=num_heads, size=side, window=0 if i in global_layers else window)
                for i in range(depth)
            )
        )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out, 1, bias=False),
            MapNorm(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            MapNorm(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patch_embed(x) + self.pos_embed)
        return self.neck(x.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------- prompts


class FourierPositions(nn.Module):
    """Sines and cosines of random projections of a place (x, y) in [0, 1]: [..., 2] -> [..., C]."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def forward(self, places: Tensor) -> Tensor:
        angles = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, side: int) -> Tensor:
        """Of the middle of every cell: [1, C, side, side]."""
        middle = (torch.arange(side, device=self.positional_encoding_gaussian_matrix.device) + 0.5) / side
        rows, columns = torch.meshgrid(middle, middle, indexing="ij")
        return self(torch.stack([columns, rows], dim=-1)).permute(2, 0, 1)[None]  # type: ignore[no-any-return]


class PromptEncoder(nn.Module):
    """Points, boxes and rough masks as tokens and as a map.

    Args:
        dim: channels of the embedding.
        img_size: height and width of the pictures, in which points and boxes are given.
        side: height and width of the image embedding.
        mask_channels: of the two convolutions in front of the last, for masks.
    """

    def __init__(self, *, dim: int, img_size: int, side: int, mask_channels: int) -> None:
        super().__init__()
        self.img_size, self.side = img_size, side
        self.pe_layer = FourierPositions(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))  # beside, on it, two corners
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            MapNorm(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            MapNorm(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def points(self, points: Tensor, labels: Tensor) -> Tensor:
        """[N, P, 2] in pixels and [N, P] (1 on the object, 0 beside it, -1 no point) -> tokens [N, P, C]."""
        beside, on = (embedding.get_parameter("weight") for embedding in self.point_embeddings[:2])
        kind = labels[..., None]
        place = self.pe_layer((points + 0.5) / self.img_size)
        tokens = place + torch.where(kind == 1, on, beside)
        return torch.where(kind == -1, self.not_a_point_embed.weight, tokens)

    def boxes(self, boxes: Tensor) -> Tensor:
        """[N, 4] as (left, top, right, bottom) in pixels -> two tokens [N, 2, C]."""
        corners = torch.cat([embedding.get_parameter("weight") for embedding in self.point_embeddings[2:]])
        return self.pe_layer((boxes.view(-1, 2, 2) + 0.5) / self.img_size) + corners  # type: ignore[no-any-return]

    def forward(
        self, count: int, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """-> tokens [N, T, C] and what is added to the image embedding, [N, C, side, side]."""
        tokens = []
        if points is not None and labels is not None:
            if boxes is None:  # one that says nothing stands where the corners would be
                points = torch.cat([points, torch.zeros_like(points[:, :1])], dim=1)
                labels = torch.cat([labels, -torch.ones_like(labels[:, :1])], dim=1)
            tokens.append(self.points(points, labels))
        if boxes is not None:
            tokens.append(self.boxes(boxes))
        empty = self.no_mask_embed.weight.expand(count, -1)
        if masks is None:
            dense = empty[..., None, None].expand(-1, -1, self.side, self.side)
        else:
            dense = self.mask_downscaling(masks)
        return torch.cat(tokens, dim=1) if tokens else empty[:, None][:, :0], dense


# -------------------------------------------------------------------------------------------- mask decoder


class CrossAttention(nn.Module):
    """Attention with queries, keys and values of their own, in ``inner`` channels: -> as the queries."""

    def __init__(self, dim: int, *, num_heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TwoWayBlock(nn.Module):
    """One layer of the decoder: tokens to themselves, tokens to the image, MLP, image to the tokens.

    Each is added to what it starts from and normalised. The first layer's self-attention alone has no skip.
    """

    def __init__(self, dim: int, *, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = CrossAttention(dim, num_heads=num_heads, inner=dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = CrossAttention(dim, num_heads=num_heads, inner=dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim, nn.ReLU())
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = CrossAttention(dim, num_heads=num_heads, inner=dim // 2)

    def forward(self, tokens: Tensor, image: Tensor, prompts: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [N, T, C] and image [N, P, C]; ``prompts`` and ``places`` are added to queries and keys -> both."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + prompts
            tokens = tokens + self.self_attn(q, q, tokens)  # a skip
        tokens = self.norm1(tokens)
        tokens = tokens + self.cross_attn_token_to_image(tokens + prompts, image + places, image)  # a skip
        tokens = self.norm2(tokens)
        tokens = tokens + self.mlp(tokens)  # a skip
        tokens = self.norm3(tokens)
        image = image + self.cross_attn_image_to_token(image + places, tokens + prompts, tokens)  # a skip
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """Two of these layers, and a last look of the tokens at the image."""

    def __init__(self, dim: int, *, depth: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, num_heads=num_heads, mlp_dim=mlp_dim, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = CrossAttention(dim, num_heads=num_heads, inner=dim // 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, places: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, places)
        tokens = tokens + self.final_attn_token_to_image(tokens + prompts, image + places, image)  # a skip
        return self.norm_final_attn(tokens), image


class Head(nn.Module):
    """Three linear layers with ReLU between them: [..., C] -> [..., out]."""

    def __init__(self, dim: int, out: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layers[0](x))
        x = F.relu(self.layers[1](x))
        return self.layers[2](x)  # type: ignore[no-any-return]


class MaskDecoder(nn.Module):
    """Image embedding and prompts -> four masks, four times as large as the embedding, and an IoU for each."""

    def __init__(self, dim: int, *, depth: int, num_heads: int, mlp_dim: int, iou_hidden: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(dim, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(MASKS, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            MapNorm(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Head(dim, dim // 8, dim) for _ in range(MASKS))
        self.iou_prediction_head = Head(dim, MASKS, iou_hidden)

    def forward(self, image: Tensor, places: Tensor, tokens: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, h, w], positions [1, C, h, w], tokens [N, T, C], [N, C, h, w] -> [N, 4, 4h, 4w] and [N, 4]."""
        n, side = len(image), image.shape[2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(n, -1, -1)
        image = (image + dense).flatten(2).transpose(1, 2)
        places = places.flatten(2).transpose(1, 2)
        tokens, image = self.transformer(image, places, torch.cat([own, tokens], dim=1))
        upscaled = self.output_upscaling(image.transpose(1, 2).unflatten(2, side))
        weights = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks = torch.einsum("nmc,nchw->nmhw", weights, upscaled)
        return masks, self.iou_prediction_head(tokens[:, 0])


# ----------------------------------------------------------------------------------------------- the whole


class SAM(nn.Module):
    """Image encoder, prompt encoder and mask decoder under the names of the release.

    Args:
        img_size: height and width of the pictures; the positions are made for it.
        encoder_dim, encoder_depth, encoder_heads: width, layers and heads of the ViT.
        global_layers: which of its layers attend to the whole map.
        window: height and width, in patches, of the windows of the others.
        patch: height and width of a patch.
        dim: channels of the image embedding and of all tokens.
        decoder_depth, decoder_heads, decoder_mlp: layers, heads and hidden width of the mask decoder.
        mask_channels: of the convolutions on a mask that is given as a prompt.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        img_size: int = 1024,
        encoder_dim: int,
        encoder_depth: int,
        encoder_heads: int,
        global_layers: Sequence[int],
        window: int = 14,
        patch: int = 16,
        dim: int = 256,
        decoder_depth: int = 2,
        decoder_heads: int = 8,
        decoder_mlp: int = 2048,
        mask_channels: int = 16,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if img_size % patch or encoder_dim % encoder_heads or dim % (2 * decoder_heads) or dim % 8:
            raise ValueError(
                "SAM: patch must divide img_size, encoder_heads encoder_dim, and twice decoder_heads and 8 dim, got "
                f"{patch} and {img_size}, {encoder_heads} and {encoder_dim}, {decoder_heads} and {dim}"
            )
        self.img_size, self.in_channels = img_size, in_channels
        self.image_encoder = ImageEncoder(
            img_size=img_size, patch=patch, in_channels=in_channels, dim=encoder_dim, depth=encoder_depth,
            num_heads=encoder_heads, global_layers=global_layers, window=window, out=dim,
        )  # fmt: skip
        self.prompt_encoder = PromptEncoder(
            dim=dim, img_size=img_size, side=img_size // patch, mask_channels=mask_channels
        )
        self.mask_decoder = MaskDecoder(
            dim, depth=decoder_depth, num_heads=decoder_heads, mlp_dim=decoder_mlp, iou_hidden=dim
        )

    def embed(self, x: Tensor) -> Tensor:
        """Pictures, as :func:`prepare` makes them, -> image embedding [N, dim, h, w]. Once for any number of prompts.

        Raises:
            ValueError: x is not a batch of pictures of exactly that size.
        """
        check_pictures("SAM", x, self.in_channels, size=(self.img_size, self.img_size))
        return self.image_encoder(x)  # type: ignore[no-any-return]

    def decode(
        self,
        embedding: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        several: bool | None = True,
    ) -> dict[str, Tensor]:
        """Answer one prompt for each embedding.

        Args:
            embedding: [N, dim, h, w]; or [1, dim, h, w] for N prompts in one picture.
            points: [N, P, 2] as (x, y) in pixels.
            labels: [N, P], 1 on the object, 0 beside it, -1 where there is no point.
            boxes: [N, 4] as (left, top, right, bottom) in pixels.
            masks: [N, 1, 4h, 4w], logits of an earlier answer.
            several: three masks, for a prompt that may mean several things; or one; None for that one and the three.

        Returns:
            ``masks``, logits [N, M, 4h, 4w], positive on the object, and ``iou`` [N, M], as estimated.

        Raises:
            ValueError: there is no prompt, one has another shape, or it lies outside the picture.
        """
        count = self._check_prompt(embedding, points, labels, boxes, masks)
        tokens, dense = self.prompt_encoder(count, points, labels, boxes, masks)
        places = self.prompt_encoder.pe_layer.grid(self.prompt_encoder.side)
        found, iou = self.mask_decoder(embedding.expand(count, -1, -1, -1), places, tokens, dense)
        chosen = {True: slice(1, None), False: slice(0, 1), None: slice(None)}[several]
        return {"masks": found[:, chosen], "iou": iou[:, chosen]}

    def forward(
        self,
        x: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        several: bool | None = True,
    ) -> dict[str, Tensor]:
        """Pictures [N, in_channels, img_size, img_size] and a prompt for each -> as :meth:`decode`.

        Raises:
            ValueError: as :meth:`embed` and :meth:`decode`.
        """
        check_pictures("SAM", x, self.in_channels, size=(self.img_size, self.img_size))
        self._check_prompt(x, points, labels, boxes, masks)
        return self.decode(self.embed(x), points, labels, boxes, masks, several=several)

    def _check_prompt(
        self, x: Tensor, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None
    ) -> int:
        """Number of prompts; they must be there, fit each other and ``x``, and lie in the picture."""
        if (points is None) != (labels is None):
            raise ValueError("SAM: points need labels and labels need points, got one of them")
        given = [prompt for prompt in (points, boxes, masks) if prompt is not None]
        if not given or (points is not None and not points.shape[1] and len(given) == 1):
            raise ValueError("SAM: the prompt is empty; give points with labels, boxes or masks")
        count, side = len(given[0]), 4 * self.prompt_encoder.side
        wanted: dict[str, tuple[Tensor | None, Sequence[Any]]] = {
            "points": (points, (count, "P", 2)),
            "labels": (labels, (count, "P" if points is None else points.shape[1])),
            "boxes": (boxes, (count, 4)),
            "masks": (masks, (count, 1, side, side)),
        }
        for name, (prompt, shape) in wanted.items():
            if prompt is not None and (
                prompt.dim() != len(shape)
                or any(isinstance(b, int) and a != b for a, b in zip(prompt.shape, shape, strict=True))
            ):
                raise ValueError(f"SAM: {name} must be {list(shape)}, got {list(prompt.shape)}")
        if len(x) not in (1, count):
            raise ValueError(f"SAM: got {len(x)} pictures and {count} prompts; give one prompt for each picture")
        for name, places in (("points", points), ("boxes", boxes)):
            if places is None or places.is_meta or torch.compiler.is_compiling() or not places.numel():
                continue
            low, high = places.amin().item(), places.amax().item()
            if low < 0 or high > self.img_size:
                raise ValueError(
                    f"SAM: {name} must lie in the picture, from 0 to {self.img_size}, got {low:g} to {high:g}"
                )
        return count


class Rounds(nn.Module):
    """Two rounds of training with a user (Appendix A): points first, then the box and what was found so far.

    Args:
        settings: of :class:`SAM`, which is ``sam`` here.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.sam = SAM(**settings)

    def forward(self, x: Tensor, points: Tensor, labels: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Pictures and prompts as :class:`SAM` takes them -> the four masks and IoUs of both rounds.

        ``masks`` is [N, 2, 4, 4h, 4w] and ``iou`` [N, 2, 4].
        """
        embedding = self.sam.embed(x)
        first = self.sam.decode(embedding, points, labels, several=None)
        best = first["iou"].argmax(dim=1)
        so_far = first["masks"][torch.arange(len(x), device=x.device), best][:, None].detach()
        second = self.sam.decode(embedding, points, labels, boxes, so_far, several=None)
        return {name: torch.stack([first[name], second[name]], dim=1) for name in first}


# ------------------------------------------------------------------------------------------------ using it


def prepare(picture: Tensor, img_size: int = 1024) -> tuple[Tensor, float]:
    """A picture [3, H, W] of values from 0 to 255, RGB -> [1, 3, img_size, img_size], and how much it was enlarged.

    The longer side gets ``img_size``, channels are normalised, and zeros fill the right and lower border. Points and
    boxes are to be multiplied by the factor.

    Raises:
        ValueError: it is not a picture of three channels.
    """
    if picture.dim() != 3 or picture.shape[0] != 3:
        raise ValueError(f"prepare: expected a picture [3, H, W], got {list(picture.shape)}")
    scale = img_size / max(picture.shape[1:])
    size = [round(edge * scale) for edge in picture.shape[1:]]
    x = F.interpolate(picture[None].float(), size, mode="bilinear", antialias=True, align_corners=False)
    x = (x - x.new_tensor(MEAN).view(3, 1, 1)) / x.new_tensor(DEVIATION).view(3, 1, 1)
    return F.pad(x, (0, img_size - size[1], 0, img_size - size[0])), scale


def masks_of_size(masks: Tensor, size: Sequence[int], img_size: int = 1024) -> Tensor:
    """Logits [N, M, h, w] of prepared pictures -> [N, M, *size] of the picture as it was: enlarged, cut, scaled."""
    scale = img_size / max(size)
    masks = F.interpolate(masks, (img_size, img_size), mode="bilinear", align_corners=False)
    masks = masks[..., : round(size[0] * scale), : round(size[1] * scale)]
    return F.interpolate(masks, tuple(size), mode="bilinear", align_corners=False)


@torch.no_grad()
def automatic_masks(
    model: SAM, picture: Tensor, *, points_per_side: int = 32, iou: float = 0.88, stability: float = 0.95,
    offset: float = 1.0, overlap: float = 0.7, at_a_time: int = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """Section 5 and Appendix B: ask at every point of a grid, and keep what is certain, stable and not a repetition.

    Args:
        model: in eval mode.
        picture: [3, H, W], values from 0 to 255, RGB.
        points_per_side: points of the grid in a row.
        iou: least IoU that the model itself expects.
        stability: least IoU of the masks at logits above ``offset`` and above ``-offset``.
        offset: of the logits.
        overlap: of two boxes, above which only the more certain mask is kept.
        at_a_time: prompts in one pass of the decoder.

    Returns:
        ``masks``, bool [M, H, W]; ``iou`` [M], ``stability`` [M], ``boxes`` [M, 4] as (left, top, right, bottom) and
        ``points`` [M, 2] in pixels of the picture. The most certain come first.
    """
    from torchvision.ops import masks_to_boxes, nms  # only this function needs it

    x, scale = prepare(picture, model.img_size)
    x = x.to(next(model.parameters()).device)
    embedding = model.embed(x)
    height, width = picture.shape[1:]
    middle = (torch.arange(points_per_side) + 0.5) / points_per_side
    rows, columns = torch.meshgrid(middle * height, middle * width, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).view(-1, 1, 2)
    kept: dict[str, list[Tensor]] = {"masks": [], "iou": [], "stability": [], "points": []}
    for points in grid.split(at_a_time):
        there = points.to(x) * scale
        answer = model.decode(embedding, there, torch.ones(there.shape[:2], dtype=torch.long, device=x.device))
        logits = masks_of_size(answer["masks"], (height, width), model.img_size).flatten(0, 1)
        certain = answer["iou"].flatten()
        both, either = ((logits > bound).sum((1, 2)) for bound in (offset, -offset))
        stable = both / either.clamp(min=1)
        good = (certain >= iou) & (stable >= stability) & (logits > 0).any(2).any(1)
        kept["masks"].append(logits[good] > 0)
        kept["iou"].append(certain[good])
        kept["stability"].append(stable[good])
        kept["points"].append(points.view(-1, 2).repeat_interleave(answer["masks"].shape[1], 0).to(x.device)[good])
    result = {name: torch.cat(parts) for name, parts in kept.items()}
    boxes = masks_to_boxes(result["masks"]) if len(result["masks"]) else x.new_zeros(0, 4)
    best = nms(boxes, result["iou"], overlap)
    return {name: value[best] for name, value in (result | {"boxes": boxes}).items()}


def objective(output: dict[str, Tensor], target: Tensor) -> Tensor:
    """Appendix A: focal and Dice loss, 20 to 1, of the best of the masks, and the squared error of all IoUs.

    Args:
        output: ``masks`` [N, M, h, w], logits, and ``iou`` [N, M]; or of R rounds, [N, R, M, h, w] and [N, R, M].
        target: [N, H, W], 1 on the object and 0 beside it; the masks are enlarged to its size.

    Returns:
        A scalar. Of three masks only the one with the lowest loss is trained, so that they can mean different things;
        of four, the first is trained too.
    """
    if output["masks"].dim() == 5:
        target = target.repeat_interleave(output["masks"].shape[1], dim=0)
        output = {name: value.flatten(0, 1) for name, value in output.items()}
    logits = F.interpolate(output["masks"], target.shape[1:], mode="bilinear", align_corners=False)
    truth = target[:, None].to(logits).expand_as(logits)
    crossed = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    wrong = torch.where(truth > 0.5, 1 - probability, probability)
    balance = torch.where(truth > 0.5, 0.25, 0.75)
    focal = (balance * wrong.square() * crossed).mean((2, 3))
    common = (probability * truth).sum((2, 3))
    dice = 1 - (2 * common + 1) / (probability.sum((2, 3)) + truth.sum((2, 3)) + 1)
    losses = 20 * focal + dice
    best = losses[:, -3:].amin(dim=1).mean()
    if losses.shape[1] == MASKS:
        best = best + losses[:, 0].mean()
    found = logits.detach() > 0
    both, either = (found & (truth > 0.5)).sum((2, 3)), (found | (truth > 0.5)).sum((2, 3))
    return best + F.mse_loss(output["iou"], both / either.clamp(min=1))


# Section 3 and the release
_FREE = ["img_size"]
sam_vit_b = published(SAM, encoder_dim=768, encoder_depth=12, encoder_heads=12, global_layers=(2, 5, 8, 11), free=_FREE)
sam_vit_l = published(
    SAM, encoder_dim=1024, encoder_depth=24, encoder_heads=16, global_layers=(5, 11, 17, 23), free=_FREE
)
sam_vit_h = published(
    SAM, encoder_dim=1280, encoder_depth=32, encoder_heads=16, global_layers=(7, 15, 23, 31), free=_FREE
)

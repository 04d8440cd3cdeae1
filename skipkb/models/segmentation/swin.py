r"""Swin Transformer: attention in windows that shift by half in every second block, in a pyramid of four stages.

ViT lets every token ask all others, which costs the square of their number, and keeps one coarse resolution. Swin cuts
the map into windows of M x M tokens and attends inside each, which is linear in the size of the picture. Windows that
never move would stay strangers, so every second block displaces the cut by floor(M/2) in both directions (Section 3.2):

.. math::  \hat z^l &= \mathrm{W\text{-}MSA}(\mathrm{LN}(z^{l-1})) + z^{l-1}, \qquad
           z^l = \mathrm{MLP}(\mathrm{LN}(\hat z^l)) + \hat z^l \\
           \hat z^{l+1} &= \mathrm{SW\text{-}MSA}(\mathrm{LN}(z^l)) + z^l, \qquad
           z^{l+1} = \mathrm{MLP}(\mathrm{LN}(\hat z^{l+1})) + \hat z^{l+1}

The skips are the four additions of equation 3, identities all. The displacement is a cyclic roll; what is neighbour
only because of the roll is kept apart by a mask. Attention has a learned bias for each relative position,
:math:`\mathrm{softmax}(QK^T/\sqrt d + B)V`. Between stages, 2x2 tokens are concatenated and halved in width.

:class:`Swin` classifies. :class:`UPerNet` segments: the maps of all four stages enter a feature pyramid, where a coarse
map, enlarged, is *added* to the next finer one: three skips across scales, through a 1x1 convolution each.

Z. Liu, Y. Lin, Y. Cao, H. Hu, Y. Wei, Z. Zhang, S. Lin, B. Guo: "Swin Transformer: Hierarchical Vision Transformer
using Shifted Windows", ICCV 2021, arXiv:2103.14030. UPerNet: T. Xiao et al., ECCV 2018, arXiv:1807.10221.

Deviations from the paper, as in the authors' code:

- A classifier's map that is one window only is not displaced; in UPerNet, which takes any size, it is.
- Patches are normalised before the first block, and in UPerNet each stage's map has a normalisation of its own.
- UPerNet is trained with a second classifier on the third map, whose loss counts 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from timm.layers.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.pixel_loss import pixel_cross_entropy
from skipkb.nn.published import published

__all__ = [
    "PatchMerging", "Stage", "Swin", "SwinBlock", "SwinTrunk", "UPerHead", "UPerNet", "WindowAttention", "objective",
    "relative_position_index", "shift_mask", "swin_base", "swin_small", "swin_tiny", "upernet_swin_base",
    "upernet_swin_small", "upernet_swin_tiny", "window_partition", "window_reverse",
]  # fmt: skip

POOL_SCALES = (1, 2, 3, 6)
"""Cells in a row of the pyramid pooling's maps."""


# --- windows ------------------------------------------------------------------------------------------------------


def window_partition(x: Tensor, size: int) -> Tensor:
    """[N, H, W, C] -> [N * H/size * W/size, size * size, C]; H and W are multiples of size."""
    n, h, w, c = x.shape
    x = x.view(n, h // size, size, w // size, size, c).transpose(2, 3)
    return x.reshape(-1, size * size, c)


def window_reverse(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """The inverse of :func:`window_partition`: -> [N, height, width, C]."""
    c = windows.shape[-1]
    x = windows.view(-1, height // size, width // size, size, size, c).transpose(2, 3)
    return x.reshape(-1, height, width, c)


def relative_position_index(size: int) -> Tensor:
    """Row of the bias table for each pair of tokens in a window, by their displacement: [size^2, size^2]."""
    axis = torch.arange(size)
    tokens = torch.cartesian_prod(axis, axis)
    down, right = (tokens[:, None] - tokens[None, :] + size - 1).unbind(-1)
    return down * (2 * size - 1) + right


def shift_mask(height: int, width: int, size: int, shift: int, device: torch.device | None = None) -> Tensor:
    """Figure 4: after the roll, the last window of an axis holds tokens from both ends of the map.

    Returns:
        What is added to the attention of each window, [windows, size^2, size^2]: 0 for tokens that were neighbours
        before the roll, -100 for others.
    """

    def part(n: int) -> Tensor:
        i = torch.arange(n, device=device)
        return (i >= n - size).long() + (i >= n - shift).long()

    region = 3 * part(height)[:, None] + part(width)[None, :]
    region = window_partition(region[None, :, :, None], size).squeeze(-1)
    return (region[:, None, :] != region[:, :, None]) * -100.0


class WindowAttention(nn.Module):
    """Attention inside windows, with a bias for each relative position and head."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: [N * windows, M^2, C]; mask: [windows, M^2, M^2], or None -> like x."""
        b, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(b, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        logits = (q * q.shape[-1] ** -0.5) @ k.mT + bias  # [N * windows, heads, M^2, M^2]
        if mask is not None:
            logits = logits.unflatten(0, (-1, len(mask))) + mask[:, None].to(logits.dtype)
            logits = logits.flatten(0, 1)
        x = (logits.softmax(-1) @ v).transpose(1, 2).reshape(b, tokens, dim)
        return self.proj(x)  # type: ignore[no-any-return]


# --- blocks and stages --------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    """Four times as many channels, GELU, back; the same for every token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class SwinBlock(nn.Module):
    """Attention in windows and an MLP, each normalised first and inside its own skip (Figure 3b).

    Args:
        dim: channels.
        num_heads: heads of the attention.
        window_size: M.
        shifted: displace the windows by half.
        resolution: side of the map, if it is always the same; its mask is then part of the state dict, as in the
            official checkpoints, and a map no larger than a window is one window. Without it maps of any size are
            padded with zeros to a multiple of the window.
        drop_path: probability that a picture skips a branch in training.
    """

    attn_mask: Tensor | None

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        window_size: int,
        shifted: bool,
        resolution: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if resolution is not None and resolution <= window_size:
            window_size, shifted = resolution, False
        self.size, self.shift, self.resolution = window_size, window_size // 2 if shifted else 0, resolution
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, num_heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        stored = shift_mask(resolution, resolution, self.size, self.shift) if resolution and self.shift else None
        self.register_buffer("attn_mask", stored)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        x = x + self.drop_path(self.attend(self.norm1(x)))  # a skip
        x = x + self.drop_path(self.mlp(self.norm2(x)))  # another
        return x

    def attend(self, x: Tensor) -> Tensor:
        """(S)W-MSA: pad, roll, cut into windows, attend, and all of it back."""
        height, width = x.shape[1:3]
        bottom, right = -height % self.size, -width % self.size
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        rows, columns = height + bottom, width + right
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = self.attn_mask
            if mask is None or (rows, columns) != (self.resolution, self.resolution):
                mask = shift_mask(rows, columns, self.size, self.shift, x.device)
        x = window_reverse(self.attn(window_partition(x, self.size), mask), self.size, rows, columns)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """2x2 neighbours side by side, and half of the channels: [N, H, W, C] -> [N, ceil(H/2), ceil(W/2), 2C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]  # down each column first
        return self.reduction(self.norm(torch.cat(quarters, -1)))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Blocks of one resolution, and the merging behind them, if there is a next stage."""

    def __init__(self, blocks: Sequence[SwinBlock], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if downsample is not None:
            self.downsample = downsample


class PatchEmbed(nn.Module):
    """Patches of P x P pixels, projected and normalised: [N, in_channels, H, W] -> [N, ceil(H/P), ceil(W/P), C]."""

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = (-side % self.patch_size for side in x.shape[2:])
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class SwinTrunk(nn.Module):
    """Patches and four stages (Figure 3a).

    Args:
        embed_dim: channels C of the first stage; each later one has twice as many.
        depths: blocks of each stage; the second, fourth and so on are shifted.
        num_heads: of each stage.
        window_size: M.
        patch_size: side of a patch in pixels.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first one.
        img_size: side of the picture, if it is always the same; see :class:`SwinBlock`.
        map_norms: a normalisation for the map of each stage, for dense tasks.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        patch_size: int = 4,
        drop_path_rate: float = 0.2,
        img_size: int | None = None,
        map_norms: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads) or not depths or min(*depths, *num_heads, embed_dim, window_size) < 1:
            raise ValueError(
                f"{type(self).__name__}: depths and num_heads need one positive number per stage each, and the others "
                f"must be positive, got depths={tuple(depths)}, num_heads={tuple(num_heads)}, embed_dim={embed_dim} "
                f"and window_size={window_size}"
            )
        dims = [embed_dim * 2**i for i in range(len(depths))]
        if any(dim % heads for dim, heads in zip(dims, num_heads, strict=True)):
            raise ValueError(
                f"{type(self).__name__}: num_heads must divide the channels {dims}, got {tuple(num_heads)}"
            )
        self.in_channels, self.dims = in_channels, dims
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size)
        self.layers = nn.ModuleList()
        self.map_norms = map_norms
        number = 0
        for i, (depth, dim, heads) in enumerate(zip(depths, dims, num_heads, strict=True)):
            blocks = []
            for j in range(depth):
                block = SwinBlock(
                    dim,
                    num_heads=heads,
                    window_size=window_size,
                    shifted=j % 2 == 1,
                    resolution=img_size // (patch_size * 2**i) if img_size else None,
                    drop_path=drop_path_rate * number / max(1, sum(depths) - 1),
                )
                blocks.append(block)
                number += 1
            self.layers.append(Stage(blocks, PatchMerging(dim) if dim != dims[-1] else None))
            if map_norms:
                self.add_module(f"norm{i}", nn.LayerNorm(dim))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Pictures [N, in_channels, H, W] -> the map of each stage, [N, H_i, W_i, C_i], at strides 4, 8, 16 and 32."""
        x = self.patch_embed(x)
        found = []
        for i, stage in enumerate(self.layers):
            assert isinstance(stage, Stage)
            for block in stage.blocks:
                x = block(x)
            found.append(getattr(self, f"norm{i}")(x) if self.map_norms else x)
            if hasattr(stage, "downsample"):
                x = stage.downsample(x)
        return found


class Swin(SwinTrunk):
    """The classifier: stages, normalisation, average, linear layer (Figure 3a, Section 3.3).

    Args:
        num_classes: outputs.
        img_size: height and width of the picture; the masks are made for it.
        options: of :class:`SwinTrunk`.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        patch_size: int = 4,
        drop_path_rate: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        for i in range(len(depths)):
            side, left = divmod(img_size, patch_size * 2**i)
            if left or side < 1 or (side > window_size and side % window_size):
                raise ValueError(
                    f"Swin: the map of each stage must be cut into windows of {window_size}, got img_size={img_size}, "
                    f"patch_size={patch_size} and {len(depths)} stages"
                )
        super().__init__(
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            patch_size=patch_size,
            drop_path_rate=drop_path_rate,
            img_size=img_size,
            in_channels=in_channels,
        )
        self.size = (img_size, img_size)
        self.norm = nn.LayerNorm(self.dims[-1])
        self.head = nn.Linear(self.dims[-1], num_classes)
        self.apply(_init_transformer)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, img_size, img_size] -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures of exactly that size.
        """
        check_pictures("Swin", x, self.in_channels, size=self.size)
        x = self.norm(self.maps(x)[-1])
        logits: Tensor = self.head(x.mean(dim=(1, 2)))
        return logits


# --- segmentation -------------------------------------------------------------------------------------------------


class ConvModule(nn.Module):
    """Convolution, batch normalisation, ReLU; the size stays."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear interpolation to the height and width of another map."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class UPerHead(nn.Module):
    """Pyramid pooling on the last map, a feature pyramid over all maps, and a classifier.

    Args:
        in_channels: channels of the maps, from fine to coarse.
        channels: of everything inside.
        num_classes: outputs.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__()
        last = in_channels[-1]
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvModule(last, channels, 1)) for scale in POOL_SCALES
        )
        self.bottleneck = ConvModule(last + len(POOL_SCALES) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1) for width in in_channels[:-1])
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in in_channels[:-1])
        self.fpn_bottleneck = ConvModule(len(in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        _init_classifier(self.conv_seg)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: [N, C_i, H_i, W_i], from fine to coarse -> logits [N, K, H_0, W_0]."""
        pooled = [resize(module(maps[-1]), maps[-1]) for module in self.psp_modules]
        x = self.bottleneck(torch.cat([maps[-1], *pooled], dim=1))
        pyramid = [x]
        for lateral, finer in zip(reversed(self.lateral_convs), reversed(maps[:-1]), strict=True):
            side = lateral(finer)
            x = side + resize(x, side)  # a skip across scales: what the trunk had at this resolution
            pyramid.insert(0, x)
        smooth = [conv(x) for conv, x in zip(self.fpn_convs, pyramid, strict=False)]  # the coarsest has none
        smooth.append(pyramid[-1])
        x = self.fpn_bottleneck(torch.cat([resize(x, smooth[0]) for x in smooth], dim=1))
        return self.conv_seg(self.dropout(x))  # type: ignore[no-any-return]


class FCNHead(nn.Module):
    """The classifier that helps in training: one 3x3 convolution and a 1x1, [N, C, H, W] -> [N, K, H, W]."""

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvModule(in_channels, channels, 3))
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        _init_classifier(self.conv_seg)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_seg(self.dropout(self.convs(x)))  # type: ignore[no-any-return]


class UPerNet(nn.Module):
    """Swin and the head that segments, for pictures of any size (Section 4.3).

    Args:
        embed_dim, depths, num_heads, window_size, patch_size, drop_path_rate, in_channels: of :class:`SwinTrunk`.
        channels: of the head.
        aux_channels: of the classifier that helps in training.
        num_classes: classes of a pixel.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        patch_size: int = 4,
        drop_path_rate: float = 0.3,
        channels: int = 512,
        aux_channels: int = 256,
        num_classes: int = 150,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(depths) < 2:
            raise ValueError(f"UPerNet: needs at least two stages, got depths={tuple(depths)}")
        self.in_channels = in_channels
        self.backbone = SwinTrunk(
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            patch_size=patch_size,
            drop_path_rate=drop_path_rate,
            map_norms=True,
            in_channels=in_channels,
        )
        self.backbone.apply(_init_transformer)
        self.decode_head = UPerHead(self.backbone.dims, channels, num_classes)
        self.auxiliary_head = FCNHead(self.backbone.dims[-2], aux_channels, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pictures [N, in_channels, H, W] of any size -> logits ``out`` [N, K, H/4, W/4] and ``aux``, at 1/16.

        For use, ``out`` is enlarged to the size of the picture by bilinear interpolation.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("UPerNet", x, self.in_channels)
        maps = [one.permute(0, 3, 1, 2).contiguous() for one in self.backbone.maps(x)]
        return {"out": self.decode_head(maps), "aux": self.auxiliary_head(maps[-2])}


def objective(output: Tensor | dict[str, Tensor], target: Tensor) -> Tensor:
    """The loss of a classifier or of :class:`UPerNet`: a scalar.

    Args:
        output: logits [N, K] of pictures: cross-entropy, with labels smoothed by 0.1 where they are classes. Or a dict
            with logits ``out`` and ``aux`` of pixels: the cross-entropy of both at full resolution, ``aux`` times 0.4.
        target: classes [N], or probabilities [N, K], which mixing of pictures gives; of pixels, classes [N, H, W], 255
            for those that do not count.
    """
    if isinstance(output, dict):
        return pixel_cross_entropy(output["out"], target) + 0.4 * pixel_cross_entropy(output["aux"], target)
    return F.cross_entropy(output, target, label_smoothing=0.0 if target.is_floating_point() else 0.1)


def _init_transformer(module: nn.Module) -> None:
    """As the authors' code: Gaussians of deviation 0.02, cut off far away; the patch projection as PyTorch has it."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        trunc_normal_(module.relative_position_bias_table, std=0.02)


def _init_classifier(conv: nn.Conv2d) -> None:
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


# Section 3.3; the rates of stochastic depth are those of Appendix A2.1 and of the configurations for ADE20K
_T = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_S = {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
_B = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_FREE = ["img_size", "window_size", "drop_path_rate"]
swin_tiny = published(Swin, **_T, drop_path_rate=0.2, free=_FREE)
swin_small = published(Swin, **_S, drop_path_rate=0.3, free=_FREE)
swin_base = published(Swin, **_B, drop_path_rate=0.5, free=_FREE)
upernet_swin_tiny = published(UPerNet, **_T, free=["drop_path_rate"])
upernet_swin_small = published(UPerNet, **_S, free=["drop_path_rate"])
upernet_swin_base = published(UPerNet, **_B, free=["drop_path_rate"])

r"""SwinIR: image restoration by attention in shifted windows, with residual connections at four scales.

A convolution takes shallow features :math:`F_0` from the degraded image, a body of K residual Swin
Transformer blocks computes deep features, and a reconstruction module turns the sum into the restored image:

.. math::  F_0 = H_{SF}(I_{LQ}), \qquad F_{DF} = H_{CONV}(H_{RSTB_K}(\dots H_{RSTB_1}(F_0))), \qquad
           I_{RHQ} = H_{REC}(F_0 + F_{DF})

The skips, from the shortest to the longest:

- in a Swin Transformer layer, around the attention and around the MLP (Section 3.2):
  :math:`X = \mathrm{MSA}(\mathrm{LN}(X)) + X` and :math:`X = \mathrm{MLP}(\mathrm{LN}(X)) + X`;
- in a residual Swin Transformer block (RSTB), around its layers and one convolution (Section 3.2):
  :math:`F_{i,out} = H_{CONV_i}(F_{i,L}) + F_{i,0}`;
- around the whole body: the low frequencies of :math:`F_0` go straight to the reconstruction;
- in denoising and JPEG artefact removal also around the whole network, which then learns a residual only.

Attention works inside windows of M x M pixels, :math:`\mathrm{SoftMax}(QK^T/\sqrt d + B)V`, with a bias B
looked up by relative position. Every second layer displaces the windows by half their size.

J. Liang, J. Cao, G. Sun, K. Zhang, L. Van Gool, R. Timofte: "SwinIR: Image Restoration Using Swin
Transformer", ICCV Workshops 2021, pp. 1833-1844, arXiv:2108.10257.

Deviations from the paper:

- A LayerNorm follows the shallow features and another the last block; training uses stochastic depth 0.1. The
  paper's equations mention neither, the official code has both and its checkpoints hold the norms.
- The Charbonnier loss is taken per pixel and averaged, where the paper writes the norm of the whole image.

An image whose size is not a multiple of the window is extended by reflection and the result is cropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from timm.layers.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "SwinIR",
    "charbonnier",
    "objective",
    "swinir_classical",
    "swinir_denoise",
    "swinir_jpeg",
    "swinir_lightweight",
    "swinir_real_world",
]

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as the official code subtracts it
NUM_FEAT = 64  # channels of the upsampling part


def window_partition(x: Tensor, size: int) -> Tensor:
    """[N, H, W, C] -> [N * H/size * W/size, size * size, C]; H and W are multiples of size."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // size, size, w // size, size, c)
    return x.transpose(2, 3).reshape(-1, size * size, c)


def window_reverse(windows: Tensor, size: int, h: int, w: int) -> Tensor:
    """The inverse of :func:`window_partition`."""
    c = windows.shape[-1]
    x = windows.reshape(-1, h // size, w // size, size, size, c)
    return x.transpose(2, 3).reshape(-1, h, w, c)


def relative_position_index(size: int) -> Tensor:
    """Row of the bias table for every pair of pixels in a window, [size^2, size^2].

    Pixel p looks at pixel q with the entry of the displacement p - q, in -(size-1)..size-1 per axis.
    """
    axis = torch.arange(size)
    pixels = torch.cartesian_prod(axis, axis)
    dy, dx = (pixels[:, None] - pixels[None, :] + size - 1).unbind(-1)
    return dy * (2 * size - 1) + dx


def shift_mask(h: int, w: int, size: int, shift: int, *, device: torch.device | None = None) -> Tensor:
    """Keeps pixels apart that are neighbours only because of the cyclic shift, [windows, size^2, size^2].

    After the image was rolled by ``shift``, the last window of each axis holds rows from both ends of the
    image. 0 stands for pairs that may attend, -100 for pairs that may not.
    """

    def part(n: int) -> Tensor:  # 0: untouched windows, 1 and 2: the two ends inside the last window
        i = torch.arange(n, device=device)
        return (i >= n - size).long() + (i >= n - shift).long()

    regions = 3 * part(h)[:, None] + part(w)[None, :]
    regions = window_partition(regions[None, :, :, None], size).squeeze(-1)
    return (regions[:, None, :] != regions[:, :, None]) * -100.0


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learnt bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, *, dim: int, window_size: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"SwinIR: embed_dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: [N * windows, M^2, C]; mask: [windows, M^2, M^2], added to the logits -> like x."""
        b, m2, c = x.shape
        q, k, v = self.qkv(x).reshape(b, m2, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        logits = (q * self.scale) @ k.transpose(-2, -1) + bias  # [N * windows, heads, M^2, M^2]
        if mask is not None:
            windows = mask.shape[0]
            logits = logits.unflatten(0, (b // windows, windows)) + mask[:, None].to(logits.dtype)
            logits = logits.flatten(0, 1)
        x = (logits.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, m2, c)
        x = self.proj(x)
        return x


class Mlp(nn.Module):
    """Two linear layers with GELU between them, the same for every pixel."""

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(F.gelu(self.fc1(x)))
        return x


class SwinTransformerLayer(nn.Module):
    """Window attention and MLP, each behind a LayerNorm and inside its own skip."""

    attn_mask: Tensor | None

    def __init__(
        self,
        *,
        dim: int,
        img_size: int,
        num_heads: int,
        window_size: int,
        shift_size: int,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift_size = shift_size if img_size > window_size else 0  # a single window has nowhere to go
        self.img_size = img_size
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim=dim, window_size=window_size, num_heads=num_heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim=dim, hidden=int(dim * mlp_ratio))
        # The mask for the training size is part of the official checkpoints.
        mask = shift_mask(img_size, img_size, window_size, self.shift_size) if self.shift_size else None
        self.register_buffer("attn_mask", mask)

    def attention(self, x: Tensor) -> Tensor:
        """(S)W-MSA of [N, H, W, C]: roll, cut into windows, attend, put together, roll back."""
        h, w = x.shape[1:3]
        mask = self.attn_mask
        if self.shift_size:
            x = x.roll((-self.shift_size, -self.shift_size), dims=(1, 2))
            if (h, w) != (self.img_size, self.img_size):
                mask = shift_mask(h, w, self.window_size, self.shift_size, device=x.device)
        x = self.attn(window_partition(x, self.window_size), mask)
        x = window_reverse(x, self.window_size, h, w)
        return x.roll((self.shift_size, self.shift_size), dims=(1, 2)) if self.shift_size else x

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


def residual_conv(dim: int, kind: str) -> nn.Module:
    """The convolution before a long addition: one 3x3, or three with a bottleneck that spare parameters."""
    if kind == "1conv":
        return nn.Conv2d(dim, dim, 3, padding=1)
    if kind == "3conv":
        return nn.Sequential(
            nn.Conv2d(dim, dim // 4, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(dim // 4, dim // 4, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(dim // 4, dim, 3, padding=1),
        )
    raise ValueError(f"SwinIR: resi_connection must be '1conv' or '3conv', got {kind!r}")


def on_maps(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution to channels-last features [N, H, W, C]."""
    x = module(x.permute(0, 3, 1, 2))
    return x.permute(0, 2, 3, 1)


class RSTB(nn.Module):
    """Residual Swin Transformer block: several layers, a convolution, and the block's own skip."""

    def __init__(self, *, layers: Sequence[SwinTransformerLayer], conv: nn.Module) -> None:
        super().__init__()
        self.residual_group = nn.ModuleDict({"blocks": nn.Sequential(*layers)})
        self.conv = conv

    def residual(self, x: Tensor) -> Tensor:
        return on_maps(self.conv, self.residual_group["blocks"](x))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class SwinIR(nn.Module):
    """SwinIR of Figure 2 of the paper.

    Args:
        in_chans: channels of the image, 3 or 1.
        img_size: edge of the training patch in pixels, for which masks are stored. Any size can be restored.
        embed_dim: feature channels (180, lightweight 60).
        depths: Swin Transformer layers in each residual block.
        num_heads: attention heads in each residual block.
        window_size: edge M of a window in pixels (8; 7 for JPEG, out of step with its 8 x 8 blocks).
        mlp_ratio: width of the MLP over embed_dim.
        drop_path_rate: probability of skipping a residual branch in the last layer, from 0 in the first.
        upscale: factor of super-resolution, 1 for denoising and JPEG artefacts.
        img_range: inputs in [0, 1] are multiplied by it.
        upsampler: "pixelshuffle" (classical), "pixelshuffledirect" (lightweight), "nearest+conv" (real
            world), or "" for a network without upsampling that adds its output to the image.
        resi_connection: "1conv" or "3conv", see :func:`residual_conv`.

    Raises:
        ValueError: settings that contradict each other.
    """

    mean: Tensor

    def __init__(
        self,
        *,
        in_chans: int = 3,
        img_size: int = 64,
        embed_dim: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        window_size: int = 8,
        mlp_ratio: float = 2.0,
        drop_path_rate: float = 0.1,
        upscale: int = 2,
        img_range: float = 1.0,
        upsampler: str = "pixelshuffle",
        resi_connection: str = "1conv",
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads):
            raise ValueError(f"SwinIR: {len(depths)} depths, but {len(num_heads)} num_heads; one of each per block")
        if img_size % window_size:
            raise ValueError(f"SwinIR: img_size {img_size} is not a multiple of window_size {window_size}")
        self.window_size, self.upscale, self.img_range = window_size, upscale, img_range
        self.upsampler = upsampler
        mean = torch.tensor(RGB_MEAN if in_chans == 3 else [0.0] * in_chans)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)

        # 1. Shallow features.
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)

        # 2. Deep features. Layers are skipped in training with a probability that grows with depth.
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim)})
        total = sum(depths)
        drop_paths = iter(drop_path_rate * i / max(1, total - 1) for i in range(total))
        self.layers = nn.Sequential()
        for depth, heads in zip(depths, num_heads, strict=True):
            layers = [
                SwinTransformerLayer(
                    dim=embed_dim,
                    img_size=img_size,
                    num_heads=heads,
                    window_size=window_size,
                    shift_size=0 if i % 2 == 0 else window_size // 2,
                    mlp_ratio=mlp_ratio,
                    drop_path=next(drop_paths),
                )
                for i in range(depth)
            ]
            self.layers.append(RSTB(layers=layers, conv=residual_conv(embed_dim, resi_connection)))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_conv(embed_dim, resi_connection)

        # 3. Reconstruction.
        if upsampler in ("pixelshuffle", "nearest+conv"):
            self.conv_before_upsample = nn.Sequential(
                nn.Conv2d(embed_dim, NUM_FEAT, 3, padding=1), nn.LeakyReLU(inplace=True)
            )
        if upsampler == "pixelshuffle":
            self.upsample = nn.Sequential()
            for factor in _shuffle_steps(upscale):
                self.upsample.append(nn.Conv2d(NUM_FEAT, factor**2 * NUM_FEAT, 3, padding=1))
                self.upsample.append(nn.PixelShuffle(factor))
            self.conv_last = nn.Conv2d(NUM_FEAT, in_chans, 3, padding=1)
        elif upsampler == "pixelshuffledirect":
            self.upsample = nn.Sequential(
                nn.Conv2d(embed_dim, upscale**2 * in_chans, 3, padding=1), nn.PixelShuffle(upscale)
            )
        elif upsampler == "nearest+conv":
            if upscale != 4:
                raise ValueError(f"SwinIR: upsampler 'nearest+conv' is defined for upscale 4, got {upscale}")
            self.conv_up1 = nn.Conv2d(NUM_FEAT, NUM_FEAT, 3, padding=1)
            self.conv_up2 = nn.Conv2d(NUM_FEAT, NUM_FEAT, 3, padding=1)
            self.conv_hr = nn.Conv2d(NUM_FEAT, NUM_FEAT, 3, padding=1)
            self.conv_last = nn.Conv2d(NUM_FEAT, in_chans, 3, padding=1)
        elif upsampler == "":
            if upscale != 1:
                raise ValueError(f"SwinIR: without an upsampler upscale must be 1, got {upscale}")
            self.conv_last = nn.Conv2d(embed_dim, in_chans, 3, padding=1)
        else:
            raise ValueError(
                "SwinIR: upsampler must be 'pixelshuffle', 'pixelshuffledirect', 'nearest+conv' or '', "
                f"got {upsampler!r}"
            )
        self.apply(_init_weights)

    def body(self, x: Tensor) -> Tensor:
        """Deep features of shallow ones, [N, C, H, W] -> the same; H and W are multiples of the window."""
        x = self.patch_embed["norm"](x.permute(0, 2, 3, 1))
        x = self.norm(self.layers(x))
        x = self.conv_after_body(x.permute(0, 3, 1, 2))
        return x

    def reconstruct(self, x: Tensor) -> Tensor:
        """Features [N, C, H, W] -> image [N, in_chans, H * upscale, W * upscale]."""
        if self.upsampler == "pixelshuffle":
            x = self.conv_last(self.upsample(self.conv_before_upsample(x)))
        elif self.upsampler == "pixelshuffledirect":
            x = self.upsample(x)
        elif self.upsampler == "nearest+conv":
            x = self.conv_before_upsample(x)
            for conv in (self.conv_up1, self.conv_up2):
                x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
            x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))
        else:
            x = self.conv_last(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Restore images [N, in_chans, H, W] with values in [0, 1] -> [N, in_chans, H*upscale, W*upscale].

        Raises:
            ValueError: the image is too small to be extended to a multiple of the window by reflection.
        """
        h, w = x.shape[-2:]
        bottom, right = -h % self.window_size, -w % self.window_size
        if bottom >= h or right >= w:
            raise ValueError(
                f"SwinIR: an image of {h} x {w} cannot be mirrored up to a multiple of the window; "
                f"edges of more than {self.window_size // 2} pixels are always large enough"
            )
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="reflect")
        x = (x - self.mean) * self.img_range
        shallow = self.conv_first(x)
        deep = shallow + self.body(shallow)
        x = self.reconstruct(deep) if self.upsampler else x + self.reconstruct(deep)
        x = x / self.img_range + self.mean
        return x[..., : h * self.upscale, : w * self.upscale]


def _shuffle_steps(upscale: int) -> list[int]:
    if upscale == 3:
        return [3]
    if upscale < 1 or upscale & (upscale - 1):
        raise ValueError(f"SwinIR: upsampler 'pixelshuffle' takes upscale 3 or a power of two, got {upscale}")
    return [2] * (upscale.bit_length() - 1)


def _init_weights(module: nn.Module) -> None:
    """As the official code: truncated normal 0.02 for linear layers; convolutions keep PyTorch's default."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def swinir_classical(*, upscale: int = 2, img_size: int = 64) -> SwinIR:
    """Classical super-resolution x2, x3, x4 or x8.

    The official models have img_size 48 where they were trained on DIV2K alone, 64 with Flickr2K.
    """
    return SwinIR(upscale=upscale, img_size=img_size)


def swinir_lightweight(*, upscale: int = 2) -> SwinIR:
    """Lightweight super-resolution x2, x3 or x4."""
    return SwinIR(
        upscale=upscale,
        embed_dim=60,
        depths=(6, 6, 6, 6),
        num_heads=(6, 6, 6, 6),
        upsampler="pixelshuffledirect",
    )


def swinir_real_world(*, large: bool = False) -> SwinIR:
    """Real-world super-resolution x4, of medium size or large (nine blocks, 240 channels)."""
    if not large:
        return SwinIR(upscale=4, upsampler="nearest+conv")
    return SwinIR(
        upscale=4,
        embed_dim=240,
        depths=(6,) * 9,
        num_heads=(8,) * 9,
        upsampler="nearest+conv",
        resi_connection="3conv",
    )


def swinir_denoise(*, in_chans: int = 3) -> SwinIR:
    """Denoising of colour or grey images."""
    return SwinIR(in_chans=in_chans, img_size=128, upscale=1, upsampler="")


def swinir_jpeg(*, in_chans: int = 1) -> SwinIR:
    """Removal of JPEG artefacts from grey or colour images."""
    return SwinIR(in_chans=in_chans, img_size=126, window_size=7, upscale=1, img_range=255.0, upsampler="")


def objective(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error, for super-resolution. Both [N, C, H, W]."""
    return F.l1_loss(output, target)


def charbonnier(output: Tensor, target: Tensor, *, epsilon: float = 1e-3) -> Tensor:
    """For denoising and JPEG artefacts: an absolute error that is smooth around zero."""
    return ((output - target).square() + epsilon**2).sqrt().mean()

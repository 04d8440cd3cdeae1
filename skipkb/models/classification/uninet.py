r"""UniNet: one residual form for convolution and attention, and a search that decides where each of them stands.

Convolution, attention and MLP are written in one form, so that a search can choose freely among them:

.. math::  y = x + \mathrm{Operator}(x)

Each has an expansion, a width and a number of repetitions. Where the resolution or the width changes, the operators
meet through a down-sampling module (DSM), which is searched as well. A *local* DSM is a strided depthwise convolution.
In a *local-global* DSM the same strided convolution gives the queries of an attention whose keys and values are all
places of the finer map, so that nothing is lost before it can be attended to. Both carry a shortcut of maximum pooling
and a 1x1 convolution.

The network found has four stages of depthwise convolution blocks, joined by local DSMs, then two stages of attention
blocks, each behind a local-global DSM. There is no MLP operator in it. The same network is scaled to B0 ... B6.

J. Liu, X. Huang, G. Song, H. Li, Y. Liu: "UniNet: Unified Architecture Search with Convolution, Transformer, and MLP",
ECCV 2022, arXiv:2207.05420. Layer order, biases and initial values are those of the authors' uninet.py, whose
state-dict names are kept.

Deviations from the paper: only the network that was found is here, not the search, which was not published. Pictures
need not be square: the authors' code derives height and width from the number of tokens, here they are carried along.
In eval mode the gradient of a single picture differs from that code's; finite differences side with ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from timm.layers.helpers import make_divisible
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "AttentionBlock", "DWConvBlock", "LocalDSM", "LocalGlobalDSM", "UniNet", "objective", "uninet_b0", "uninet_b1",
    "uninet_b2", "uninet_b3", "uninet_b4", "uninet_b5", "uninet_b6",
]  # fmt: skip


def _shortcut(in_channels: int, out_channels: int, stride: int, *, pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.MaxPool2d(3, stride=stride, padding=1)] if pooled else []
    return nn.Sequential(*layers, nn.Conv2d(in_channels, out_channels, 1))


def _strided_separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels),
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 1),
    )


def _tokens(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H*W, C]; a view where the channels lie last in memory."""
    return x.flatten(2).transpose(1, 2)


def _map(tokens: Tensor, height: int, width: int) -> Tensor:
    """[N, H*W, C] -> [N, C, H, W], a view with the channels last in memory."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


class SqueezeExcitation(nn.Module):
    """One factor in [0, 1] for each channel, from the mean of all channels; a quarter as many in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels // 4)  # a multiple of 8, not more than a tenth less
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        factors: Tensor = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        return x * F.hardsigmoid(factors)  # a gate


class DWConvBlock(nn.Module):
    """The convolution operator: 1x1 to a wide map, depthwise 3x3, squeeze-and-excitation, 1x1 back; GELU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; where they differ the shortcut is 3x3 pooling and a 1x1 convolution.
        expansion: width inside, in multiples of ``in_channels``; at 1 the first 1x1 is left out.
        drop_path: probability of leaving out the residual branch of a picture in training.
    """

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.residual = _shortcut(in_channels, out_channels, 1, pooled=True)
        self.b1: nn.Module | None = None
        if expansion != 1:
            self.b1 = nn.Sequential(
                *(nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, hidden, 1, bias=False)),
                *(nn.BatchNorm2d(hidden), nn.GELU()),
            )
        last = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(last.weight)  # the block starts as its shortcut
        self.b2 = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            *(nn.BatchNorm2d(hidden), nn.GELU()),
            SqueezeExcitation(hidden),
            *(nn.Conv2d(hidden, out_channels, 1), last),
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H, W]."""
        inside = x if self.b1 is None else self.b1(x)
        return self.residual(x) + self.drop_path(self.b2(inside))  # type: ignore[no-any-return]  # the skip


class Attention(nn.Module):
    """Self-attention of all places, in heads of ``head_dim`` channels."""

    def __init__(self, channels: int, *, head_dim: int) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, places, C] -> the same shape."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers at each place, GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, places, C] -> the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """The attention operator: a depthwise 3x3 tells places apart, then attention and MLP, each around a skip.

    Args:
        channels: of input and output, a multiple of ``head_dim``.
        expansion: width inside the MLP, in multiples of ``channels``.
        head_dim: channels of a head.
        drop_path: probability of leaving out a residual branch of a picture in training.
    """

    def __init__(self, channels: int, *, expansion: int, head_dim: int = 32, drop_path: float = 0.0) -> None:
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.full((channels,), 1e-6))
        self.gamma_2 = nn.Parameter(torch.full((channels,), 1e-6))
        self.norm1 = nn.LayerNorm(channels)
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.attn = Attention(channels, head_dim=head_dim)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, channels * expansion)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        height, width = x.shape[2:]
        x = _tokens(x + self.pos_embed(x))
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        x = x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))
        return _map(x, height, width)


class LocalDSM(nn.Module):
    """Down-sampling by a strided depthwise 3x3 and a 1x1; an output place sees three by three input places."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.residual = _shortcut(in_channels, out_channels, stride, pooled=stride != 1)
        self.downsample = _strided_separable(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        return self.downsample(x) + self.residual(x)  # type: ignore[no-any-return]


class LocalGlobalDSM(nn.Module):
    """Down-sampling by attention: queries from a strided convolution, keys and values from every input place."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, head_dim: int = 32) -> None:
        super().__init__()
        self.heads = out_channels // head_dim
        self.residual = _shortcut(in_channels, out_channels, stride, pooled=stride != 1)
        self.q = _strided_separable(in_channels, out_channels, stride)
        self.q_norm = nn.LayerNorm(out_channels)
        self.kv_norm = nn.LayerNorm(in_channels)
        self.kv = nn.Linear(in_channels, 2 * out_channels)
        self.proj = nn.Linear(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        queries = self.q(x)
        height, width = queries.shape[2:]
        q = self.q_norm(_tokens(queries)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(self.kv_norm(_tokens(x))).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        # The shortcut stands last: computed first, it gives x a gradient in another memory layout, from which PyTorch
        # (2.15, CPU) computes a wrong one for a single picture in eval mode.
        return _map(self.proj(attended), height, width) + self.residual(x)  # type: ignore[no-any-return]  # the skip


class UniNet(nn.Module):
    """Stem, four stages of convolution, two of attention, 1x1 to 1280 channels, average, linear classifier.

    Args:
        repeats: blocks in each of the six stages.
        expansion: of the blocks of each stage.
        channels: of each stage; those of the last two are multiples of ``head_dim``.
        strides: of the DSM in front of the second to sixth stage.
        head_dim: channels of an attention head.
        drop_path: probability of leaving out the last residual branch; it grows linearly from 0 at the first.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        repeats: Sequence[int],
        channels: Sequence[int],
        expansion: Sequence[int] = (1, 4, 6, 3, 2, 5),
        strides: Sequence[int] = (2, 2, 2, 1, 2),
        head_dim: int = 32,
        drop_path: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if {len(repeats), len(channels), len(expansion), len(strides) + 1} != {6}:
            raise ValueError(
                "UniNet: repeats, channels and expansion need six numbers and strides five, "
                f"got {len(repeats)}, {len(channels)}, {len(expansion)} and {len(strides)}"
            )
        if min(repeats) < 1 or any(width % head_dim for width in channels[4:]):
            raise ValueError(
                "UniNet: repeats must be positive and the channels of the last two stages multiples of "
                f"head_dim={head_dim}, got repeats={tuple(repeats)} and channels={tuple(channels)}"
            )
        if not 0 <= drop_path < 1:
            raise ValueError(f"UniNet: drop_path must be in [0, 1), got {drop_path}")
        self.in_channels = in_channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.GELU()
        )
        rates = iter([drop_path * i / max(1, sum(repeats) - 1) for i in range(sum(repeats))])
        blocks: list[nn.Module] = []
        before = 32
        for stage, (count, width, factor) in enumerate(zip(repeats, channels, expansion, strict=True)):
            if 0 < stage < 4:
                blocks.append(LocalDSM(before, width, stride=strides[stage - 1]))
                before = width
            elif stage >= 4:
                blocks.append(LocalGlobalDSM(before, width, stride=strides[stage - 1], head_dim=head_dim))
                before = width
            for _ in range(count):
                if stage < 4:
                    blocks.append(DWConvBlock(before, width, expansion=factor, drop_path=next(rates)))
                else:
                    blocks.append(AttentionBlock(width, expansion=factor, head_dim=head_dim, drop_path=next(rates)))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Conv2d(before, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.GELU())
        self.classifier = nn.Linear(1280, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("UniNet", x, self.in_channels)
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


# The sizes B0 to B6; for square pictures of 160 (B0), 224 (B1), 256, 288, 320, 384 and 448 (B6) pixels.
# fmt: off
uninet_b0 = published(
    UniNet, repeats=(1, 2, 4, 4, 4, 8), channels=(24, 48, 80, 128, 128, 256), free=["drop_path"],
)
uninet_b1 = uninet_b0
uninet_b2 = published(
    UniNet, repeats=(2, 3, 6, 6, 6, 12), channels=(24, 48, 80, 128, 128, 256), free=["drop_path"],
)
uninet_b3 = published(
    UniNet, repeats=(2, 3, 7, 7, 7, 14), channels=(24, 56, 96, 160, 160, 288), free=["drop_path"],
)
uninet_b4 = published(
    UniNet, repeats=(2, 4, 9, 9, 9, 18), channels=(32, 64, 112, 192, 192, 352), free=["drop_path"],
)
uninet_b5 = published(
    UniNet, repeats=(3, 5, 10, 10, 10, 20), channels=(32, 64, 112, 224, 224, 448), free=["drop_path"],
)
uninet_b6 = published(
    UniNet, repeats=(4, 6, 12, 12, 12, 24), channels=(48, 96, 160, 256, 256, 512), free=["drop_path"],
)
# fmt: on

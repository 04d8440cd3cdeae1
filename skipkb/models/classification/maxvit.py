r"""MaxViT: attention in windows for what is near, attention on a grid for what is far.

Attention between all positions of a map costs the square of their number. MaxViT splits it along two axes and pays
linear cost (Section 3.2). For a map of H x W positions and P = G = 7:

- *block attention* cuts the map into windows of P x P neighbours and attends inside each;
- *grid attention* lays a G x G grid over the whole map, and attends among the positions that have the same place in
  their cell: H/G x W/G such sets, each spread over the map.

Both are one rearrangement of the map, followed by the same attention with a learned bias per relative position,

.. math::  \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\bigl(Q K^T / \sqrt d + B\bigr)\, V .

A position that reaches its window and then the grid sets of all its members has reached the whole map, if a window is
as large as a cell. A MaxViT block is an MBConv with squeeze-and-excitation, then block attention, an MLP, grid
attention, an MLP. Five skips: each of these parts is normalised first and then added to its input, x + f(norm(x));
where an MBConv strides, the shortcut is averaged over 2x2 and, if the width changes, projected (Appendix A).

Z. Tu, H. Talebi, H. Zhang, F. Yang, P. Milanfar, A. Bovik, Y. Li: "MaxViT: Multi-Axis Vision Transformer", ECCV 2022,
arXiv:2204.01697.

Deviations from the paper, all as in the authors' code: GELU by its tanh approximation; padding "same" in the way of
TensorFlow, which puts the odd row at the end; squeeze-and-excitation with a quarter of the block's output channels and
SiLU; a hidden layer with tanh in front of the classifier; batch normalisation with epsilon 0.001, which keeps 0.99 of
its running values (timm has 0.9); all weights from a Gaussian of standard deviation 0.02.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "MBConv", "MaxViT", "MaxViTBlock", "PartitionAttention", "block_partition", "block_reverse", "grid_partition",
    "grid_reverse", "maxvit_base", "maxvit_small", "maxvit_tiny", "objective",
]  # fmt: skip


# --- the two partitions -------------------------------------------------------------------------------------------


def block_partition(x: Tensor, size: int) -> Tensor:
    """Windows of neighbours: [N, H, W, C] -> [N * (H/size) * (W/size), size * size, C]."""
    n, h, w, c = x.shape
    x = x.view(n, h // size, size, w // size, size, c).transpose(2, 3)
    return x.reshape(-1, size * size, c)


def block_reverse(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """The inverse of :func:`block_partition`: -> [N, height, width, C]."""
    c = windows.shape[-1]
    x = windows.view(-1, height // size, width // size, size, size, c).transpose(2, 3)
    return x.reshape(-1, height, width, c)


def grid_partition(x: Tensor, size: int) -> Tensor:
    """Sets spread over the map: [N, H, W, C] -> [N * (H/size) * (W/size), size * size, C].

    The grid has size x size cells; a set holds one position of each cell, H/size rows and W/size columns apart.
    """
    n, h, w, c = x.shape
    x = x.view(n, size, h // size, size, w // size, c).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, size * size, c)


def grid_reverse(sets: Tensor, size: int, height: int, width: int) -> Tensor:
    """The inverse of :func:`grid_partition`: -> [N, height, width, C]."""
    c = sets.shape[-1]
    x = sets.view(-1, height // size, width // size, size, size, c).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, height, width, c)


# --- attention ----------------------------------------------------------------------------------------------------


class RelativePositionBias(nn.Module):
    """B of the equation: a number for each head and each offset of two positions inside a size x size set."""

    index: Tensor

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.side = 2 * size - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(heads, self.side, self.side))
        rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        rows, columns = rows.flatten(), columns.flatten()
        below = rows[None, :] - rows[:, None] + size - 1
        right = columns[None, :] - columns[:, None] + size - 1
        self.register_buffer("index", (below * self.side + right).flatten(), persistent=False)
        self.count = size * size

    def forward(self) -> Tensor:
        """-> [1, heads, size * size, size * size]."""
        table = self.relative_position_bias_table.flatten(1)
        return table.index_select(1, self.index).view(1, -1, self.count, self.count)


class Attention(nn.Module):
    """Attention of all positions of a set to each other, in heads of ``dim_head`` channels: [S, L, C] -> same."""

    def __init__(self, dim: int, dim_head: int, size: int) -> None:
        super().__init__()
        self.heads = dim // dim_head
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rel_pos = RelativePositionBias(self.heads, size)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        sets, count, dim = x.shape
        q, k, v = self.qkv(x).view(sets, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.rel_pos())
        return self.proj(x.transpose(1, 2).reshape(sets, count, dim))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Four times as many channels, GELU, back: [..., C] -> [..., C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))  # type: ignore[no-any-return]


class PartitionAttention(nn.Module):
    """Attention inside windows or grid sets, and an MLP, each normalised first and inside a skip.

    Args:
        dim: channels.
        dim_head: channels of a head.
        size: P or G.
        grid: grid sets instead of windows.
        drop_path: probability that a picture skips a part in training.
    """

    def __init__(self, dim: int, *, dim_head: int, size: int, grid: bool, drop_path: float = 0.0) -> None:
        super().__init__()
        self.size = size
        self.grid = grid
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, dim_head, size)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        x = x + self.drop_path(self.attend(self.norm1(x)))  # a skip
        x = x + self.drop_path(self.mlp(self.norm2(x)))  # another
        return x

    def attend(self, x: Tensor) -> Tensor:
        """Partition, attention, and back."""
        height, width = x.shape[1:3]
        if self.grid:
            return grid_reverse(self.attn(grid_partition(x, self.size)), self.size, height, width)
        return block_reverse(self.attn(block_partition(x, self.size)), self.size, height, width)


# --- convolutions -------------------------------------------------------------------------------------------------


class ConvSame(nn.Conv2d):
    """A 3x3 convolution of stride 2, padded as TensorFlow does: ceil(H / 2), an odd row of zeros at the end."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(_pad_same(x, 3), self.weight, self.bias)  # type: ignore[no-any-return]


def _pad_same(x: Tensor, kernel: int) -> Tensor:
    rows, columns = (max((-(-side // 2) - 1) * 2 + kernel - side, 0) for side in x.shape[2:])
    if not rows and not columns:
        return x
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class SEModule(nn.Module):
    """Squeeze-and-excitation: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.fc2(F.silu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))))
        return x * gate


class Shortcut(nn.Module):
    """Of a strided MBConv: 2x2 average, 1x1 projection where the width changes."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, ceil_mode=True)
        self.expand = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.pool(x))  # type: ignore[no-any-return]


class MBConv(nn.Module):
    """Normalisation, 1x1 to four times the channels, depthwise 3x3, squeeze-and-excitation, 1x1 back, and the input.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: 2 in the first block of a stage, else 1.
        drop_path: probability that a picture skips the branch in training.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, drop_path: float = 0.0) -> None:
        super().__init__()
        width = 4 * channels
        self.shortcut: nn.Module = Shortcut(in_channels, channels) if stride == 2 else nn.Identity()
        self.pre_norm = nn.BatchNorm2d(in_channels, eps=1e-3, momentum=0.01)
        self.conv1_1x1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)
        if stride == 2:
            self.conv2_kxk: nn.Conv2d = ConvSame(width, width, 3, stride=2, groups=width, bias=False)
        else:
            self.conv2_kxk = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm2 = nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)
        self.se = SEModule(width, channels // 4)
        self.conv3_1x1 = nn.Conv2d(width, channels, 1)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        return self.shortcut(x) + self.drop_path(self.function(x))  # type: ignore[no-any-return]  # the skip

    def function(self, x: Tensor) -> Tensor:
        """What is added."""
        x = self.conv1_1x1(self.pre_norm(x))
        x = F.gelu(self.norm1(x), approximate="tanh")
        x = F.gelu(self.norm2(self.conv2_kxk(x)), approximate="tanh")
        x = self.conv3_1x1(self.se(x))
        return x


class MaxViTBlock(nn.Module):
    """MBConv, block attention, grid attention (Figure 2): [N, C, H, W] -> [N, C', H', W']."""

    def __init__(
        self, in_channels: int, dim: int, *, stride: int, dim_head: int, size: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.conv = MBConv(in_channels, dim, stride=stride, drop_path=drop_path)
        self.attn_block = PartitionAttention(dim, dim_head=dim_head, size=size, grid=False, drop_path=drop_path)
        self.attn_grid = PartitionAttention(dim, dim_head=dim_head, size=size, grid=True, drop_path=drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 3, 1)
        x = self.attn_grid(self.attn_block(x))
        return x.permute(0, 3, 1, 2)


# --- the network --------------------------------------------------------------------------------------------------


class Stem(nn.Module):
    """Two 3x3 convolutions, the first one strided: [N, in_channels, H, W] -> [N, width, ceil(H/2), ceil(W/2)]."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = ConvSame(in_channels, width, 3, stride=2)
        self.norm1 = nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.norm1(self.conv1(x)), approximate="tanh"))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Blocks of one width; the first one halves the resolution."""

    def __init__(self, blocks: Sequence[MaxViTBlock]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)  # type: ignore[no-any-return]


class Head(nn.Module):
    """Average, normalisation, hidden layer with tanh, classifier: [N, C, H, W] -> [N, num_classes]."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pre_logits = nn.Sequential()
        self.pre_logits.add_module("fc", nn.Linear(dim, dim))
        self.pre_logits.add_module("act", nn.Tanh())
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pre_logits(self.norm(x.mean(dim=(2, 3)))))  # type: ignore[no-any-return]


class MaxViT(nn.Module):
    """Stem, stages of MaxViT blocks, average, classifier (Table 1).

    Args:
        depths: blocks per stage.
        dims: channels of each stage.
        stem_width: channels of the stem.
        partition_size: P and G.
        dim_head: channels of an attention head.
        drop_path_rate: stochastic depth; block i of n has i / n of it, as in the authors' code.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        dims: Sequence[int],
        stem_width: int = 64,
        partition_size: int = 7,
        dim_head: int = 32,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(depths) != len(dims) or not depths or min(*depths, *dims) < 1:
            raise ValueError(
                "MaxViT: depths and dims need one positive number per stage each, "
                f"got depths={tuple(depths)} and dims={tuple(dims)}"
            )
        if dim_head < 1 or any(dim % dim_head for dim in dims) or min(dims) < 4:
            raise ValueError(f"MaxViT: dim_head must divide each width, got dim_head={dim_head} and dims={tuple(dims)}")
        if partition_size < 1:
            raise ValueError(f"MaxViT: partition_size must be positive, got {partition_size}")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"MaxViT: drop_path_rate must be at least 0 and below 1, got {drop_path_rate}")
        self.in_channels = in_channels
        self.multiple = partition_size * 2 ** (1 + len(dims))
        self.stem = Stem(in_channels, stem_width)
        stages, channels, number = [], stem_width, 0
        for depth, dim in zip(depths, dims, strict=True):
            blocks = []
            for j in range(depth):
                blocks.append(
                    MaxViTBlock(
                        channels,
                        dim,
                        stride=2 if j == 0 else 1,
                        dim_head=dim_head,
                        size=partition_size,
                        drop_path=drop_path_rate * number / sum(depths),
                    )
                )
                channels = dim
                number += 1
            stages.append(Stage(blocks))
        self.stages = nn.Sequential(*stages)
        self.head = Head(dims[-1], num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes].

        H and W are multiples of partition_size at the last stage: 224, 448 and so on for the paper's networks.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or of another size.
        """
        check_pictures("MaxViT", x, self.in_channels, multiple=self.multiple)
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, RelativePositionBias):
        nn.init.normal_(module.relative_position_bias_table, std=0.02)


# Table 1: MaxViT-T, S and B.
maxvit_tiny = published(MaxViT, depths=(2, 2, 5, 2), dims=(64, 128, 256, 512), free=["drop_path_rate"])
maxvit_small = published(MaxViT, depths=(2, 2, 5, 2), dims=(96, 192, 384, 768), free=["drop_path_rate"])
maxvit_base = published(MaxViT, depths=(2, 6, 14, 2), dims=(96, 192, 384, 768), free=["drop_path_rate"])

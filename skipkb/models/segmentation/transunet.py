r"""TransUNet: a Transformer at the bottom of a U, and the ResNet in front of it hands its maps across.

A Transformer relates every place of a slice to all others, but on a coarse grid; what it puts out, enlarged sixteen
times, has no edges. U-Net has edges but little context. TransUNet joins them (Figure 1): a ResNet-50 computes maps at a
half, a quarter and an eighth of the resolution, the positions of its last map, at a sixteenth, are the tokens of a
ViT-B, and a decoder enlarges the tokens by two, four times. The skips, from the longest to the shortest:

- at 1/2, 1/4 and 1/8 the ResNet's map is *concatenated* with the enlarged one, as in U-Net. ``n_skip`` says how many,
  the coarsest first; the paper compares 0, 1 and 3 (Section 4.4), and 0 is a decoder that sees tokens only.

  .. math::  x_i = f_i\bigl([\,\mathrm{up}(x_{i-1}),\; r_i\,]\bigr), \qquad i = 1, 2, 3, 4

- each block of the ResNet adds its input to what three convolutions make of it;
- each layer of the Transformer adds its input around attention and around the MLP (equations 2 and 3):
  :math:`z' = \mathrm{MSA}(\mathrm{LN}(z)) + z` and :math:`z = \mathrm{MLP}(\mathrm{LN}(z')) + z'`.

J. Chen, Y. Lu, Q. Yu, X. Luo, E. Adeli, Y. Wang, L. Lu, A. L. Yuille, Y. Zhou: "TransUNet: Transformers Make Strong
Encoders for Medical Image Segmentation", 2021, arXiv:2102.04306.

Deviations from the paper, as in the authors' code:

- A block of the decoder has two 3x3 convolutions, each with batch normalisation, where the text names one without.
- The ResNet is the one of the Vision Transformer's hybrid: 3, 4 and 9 blocks, standardised weights, group
  normalisation. Its maximum pooling is not padded, so the map at a quarter lacks a row and a column, which the skip
  fills with zeros.
- The loss is half cross-entropy and half Dice; the paper names no loss.

Where the paper gives no figure: layers that do not come from a trained Vision Transformer start as PyTorch has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification.vit import from_npz, resize_positions
from skipkb.nn.input_check import check_pictures

__all__ = [
    "Bottleneck", "DecoderBlock", "ResNet", "StdConv2d", "TransUNet", "TransformerLayer", "dice_loss", "objective",
    "start_weights", "transunet",
]  # fmt: skip


# --- the ResNet ---------------------------------------------------------------------------------------------------


class StdConv2d(nn.Conv2d):
    """A convolution whose kernels are brought to mean 0 and variance 1 each time they are used."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return self._conv_forward(x, weight, self.bias)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with group normalisation, around which the input is added.

    Args:
        in_channels: of the input.
        channels: of the output, four times as many as inside.
        stride: of the 3x3 convolution.
        groups: of each normalisation.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, groups: int) -> None:
        super().__init__()
        inner = channels // 4
        self.gn1 = nn.GroupNorm(groups, inner, eps=1e-6)
        self.conv1 = StdConv2d(in_channels, inner, 1, bias=False)
        self.gn2 = nn.GroupNorm(groups, inner, eps=1e-6)
        self.conv2 = StdConv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.gn3 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv3 = StdConv2d(inner, channels, 1, bias=False)
        self.projects = stride != 1 or in_channels != channels
        if self.projects:
            self.downsample = StdConv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.gn_proj = nn.GroupNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        y = self.gn3(self.conv3(y))
        shortcut = self.gn_proj(self.downsample(x)) if self.projects else x
        return F.relu(shortcut + y)


class ResNet(nn.Module):
    """Three stages of the hybrid's ResNet: a map at 1/16, and those on the way.

    Args:
        in_channels: of the picture.
        layers: blocks of each stage.
        width: channels of the stem; stages have 4, 8 and 16 times as many.
        groups: of the normalisations.
    """

    def __init__(self, in_channels: int, *, layers: Sequence[int], width: int, groups: int) -> None:
        super().__init__()
        self.root = nn.Sequential()
        self.root.add_module("conv", StdConv2d(in_channels, width, 7, stride=2, padding=3, bias=False))
        self.root.add_module("gn", nn.GroupNorm(groups, width, eps=1e-6))
        self.root.add_module("relu", nn.ReLU(inplace=True))
        self.body = nn.Sequential()
        channels = width
        for i, count in enumerate(layers):
            stage = nn.Sequential()
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                stage.add_module(f"unit{j + 1}", Bottleneck(channels, 4 * width * 2**i, stride=stride, groups=groups))
                channels = 4 * width * 2**i
            self.body.add_module(f"block{i + 1}", stage)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x: [N, C, H, W], multiples of 16 -> the last map, and the maps at 1/8, 1/4 and 1/2."""
        maps = [self.root(x)]
        x = F.max_pool2d(maps[0], 3, stride=2)
        for stage in self.body[:-1]:
            x = stage(x)
            below, right = (-side % 2 for side in x.shape[2:])  # the pooling's missing row and column
            maps.insert(0, F.pad(x, (0, right, 0, below)) if below or right else x)
        return self.body[-1](x), maps


# --- the Transformer ----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head self-attention, with query, key and value apart: [N, T, D] -> [N, T, D]."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in layers)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with a GELU between: [N, T, D] -> [N, T, D]."""

    def __init__(self, hidden_size: int, mlp_dim: int, dropout_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, hidden_size)
        self.dropout = nn.Dropout(dropout_rate)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))  # type: ignore[no-any-return]


class TransformerLayer(nn.Module):
    """Equations 2 and 3: attention and MLP, each normalised first and inside its own skip."""

    def __init__(self, hidden_size: int, *, num_heads: int, mlp_dim: int, dropout_rate: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.ffn_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.ffn = Mlp(hidden_size, mlp_dim, dropout_rate)
        self.attn = Attention(hidden_size, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] -> [N, T, D]."""
        x = x + self.attn(self.attention_norm(x))  # a skip
        x = x + self.ffn(self.ffn_norm(x))  # another
        return x


class Embeddings(nn.Module):
    """The ResNet, a token for each position of its last map, and learned positions. There is no class token."""

    def __init__(self, trunk: ResNet, in_channels: int, hidden_size: int, tokens: int, dropout_rate: float) -> None:
        super().__init__()
        self.hybrid_model = trunk
        self.patch_embeddings = nn.Conv2d(in_channels, hidden_size, 1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, tokens, hidden_size))
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Picture -> tokens [N, T, D] and the maps for the skips."""
        x, maps = self.hybrid_model(x)
        x = self.patch_embeddings(x).flatten(2).transpose(1, 2)
        return self.dropout(x + self.position_embeddings), maps


class Encoder(nn.Module):
    """Layers and the last normalisation."""

    def __init__(self, layers: Sequence[TransformerLayer], hidden_size: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(*layers)
        self.encoder_norm = nn.LayerNorm(hidden_size, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder_norm(self.layer(x))  # type: ignore[no-any-return]


# --- the decoder --------------------------------------------------------------------------------------------------


def conv_relu(in_channels: int, channels: int) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class DecoderBlock(nn.Module):
    """One step up: enlarge by two, concatenate the skip, if there is one, two convolutions."""

    def __init__(self, in_channels: int, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_relu(in_channels + skip_channels, channels)
        self.conv2 = conv_relu(channels, channels)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """x: [N, C, H, W]; skip: [N, S, 2H, 2W] -> [N, C', 2H, 2W]."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)  # the long skip
        return self.conv2(self.conv1(x))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """The cascaded upsampler: tokens, laid out as a map, enlarged four times."""

    def __init__(
        self, hidden_size: int, head_channels: int, decoder_channels: Sequence[int], skips: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv_more = conv_relu(hidden_size, head_channels)
        widths = (head_channels, *decoder_channels[:-1])
        self.blocks = nn.ModuleList(map(DecoderBlock, widths, skips, decoder_channels))

    def forward(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """x: [N, D, H, W]; maps: for the first blocks -> [N, C, 16H, 16W]."""
        x = self.conv_more(x)
        for block, skip in zip(self.blocks, [*maps, *[None] * (len(self.blocks) - len(maps))], strict=True):
            x = block(x, skip)
        return x


class TransUNet(nn.Module):
    """R50-ViT with the cascaded upsampler (Figure 1). Names of tensors are the authors'.

    Args:
        img_size: height and width of the picture, a multiple of 16; the positions are made for it.
        n_skip: skips from the ResNet, 0 to 3; the coarsest first.
        layers, width, groups: of the ResNet, see :class:`ResNet`.
        hidden_size, mlp_dim, num_heads, num_layers: of the Transformer.
        dropout_rate: behind positions and in the MLPs, in training.
        head_channels: behind the first convolution of the decoder.
        decoder_channels: of its four blocks.
        num_classes: classes of a pixel; 9 for Synapse, 4 for ACDC.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        n_skip: int = 3,
        layers: Sequence[int] = (3, 4, 9),
        width: int = 64,
        groups: int = 32,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
        num_layers: int = 12,
        dropout_rate: float = 0.1,
        head_channels: int = 512,
        decoder_channels: Sequence[int] = (256, 128, 64, 16),
        num_classes: int = 9,
    ) -> None:
        super().__init__()
        if img_size < 16 or img_size % 16:
            raise ValueError(f"TransUNet: img_size must be a multiple of 16, got {img_size}")
        if not 0 <= n_skip <= 3:
            raise ValueError(f"TransUNet: n_skip must lie between 0 and 3, got {n_skip}")
        if len(layers) != 3 or len(decoder_channels) != 4:
            raise ValueError(
                "TransUNet: the ResNet has 3 stages and the decoder 4 blocks, "
                f"got layers={tuple(layers)} and decoder_channels={tuple(decoder_channels)}"
            )
        if width % groups or hidden_size % num_heads:
            raise ValueError(
                f"TransUNet: groups must divide width and num_heads hidden_size, got width={width}, groups={groups}, "
                f"hidden_size={hidden_size} and num_heads={num_heads}"
            )
        self.size, self.n_skip = (img_size, img_size), n_skip
        trunk = ResNet(3, layers=layers, width=width, groups=groups)
        stack = [
            TransformerLayer(hidden_size, num_heads=num_heads, mlp_dim=mlp_dim, dropout_rate=dropout_rate)
            for _ in range(num_layers)
        ]
        tokens = (img_size // 16) ** 2
        self.transformer = nn.ModuleDict(
            {
                "embeddings": Embeddings(trunk, 16 * width, hidden_size, tokens, dropout_rate),
                "encoder": Encoder(stack, hidden_size),
            }
        )
        skips = [8 * width, 4 * width, width][:n_skip]
        self.decoder = Decoder(hidden_size, head_channels, decoder_channels, [*skips, *[0] * (4 - n_skip)])
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder_channels[-1], num_classes, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """x: slices [N, 1, img_size, img_size], or pictures of three channels -> logits [N, num_classes, H, W].

        Raises:
            ValueError: x is not a batch of exactly that size.
        """
        if x.dim() == 4 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        check_pictures("TransUNet", x, 3, size=self.size)
        tokens, maps = self.transformer["embeddings"](x)
        tokens = self.transformer["encoder"](tokens)
        side = self.size[0] // 16
        x = tokens.transpose(1, 2).unflatten(2, (side, side))
        x = self.decoder(x, maps[: self.n_skip])
        logits: Tensor = self.segmentation_head(x)
        return logits


def transunet(*, img_size: int = 224, n_skip: int = 3, num_classes: int = 9) -> TransUNet:
    """R50-ViT-B/16, the paper's network."""
    return TransUNet(img_size=img_size, n_skip=n_skip, num_classes=num_classes)


# --- training and start weights -----------------------------------------------------------------------------------


def dice_loss(probabilities: Tensor, classes: Tensor) -> Tensor:
    """One minus the Dice coefficient with squares in its denominator, averaged over classes, background included.

    Args:
        probabilities: [N, K, H, W]; sums run over the whole batch.
        classes: [N, H, W], long.
    """
    target = F.one_hot(classes, probabilities.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    common = (probabilities * target).sum(dim=(0, 2, 3))
    squares = (probabilities**2).sum(dim=(0, 2, 3)) + target.sum(dim=(0, 2, 3))
    return (1 - (2 * common + 1e-5) / (squares + 1e-5)).mean()


def objective(output: Tensor, target: Tensor) -> Tensor:
    """Half cross-entropy, half Dice loss of the softmax: a scalar.

    Args:
        output: logits [N, K, H, W].
        target: classes [N, H, W], long.
    """
    return 0.5 * F.cross_entropy(output, target) + 0.5 * dice_loss(output.softmax(dim=1), target)


def start_weights(arrays: Mapping[str, Any], *, img_size: int = 224) -> dict[str, Tensor]:
    """What ``R50+ViT-B_16.npz`` of the Vision Transformer's release holds for a TransUNet: all but the decoder.

    Load it with ``strict=False``. The class token's position is left out, the others are stretched to ``img_size``.
    """
    state: dict[str, Tensor] = {}
    renamed = {"norm1": "attention_norm", "norm2": "ffn_norm", "mlp": "ffn", "attn.proj": "attn.out"}
    for name, value in from_npz(arrays).items():
        if name.startswith("blocks."):
            _, number, layer = name.split(".", 2)
            for theirs, ours in renamed.items():
                layer = layer.replace(theirs, ours)
            if "attn.qkv" in layer:
                for part, one in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    state[f"transformer.encoder.layer.{number}.{layer.replace('qkv', part)}"] = one
            else:
                state[f"transformer.encoder.layer.{number}.{layer}"] = value
        elif name.startswith("norm."):
            state[f"transformer.encoder.encoder_{name}"] = value
        elif name.startswith("patch_embed."):
            state[name.replace("patch_embed.proj", "transformer.embeddings.patch_embeddings")] = value
        elif name == "pos_embed":
            state["transformer.embeddings.position_embeddings"] = resize_positions(value, img_size // 16)[:, 1:]
    front = "transformer.embeddings.hybrid_model"
    for name in arrays:
        parts = name.split("/")
        if parts[0] not in ("conv_root", "gn_root") and not parts[0].startswith("block"):
            continue
        value = torch.as_tensor(arrays[name])
        layer = parts[-2].replace("conv_proj", "downsample").replace("_root", "")
        where = f"root.{layer}" if "root" in parts[0] else f"body.{parts[0]}.{parts[1]}.{layer}"
        is_kernel = parts[-1] == "kernel"
        leaf = "bias" if parts[-1] == "bias" else "weight"
        state[f"{front}.{where}.{leaf}"] = value.permute(3, 2, 0, 1) if is_kernel else value.flatten()
    return state

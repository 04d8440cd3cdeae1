r"""TransGAN: two Transformers against each other, and no convolution but a 1x1.

The generator (Section 3.1) turns noise into 8 x 8 tokens, lets layers of attention work on them, and enlarges the grid
by *pixel shuffle*: four times the positions, a quarter of the channels. So at 32 x 32, where there are a thousand
tokens, these are narrow. The last map is multiplied into three colours. Each layer is a Transformer's, with its two
skips,

.. math::  x' = x + \mathrm{Attention}(\mathrm{LN}(x)), \qquad  x'' = x' + \mathrm{MLP}(\mathrm{LN}(x')),

and each attention adds a learned number for every pair of offsets (Section 3.4). No skip leads from one resolution to
the next.

The discriminator (Section 3.2) reads the picture in patches of two sizes. The finer tokens go first; averaged to half
the resolution they are *concatenated* with those of the coarser patches, and at last a class token collects.

Both learn by the Wasserstein loss with a gradient penalty, on pictures that were moved, recoloured and cut out of, real
and made ones alike, and in a way that the gradient passes (Section 3.3):

.. math::  L_D &= D(G(z)) - D(x) + 10\,(\lVert \nabla_{\hat x} D(\hat x) \rVert - 1)^2 + 10^{-3} D(x)^2 \\
           L_G &= -D(G(z))

Y. Jiang, S. Chang, Z. Wang: "TransGAN: Two Pure Transformers Can Make One Strong GAN, and That Can Scale Up", NeurIPS
2021, arXiv:2102.07074.

Deviations from the paper:

- Normalisations are layer normalisations, as the authors' script for CIFAR-10 has them. The paper describes another
  one, which divides each token by the root of its mean square.
- In training, tokens of the discriminator get random noise of a learned strength, which starts at zero: so it is in the
  authors' code.
- :class:`Game` trains both players in one step, by a gradient that changes its sign between them. The authors train
  them by turns, four steps of the discriminator for one of the generator; :func:`alternate` does that.

Where the paper gives no figure: initial values are those of the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = [
    "Block", "Discriminator", "Game", "Generator", "alternate", "augment", "critic_loss", "gradient_penalty",
    "objective", "transgan_cifar10", "transgan_cifar10_discriminator",
]  # fmt: skip


class Attention(nn.Module):
    """Attention of all tokens of a square to each other, with a bias for each offset: [N, T, C] -> same.

    Args:
        dim: channels.
        num_heads: heads.
        side: tokens in a row of the square; 0 for tokens without a place, and no bias.
        noise: whether noise of a learned strength is added to the tokens in training.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, num_heads: int, side: int, *, noise: bool) -> None:
        super().__init__()
        self.num_heads, self.side = num_heads, side
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.noise_strength_1 = nn.Parameter(torch.zeros(())) if noise else None
        if side:
            table = torch.zeros((2 * side - 1) ** 2, num_heads)
            self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
            rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            down = rows.flatten()[:, None] - rows.flatten() + side - 1
            right = columns.flatten()[:, None] - columns.flatten() + side - 1
            self.register_buffer("relative_position_index", down * (2 * side - 1) + right)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        if self.noise_strength_1 is not None and self.training:
            x = x + torch.randn(n, tokens, 1, device=x.device, dtype=x.dtype) * self.noise_strength_1
        q, k, v = self.qkv(x).view(n, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        # Written out: the gradient penalty differentiates twice, which the fused attention does not allow.
        scores = q @ k.transpose(2, 3) * (dim // self.num_heads) ** -0.5
        if self.side:
            bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
            scores = scores + bias.view(tokens, tokens, -1).permute(2, 0, 1)
        x = scores.softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(n, tokens, dim))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Four times as many channels, GELU, back: [N, T, C] -> same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Norm(nn.Module):
    """Layer normalisation, under the name that it has in the code."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A layer of either player: attention and MLP, each inside its skip. [N, T, C] -> same."""

    def __init__(self, dim: int, num_heads: int, side: int, *, noise: bool = False) -> None:
        super().__init__()
        self.norm1 = Norm(dim)
        self.attn = Attention(dim, num_heads, side, noise=noise)
        self.norm2 = Norm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))  # the first skip
        x = x + self.mlp(self.norm2(x))  # the second
        return x


class Stage(nn.Module):
    """Layers at one resolution: [N, T, C] -> same."""

    def __init__(self, depth: int, dim: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.block = nn.Sequential(*(Block(dim, num_heads, side) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)  # type: ignore[no-any-return]


class Generator(nn.Module):
    """Noise to pictures in three stages. Names are those of the release.

    Args:
        latent_dim: numbers of noise.
        bottom_width: tokens in a row of the first stage; the picture has four times as many pixels.
        dim: channels of the first stage; each next one has a quarter.
        depths: layers of the three stages.
        num_heads: heads of every attention.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self, *, latent_dim: int = 256, bottom_width: int = 8, dim: int = 1024, depths: Sequence[int] = (5, 4, 2),
        num_heads: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(depths) != 3 or dim % (16 * num_heads):
            raise ValueError(
                "Generator: there are three stages and dim is a multiple of 16 num_heads, got "
                f"depths={tuple(depths)}, dim={dim} and num_heads={num_heads}"
            )
        self.latent_dim, self.bottom_width = latent_dim, bottom_width
        self.l1 = nn.Linear(latent_dim, bottom_width**2 * dim)
        sizes = [(bottom_width * 2**i, dim // 4**i) for i in range(3)]
        for i, (side, width) in enumerate(sizes, start=1):
            table = nn.init.trunc_normal_(torch.zeros(1, side * side, width), std=0.02)
            self.register_parameter(f"pos_embed_{i}", nn.Parameter(table))
        stages = [Stage(depth, width, num_heads, side) for depth, (side, width) in zip(depths, sizes, strict=True)]
        self.blocks = stages[0]
        self.upsample_blocks = nn.ModuleList(stages[1:])
        self.deconv = nn.Sequential(nn.Conv2d(dim // 16, 3, 1))
        nn.init.xavier_uniform_(self.deconv[0].weight)  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> Tensor:
        """z: noise [N, latent_dim], normally distributed -> pictures [N, 3, 4 * bottom_width, 4 * bottom_width].

        Values are not bounded; real pictures are given in [-1, 1].

        Raises:
            ValueError: z has another shape.
        """
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"Generator: expected noise [N, {self.latent_dim}], got {list(z.shape)}")
        side = self.bottom_width
        x = self.l1(z).view(len(z), side * side, -1)
        x = self.blocks(x + self.get_parameter("pos_embed_1"))
        for i, stage in enumerate(self.upsample_blocks, start=2):
            x = F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (side, side)), 2)
            side *= 2
            x = stage(x.flatten(2).transpose(1, 2) + self.get_parameter(f"pos_embed_{i}"))
        return self.deconv(x.transpose(1, 2).unflatten(2, (side, side)))  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """Pictures to one number each. Names are those of the release.

    Args:
        img_size: height and width of the picture.
        patch_size: of the finer patches; the coarser are twice as large.
        dim: channels of the second stage; finer patches have three quarters, coarser ones a quarter of them.
        depth: layers of either stage.
        num_heads: heads of every attention.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self, *, img_size: int = 32, patch_size: int = 2, dim: int = 384, depth: int = 3, num_heads: int = 4
    ) -> None:
        super().__init__()
        if img_size % (2 * patch_size) or dim % (4 * num_heads):
            raise ValueError(
                "Discriminator: img_size is a multiple of twice patch_size and dim of 4 num_heads, got "
                f"{img_size} and {patch_size}, {dim} and {num_heads}"
            )
        fine, coarse = dim // 4 * 3, dim // 4
        self.img_size = img_size
        self.side = side = img_size // patch_size
        self.fRGB_1 = nn.Conv2d(3, fine, patch_size, stride=patch_size)
        self.fRGB_2 = nn.Conv2d(3, coarse, 2 * patch_size, stride=2 * patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed_1 = nn.Parameter(torch.zeros(1, side * side, fine))
        self.pos_embed_2 = nn.Parameter(torch.zeros(1, side * side // 4, dim))
        self.blocks_1 = nn.Sequential(*(Block(fine, num_heads, side, noise=True) for _ in range(depth)))
        self.blocks_2 = nn.Sequential(*(Block(dim, num_heads, side // 2, noise=True) for _ in range(depth)))
        self.last_block = nn.Sequential(Block(dim, num_heads, 0, noise=True))
        self.norm = Norm(dim)
        self.head = nn.Linear(dim, 1)
        for table in (self.cls_token, self.pos_embed_1, self.pos_embed_2):
            nn.init.trunc_normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, 3, img_size, img_size] -> [N, 1], larger for what looks real.

        Raises:
            ValueError: x is not a batch of such pictures.
        """
        check_pictures("Discriminator", x, 3, size=(self.img_size, self.img_size))
        fine, coarse = (layer(x).flatten(2).transpose(1, 2) for layer in (self.fRGB_1, self.fRGB_2))
        x = self.blocks_1(fine + self.pos_embed_1)
        x = F.avg_pool2d(x.transpose(1, 2).unflatten(2, (self.side, self.side)), 2).flatten(2).transpose(1, 2)
        x = torch.cat([x, coarse], dim=2)  # the coarser patches come in
        x = self.blocks_2(x + self.pos_embed_2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.head(self.norm(self.last_block(x))[:, 0])  # type: ignore[no-any-return]


transgan_cifar10 = published(Generator)
transgan_cifar10_discriminator = published(Discriminator)


# ------------------------------------------------------------------------------------------------ training


def augment(x: Tensor) -> Tensor:
    """Section 3.3: each picture moved, cut out of and recoloured at random, in a way that a gradient passes.

    [N, C, H, W] -> same. Moved by up to a fifth of the edge, zeros coming in; in three of ten calls a square of half
    the edge is set to zero; then brightness, saturation and contrast.
    """
    n, _, height, width = x.shape
    reach = (round(0.2 * height), round(0.2 * width))
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    top = torch.randint(0, 2 * reach[0] + 1, (n, 1, 1, 1), device=x.device)
    left = torch.randint(0, 2 * reach[1] + 1, (n, 1, 1, 1), device=x.device)
    rows = (top + torch.arange(height, device=x.device).view(-1, 1)).expand(n, x.shape[1], height, padded.shape[3])
    columns = (left + torch.arange(width, device=x.device)).expand(n, x.shape[1], height, width)
    x = padded.gather(2, rows).gather(3, columns)
    if torch.rand(()) < 0.3:
        y, z = (torch.arange(edge, device=x.device) for edge in (height, width))
        middle = [torch.randint(0, edge + 1, (n, 1), device=x.device) for edge in (height, width)]
        hole = ((y - middle[0]).abs() <= height // 4)[:, :, None] & ((z - middle[1]).abs() <= width // 4)[:, None]
        x = x * ~hole[:, None]
    brightness, saturation, contrast = torch.rand(3, n, 1, 1, 1, device=x.device)
    x = x + brightness - 0.5
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * 2 * saturation + grey
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * (contrast + 0.5) + mean
    return x


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """How far the discriminator's gradient is from length one, squared, between real and made pictures: a scalar."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    with torch.enable_grad():  # also where only the value is asked for
        between = (share * real + (1 - share) * fake.detach()).requires_grad_(True)
        (gradient,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
        penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


def critic_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator lowers: its mean on made pictures less that on real ones, and two penalties. A scalar."""
    of_real, of_fake = discriminator(real).mean(), discriminator(fake).mean()
    loss: Tensor = of_fake - of_real + 10 * gradient_penalty(discriminator, real, fake) + 1e-3 * of_real.square()
    return loss


def alternate(
    generator: Generator,
    discriminator: Discriminator,
    real: Tensor,
    optimisers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    *,
    critics: int = 4,
) -> tuple[float, float]:
    """One round: the discriminator learns ``critics`` times, then the generator once.

    Args:
        generator, discriminator: in training mode.
        real: pictures [N, 3, H, W] in [-1, 1].
        optimisers: of the generator and of the discriminator.

    Returns:
        The last loss of the discriminator, and that of the generator.
    """
    losses = [torch.zeros(()), torch.zeros(())]
    for player, steps in ((1, critics), (0, 1)):
        for _ in range(steps):
            fake = generator(torch.randn(len(real), generator.latent_dim, device=real.device))
            if player:
                losses[1] = critic_loss(discriminator, augment(real), augment(fake.detach()))
            else:
                losses[0] = -discriminator(augment(fake)).mean()
            optimisers[player].zero_grad()
            losses[player].backward()
            optimisers[player].step()
    return losses[1].item(), losses[0].item()


class Reversed(torch.autograd.Function):
    """The identity, whose gradient has the other sign: what one player lowers, the other raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Played(NamedTuple):
    """Made pictures, and who judges them."""

    fake: Tensor
    discriminator: nn.Module


class Game(nn.Module):
    """Both players as one network, trained together.

    Args:
        generator, discriminator: settings of :class:`Generator` and :class:`Discriminator`.
    """

    def __init__(self, *, generator: dict[str, Any], discriminator: dict[str, Any]) -> None:
        super().__init__()
        self.generator = Generator(**generator)
        self.discriminator = Discriminator(**discriminator)

    def forward(self, z: Tensor) -> Tensor | Played:
        """Noise -> pictures [N, 3, H, W]; in training, with the discriminator, for :func:`objective`."""
        fake = self.generator(z)
        return Played(fake, self.discriminator) if self.training else fake


def objective(output: Played, target: Tensor) -> Tensor:
    """The discriminator's loss, from which the generator gets the gradient with the other sign: a scalar.

    Args:
        output: what :class:`Game` gives in training.
        target: real pictures [N, 3, H, W] in [0, 1].
    """
    fake: Tensor = Reversed.apply(output.fake)
    return critic_loss(output.discriminator, augment(2 * target - 1), augment(fake))

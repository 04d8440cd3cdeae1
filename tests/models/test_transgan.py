"""What the TransGAN paper is about: both players are Transformers, and the grid grows by pixel shuffle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.generation import transgan
from skipkb.models.generation.transgan import (
    Block,
    Discriminator,
    Game,
    Generator,
    alternate,
    augment,
    critic_loss,
    gradient_penalty,
    objective,
)

G = {"latent_dim": 8, "bottom_width": 2, "dim": 64, "depths": (1, 1, 1), "num_heads": 2}
D = {"img_size": 8, "patch_size": 2, "dim": 16, "depth": 1, "num_heads": 2}


def test_the_published_players_are_transformers() -> None:
    with torch.device("meta"):
        generator, discriminator = transgan.transgan_cifar10(), transgan.transgan_cifar10_discriminator()
        assert generator(torch.empty(2, 256)).shape == (2, 3, 32, 32)
        assert discriminator(torch.empty(2, 3, 32, 32)).shape == (2, 1)
    kernels = [m.kernel_size for m in generator.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(1, 1)], "only the colours are made by a convolution, of 1x1"
    assert [m.kernel_size for m in discriminator.modules() if isinstance(m, nn.Conv2d)] == [(2, 2), (4, 4)]
    assert [len(stage.block) for stage in (generator.blocks, *generator.upsample_blocks)] == [5, 4, 2]


@torch.no_grad()
def test_a_layer_adds_two_normalised_branches() -> None:
    block = Block(8, 2, 3).eval()
    x = torch.randn(2, 9, 8)
    middle = x + block.attn(nn.functional.layer_norm(x, (8,)))
    torch.testing.assert_close(block(x), middle + block.mlp(nn.functional.layer_norm(middle, (8,))))
    for layer in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(block(x), x)


@torch.no_grad()
def test_the_bias_depends_on_the_offset_alone() -> None:
    attention = transgan.Attention(8, 2, 3, noise=False)
    nn.init.zeros_(attention.qkv.weight[:16])  # queries and keys say nothing
    nn.init.normal_(attention.relative_position_bias_table)
    bias = attention.relative_position_bias_table[attention.relative_position_index]
    assert bias.shape == (9, 9, 2)
    assert torch.equal(bias[0, 4], bias[4, 8]), "one down and one to the right"
    assert not torch.equal(bias[0, 4], bias[4, 0])
    x = torch.randn(1, 9, 8)
    v = attention.qkv(x)[..., 16:].view(9, 2, 4)
    wanted = torch.einsum("abh,bhc->ahc", bias.softmax(1), v).reshape(1, 9, 8)
    torch.testing.assert_close(attention(x), attention.proj(wanted))


@torch.no_grad()
def test_pixel_shuffle_turns_channels_into_positions() -> None:
    """Without layers and positions, a token's channels become a square of pixels in the place of the token."""
    generator = Generator(**G).eval()
    for stage in (generator.blocks, *generator.upsample_blocks):
        stage.block = nn.Sequential()
    for i in (1, 2, 3):
        generator.get_parameter(f"pos_embed_{i}").zero_()
    z = torch.randn(1, 8)
    picture = generator(z)
    changed = generator.l1.bias.view(2, 2, 64)
    changed[1, 0] += 1
    moved = (generator(z) - picture).abs().sum((0, 1)) > 1e-6
    assert moved[4:, :4].any()
    assert not moved[:4].any()
    assert not moved[:, 4:].any()


@torch.no_grad()
def test_coarse_patches_come_in_at_half_the_resolution() -> None:
    discriminator = Discriminator(**D).eval()
    seen = {}
    discriminator.blocks_2.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    x = torch.randn(1, 3, 8, 8)
    discriminator(x)
    coarse = discriminator.fRGB_2(x).flatten(2).transpose(1, 2) + discriminator.pos_embed_2[..., 12:]
    assert torch.equal(seen["x"][..., 12:], coarse)
    assert seen["x"].shape == (1, 4, 16)


def test_the_noise_of_the_discriminator_is_learned_and_absent_in_use() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(**D)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(discriminator(x), discriminator(x)), "its strength starts at zero"
    discriminator(x).sum().backward()
    strengths = [p for name, p in discriminator.named_parameters() if "noise_strength" in name]
    assert len(strengths) == 3
    assert all(p.grad is not None and p.grad.any() for p in strengths)
    with torch.no_grad():
        for p in strengths:
            p.fill_(1.0)
        assert not torch.equal(discriminator(x), discriminator(x))
        discriminator.eval()
        assert torch.equal(discriminator(x), discriminator(x))


# ------------------------------------------------------------------------------------------------ training


class Linear(nn.Module):
    """A discriminator whose gradient is known."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x.flatten(1)[:, :1]


def test_the_penalty_is_the_squared_distance_of_the_slope_from_one() -> None:
    real, fake = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    for slope in (0.5, 1.0, 3.0):
        with torch.no_grad():
            assert gradient_penalty(Linear(slope), real, fake).item() == pytest.approx((slope - 1) ** 2, abs=1e-6)
    critic = Linear(2.0)
    wanted = 2 * (fake[:, 0, 0, 0].mean() - real[:, 0, 0, 0].mean()) + 10 + 1e-3 * (2 * real[:, 0, 0, 0].mean()) ** 2
    torch.testing.assert_close(critic_loss(critic, real, fake), wanted)
    gradient_penalty(critic, real, fake).backward()
    assert critic.slope.grad.item() == pytest.approx(2.0), "it can be differentiated again"


def test_augmentation_is_random_each_for_itself_and_passes_the_gradient() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 20, 20).expand(6, -1, -1, -1).clone().requires_grad_()
    y = augment(x)
    assert y.shape == x.shape
    assert all(not torch.equal(y[0], other) for other in y[1:])
    y.sum().backward()
    assert x.grad.abs().sum() > 0
    torch.manual_seed(0)
    marked = torch.zeros(200, 1, 20, 20)
    marked[:, :, 10, 10] = 100
    places = {divmod(int(picture.flatten().argmax()), 20) for picture in augment(marked)}
    rows = {row for row, _ in places}
    assert rows <= set(range(6, 15)), "a fifth of the edge at most"
    assert len(rows) == 9


def test_what_one_player_lowers_the_other_raises() -> None:
    torch.manual_seed(0)
    game = Game(generator=G, discriminator=D).train()
    z, real = torch.randn(4, 8), torch.rand(4, 3, 8, 8)

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, game.generator.l1.bias)[0]

    torch.manual_seed(1)
    together = gradient(objective(game(z), real))
    torch.manual_seed(1)
    fake = game.generator(z)
    own = gradient(critic_loss(game.discriminator, augment(2 * real - 1), augment(fake)))
    torch.testing.assert_close(together, -own)
    assert own.any()
    with torch.no_grad():
        assert torch.equal(game.eval()(z), game.generator(z))


def test_by_turns_each_player_moves_alone() -> None:
    torch.manual_seed(0)
    generator, discriminator = Generator(**G), Discriminator(**D)
    players = (generator, discriminator)
    before = [[p.detach().clone() for p in player.parameters()] for player in players]
    optimisers = tuple(torch.optim.Adam(player.parameters(), lr=1e-3, betas=(0.0, 0.99)) for player in players)
    counts = [0, 0]
    for i in (0, 1):
        optimisers[i].register_step_post_hook(lambda *args, i=i: counts.__setitem__(i, counts[i] + 1))
    losses = alternate(generator, discriminator, torch.rand(4, 3, 8, 8) * 2 - 1, optimisers)
    assert counts == [1, 4], "four of the discriminator, one of the generator"
    assert all(isinstance(loss, float) for loss in losses)
    for old, player in zip(before, players, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(old, player.parameters(), strict=True))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected noise \[N, 8\], got \[2, 9\]"):
        Generator(**G)(torch.zeros(2, 9))
    with pytest.raises(ValueError, match=r"expected input \[N, 3, 8, 8\], got \[2, 3, 9, 8\]"):
        Discriminator(**D)(torch.zeros(2, 3, 9, 8))
    with pytest.raises(ValueError, match="multiple of 16 num_heads"):
        Generator(dim=40)
    with pytest.raises(ValueError, match="multiple of twice patch_size"):
        Discriminator(img_size=10, patch_size=4)

"""MLP-Mixer: which of its two MLPs knows where a patch is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.classification import mlp_mixer


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def small(**change: object) -> mlp_mixer.Mixer:
    """A Mixer of 16 patches of 4x4 pixels."""
    arguments: dict[str, object] = {
        "image_size": 16, "patch_size": 4, "num_layers": 2, "hidden_dim": 12, "tokens_mlp_dim": 8,
        "channels_mlp_dim": 24, "num_classes": 5,
    }  # fmt: skip
    model = mlp_mixer.Mixer(**(arguments | change))  # type: ignore[arg-type]
    nn.init.normal_(model.head.weight)  # it starts at zero
    return model.double()


def shuffled(x: Tensor, order: Tensor, patch: int) -> Tensor:
    """The patches of a picture in another order."""
    n, c, h, w = x.shape
    patches = x.view(n, c, h // patch, patch, w // patch, patch).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    patches = patches[:, order].view(n, h // patch, w // patch, c, patch, patch)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


@pytest.mark.parametrize(
    ("name", "layers", "channels", "tokens_mlp", "channels_mlp"),
    [("mixer_b16", 12, 768, 384, 3072), ("mixer_l16", 24, 1024, 512, 4096)],
)
def test_the_count_follows_from_table_1(
    name: str, layers: int, channels: int, tokens_mlp: int, channels_mlp: int
) -> None:
    tokens = 14 * 14
    layer = 4 * channels + 2 * tokens * tokens_mlp + tokens_mlp + tokens
    layer += 2 * channels * channels_mlp + channels_mlp + channels
    stem = (16 * 16 * 3 + 1) * channels
    with torch.device("meta"):
        model = getattr(mlp_mixer, name)()
    assert size(model) == stem + layers * layer + 2 * channels + (channels + 1) * 1000


# --- who knows where a patch is -----------------------------------------------------------------------------------


def test_permuting_tokens_commutes_with_channel_mixing_and_not_with_token_mixing() -> None:
    block = mlp_mixer.MixerBlock(16, 12, tokens_mlp_dim=8, channels_mlp_dim=24).double()
    x = torch.randn(2, 16, 12, dtype=torch.float64)
    order = torch.randperm(16)
    torch.testing.assert_close(block.mix_channels(x[:, order]), block.mix_channels(x)[:, order])
    before = block.mix_tokens(x)
    assert (block.mix_tokens(x[:, order]) - before[:, order]).abs().max() > 0.1 * before.abs().max()


def test_token_mixing_is_the_same_for_every_channel() -> None:
    """The other half: behind the normalisation, which treats channels alike but for its own factors."""
    block = mlp_mixer.MixerBlock(16, 12, tokens_mlp_dim=8, channels_mlp_dim=24).double()
    x = torch.randn(2, 16, 12, dtype=torch.float64)
    order = torch.randperm(12)
    torch.testing.assert_close(block.mix_tokens(x[:, :, order]), block.mix_tokens(x)[:, :, order])
    before = block.mix_channels(x)
    assert (block.mix_channels(x[:, :, order]) - before[:, :, order]).abs().max() > 0.1 * before.abs().max()


def test_the_whole_network_knows_positions_through_the_token_mlps_only() -> None:
    model = small()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    other = shuffled(x, torch.randperm(16), 4)
    assert (model(x) - model(other)).abs().max() > 1e-3 * model(x).abs().max()
    for block in model.blocks:
        assert isinstance(block, mlp_mixer.MixerBlock)
        nn.init.zeros_(block.mlp_tokens.fc2.weight)  # silence them: what is left is a bag of patches
    torch.testing.assert_close(model(x), model(other))


def test_each_mlp_mixes_its_own_axis_only() -> None:
    block = mlp_mixer.MixerBlock(6, 5, tokens_mlp_dim=8, channels_mlp_dim=9).double()
    x = torch.randn(1, 6, 5, dtype=torch.float64)
    other = x.clone()
    other[0, 2, 3] += 1

    def changed(part: Callable[[Tensor], Tensor]) -> Tensor:
        return (part(x) - part(other))[0].abs() > 1e-12

    rows = changed(block.mix_channels).any(1)
    assert rows.tolist() == [False, False, True, False, False, False]
    assert changed(block.mix_tokens).all()  # the normalisation spreads the change over the row
    columns = changed(lambda x: block.mlp_tokens(x.transpose(1, 2))).any(1)
    assert columns.tolist() == [False, False, False, True, False]


# --- the rest -----------------------------------------------------------------------------------------------------


def test_silent_mlps_leave_the_table_as_it_is() -> None:
    block = mlp_mixer.MixerBlock(6, 5, tokens_mlp_dim=8, channels_mlp_dim=9)
    for mlp in (block.mlp_tokens, block.mlp_channels):
        nn.init.zeros_(mlp.fc2.weight)
        nn.init.zeros_(mlp.fc2.bias)
    x = torch.randn(2, 6, 5)
    assert torch.equal(block(x), x)


def test_patches_are_rows_from_the_top_left() -> None:
    stem = mlp_mixer.PatchEmbedding(1, 1, 2)
    nn.init.constant_(stem.proj.weight, 0.25)
    nn.init.zeros_(stem.proj.bias)  # type: ignore[arg-type]
    picture = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])
    assert stem(picture[None, None]).flatten().tolist() == [1, 2, 3, 4]


def test_initial_values_are_those_of_the_release() -> None:
    """Flax's own: a Gaussian of variance 1 / fan-in, cut off at two deviations, for kernels; zero for biases."""
    model = mlp_mixer.Mixer(
        image_size=32, patch_size=4, num_layers=1, hidden_dim=768, tokens_mlp_dim=384, channels_mlp_dim=3072
    )
    for name, fan_in in (
        ("stem.proj", 4 * 4 * 3),
        *(("blocks.0.mlp_tokens.fc1", 64), ("blocks.0.mlp_tokens.fc2", 384)),
        *(("blocks.0.mlp_channels.fc1", 768), ("blocks.0.mlp_channels.fc2", 3072)),
    ):
        weight = model.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.02), name
        limit = 2 * fan_in**-0.5 / 0.87962566  # the deviation before the cut is larger
        assert 0.97 * limit < weight.abs().max().item() <= limit, name
        assert torch.count_nonzero(model.get_parameter(f"{name}.bias")) == 0, name
    assert torch.count_nonzero(model.head.weight) == 0
    assert torch.count_nonzero(model.head.bias) == 0


def test_the_gelu_is_the_approximation_with_tanh() -> None:
    mlp = mlp_mixer.Mlp(1, 1).double()
    for layer in (mlp.fc1, mlp.fc2):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None]
    exact = x / 2 * (1 + torch.erf(x / 2**0.5))
    tanh = x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(mlp(x), tanh)
    assert 1e-4 < (mlp(x) - exact).abs().max() < 1e-3


def test_stochastic_depth_grows_linearly() -> None:
    model = small(num_layers=3, drop_path_rate=0.2)
    rates = [getattr(m.drop_path, "drop_prob", 0.0) for m in model.modules() if isinstance(m, mlp_mixer.MixerBlock)]
    assert rates == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 5}, "patch_size must divide image_size, got image_size=16 and patch_size=5"),
        ({"tokens_mlp_dim": 0}, "layers and widths must be positive"),
        ({"drop_path_rate": 1.5}, "drop_path_rate must be at least 0 and below 1"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**change)


@pytest.mark.parametrize("shape", [(1, 3, 16, 20), (1, 1, 16, 16), (3, 16, 16)])
def test_wrong_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected input \[N, 3, 16, 16\], got \[.*\]"):
        small()(torch.rand(shape))
    with pytest.raises(TypeError):
        mlp_mixer.mixer_b16(num_clases=10)  # type: ignore[call-arg]


def test_another_picture_size_and_grey_pictures() -> None:
    assert small(image_size=8, in_channels=1)(torch.rand(3, 1, 8, 8, dtype=torch.float64)).shape == (3, 5)

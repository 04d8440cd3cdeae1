"""ConvNeXt: a layer scale that starts at 1e-6, and what the parts of a block mix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipkb.models.classification import convnext


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "blocks"), [("convnext_tiny", 18), ("convnext_small", 36), ("convnext_base", 36)])
def test_number_of_blocks(name: str, blocks: int) -> None:
    with torch.device("meta"):
        model = getattr(convnext, name)()
    assert sum(isinstance(m, convnext.Block) for m in model.modules()) == blocks


def test_the_count_of_a_block_follows_from_the_equation() -> None:
    block = convnext.Block(96)
    assert size(block) == 96 * (49 + 1) + 2 * 96 + (96 + 1) * 384 + (384 + 1) * 96 + 96


def test_layer_scale_starts_at_1e_6_and_makes_a_block_almost_the_identity() -> None:
    model = convnext.ConvNeXt(depths=(1, 2), dims=(8, 16))
    gammas = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert [tuple(gamma.shape) for gamma in gammas] == [(8,), (16,), (16,)]
    assert all(torch.equal(gamma, torch.full_like(gamma, 1e-6)) for gamma in gammas)
    block = convnext.Block(8)
    x = torch.randn(2, 8, 9, 9)
    change = (block(x) - x).abs().max()
    assert 0 < change < 1e-5
    with torch.no_grad():
        assert block.gamma is not None
        block.gamma.mul_(1e6)
    assert (block(x) - x).abs().max() > 1e-3  # the same weights, unscaled


def test_the_scale_multiplies_the_branch_channel_by_channel() -> None:
    block = convnext.Block(4, layer_scale_init_value=1.0)
    x = torch.randn(1, 4, 8, 8)
    before = block(x) - x
    with torch.no_grad():
        assert block.gamma is not None
        block.gamma.copy_(torch.tensor([1.0, 0.0, 2.0, -1.0]))
    torch.testing.assert_close(block(x) - x, before * torch.tensor([1.0, 0.0, 2.0, -1.0])[:, None, None])
    assert convnext.Block(4, layer_scale_init_value=0).gamma is None


def test_depthwise_convolution_mixes_positions_and_the_matrices_mix_channels() -> None:
    block = convnext.Block(6, layer_scale_init_value=1.0).double()
    nn.init.normal_(block.dwconv.weight)
    x = torch.randn(1, 6, 15, 15, dtype=torch.float64)
    other = x.clone()
    other[0, 2, 7, 7] += 1
    moved = (block.dwconv(x) - block.dwconv(other))[0].abs() > 1e-12
    assert moved.any(2).any(1).tolist() == [False, False, True, False, False, False]  # one channel only
    assert moved[2].sum() == 49  # and 7 x 7 positions of it
    moved = (block(x) - block(other))[0].abs() > 1e-12
    assert moved.any(2).any(1).all()  # every channel
    assert moved.any(0).sum() == 49  # and still only 7 x 7 positions: the rest acts on each pixel by itself


def test_nothing_acts_on_the_sum_and_downsampling_has_no_skip() -> None:
    block = convnext.Block(4, layer_scale_init_value=1.0)
    nn.init.zeros_(block.pwconv2.weight)
    nn.init.zeros_(block.pwconv2.bias)
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(block(x), x)
    model = convnext.ConvNeXt(depths=(1, 1), dims=(4, 8))
    stem, between = model.downsample_layers
    assert [type(layer).__name__ for layer in stem.children()] == ["Conv2d", "LayerNorm2d"]
    assert [type(layer).__name__ for layer in between.children()] == ["LayerNorm2d", "Conv2d"]


def test_stochastic_depth_grows_linearly() -> None:
    model = convnext.ConvNeXt(depths=(2, 3), dims=(4, 8), drop_path_rate=0.4)
    rates = [getattr(m.drop_path, "drop_prob", 0.0) for m in model.modules() if isinstance(m, convnext.Block)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert convnext.ConvNeXt(depths=(1,), dims=(4,), drop_path_rate=0.4)(torch.rand(1, 3, 8, 8)).shape == (1, 1000)


def test_initial_values() -> None:
    model = convnext.ConvNeXt(depths=(1, 1), dims=(64, 128))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert module.bias is not None
            assert torch.count_nonzero(module.bias) == 0


@pytest.mark.parametrize("shape", [(32, 32), (37, 61)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = convnext.ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 8, 8), num_classes=5, in_channels=1)
    assert model(torch.rand(2, 1, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (1,)}, "one positive number per stage each"),
        ({"dims": (4, 0)}, "one positive number per stage each"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be at least 0 and below 1, got 1.0"),
        ({"layer_scale_init_value": -1.0}, "must be positive, or 0 for no layer scale, got -1.0"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"depths": (1, 1), "dims": (4, 8)}
    with pytest.raises(ValueError, match=message):
        convnext.ConvNeXt(**(right | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 32, 32), (1, 3, 32, 7)])
def test_wrong_pictures(shape: tuple[int, ...]) -> None:
    model = convnext.ConvNeXt(depths=(1, 1), dims=(4, 8))
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\] with H and W at least 8"):
        model(torch.rand(shape))
    with pytest.raises(TypeError):
        convnext.convnext_tiny(num_clases=10)  # type: ignore[call-arg]

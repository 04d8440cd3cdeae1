"""DRN: what dilation keeps, and ends without skips."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.classification import drn, resnet

NAMES = ["a_18", "a_34", "a_50", "c_26", "c_42", "d_22", "d_38", "d_54", "d_105"]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_counts_the_layers_and_the_last_map_is_28_by_28(name: str) -> None:
    with torch.device("meta"):
        model = getattr(drn, f"drn_{name}")().eval()
        assert model.forward_features(torch.empty(1, 3, 224, 224)).shape[2:] == (28, 28)
    main = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in n]
    assert len(main) == int(name.rpartition("_")[2])


def scrambled(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval().double()


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_every_fourth_pixel_is_that_of_a_resnet(block: str) -> None:
    """Section 2: dilation in place of strides changes where a layer is evaluated, and not what it sees."""
    dilated = scrambled(drn.DRNA(block=block, layers=(1, 1, 2, 2), num_classes=3))  # type: ignore[arg-type]
    strided = resnet.ResNet(block=block, layers=(1, 1, 2, 2), num_classes=3).eval().double()  # type: ignore[arg-type]
    strided.load_state_dict(dilated.state_dict())
    maps: list[Tensor] = []
    strided.layer4.register_forward_hook(lambda _m, _x, y: maps.append(y))
    x = torch.rand(1, 3, 128, 96, dtype=torch.float64)
    with torch.no_grad():
        strided(x)
        dense = dilated.forward_features(x)  # type: ignore[operator]
    assert dense.shape[2:] == (16, 12)
    torch.testing.assert_close(dense[:, :, ::4, ::4], maps[0], rtol=1e-9, atol=1e-9)


# --- the skips that are not there ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["drn_c_26", "drn_d_22"])
def test_the_last_two_levels_have_no_skip(name: str) -> None:
    """What their convolutions do not let through does not come through; in level 6 it does."""
    with torch.device("meta"):
        model = getattr(drn, name)()
    for level, passes in ((model.layer6, True), (model.layer7, False), (model.layer8, False)):
        level = level.to_empty(device="cpu").eval()
        for module in level.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
                nn.init.zeros_(module.weight)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        for block in level.modules():
            if isinstance(block, drn.Block) and block.downsample is not None:
                nn.init.ones_(block.downsample[1].weight)  # type: ignore[index]
        channels = next(m for m in level.modules() if isinstance(m, nn.Conv2d)).in_channels
        with torch.no_grad():
            y = level(torch.rand(1, channels, 6, 6))
        assert bool(y.abs().sum() > 0) is passes


def influence(layers: nn.Module, size: int = 25) -> Tensor:
    """Where a change of the middle pixel is seen behind ``layers``."""
    x = torch.rand(1, 4, size, size)
    changed = x.clone()
    changed[..., size // 2, size // 2] += 1
    with torch.no_grad():
        return ((layers(changed) - layers(x)).abs() > 1e-9).any(1)[0]


def test_a_dilated_level_shows_a_grid_and_the_last_levels_fill_it() -> None:
    """Figure 4: one pixel reaches a grid of spacing 4, and without a skip the smaller dilations close its holes."""
    model = drn.DRN(arch="D", block="basic", layers=(1,) * 8, channels=(4,) * 8, num_classes=2).eval()
    grid = influence(model.layer6)
    rows = grid.any(1).nonzero().flatten()
    assert ((rows - rows[0]) % 4 == 0).all()
    assert len(rows) > 1
    assert not grid[rows[0] : rows[-1] + 1, rows[0] : rows[-1] + 1].all()
    filled = influence(nn.Sequential(model.layer6, model.layer7, model.layer8))
    rows = filled.any(1).nonzero().flatten()
    assert torch.equal(rows, torch.arange(int(rows[0]), int(rows[-1]) + 1))
    assert filled[rows[0] : rows[-1] + 1, rows[0] : rows[-1] + 1].float().mean() > 0.95


def test_dilations() -> None:
    with torch.device("meta"):
        models = {name: getattr(drn, name)() for name in ("drn_a_34", "drn_a_50", "drn_c_26", "drn_d_22")}

    def of(name: str, level: int) -> list[int]:
        convolutions = getattr(models[name], f"layer{level}").modules()
        return [m.dilation[0] for m in convolutions if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]

    assert of("drn_a_34", 3) == [1] + [2] * 11
    assert of("drn_a_34", 4) == [2] + [4] * 5
    assert of("drn_a_50", 4) == [2, 4, 4]
    for name in ("drn_c_26", "drn_d_22"):
        assert [set(of(name, level)) for level in range(1, 9)] == [{1}, {1}, {1}, {1}, {2}, {4}, {2}, {1}]


@pytest.mark.parametrize("name", ["drn_a_18", "drn_a_34", "drn_a_50"])
def test_the_released_form_does_not_dilate_the_first_block_of_a_group(name: str) -> None:
    with torch.device("meta"):
        paper, released = getattr(drn, name)(), getattr(drn, name)(released=True)
    found = [
        [m.dilation[0] for m in model.layer4[0].modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        for model in (paper, released)
    ]
    assert found == ([[2], [1]] if name == "drn_a_50" else [[2, 4], [1, 1]])
    assert {k: v.shape for k, v in paper.state_dict().items()} == {k: v.shape for k, v in released.state_dict().items()}


def test_initial_values_are_those_of_the_authors_code() -> None:
    model = drn.DRN(arch="D", block="basic", layers=[1] * 8, channels=[64] * 8)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name


@pytest.mark.parametrize("picture", [(64, 64), (33, 47)])
def test_any_picture_size(picture: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *picture)
    for arch in ("C", "D"):
        for block in ("basic", "bottleneck"):
            model = drn.DRN(arch=arch, block=block, layers=(1,) * 8, channels=(4,) * 8, num_classes=5)  # type: ignore[arg-type]
            assert model(x).shape == (2, 5)
    assert drn.DRNA(block="basic", layers=(1, 1, 1, 1), num_classes=5)(x).shape == (2, 5)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="arch must be one of C, D, got 'A'"):
        drn.DRN(arch="A", block="basic", layers=(1,) * 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="block must be one of basic, bottleneck"):
        drn.DRN(arch="C", block="dense", layers=(1,) * 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="eight positive numbers each"):
        drn.DRN(arch="C", block="basic", layers=(1,) * 7)
    with pytest.raises(ValueError, match="four positive numbers"):
        drn.DRNA(block="basic", layers=(1, 1, 1))
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        drn.DRN(arch="C", block="basic", layers=(1,) * 8, channels=(4,) * 8)(torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError):
        drn.drn_c_26(arch="D")  # type: ignore[call-arg]

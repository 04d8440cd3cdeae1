"""Swin: windows that shift, a mask that keeps strangers apart, and skips that nothing touches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import swin

SMALL: dict[str, Any] = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4, "drop_path_rate": 0.0}


def loud(model: nn.Module) -> nn.Module:
    """Weights so large that every path leaves a trace."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.double().eval()


def block(*, shifted: bool, resolution: int | None = None) -> swin.SwinBlock:
    one = swin.SwinBlock(8, num_heads=2, window_size=4, shifted=shifted, resolution=resolution)
    assert isinstance(loud(one), swin.SwinBlock)
    return one


# --- windows ------------------------------------------------------------------------------------------------------


def test_windows_are_put_together_as_they_were_cut() -> None:
    x = torch.randn(2, 12, 20, 3)
    windows = swin.window_partition(x, 4)
    assert torch.equal(windows[7], x[0, 4:8, 8:12].reshape(16, 3))  # second row of windows, third of five
    assert torch.equal(swin.window_reverse(windows, 4, 12, 20), x)


def test_the_index_is_the_displacement() -> None:
    index = swin.relative_position_index(3)
    for p in range(9):
        for q in range(9):
            assert index[p, q] == (p // 3 - q // 3 + 2) * 5 + p % 3 - q % 3 + 2


def token_by_token(one: swin.SwinBlock, x: Tensor) -> Tensor:
    """Attention over the map as it lies: no roll, no cutting, no mask.

    Token p asks token q where both are in the same cell of a grid displaced by the shift. Where the map is padded, the
    grid covers the padded map, and what was added are tokens of zeros.
    """
    height, width, dim = x.shape
    x = F.pad(x, (0, 0, 0, -width % one.size, 0, -height % one.size))
    attn, size, shift = one.attn, one.size, one.shift
    heads = attn.num_heads
    q, k, v = attn.qkv(x).reshape(*x.shape[:2], 3, heads, dim // heads).unbind(2)
    cells = torch.cartesian_prod(torch.arange(x.shape[0]), torch.arange(x.shape[1]))
    cell = torch.div(cells - shift, size, rounding_mode="floor")
    out = torch.zeros_like(x).view(len(cells), heads, -1)
    for i, (y, z) in enumerate(cells.tolist()):
        allowed = cells[(cell == cell[i]).all(1)]
        for head in range(heads):
            table = attn.relative_position_bias_table[:, head].view(2 * size - 1, 2 * size - 1)
            bias = table[y - allowed[:, 0] + size - 1, z - allowed[:, 1] + size - 1]
            logits = k[allowed[:, 0], allowed[:, 1], head] @ q[y, z, head] / math.sqrt(dim // heads) + bias
            out[i, head] = logits.softmax(0) @ v[allowed[:, 0], allowed[:, 1], head]
    return attn.proj(out.reshape(*x.shape))[:height, :width]  # type: ignore[no-any-return]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (4, 4), (7, 10)])
def test_rolled_and_masked_windows_equal_a_displaced_grid(shifted: bool, size: tuple[int, int]) -> None:
    one = block(shifted=shifted)
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([token_by_token(one, picture) for picture in x])
        torch.testing.assert_close(one.attend(x), expected, rtol=0, atol=1e-12)


def test_without_the_mask_opposite_borders_would_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    one = block(shifted=True)
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, -1] += torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(one.attend(changed)[:, 0], one.attend(x)[:, 0])
    monkeypatch.setattr(swin, "shift_mask", lambda h, w, size, shift, device: torch.zeros(4, 16, 16, dtype=x.dtype))
    assert not torch.allclose(one.attend(changed)[:, 0], one.attend(x)[:, 0])


def test_a_shifted_block_carries_across_the_borders_of_windows() -> None:
    """One change at the corner of a window: the first block keeps it there, the second takes it to all neighbours."""
    plain, shifted = block(shifted=False), block(shifted=True)
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3, 3, 0] += 1
    with torch.no_grad():
        first = (plain(changed) - plain(x)).abs().sum(-1)[0] > 1e-9
        both = (shifted(plain(changed)) - shifted(plain(x))).abs().sum(-1)[0] > 1e-9
    assert first[:4, :4].all()
    assert not first[4:].any()
    assert not first[:, 4:].any()
    assert both[:6, :6].all()
    assert not both[6:].any()


def test_a_stored_mask_is_what_would_be_computed() -> None:
    fixed, free = block(shifted=True, resolution=8), block(shifted=True)
    free.load_state_dict({name: value for name, value in fixed.state_dict().items() if name != "attn_mask"})
    for side in (8, 12):  # another size than the stored one's
        x = torch.randn(1, side, side, 8, dtype=torch.float64)
        assert torch.equal(fixed(x), free(x))
    assert fixed.attn_mask is not None
    assert fixed.attn_mask.unique().tolist() == [-100, 0]
    assert free.attn_mask is None


def test_a_map_of_one_window_is_not_displaced_in_a_classifier() -> None:
    model = swin.Swin(img_size=32, **SMALL)
    shifts = [m.shift for m in model.modules() if isinstance(m, swin.SwinBlock)]
    assert shifts == [0, 2, 0, 0]  # the second map is 4 x 4
    net = swin.UPerNet(**SMALL)
    assert [m.shift for m in net.modules() if isinstance(m, swin.SwinBlock)] == [0, 2, 0, 2]


# --- skips --------------------------------------------------------------------------------------------------------


def test_silent_branches_leave_the_map_as_it_is() -> None:
    one = block(shifted=True)
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        middle = x + one.attend(one.norm1(x))
        torch.testing.assert_close(one(x), middle + one.mlp(one.norm2(middle)), rtol=0, atol=0)
        for layer in (one.attn.proj, one.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        assert torch.equal(one(x), x)


def test_coarse_maps_are_added_to_finer_ones() -> None:
    """With convolutions that copy, the finest map of the pyramid is the sum of all laterals, each enlarged."""
    head = swin.UPerHead([4, 4, 4], 4, 2).double().eval()
    for module in head.modules():
        if isinstance(module, swin.ConvModule):
            nn.init.zeros_(module.conv.weight)
            with torch.no_grad():
                centre = module.conv.kernel_size[0] // 2
                module.conv.weight[:, :4, centre, centre] = torch.eye(4)
            module.bn.eps = 0.0
    maps = [torch.rand(1, 4, side, side, dtype=torch.float64) for side in (16, 8, 4)]
    seen: list[Tensor] = []
    head.fpn_bottleneck.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    head(maps)
    middle = maps[1] + swin.resize(maps[2], maps[1])
    finest = maps[0] + swin.resize(middle, maps[0])
    parts = [finest, swin.resize(middle, maps[0]), swin.resize(maps[2], maps[0])]
    torch.testing.assert_close(seen[0], torch.cat(parts, 1))


def test_merging_goes_down_each_column_first() -> None:
    merging = swin.PatchMerging(1)
    seen: list[Tensor] = []
    merging.norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    merging(torch.tensor([[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]).view(1, 2, 3, 1))
    assert seen[0].tolist() == [[[[1, 2, 3, 4], [5, 6, 0, 0]]]]  # an odd side gets zeros


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (37, 70), (9, 5)])
def test_any_size_can_be_segmented(size: tuple[int, int]) -> None:
    net = swin.UPerNet(**SMALL, channels=8, aux_channels=4, num_classes=3).eval()
    x = torch.rand(2, 3, *size)
    output, maps = net(x), net.backbone.maps(x)
    rows, columns = (-(-side // 4) for side in size)
    assert output["out"].shape == (2, 3, rows, columns)
    assert output["aux"].shape == (2, 3, rows, columns)
    assert maps[1].shape == (2, -(-rows // 2), -(-columns // 2), 16)


def test_every_map_has_a_normalisation_of_its_own() -> None:
    """The next stage starts from the map in front of it."""
    trunk = swin.SwinTrunk(**SMALL, map_norms=True).eval()
    x = torch.rand(1, 3, 32, 32)
    before = trunk.maps(x)
    for map_ in before:
        torch.testing.assert_close(map_.mean(-1), torch.zeros(map_.shape[:-1]), rtol=0, atol=1e-5)
    nn.init.zeros_(trunk.get_parameter("norm0.weight"))
    after = trunk.maps(x)
    assert torch.count_nonzero(after[0]) == 0
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize(
    ("name", "windows", "options"),
    [("swin_tiny", [64, 16, 4], {}), ("swin_base", [64, 16, 4], {"img_size": 384, "window_size": 12})],
)
def test_published_structure(name: str, windows: list[int], options: dict[str, int]) -> None:
    with torch.device("meta"):
        model = getattr(swin, name)(**options)
    masks = [m.attn_mask for m in model.modules() if isinstance(m, swin.SwinBlock) and m.attn_mask is not None]
    assert sorted({len(mask) for mask in masks}, reverse=True) == windows


def test_stochastic_depth_and_initial_values() -> None:
    model = swin.Swin(img_size=64, embed_dim=48, depths=(1, 2), num_heads=(2, 2), window_size=8, drop_path_rate=0.4)
    rates = [m.drop_path.drop_prob for m in model.modules() if isinstance(m, swin.SwinBlock)]
    assert rates == pytest.approx([0, 0.2, 0.4])
    for name, parameter in model.named_parameters():
        if name.endswith(("qkv.weight", "fc1.weight", "reduction.weight", "bias_table")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name
    head = swin.UPerHead([8, 16], 64, 40)
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert head.fpn_convs[0].conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # type: ignore[union-attr,operator]


def test_losses() -> None:
    logits, classes = torch.randn(4, 5), torch.tensor([0, 1, 2, 4])
    smooth = 0.9 * F.one_hot(classes, 5) + 0.1 / 5
    torch.testing.assert_close(swin.objective(logits, classes), swin.objective(logits, smooth))
    target = torch.randint(0, 2, (2, 8, 8))
    target[0, 0] = 255
    maps = {"out": torch.randn(2, 2, 8, 8), "aux": torch.randn(2, 2, 8, 8)}
    counted = target != 255
    parts = [F.cross_entropy(maps[name].movedim(1, -1)[counted], target[counted]) for name in ("out", "aux")]
    torch.testing.assert_close(swin.objective(maps, target), parts[0] + 0.4 * parts[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (2,)}, r"one positive number per stage each.*depths=\(2,\)"),
        ({"num_heads": (3, 2)}, r"num_heads must divide the channels \[8, 16\], got \(3, 2\)"),
        ({"window_size": 0}, "window_size=0"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swin.SwinTrunk(**(SMALL | change))
    with pytest.raises(ValueError, match="windows of 4, got img_size=40"):
        swin.Swin(img_size=40, **SMALL)
    with pytest.raises(ValueError, match=r"at least two stages, got depths=\(2,\)"):
        swin.UPerNet(depths=(2,))


@pytest.mark.parametrize("shape", [(1, 3, 32, 36), (1, 1, 32, 32), (3, 32, 32)])
def test_wrong_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Swin: expected input \[N, 3, 32, 32\], got \["):
        swin.Swin(img_size=32, **SMALL)(torch.rand(shape))
    if shape[-3] == 1:
        with pytest.raises(ValueError, match=r"UPerNet: expected input \[N, 3, H, W\], got \["):
            swin.UPerNet(**SMALL)(torch.rand(shape))

"""MAE: an encoder that never sees what it is asked for, and a loss that asks for nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.beyond import mae
from skipkb.models.classification.vit import ViT

SMALL: dict[str, Any] = {
    "img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "decoder_embed_dim": 16,
    "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip


def small(**change: Any) -> mae.MAE:
    model = mae.MAE(**(SMALL | change)).double()
    return model.eval()


def changed(x: Tensor, patch: int) -> Tensor:
    """Another content of one patch of 4x4 pixels."""
    other = x.clone()
    row, column = divmod(patch, 4)
    other[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    return other


# --- what is hidden -----------------------------------------------------------------------------------------------


def test_a_hidden_patch_changes_no_prediction_and_a_kept_one_all() -> None:
    model = small()
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        found = model(x)
        for patch in range(16):
            difference = (model(changed(x, patch))["pred"] - found["pred"]).abs().amax(2)[0]
            if found["mask"][0, patch]:
                assert difference.max() == 0
            else:
                assert difference.min() > 1e-6


def test_the_loss_asks_for_hidden_patches_only() -> None:
    model = small()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    output = model(x)
    for norm_pix in (False, True):
        before = mae.objective(output, x, norm_pix=norm_pix)
        for patch in range(16):
            after = mae.objective(output, changed(x, patch), norm_pix=norm_pix)
            hidden = bool(output["mask"][0, patch])
            # Normalised pixels do not change with a constant.
            assert torch.isclose(after, before, rtol=1e-9) == (norm_pix or not hidden)


def test_the_loss_by_hand() -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    mask = torch.tensor([[1.0, 0, 1, 1], [0, 1, 0, 0]], dtype=torch.float64)
    pred = torch.randn(2, 4, 48, dtype=torch.float64)
    found, normalised = [], []
    for n in range(2):
        for i in range(4):
            if mask[n, i]:
                row, column = divmod(i, 2)
                pixels = x[n, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(1, 2, 0).flatten()
                found.append(((pred[n, i] - pixels) ** 2).mean())
                wanted = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                normalised.append(((pred[n, i] - wanted) ** 2).mean())
    output = {"pred": pred, "mask": mask}
    torch.testing.assert_close(mae.objective(output, x, norm_pix=False), torch.stack(found).mean())
    torch.testing.assert_close(mae.objective(output, x), torch.stack(normalised).mean())


def test_the_encoder_works_on_a_quarter() -> None:
    model = small()
    lengths: list[int] = []
    for part in (*model.blocks, *model.decoder_blocks):
        part.register_forward_pre_hook(lambda _m, args: lengths.append(args[0].shape[1]))
    model(torch.rand(1, 3, 16, 16, dtype=torch.float64))
    assert lengths == [5, 5, 17, 17]


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 4), (0.5, 8), (0.9, 1)])
def test_as_many_are_hidden_as_asked_and_others_each_time(ratio: float, kept: int) -> None:
    model = small(mask_ratio=ratio).train()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    torch.manual_seed(0)
    masks = [model(x)["mask"] for _ in range(2)]
    assert all((mask == 0).sum(1).tolist() == [kept] * 3 for mask in masks)
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0][0], masks[0][1]) or kept == 1


def test_the_mask_stays_the_same_in_eval_mode_unless_asked() -> None:
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    model = small()
    assert torch.equal(model(x)["mask"], model(x)["mask"])
    rows = model(x)["mask"][0].view(4, 4)
    assert ((rows == 0).sum(0) == 1).all()  # spread over the picture: one in each column
    assert ((rows[1:] == 1) | (rows[:-1] == 1)).all()  # and none above another
    torch.manual_seed(0)
    other = small(mask_in_eval="random")
    assert not torch.equal(other(x)["mask"], other(x)["mask"])


def test_codes_come_back_to_their_places() -> None:
    """With a decoder that passes tokens on, hidden places hold the mask token and kept ones their own code."""
    model = small(decoder_embed_dim=24, decoder_num_heads=3)
    model.decoder_embed = nn.Identity()  # type: ignore[assignment]
    model.decoder_blocks = nn.Sequential()
    model.decoder_norm = nn.Identity()  # type: ignore[assignment]
    model.decoder_pred = nn.Identity()  # type: ignore[assignment]
    nn.init.zeros_(model.decoder_pos_embed)
    order = torch.rand(2, 16).argsort(1)
    codes = torch.randn(2, 1 + 4, 24, dtype=torch.float64)
    found = model.decode(codes, order)
    for n in range(2):
        for i in range(16):
            place = int(order[n, i])
            assert torch.equal(found[n, place], codes[n, 1 + i] if i < 4 else model.mask_token[0, 0])


# --- the skips ----------------------------------------------------------------------------------------------------


def test_nothing_goes_around_the_codes() -> None:
    """No long skip: with codes that are always the same, the prediction is, whatever the picture."""
    model = small()
    nn.init.zeros_(model.norm.weight)
    x, y = torch.rand(2, 1, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(model(x)["pred"], model(y)["pred"])


def test_silent_branches_leave_the_tokens() -> None:
    model = small()
    for block in (*model.blocks, *model.decoder_blocks):
        for name in ("attn.proj", "mlp.fc2"):
            nn.init.zeros_(block.get_parameter(f"{name}.weight"))
            nn.init.zeros_(block.get_parameter(f"{name}.bias"))
    z = torch.randn(1, 5, 24, dtype=torch.float64)
    assert torch.equal(model.blocks(z), z)


# --- the rest -----------------------------------------------------------------------------------------------------


def test_patches_and_back() -> None:
    x = torch.rand(2, 3, 12, 12)
    patches = mae.patchify(x, 4)
    assert patches.shape == (2, 9, 48)
    assert torch.equal(patches[1, 5].view(4, 4, 3), x[1, :, 4:8, 8:12].permute(1, 2, 0))
    assert torch.equal(mae.unpatchify(patches), x)


def test_positions_are_sines_of_the_column_and_then_of_the_row() -> None:
    table = mae.positions(3, 8)[0]
    assert table.shape == (10, 8)
    assert torch.count_nonzero(table[0]) == 0
    row, column = torch.tensor(1.0), torch.tensor(2.0)  # patch 5
    wanted = [f(place * step) for place in (column, row) for f in (torch.sin, torch.cos) for step in (1, 0.01)]
    torch.testing.assert_close(table[1 + 5], torch.stack(wanted))
    model = small()
    assert not model.pos_embed.requires_grad
    assert not model.decoder_pos_embed.requires_grad


def test_the_encoder_goes_on_as_a_vit() -> None:
    model = small()
    vit = ViT(image_size=16, patch_size=4, num_layers=2, hidden_size=24, mlp_dim=96, num_heads=3, num_classes=5)
    result = vit.load_state_dict(mae.encoder_weights(model.state_dict()), strict=False)
    assert result.missing_keys == ["head.weight", "head.bias"]
    assert not result.unexpected_keys
    vit = vit.double().eval()
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    codes = model.encode(x, torch.arange(16)[None])  # nothing hidden
    torch.testing.assert_close(vit.norm(vit.blocks(vit.tokens(x))), codes)


def test_initial_values() -> None:
    model = mae.MAE(**(SMALL | {"embed_dim": 192}))
    qkv = model.blocks[0].get_parameter("attn.qkv.weight")
    assert qkv.abs().max().item() == pytest.approx((6 / (192 + 3 * 192)) ** 0.5, rel=0.01)  # three maps as one
    assert model.patch_embed.proj.weight.abs().max().item() == pytest.approx((6 / (192 + 48)) ** 0.5, rel=0.01)
    assert model.mask_token.std().item() == pytest.approx(0.02, rel=0.6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_size": 18}, "img_size=18 and patch_size=4"),
        ({"num_heads": 5}, "got 24 and 5 heads"),
        ({"decoder_embed_dim": 18}, "multiple of 4 and of its heads, got 18"),
        ({"mask_ratio": 0.0}, "leave some of 16 patches and hide some, got 0.0"),
        ({"mask_ratio": 0.99}, "got 0.99"),
        ({"mask_in_eval": "none"}, "fixed or random, got 'none'"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**change)


@pytest.mark.parametrize("shape", [(1, 3, 16, 20), (1, 1, 16, 16), (3, 16, 16)])
def test_wrong_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"MAE: expected input \[N, 3, 16, 16\], got \["):
        small()(torch.rand(shape))
    with pytest.raises(TypeError):
        mae.mae_vit_b16(num_clases=10)

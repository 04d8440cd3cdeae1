"""What the SwinIR paper is about: attention in shifted windows, and residual connections at four scales."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.reconstruction import swinir as module
from skipkb.models.reconstruction.swinir import (
    SwinIR,
    charbonnier,
    objective,
    swinir_classical,
    swinir_denoise,
    swinir_jpeg,
    swinir_lightweight,
    swinir_real_world,
    window_partition,
    window_reverse,
)

SMALL: dict[str, Any] = {
    "img_size": 16,
    "embed_dim": 12,
    "depths": (2, 2),
    "num_heads": (2, 3),
    "window_size": 4,
}


def loud(model: nn.Module) -> nn.Module:
    """Weights so large that every path through the network leaves a trace in the output."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.mark.parametrize(("upscale", "printed"), [(2, 878), (3, 886), (4, 897)])
def test_printed_lightweight_counts_leave_out_the_bias_tables(upscale: int, printed: int) -> None:
    """Table 3 of the paper says 878K, 886K and 897K; that is the network without its position biases."""
    with torch.device("meta"):
        model = swinir_lightweight(upscale=upscale)
    count = sum(p.numel() for n, p in model.named_parameters() if "relative_position" not in n)
    assert round(count / 1000) == printed


@pytest.mark.parametrize(
    ("build", "kwargs", "x", "y"),
    [
        (swinir_lightweight, {"upscale": 3}, (2, 3, 64, 64), (2, 3, 192, 192)),
        (swinir_classical, {"upscale": 8}, (1, 3, 64, 64), (1, 3, 512, 512)),
        (swinir_real_world, {}, (1, 3, 64, 72), (1, 3, 256, 288)),
        (swinir_real_world, {"large": True}, (1, 3, 64, 64), (1, 3, 256, 256)),
        (swinir_denoise, {"in_chans": 1}, (1, 1, 128, 128), (1, 1, 128, 128)),
        (swinir_jpeg, {}, (1, 1, 126, 130), (1, 1, 126, 130)),
    ],
)
def test_published_shapes(build: Any, kwargs: dict[str, Any], x: tuple[int], y: tuple[int]) -> None:
    with torch.device("meta"):
        assert build(**kwargs).eval()(torch.empty(x)).shape == y


def test_windows_are_put_together_as_they_were_cut() -> None:
    x = torch.randn(2, 12, 20, 3)
    windows = window_partition(x, 4)
    assert torch.equal(windows[7], x[0, 4:8, 8:12].reshape(16, 3))  # second row of windows, third of five
    assert torch.equal(window_reverse(windows, 4, 12, 20), x)


def test_relative_position_index_is_the_displacement() -> None:
    size = 5
    index = module.relative_position_index(size)
    for p in range(size * size):
        for q in range(size * size):
            dy, dx = p // size - q // size, p % size - q % size
            assert index[p, q] == (dy + size - 1) * (2 * size - 1) + dx + size - 1
    assert sorted(index.unique().tolist()) == list(range((2 * size - 1) ** 2))


def restricted_attention(layer: module.SwinTransformerLayer, x: Tensor) -> Tensor:
    """Attention pixel by pixel over the image as it lies: no rolling, no cutting into windows, no mask.

    Pixel p may look at pixel q where both are in the same cell of a grid displaced by the shift.
    """
    h, w, c = x.shape
    attn, size, shift = layer.attn, layer.window_size, layer.shift_size
    heads, d = attn.num_heads, c // attn.num_heads
    q, k, v = attn.qkv(x).reshape(h, w, 3, heads, d).unbind(2)
    out = torch.zeros(h, w, heads, d, dtype=x.dtype)
    for py in range(h):
        for px in range(w):
            allowed = [
                (qy, qx)
                for qy in range(h)
                for qx in range(w)
                if (py - shift) // size == (qy - shift) // size and (px - shift) // size == (qx - shift) // size
            ]
            for head in range(heads):
                table = attn.relative_position_bias_table[:, head].reshape(2 * size - 1, 2 * size - 1)
                logits = torch.stack(
                    [
                        q[py, px, head] @ k[qy, qx, head] / math.sqrt(d) + table[py - qy + size - 1, px - qx + size - 1]
                        for qy, qx in allowed
                    ]
                )
                values = torch.stack([v[qy, qx, head] for qy, qx in allowed])
                out[py, px, head] = logits.softmax(dim=0) @ values
    return attn.proj(out.reshape(h, w, c))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (12, 8)])
def test_masked_shifted_windows_equal_full_attention_restricted_to_the_window(
    shift: int, size: tuple[int, int]
) -> None:
    layer = module.SwinTransformerLayer(
        dim=4, img_size=8, num_heads=2, window_size=4, shift_size=shift, mlp_ratio=2.0, drop_path=0.0
    ).double()
    loud(layer)
    x = torch.randn(2, *size, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([restricted_attention(layer, image) for image in x])
        torch.testing.assert_close(layer.attention(x), expected, rtol=0, atol=1e-12)


def test_without_the_mask_opposite_borders_would_mix() -> None:
    layer = module.SwinTransformerLayer(
        dim=4, img_size=8, num_heads=2, window_size=4, shift_size=2, mlp_ratio=2.0, drop_path=0.0
    )
    loud(layer)
    x = torch.randn(1, 8, 8, 4)
    changed = x.clone()
    changed[:, -1] += 1
    with torch.no_grad():
        torch.testing.assert_close(layer.attention(changed)[:, 0], layer.attention(x)[:, 0])
        layer.attn_mask.zero_()
        assert not torch.allclose(layer.attention(changed)[:, 0], layer.attention(x)[:, 0])


def test_shifted_layers_carry_information_across_window_borders() -> None:
    """One unshifted layer leaves windows strangers to each other, the shifted one after it does not."""
    plain, shifted = (
        module.SwinTransformerLayer(
            dim=4, img_size=8, num_heads=2, window_size=4, shift_size=s, mlp_ratio=2.0, drop_path=0.0
        )
        for s in (0, 2)
    )
    loud(plain)
    loud(shifted)
    x = torch.randn(1, 8, 8, 4)
    changed = x.clone()
    changed[:, 3, 3, 0] += 1  # last pixel of the first window; LayerNorm would hide a shift of all channels
    with torch.no_grad():
        difference = (plain(changed) - plain(x)).abs().sum(-1)[0]
        assert difference[:4, :4].min() > 1e-3
        assert difference[4:].max() < 1e-5
        assert difference[:, 4:].max() < 1e-5
        assert (shifted(plain(changed)) - shifted(plain(x))).abs().sum(-1)[0][4:6, 4:6].min() > 1e-3


def test_every_second_layer_is_shifted() -> None:
    model = SwinIR(**SMALL)
    shifts = [m.shift_size for m in model.modules() if isinstance(m, module.SwinTransformerLayer)]
    assert shifts == [0, 2, 0, 2]
    single = SwinIR(**{**SMALL, "img_size": 4})  # one window: nothing to shift
    assert all(m.shift_size == 0 for m in single.modules() if isinstance(m, module.SwinTransformerLayer))


def test_body_skip_alone_reconstructs_the_shallow_features() -> None:
    model = loud(SwinIR(**SMALL))
    nn.init.zeros_(model.conv_after_body.weight)
    nn.init.zeros_(model.conv_after_body.bias)
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = model.reconstruct(model.conv_first(image - model.mean)) + model.mean
        torch.testing.assert_close(model(image), expected, rtol=0, atol=0)


def test_block_and_layer_skips_are_identities() -> None:
    model = loud(SwinIR(**SMALL))
    x = torch.randn(1, 16, 16, 12)
    block = model.layers[0]
    layer = block.residual_group["blocks"][1]
    with torch.no_grad():
        torch.testing.assert_close(block(x) - x, block.residual(x), rtol=1e-4, atol=1e-4)
        for p in block.conv.parameters():
            p.zero_()
        assert torch.equal(block(x), x)
        nn.init.zeros_(layer.attn.proj.weight)
        nn.init.zeros_(layer.attn.proj.bias)
        torch.testing.assert_close(layer(x), x + layer.mlp(layer.norm2(x)))
        nn.init.zeros_(layer.mlp.fc2.weight)
        nn.init.zeros_(layer.mlp.fc2.bias)
        assert torch.equal(layer(x), x)


def test_denoising_learns_a_residual_of_the_image() -> None:
    model = loud(SwinIR(**SMALL, upscale=1, upsampler=""))
    nn.init.zeros_(model.conv_last.weight)
    nn.init.zeros_(model.conv_last.bias)
    photo = torch.from_numpy(data.astronaut()[:20, :20] / 255.0).float().permute(2, 0, 1)[None]
    torch.testing.assert_close(model(photo), photo, rtol=0, atol=1e-6)
    # A network with upsampling has no such skip: silenced, it paints the mean.
    model = loud(SwinIR(**SMALL, upscale=2))
    nn.init.zeros_(model.conv_last.weight)
    nn.init.zeros_(model.conv_last.bias)
    torch.testing.assert_close(model(photo)[0, :, 0, 0], torch.tensor(module.RGB_MEAN))


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (3, 5), (32, 20)])
@pytest.mark.parametrize(("upscale", "upsampler"), [(1, ""), (3, "pixelshuffle"), (4, "nearest+conv")])
def test_any_image_size(size: tuple[int, int], upscale: int, upsampler: str) -> None:
    model = SwinIR(**SMALL, upscale=upscale, upsampler=upsampler).eval()
    out = model(torch.rand(2, 3, *size))
    assert out.shape == (2, 3, upscale * size[0], upscale * size[1])


def test_a_padded_image_gives_the_crop_of_its_mirrored_self() -> None:
    model = loud(SwinIR(**SMALL, upscale=2))
    photo = torch.from_numpy(data.camera()[100:117, 100:122] / 255.0).float().expand(1, 3, -1, -1)
    mirrored = F.pad(photo, (0, 2, 0, 3), mode="reflect")
    with torch.no_grad():
        torch.testing.assert_close(model(photo), model(mirrored)[..., :34, :44])


def test_stored_masks_do_not_bind_to_the_training_size() -> None:
    """Two networks of different img_size but equal weights restore an image equally."""
    first, second = SwinIR(**SMALL), SwinIR(**{**SMALL, "img_size": 32})
    weights = {k: v for k, v in first.state_dict().items() if not k.endswith("attn_mask")}
    assert all(k.endswith("attn_mask") for k in second.load_state_dict(weights, strict=False).missing_keys)
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(first.eval()(image), second.eval()(image))


def test_window_7_for_jpeg_scales_the_range() -> None:
    model = SwinIR(
        img_size=14, window_size=7, embed_dim=8, depths=(2,), num_heads=(2,), in_chans=1, upscale=1,
        upsampler="", img_range=255.0,
    ).eval()  # fmt: skip
    nn.init.zeros_(model.conv_last.weight)
    nn.init.ones_(model.conv_last.bias)
    image = torch.rand(1, 1, 14, 21)
    torch.testing.assert_close(model(image), image + 1 / 255)


def test_three_convolutions_before_the_long_skips() -> None:
    model = SwinIR(**SMALL, resi_connection="3conv")
    shapes = [tuple(p.shape) for n, p in model.named_parameters() if n.startswith("conv_after_body")]
    assert shapes == [(3, 12, 3, 3), (3,), (3, 3, 1, 1), (3,), (12, 3, 3, 3), (12,)]


def test_initial_values() -> None:
    model = SwinIR(embed_dim=60, depths=(2,), num_heads=(6,), img_size=16)
    for m in model.modules():
        if isinstance(m, nn.Linear):
            assert m.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert m.bias.abs().max() == 0
        if isinstance(m, module.WindowAttention):
            assert m.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.15)


def test_losses() -> None:
    output, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(objective(output, target), (output - target).abs().mean())
    expected = sum(
        math.sqrt((o - t) ** 2 + 1e-6)
        for o, t in zip(output.flatten().tolist(), target.flatten().tolist(), strict=True)
    )
    assert charbonnier(output, target).item() == pytest.approx(expected / output.numel(), rel=1e-5)
    same = output.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(charbonnier(same, output), same)
    assert charbonnier(output, output).item() == pytest.approx(1e-3)
    assert gradient.abs().max() == 0  # smooth at zero


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depths": (2,)}, "1 depths, but 2 num_heads"),
        ({"img_size": 18}, "img_size 18 is not a multiple"),
        ({"num_heads": (5, 5)}, "not a multiple of num_heads 5"),
        ({"upscale": 5}, "power of two, got 5"),
        ({"upsampler": "bicubic"}, "upsampler must be"),
        ({"upsampler": "nearest+conv"}, "defined for upscale 4"),
        ({"upsampler": ""}, "upscale must be 1"),
        ({"resi_connection": "2conv"}, "'1conv' or '3conv'"),
    ],
)
def test_contradictions_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SwinIR(**{**SMALL, **kwargs})


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="2 x 9 cannot be mirrored"):
        SwinIR(**SMALL)(torch.rand(1, 3, 2, 9))
    with pytest.raises(TypeError):
        SwinIR(embed_dims=60)


def test_exports_and_runs_in_bfloat16() -> None:
    model = SwinIR(**SMALL, upscale=2).eval()
    image = torch.rand(1, 3, 12, 18)
    exported = torch.export.export(model, (image,)).module()
    torch.testing.assert_close(exported(image), model(image))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(model(image).float(), model(image).float())
    halved = SwinIR(**SMALL, upscale=2).eval().bfloat16()
    assert halved(image.bfloat16()).dtype == torch.bfloat16

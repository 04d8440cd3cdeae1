"""TransUNet: what the Transformer cannot know comes through the skips, the coarsest first."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import transunet as module
from skipkb.models.segmentation.transunet import TransUNet

SMALL: dict[str, Any] = {
    "img_size": 32, "layers": (2, 1, 1), "width": 8, "groups": 4, "hidden_size": 16, "mlp_dim": 24, "num_heads": 2,
    "num_layers": 2, "dropout_rate": 0.0, "head_channels": 12, "decoder_channels": (10, 8, 6, 4), "num_classes": 3,
}  # fmt: skip


def small(**change: Any) -> TransUNet:
    return TransUNet(**(SMALL | change))


# --- the long skips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_skip", [0, 1, 2, 3])
def test_as_many_maps_as_asked_reach_the_decoder_the_coarsest_first(n_skip: int) -> None:
    model = small(n_skip=n_skip).eval()
    seen: list[tuple[int, ...] | None] = []
    for block in model.decoder.blocks:
        block.register_forward_pre_hook(lambda _m, args: seen.append(None if args[1] is None else args[1].shape[1:]))
    model(torch.rand(1, 3, 32, 32))
    maps = [(64, 4, 4), (32, 8, 8), (8, 16, 16)]  # of the ResNet at 1/8, 1/4 and 1/2
    assert seen == [*maps[:n_skip], *[None] * (4 - n_skip)]


def test_with_a_silent_transformer_only_the_skips_carry_the_picture() -> None:
    """Tokens that are always the same: without skips every picture gets one answer, with them each its own."""
    pictures = torch.rand(2, 3, 32, 32)
    for n_skip in (0, 1, 3):
        model = small(n_skip=n_skip).eval()
        nn.init.zeros_(model.get_parameter("transformer.encoder.encoder_norm.weight"))
        first, second = model(pictures)
        assert torch.equal(first, second) == (n_skip == 0)


def test_a_map_lies_over_the_enlarged_one_and_keeps_its_values() -> None:
    block = module.DecoderBlock(2, 3, 4).eval()
    seen: list[Tensor] = []
    block.conv1.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    x, skip = torch.rand(1, 2, 5, 5), torch.rand(1, 3, 10, 10)
    block(x, skip)
    assert torch.equal(seen[0][:, 2:], skip)
    assert torch.equal(seen[0][:, :2, ::9, ::9], x[:, :, ::4, ::4])  # corners lie on corners


def test_the_pooling_is_not_padded_and_the_skip_fills_up() -> None:
    trunk = module.ResNet(3, layers=(1, 1, 1), width=8, groups=4)
    last, (eighth, quarter, half) = trunk(torch.rand(1, 3, 64, 64))
    assert (last.shape[-1], eighth.shape[-1], quarter.shape[-1], half.shape[-1]) == (4, 8, 16, 32)
    assert torch.count_nonzero(quarter[..., -1, :]) == torch.count_nonzero(quarter[..., -1]) == 0
    assert torch.count_nonzero(quarter[..., :-1, :-1]) > 0
    assert torch.count_nonzero(eighth[..., -1]) > 0


# --- the short ones -----------------------------------------------------------------------------------------------


def test_silent_branches_are_identities() -> None:
    block = module.Bottleneck(16, 16, stride=1, groups=4)
    nn.init.zeros_(block.gn3.weight)
    x = torch.randn(1, 16, 6, 6)
    assert torch.equal(block(x), F.relu(x))
    layer = module.TransformerLayer(16, num_heads=2, mlp_dim=24, dropout_rate=0.0)
    nn.init.zeros_(layer.attn.out.weight)
    nn.init.zeros_(layer.attn.out.bias)
    z = torch.randn(1, 5, 16)
    torch.testing.assert_close(layer(z), z + layer.ffn(layer.ffn_norm(z)), rtol=0, atol=0)
    nn.init.zeros_(layer.ffn.fc2.weight)
    nn.init.zeros_(layer.ffn.fc2.bias)
    assert torch.equal(layer(z), z)


def test_kernels_are_standardised_when_used() -> None:
    conv = module.StdConv2d(3, 4, 3, bias=False).double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    y = conv(x)
    with torch.no_grad():
        conv.weight.mul_(5).add_(2)  # neither scale nor offset of a kernel matters
    torch.testing.assert_close(conv(x), y, rtol=1e-3, atol=1e-3)


def test_attention_by_hand() -> None:
    attention = module.Attention(6, 2).double()
    x = torch.randn(1, 4, 6, dtype=torch.float64)
    q, k, v = attention.query(x), attention.key(x), attention.value(x)
    heads = [
        (q[..., part] @ k[..., part].mT / 3**0.5).softmax(-1) @ v[..., part] for part in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(attention(x), attention.out(torch.cat(heads, -1)))


def test_a_block_of_the_decoder_has_two_normalised_convolutions() -> None:
    kinds = [type(m) for m in module.DecoderBlock(4, 0, 4).modules() if not list(m.children())]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2


# --- training and start weights -----------------------------------------------------------------------------------


def test_the_loss_is_half_cross_entropy_and_half_dice() -> None:
    logits, classes = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    p = logits.softmax(1)
    dice = 0.0
    for k in range(3):
        truth = (classes == k).float()
        common = (p[:, k] * truth).sum()
        dice += (2 * common / ((p[:, k] ** 2).sum() + (truth**2).sum())).item() / 3
    expected = 0.5 * F.cross_entropy(logits, classes).item() + 0.5 * (1 - dice)
    assert module.objective(logits, classes).item() == pytest.approx(expected, abs=1e-4)
    perfect = 50.0 * F.one_hot(classes, 3).movedim(-1, 1)
    assert module.objective(perfect, classes).item() == pytest.approx(0, abs=1e-6)


def as_npz(state: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """What Flax would have written for these layers, with a class token and its position."""
    file: dict[str, Tensor] = {"head/kernel": torch.zeros(16, 5), "head/bias": torch.zeros(5)}
    attention = {"query": "query", "key": "key", "value": "value", "out": "out"}
    for name, value in state.items():
        parts = name.split(".")
        leaf = {"weight": "kernel", "bias": "bias"}.get(parts[-1], "")
        if "hybrid_model" in name:
            layer = parts[-2].replace("downsample", "conv_proj")
            where = f"{layer}_root" if "root" in parts else f"{parts[-4]}/{parts[-3]}/{layer}"
            if "conv" in layer:
                file[f"{where}/kernel"] = value.permute(2, 3, 1, 0)
            else:
                file[f"{where}/{'scale' if leaf == 'kernel' else 'bias'}"] = value.view(1, 1, 1, -1)
        elif "patch_embeddings" in name:
            file[f"embedding/{leaf}"] = value.permute(2, 3, 1, 0) if leaf == "kernel" else value
        elif "position" in name:
            table = torch.cat([torch.full((1, 1, value.shape[2]), 7.0), value], 1)
            file |= {"Transformer/posembed_input/pos_embedding": table, "cls": torch.zeros(1, 1, value.shape[2])}
        elif "encoder_norm" in name:
            file[f"Transformer/encoder_norm/{'scale' if leaf == 'kernel' else 'bias'}"] = value
        elif found := re.search(r"layer\.(\d+)\.(attention_norm|ffn_norm|ffn|attn)", name):
            block = f"Transformer/encoderblock_{found[1]}"
            if "norm" in found[2]:
                norm = "LayerNorm_0" if found[2] == "attention_norm" else "LayerNorm_2"
                file[f"{block}/{norm}/{'scale' if leaf == 'kernel' else 'bias'}"] = value
            elif found[2] == "ffn":
                number = int(parts[-2][-1]) - 1
                file[f"{block}/MlpBlock_3/Dense_{number}/{leaf}"] = value.T if leaf == "kernel" else value
            else:
                part = attention[parts[-2]]
                inner, outer = (value.shape[0], heads, -1), (heads, -1, value.shape[0])
                if leaf == "kernel":
                    shaped = value.T.reshape(outer if part == "out" else inner)
                else:
                    shaped = value if part == "out" else value.view(heads, -1)
                file[f"{block}/MultiHeadDotProductAttention_1/{part}/{leaf}"] = shaped
    return file


def test_start_weights_of_the_release_fill_all_but_the_decoder() -> None:
    model = small()
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items() if name[0] == "t"}
    found = module.start_weights(as_npz(state, 2), img_size=32)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    missing = model.load_state_dict(found, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith(("decoder.", "segmentation_head.")) for name in missing.missing_keys)
    larger = module.start_weights(as_npz(state, 2), img_size=64)["transformer.embeddings.position_embeddings"]
    assert larger.shape == (1, 16, 16)
    assert torch.equal(larger[0, ::15], state["transformer.embeddings.position_embeddings"][0, ::3])  # first and last


# --- the rest -----------------------------------------------------------------------------------------------------


def test_grey_slices_are_repeated() -> None:
    model = small().eval()
    x = torch.rand(2, 1, 32, 32)
    assert torch.equal(model(x), model(x.repeat(1, 3, 1, 1)))


def test_networks_with_different_skips_do_not_change_each_other() -> None:
    """In the authors' code a network with fewer skips changes the configuration that later ones are built from."""
    before = [p.shape for p in small().parameters()]
    small(n_skip=1)
    assert [p.shape for p in small().parameters()] == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_size": 40}, "multiple of 16, got 40"),
        ({"n_skip": 4}, "between 0 and 3, got 4"),
        ({"layers": (1, 1)}, r"3 stages and the decoder 4 blocks, got layers=\(1, 1\)"),
        ({"groups": 3}, "width=8, groups=3"),
        ({"num_heads": 3}, "hidden_size=16 and num_heads=3"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**change)


@pytest.mark.parametrize("shape", [(1, 3, 32, 48), (1, 2, 32, 32), (1, 1, 16, 16), (3, 32, 32)])
def test_wrong_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"TransUNet: expected input \[N, 3, 32, 32\], got \["):
        small()(torch.rand(shape))

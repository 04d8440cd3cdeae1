"""ViT: a sum that runs unbroken from the patches to the classifier, and tokens that know their place by a table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import vit


def small(**change: object) -> vit.ViT:
    """A ViT of 16 patches of 4x4 pixels."""
    arguments: dict[str, object] = {
        "image_size": 16, "patch_size": 4, "num_layers": 3, "hidden_size": 24, "mlp_dim": 48, "num_heads": 3,
        "num_classes": 5,
    }  # fmt: skip
    model = vit.ViT(**(arguments | change))  # type: ignore[arg-type]
    nn.init.normal_(model.head.weight)  # it starts at zero
    nn.init.normal_(model.cls_token)
    return model.double()


def shuffled(x: Tensor, order: Tensor, patch: int) -> Tensor:
    """The patches of a picture in another order."""
    patches = F.unfold(x, patch, stride=patch)[:, :, order]
    return F.fold(patches, x.shape[2:], patch, stride=patch)


# --- the skips ----------------------------------------------------------------------------------------------------


def test_the_last_token_is_the_first_plus_all_that_the_branches_add() -> None:
    """Equations 2 and 3, unrolled: a sum of 1 + 2L terms that nothing scales or normalises on its way."""
    model = small().eval()
    branches: list[Tensor] = []
    for block in model.blocks:
        assert isinstance(block, vit.Block)
        for part in (block.attn, block.mlp):
            part.register_forward_hook(lambda _module, _x, y: branches.append(y))
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        z = model.tokens(x)
        last = model.blocks(z)
        assert len(branches) == 6
        torch.testing.assert_close(last, z + sum(branches), rtol=0, atol=1e-12)
        torch.testing.assert_close(model(x), model.head(model.norm(last[:, 0])))


def test_silent_branches_leave_every_token_as_it_is() -> None:
    model = small().eval()
    for block in model.blocks:
        assert isinstance(block, vit.Block)
        for layer in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    z = torch.randn(2, 17, 24, dtype=torch.float64)
    assert torch.equal(model.blocks(z), z)
    # Then no patch reaches the class token: the skips alone carry, they do not mix.
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(model(x)[0], model(x)[1])


def test_the_normalisation_stands_inside_the_branch() -> None:
    """A layer keeps the size of its input; with the normalisation behind the sum, it would not."""
    block = vit.Block(24, num_heads=3, mlp_dim=48).double()
    z = torch.randn(1, 17, 24, dtype=torch.float64)
    torch.testing.assert_close(block(1e6 * z) / 1e6, z, rtol=0, atol=1e-4)


# --- what knows where a patch is ----------------------------------------------------------------------------------


def test_without_positions_a_picture_is_a_bag_of_patches() -> None:
    model = small()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    other = shuffled(x, torch.arange(16).flip(0), 4)
    nn.init.normal_(model.pos_embed)
    assert (model(x) - model(other)).abs().max() > 1e-3 * model(x).abs().max()
    nn.init.zeros_(model.pos_embed)
    torch.testing.assert_close(model(x), model(other))


def test_attention_by_hand() -> None:
    attention = vit.Attention(6, 2).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    heads = [
        ((q[..., part] @ k[..., part].mT) / 3**0.5).softmax(-1) @ v[..., part] for part in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, -1)))


def test_resized_positions_are_those_of_the_release() -> None:
    """Linear between the old places, corner to corner, which is what scipy's zoom does."""
    from scipy import ndimage

    table = torch.randn(1, 1 + 49, 6, dtype=torch.float64)
    found = vit.resize_positions(table, 12)
    wanted = ndimage.zoom(table[0, 1:].reshape(7, 7, 6).numpy(), (12 / 7, 12 / 7, 1), order=1)
    assert found.shape == (1, 145, 6)
    assert torch.equal(found[:, 0], table[:, 0])
    torch.testing.assert_close(found[0, 1:], torch.from_numpy(wanted).reshape(144, 6))
    assert torch.equal(vit.resize_positions(table, 7), table)
    with pytest.raises(ValueError, match=r"\[1, 49, 6\] are not those of a square"):
        vit.resize_positions(table[:, 1:], 12)


# --- the release --------------------------------------------------------------------------------------------------


def as_npz(state: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """What Flax would have written, with a hidden layer as the 21K models have it."""
    file = {"cls": state["cls_token"], "Transformer/posembed_input/pos_embedding": state["pos_embed"]}
    file["embedding/kernel"] = state["patch_embed.proj.weight"].permute(2, 3, 1, 0)
    file["embedding/bias"] = state["patch_embed.proj.bias"]
    file |= {"head/kernel": state["head.weight"].T, "head/bias": state["head.bias"]}
    file |= {
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    width = state["norm.weight"].numel()
    file |= {"pre_logits/kernel": torch.randn(width, width), "pre_logits/bias": torch.randn(width)}
    for name, value in state.items():
        if not (found := re.fullmatch(r"blocks\.(\d+)\.(.*)\.(weight|bias)", name)):
            continue
        block, kind = f"Transformer/encoderblock_{found[1]}/", found[3]
        mha = f"{block}MultiHeadDotProductAttention_1/"
        leaf = kind.replace("weight", "kernel")
        if found[2] == "attn.qkv":
            for part, one in zip(("query", "key", "value"), value.chunk(3), strict=True):
                split = one.T.reshape(width, heads, -1) if kind == "weight" else one.reshape(heads, -1)
                file[f"{mha}{part}/{leaf}"] = split
        elif found[2] == "attn.proj":
            file[f"{mha}out/{leaf}"] = value.T.reshape(heads, -1, width) if kind == "weight" else value
        elif found[2].startswith("mlp"):
            file[f"{block}MlpBlock_3/Dense_{int(found[2][-1]) - 1}/{leaf}"] = value.T if kind == "weight" else value
        else:
            file[f"{block}LayerNorm_{0 if found[2] == 'norm1' else 2}/{kind.replace('weight', 'scale')}"] = value
    return file


def test_weights_of_the_release_load() -> None:
    model = small()
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    found = vit.from_npz(as_npz(state, 3))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_timm_reads_the_same_from_such_a_file(tmp_path: Path) -> None:
    """An independent reader of the release's layout."""
    timm = pytest.importorskip("timm")
    import numpy as np

    ours = small().float()
    theirs = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, mlp_ratio=2, num_classes=5
    )
    state = {name: torch.randn_like(value) for name, value in ours.state_dict().items()}
    file: dict[str, Any] = {k: v.numpy() for k, v in as_npz(state, 3).items() if "pre_logits" not in k}
    np.savez(tmp_path / "weights.npz", **file)
    theirs.load_pretrained(tmp_path / "weights.npz")
    ours.load_state_dict(vit.from_npz(np.load(tmp_path / "weights.npz")))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_the_gelu_is_exact_unless_asked() -> None:
    x = torch.linspace(-3, 3, 50)
    for gelu, approximate in (("exact", "none"), ("tanh", "tanh")):
        act = small(gelu=gelu).blocks[0].mlp.act  # type: ignore[union-attr]
        assert torch.equal(act(x), F.gelu(x, approximate=approximate))  # type: ignore[operator]
    assert (F.gelu(x) - F.gelu(x, approximate="tanh")).abs().max() > 1e-4


def test_initial_values_are_those_of_the_release() -> None:
    model = vit.ViT(image_size=64, patch_size=8, num_layers=1, hidden_size=384, mlp_dim=768, num_heads=6)
    block = model.blocks[0]
    assert isinstance(block, vit.Block)
    for one in block.attn.qkv.weight.chunk(3):  # each map has its own fan, not that of the joint tensor
        assert one.abs().max().item() == pytest.approx((6 / 768) ** 0.5, rel=0.01)
    assert block.mlp.fc1.weight.abs().max().item() == pytest.approx((6 / 1152) ** 0.5, rel=0.01)
    assert 0 < block.mlp.fc1.bias.abs().max() < 1e-5
    assert model.patch_embed.proj.weight.std().item() == pytest.approx((8 * 8 * 3) ** -0.5, rel=0.02)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.count_nonzero(model.head.weight) == torch.count_nonzero(model.cls_token) == 0
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_the_classifier_is_one_linear_layer() -> None:
    """No hidden layer with tanh: the logits are a linear function of the normalised class token."""
    model = small().eval()
    seen: list[Tensor] = []
    model.norm.register_forward_hook(lambda _module, _x, y: seen.append(y[:, 0]))
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(x), seen[0] @ model.head.weight.T + model.head.bias)


def test_dropout_is_for_training() -> None:
    model = small(dropout_rate=0.5)
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(
    ("name", "tokens", "layers"),
    [("vit_s16", 197, 12), ("vit_b32", 50, 12), ("vit_l16", 197, 24), ("vit_h14", 257, 32)],
)
def test_published_structure(name: str, tokens: int, layers: int) -> None:
    with torch.device("meta"):
        model = getattr(vit, name)()
        assert model.tokens(torch.empty(2, 3, 224, 224)).shape[:2] == (2, tokens)
    assert len(model.blocks) == layers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 5}, "patch_size must divide image_size, got image_size=16 and patch_size=5"),
        ({"num_heads": 5}, "num_heads must divide hidden_size, got .*hidden_size=24.*num_heads=5"),
        ({"mlp_dim": 0}, "must be positive"),
        ({"gelu": "quick"}, "gelu must be exact or tanh, got 'quick'"),
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
        vit.vit_b16(num_clases=10)

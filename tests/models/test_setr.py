"""SETR: one encoder of constant resolution, and three ways back to pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import setr as module
from skipkb.models.segmentation.setr import SETR

SMALL: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "hidden_size": 16, "num_layers": 5, "num_heads": 2, "mlp_dim": 24, "channels": 8,
    "head_channels": 6, "num_classes": 3,
}  # fmt: skip
DECODERS = {"naive": (2, 4), "pup": (2, 4, 5), "mla": (1, 2, 4, 5)}


def small(name: str, **change: Any) -> SETR:
    return SETR(**(SMALL | {"decoder": name, "read": DECODERS[name]} | change))


# --- the encoder --------------------------------------------------------------------------------------------------


def test_every_layer_has_all_patches_at_one_resolution() -> None:
    backbone = small("naive").backbone
    x = torch.rand(2, 3, 32, 32)
    assert [z.shape for z in backbone(x, class_token=True)] == [(2, 17, 16)] * 5
    assert [z.shape for z in backbone(x, class_token=False)] == [(2, 16, 16)] * 5


def test_silent_layers_hand_the_sequence_on() -> None:
    backbone = small("naive").backbone
    for block in backbone.blocks:
        for name in ("attn.proj", "mlp.fc2"):
            nn.init.zeros_(block.get_parameter(f"{name}.weight"))
    layers = backbone(torch.rand(1, 3, 32, 32), class_token=True)
    assert all(torch.equal(z, layers[0]) for z in layers)


def test_the_class_token_is_not_read() -> None:
    for decoder in ("naive", "pup"):
        head = small(decoder).eval().decode_head
        tokens = torch.randn(1, 17, 16)
        other = tokens.clone()
        other[:, 0] += 1
        assert torch.equal(head(tokens), head(other))
    model = small("mla").eval()
    x = torch.rand(1, 3, 32, 32)
    before = model(x)["out"]
    nn.init.normal_(model.backbone.cls_token)
    assert torch.equal(model(x)["out"], before)
    assert not model.backbone.cls_token.requires_grad
    assert small("pup").backbone.cls_token.requires_grad


# --- the decoders -------------------------------------------------------------------------------------------------


def sizes(head: nn.Module, *args: Any) -> list[int]:
    """Sides of the maps that its convolutions get."""
    seen: list[int] = []
    for part in head.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[-1]))
    head(*args)
    return seen


def test_naive_enlarges_once_and_pup_by_two_each_time() -> None:
    tokens = torch.randn(2, 17, 16)
    assert sizes(small("naive").decode_head, tokens) == [4, 4]
    assert sizes(small("pup").decode_head, tokens) == [4, 8, 16, 32, 32]
    assert sizes(small("pup").auxiliary_head[0], tokens) == [4, 16]
    kernels = {d: small(d).decode_head.get_parameter("conv_0.weight").shape[-1] for d in ("naive", "pup")}
    assert kernels == {"naive": 1, "pup": 3}


def test_pup_enlarges_the_last_time_behind_the_classifier() -> None:
    head = small("pup").eval().decode_head
    seen: list[Tensor] = []
    head.get_submodule("conv_4").register_forward_hook(lambda _m, _x, y: seen.append(y))
    found = head(torch.randn(1, 17, 16))
    assert torch.equal(found, F.interpolate(seen[0], (32, 32), mode="bilinear", align_corners=False))


def test_deep_layers_are_added_to_all_shallower_ones() -> None:
    """p_l = w_l z_l + p_(l+1): with convolutions that copy, a level is the sum of its layer and all deeper ones."""
    mla = module.MLA(4, 4).eval()
    for part in mla.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.zeros_(part.weight)
            with torch.no_grad():
                part.weight[:, :, part.kernel_size[0] // 2, part.kernel_size[0] // 2] = torch.eye(4)
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
    layers = [torch.rand(1, 4, 3, 3) for _ in range(4)]
    for i, level in enumerate(mla(layers)):
        torch.testing.assert_close(level, torch.stack(layers[i:]).sum(0))


def test_each_level_is_enlarged_by_four_and_all_stand_side_by_side() -> None:
    head = small("mla").eval().decode_head
    assert isinstance(head, module.MLAHead)
    seen: list[Tensor] = []
    head.cls.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    levels = [torch.rand(1, 8, 4, 4) for _ in range(4)]
    assert head(levels).shape == (1, 3, 32, 32)
    third = head.mlahead["head4"](levels[2])
    assert torch.equal(seen[0][:, 12:18], module.enlarge(third, 16, corners=True))


def test_layers_are_normalised_by_their_readers() -> None:
    for decoder in DECODERS:
        norms = [m for m in small(decoder).modules() if isinstance(m, nn.LayerNorm)]
        readers = {"naive": 3, "pup": 4, "mla": 4}[decoder]
        assert len(norms) == 2 * 5 + readers


def test_an_unused_classifier_is_in_every_head() -> None:
    model = small("mla").eval()
    x = torch.rand(1, 3, 32, 32)
    before = model(x)
    for head in (model.decode_head, *model.auxiliary_head):
        assert isinstance(head, module.Head)
        assert not head.conv_seg.weight.requires_grad
        nn.init.normal_(head.conv_seg.weight)
    after = model(x)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_further_classifier_reads_its_layer_and_nothing_behind_it(decoder: str) -> None:
    model = small(decoder).eval()
    assert list(model(torch.rand(1, 3, 32, 32))) == ["out", *(f"aux{i}" for i in range(len(DECODERS[decoder])))]
    x = torch.rand(1, 3, 32, 32)
    before = model(x)
    nn.init.normal_(model.backbone.blocks[4].get_parameter("mlp.fc2.bias"), std=3)  # the last layer
    after = model(x)
    assert not torch.equal(after["out"], before["out"])
    # Aggregation reads deeper layers too, from the top down.
    assert torch.equal(after["aux0"], before["aux0"]) == (decoder != "mla")


# --- the rest -----------------------------------------------------------------------------------------------------


def test_the_loss() -> None:
    target = torch.randint(0, 3, (2, 8, 8))
    output = {name: torch.randn(2, 3, 8, 8) for name in ("out", "aux0", "aux1")}
    parts = [F.cross_entropy(logits, target) for logits in output.values()]
    torch.testing.assert_close(module.objective(output, target), parts[0] + 0.4 * (parts[1] + parts[2]))


@pytest.mark.parametrize("stride", [32, 20])
def test_windows_cover_a_larger_picture_and_are_averaged(stride: int) -> None:
    model = small("pup").eval()
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(module.slide(model, x, stride=stride), model(x)["out"])
    picture = torch.rand(1, 3, 32, 50)
    found = module.slide(model, picture, stride=stride)
    windows = [model(picture[..., left : left + 32])["out"] for left in (0, 18)]  # the last one ends at the edge
    torch.testing.assert_close(found[..., :18], windows[0][..., :18])
    torch.testing.assert_close(found[..., 18:32], (windows[0][..., 18:] + windows[1][..., :14]) / 2)
    torch.testing.assert_close(found[..., 32:], windows[1][..., 14:])
    with pytest.raises(ValueError, match=r"windows of 32 need a picture of at least that.*\[1, 3, 32, 50\].*stride=40"):
        module.slide(model, picture, stride=40)


def test_initial_values() -> None:
    model = small("mla", hidden_size=64, mlp_dim=128)
    assert model.backbone.blocks[0].get_parameter("mlp.fc1.weight").std().item() == pytest.approx(0.02, rel=0.1)
    assert model.backbone.pos_embed.std().item() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": "fpn"}, "naive, pup or mla, got 'fpn'"),
        ({"img_size": 30}, "img_size=30 and patch_size=8"),
        ({"read": (2, 6)}, r"layers between 1 and 5.*got \(2, 6\)"),
        ({"decoder": "mla", "read": (1, 2)}, r"mla takes four, got \(1, 2\)"),
        ({"num_heads": 3}, "hidden_size=16 and num_heads=3"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("naive", **change)


@pytest.mark.parametrize("shape", [(1, 3, 32, 40), (1, 1, 32, 32), (3, 32, 32)])
def test_wrong_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"SETR: expected input \[N, 3, 32, 32\], got \["):
        small("naive")(torch.rand(shape))
    with pytest.raises(TypeError):
        module.setr_pup(num_clases=3)

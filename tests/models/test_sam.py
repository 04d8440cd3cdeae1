"""What the SAM paper is about: one embedding for any number of prompts, and masks that follow what is pointed at."""

from __future__ import annotations

import pytest
import torch
from skimage import data
from torch import Tensor
from torch.nn import functional as F

from skipkb.models.segmentation import sam
from skipkb.models.segmentation.sam import SAM, Rounds, automatic_masks, masks_of_size, objective, prepare, relative

SETTINGS = {
    "img_size": 64, "encoder_dim": 24, "encoder_depth": 2, "encoder_heads": 2, "global_layers": (1,), "window": 3,
    "patch": 8, "dim": 32, "decoder_heads": 4, "decoder_mlp": 48, "mask_channels": 8,
}  # fmt: skip
POINTS, LABELS = torch.tensor([[[20.0, 30.0], [50.0, 10.0]]]), torch.tensor([[1, 0]])
BOX = torch.tensor([[10.0, 12.0, 40.0, 50.0]])


@pytest.fixture(scope="module")
def model() -> SAM:
    torch.manual_seed(0)
    model = SAM(**SETTINGS).eval()
    for parameter in model.parameters():  # positions start at zero
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.from_numpy(data.astronaut()).permute(2, 0, 1)


@torch.no_grad()
def test_the_picture_is_embedded_once_for_any_number_of_prompts(model: SAM, picture: Tensor) -> None:
    x, _ = prepare(picture, 64)
    points = torch.rand(5, 1, 2) * 64
    labels = torch.ones(5, 1, dtype=torch.long)
    together = model.decode(model.embed(x), points, labels)
    assert together["masks"].shape == (5, 3, 32, 32)
    assert together["iou"].shape == (5, 3)
    for i in range(5):
        alone = model(x, points[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(together["masks"][i : i + 1], alone["masks"], rtol=1e-4, atol=1e-5)
    assert (together["masks"][0] - together["masks"][1]).abs().max() > 1e-3, "another prompt, another answer"


@torch.no_grad()
def test_every_prompt_changes_the_answer_and_their_order_does_not(model: SAM) -> None:
    embedding = model.embed(torch.randn(1, 3, 64, 64))
    mask = torch.randn(1, 1, 32, 32)
    answers = [
        model.decode(embedding, POINTS, LABELS)["masks"],
        model.decode(embedding, POINTS, 1 - LABELS)["masks"],
        model.decode(embedding, boxes=BOX)["masks"],
        model.decode(embedding, POINTS, LABELS, BOX)["masks"],
        model.decode(embedding, POINTS, LABELS, BOX, mask)["masks"],
        model.decode(embedding, masks=mask)["masks"],
    ]
    for i, one in enumerate(answers):
        assert all((one - other).abs().max() > 1e-4 for other in answers[:i])
    swapped = model.decode(embedding, POINTS.flip(1), LABELS.flip(1))["masks"]
    torch.testing.assert_close(swapped, answers[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_mask_three_masks_and_all_are_the_same_four(model: SAM) -> None:
    embedding = model.embed(torch.randn(1, 3, 64, 64))
    all_four = model.decode(embedding, POINTS, LABELS, several=None)
    assert torch.equal(model.decode(embedding, POINTS, LABELS, several=False)["masks"], all_four["masks"][:, :1])
    assert torch.equal(model.decode(embedding, POINTS, LABELS)["iou"], all_four["iou"][:, 1:])


# ------------------------------------------------------------------------------------------- image encoder


@torch.no_grad()
def test_relative_positions_are_those_of_every_pair(model: SAM) -> None:
    attention = model.image_encoder.blocks[1].attn
    x = torch.randn(1, 8, 8, 24)
    q, k, v = attention.qkv(x).view(64, 3, 2, 12).permute(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2) / 12**0.5
    for a in range(64):
        for b in range(64):
            down, right = a // 8 - b // 8 + 7, a % 8 - b % 8 + 7
            scores[:, a, b] += q[:, a] @ attention.rel_pos_h[down] + q[:, a] @ attention.rel_pos_w[right]
    wanted = attention.proj((scores.softmax(-1) @ v).transpose(0, 1).reshape(1, 8, 8, 24))
    torch.testing.assert_close(attention(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_table_for_another_size_is_interpolated() -> None:
    table = torch.arange(7.0)[:, None]  # distances -3 to 3
    assert relative(table, 4)[..., 0].tolist() == [[3 + a - b for b in range(4)] for a in range(4)]
    longer = relative(table, 8)
    assert longer.shape == (8, 8, 1)
    assert longer[0, 7, 0] < 0.5
    assert longer[7, 0, 0] > 5.5
    assert longer[3, 3, 0] == 3


@torch.no_grad()
def test_windows_keep_apart_and_the_global_layer_joins(model: SAM) -> None:
    first, second = model.image_encoder.blocks
    x = torch.randn(1, 8, 8, 24)
    other = x.clone()
    other[0, 0, 0] = torch.randn(24)
    changed = (first(other) - first(x)).abs().amax(-1)[0] > 0
    assert changed[:3, :3].sum() == changed.sum() > 6, "a window of 3 x 3"
    assert ((second(other) - second(x)).abs().amax(-1) > 0).sum() > 56


@torch.no_grad()
def test_without_its_branches_a_layer_is_the_identity(model: SAM) -> None:
    block = sam.Block(24, num_heads=2, size=8, window=3)
    for layer in (block.attn.proj, block.mlp.lin2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(2, 8, 8, 24)
    assert torch.equal(block(x), x)


# ------------------------------------------------------------------------------------------------- decoder


@torch.no_grad()
def test_the_first_attention_among_tokens_has_no_skip() -> None:
    for first in (True, False):
        block = sam.TwoWayBlock(32, num_heads=4, mlp_dim=16, first=first)
        for part in (block.self_attn, block.cross_attn_token_to_image, block.cross_attn_image_to_token):
            torch.nn.init.zeros_(part.out_proj.weight)
            torch.nn.init.zeros_(part.out_proj.bias)
        torch.nn.init.zeros_(block.mlp.lin2.weight)
        torch.nn.init.zeros_(block.mlp.lin2.bias)
        tokens, image = torch.randn(1, 3, 32), torch.randn(1, 5, 32)
        out, seen = block(tokens, image, tokens, image)
        if first:
            assert not out.any(), "nothing of the tokens is left"
        else:
            torch.testing.assert_close(out, F.layer_norm(tokens, (32,)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen, F.layer_norm(image, (32,)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_points_without_a_box_get_a_token_that_says_nothing(model: SAM) -> None:
    tokens, dense = model.prompt_encoder(1, POINTS, LABELS, None, None)
    assert tokens.shape == (1, 3, 32)
    assert torch.equal(tokens[0, 2], model.prompt_encoder.not_a_point_embed.weight[0])
    assert torch.equal(dense[0, :, 3, 4], model.prompt_encoder.no_mask_embed.weight[0])
    assert model.prompt_encoder(1, POINTS, LABELS, BOX, None)[0].shape == (1, 4, 32)
    assert model.prompt_encoder(1, None, None, BOX, None)[0].shape == (1, 2, 32)
    assert model.prompt_encoder(2, None, None, None, torch.zeros(2, 1, 32, 32))[0].shape == (2, 0, 32)


@torch.no_grad()
def test_a_point_and_the_cell_it_lies_in_have_the_same_position(model: SAM) -> None:
    layer = model.prompt_encoder.pe_layer
    grid = layer.grid(8)
    place = torch.tensor([(5 + 0.5) / 8, (2 + 0.5) / 8])  # x, y
    torch.testing.assert_close(layer(place), grid[0, :, 2, 5])


# ------------------------------------------------------------------------------------------------ training


def test_of_three_masks_only_the_best_is_trained() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[:, :4] = 1
    logits = torch.stack([torch.full((8, 8), -1.0), (target[0] * 4.0 - 2), torch.zeros(8, 8), torch.ones(8, 8)])[None]
    logits.requires_grad_()
    iou = torch.zeros(1, 4, requires_grad=True)
    objective({"masks": logits, "iou": iou}, target).backward()
    assert [bool(g.any()) for g in logits.grad[0]] == [True, True, False, False]
    assert iou.grad.nonzero().shape[0] == 2, "every estimate but those of the two empty masks, which are right"
    with torch.no_grad():
        three = objective({"masks": logits[:, 1:], "iou": iou[:, 1:]}, target)
        worse = objective({"masks": logits[:, 2:3], "iou": iou[:, 2:3]}, target)
    assert three < worse


def test_the_second_round_sees_the_mask_of_the_first() -> None:
    torch.manual_seed(0)
    rounds = Rounds(**SETTINGS)
    x = torch.randn(2, 3, 64, 64)
    points, labels, boxes = POINTS.expand(2, -1, -1), LABELS.expand(2, -1), BOX.expand(2, -1)
    given = {}
    rounds.sam.prompt_encoder.mask_downscaling.register_forward_pre_hook(lambda m, args: given.update(mask=args[0]))
    found = rounds(x, points, labels, boxes)
    assert found["masks"].shape == (2, 2, 4, 32, 32)
    best = found["iou"][:, 0].argmax(1)
    assert torch.equal(given["mask"][:, 0], found["masks"][torch.arange(2), 0, best].detach())
    assert not given["mask"].requires_grad
    target = torch.ones(2, 64, 64, dtype=torch.long)
    each = [objective({name: value[:, i] for name, value in found.items()}, target) for i in range(2)]
    torch.testing.assert_close(objective(found, target), sum(each) / 2)


# --------------------------------------------------------------------------------------------------- using


def test_a_prepared_picture_keeps_its_proportions_and_comes_back(picture: Tensor) -> None:
    x, scale = prepare(picture[:, :300], 128)
    assert x.shape == (1, 3, 128, 128)
    assert scale == 0.25
    assert not x[..., 75:, :].any(), "filled with zeros below"
    assert x[..., :75, :].abs().mean() > 0.1
    logits = torch.full((1, 1, 32, 32), -1.0)
    logits[..., 4:12, 8:20] = 1
    mask = masks_of_size(logits, (300, 512), 128)[0, 0] > 0
    assert mask.shape == (300, 512)
    rows, columns = mask.nonzero().T
    assert (rows.min(), rows.max()) == (pytest.approx(64, abs=6), pytest.approx(191, abs=6))
    assert (columns.min(), columns.max()) == (pytest.approx(128, abs=6), pytest.approx(319, abs=6))


def test_automatic_masks_are_certain_stable_and_different(picture: Tensor) -> None:
    """With a decoder that answers a click by the quarter of the picture in which it lies."""
    torch.manual_seed(0)
    model = SAM(**SETTINGS).eval()

    def quarter(embedding: Tensor, points: Tensor, labels: Tensor) -> dict[str, Tensor]:
        masks = torch.full((len(points), 3, 32, 32), -9.0)
        for i, (x, y) in enumerate(points[:, 0].tolist()):
            masks[i, :, 16 * (y > 32) :, 16 * (x > 32) :][:, :16, :16] = 9.0
        masks[:, 1] = 0.5  # unstable
        return {"masks": masks, "iou": torch.tensor([0.95, 0.97, 0.3]).expand(len(points), -1)}

    model.decode = quarter  # type: ignore[assignment]
    found = automatic_masks(model, picture, points_per_side=4, at_a_time=5)
    assert len(found["masks"]) == 4, "sixteen clicks, four quarters"
    assert found["masks"].shape[1:] == (512, 512)
    assert (found["masks"].sum(0) <= 1).float().mean() > 0.9
    assert found["iou"].tolist() == pytest.approx([0.95] * 4)
    assert found["stability"].min() >= 0.95
    for mask, point in zip(found["masks"], found["points"].long(), strict=True):
        assert mask[point[1], point[0]]
    model.decode = lambda *a: {"masks": torch.full((len(a[1]), 3, 32, 32), -1.0), "iou": torch.ones(len(a[1]), 3)}
    assert len(automatic_masks(model, picture, points_per_side=2)["masks"]) == 0


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "the prompt is empty"),
        ({"points": torch.zeros(1, 0, 2), "labels": torch.zeros(1, 0)}, "the prompt is empty"),
        ({"points": POINTS}, "points need labels"),
        ({"points": POINTS, "labels": LABELS[:, :1]}, r"labels must be \[1, 2\], got \[1, 1\]"),
        ({"points": POINTS[0], "labels": LABELS}, r"points must be \[2, 'P', 2\], got \[2, 2\]"),
        ({"points": POINTS + 20, "labels": LABELS}, "points must lie in the picture, from 0 to 64, got 30 to 70"),
        ({"boxes": BOX - 11}, "boxes must lie in the picture, from 0 to 64, got -1 to 39"),
        ({"boxes": BOX[:, :3]}, r"boxes must be \[1, 4\], got \[1, 3\]"),
        ({"masks": torch.zeros(1, 1, 16, 16)}, r"masks must be \[1, 1, 32, 32\], got \[1, 1, 16, 16\]"),
        ({"boxes": BOX.expand(2, -1)}, "got 3 pictures and 2 prompts"),
    ],
)
def test_a_bad_prompt_is_refused_before_anything_is_computed(
    model: SAM, prompt: dict[str, Tensor], message: str
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a convolution ran")

    handle = model.image_encoder.patch_embed.proj.register_forward_pre_hook(never)
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(3 if "3 pictures" in message else 1, 3, 64, 64), **prompt)
    handle.remove()


def test_a_bad_picture_and_numbers_that_do_not_fit_are_refused(model: SAM) -> None:
    with pytest.raises(ValueError, match=r"expected input \[N, 3, 64, 64\], got \[1, 3, 64, 60\]"):
        model(torch.zeros(1, 3, 64, 60), POINTS, LABELS)
    with pytest.raises(ValueError, match=r"expected a picture \[3, H, W\]"):
        prepare(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="patch must divide img_size"):
        SAM(**SETTINGS | {"img_size": 60})

"""What the DETR paper is about: a set of predictions, matched one to one, from a transformer of skips."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck
from torchvision.models.resnet import ResNet
from torchvision.ops import FrozenBatchNorm2d, box_convert, box_iou

from skipkb.evidence import golden
from skipkb.evidence.data import detection
from skipkb.models.detection.detr import (
    DETR,
    GIOU,
    L1,
    AttentionMap,
    DecoderLayer,
    DETRsegm,
    EncoderLayer,
    MaskHead,
    Trunk,
    detr_resnet50,
    detr_resnet50_dc5,
    detr_resnet50_panoptic,
    losses,
    match,
    objective,
    sine_encoding,
)

SMALL: dict[str, Any] = {
    "num_classes": 3, "num_queries": 6, "blocks": (1, 1, 1, 1), "width": 4, "hidden_dim": 32, "nheads": 4,
    "enc_layers": 2, "dec_layers": 2, "dim_feedforward": 48, "dropout": 0.0,
}  # fmt: skip
WITH_MASKS = SMALL | {"hidden_dim": 128, "nheads": 8}


def objects(*boxes: list[float], label: int = 1) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.full((len(boxes),), label)}


def certain(*boxes: list[float], queries: int, size: int = 100, label: int = 1) -> dict[str, Tensor]:
    """An output whose first queries have these boxes (corners in pixels) and are sure, and the others find nothing."""
    logits = torch.full((1, queries, 4), -12.0)
    logits[0, :, 3] = 12
    logits[0, : len(boxes)] = -12
    logits[0, : len(boxes), label] = 12
    found = torch.full((1, queries, 4), 0.5)
    found[0, : len(boxes)] = box_convert(torch.tensor(boxes) / size, "xyxy", "cxcywh")
    return {"pred_logits": logits, "pred_boxes": found, "size": torch.tensor([size, size])}


# -- a set


def test_the_assignment_is_one_to_one_and_the_cheapest() -> None:
    torch.manual_seed(0)
    for _ in range(5):
        logits, boxes = torch.randn(5, 4), torch.rand(5, 4) * 0.4 + 0.3
        labels, wanted = torch.tensor([0, 2, 1]), torch.rand(3, 4) * 0.4 + 0.3

        def price(query: int, thing: int, logits: Tensor = logits, boxes: Tensor = boxes) -> float:
            """Equation 1, one pair, with a generalised IoU of our own."""
            a, b = box_convert(torch.stack([boxes[query], wanted[thing]]), "cxcywh", "xyxy")  # noqa: B023
            hull = (torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])).prod()
            iou = box_iou(a[None], b[None])[0, 0]
            both = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()
            union = both / (1 + iou)  # the intersection is iou times the union
            giou = iou - (hull - union) / hull
            probability = logits.softmax(-1)[query, labels[thing]]  # noqa: B023
            away = (boxes[query] - wanted[thing]).abs().sum()  # noqa: B023
            return float(-probability + 5 * away - 2 * giou)

        queries, chosen = match(logits, boxes, labels, wanted)
        assert sorted(chosen.tolist()) == [0, 1, 2]
        assert len(set(queries.tolist())) == 3
        ours = sum(price(q, o) for q, o in zip(queries.tolist(), chosen.tolist(), strict=True))
        best = min(sum(price(q, o) for o, q in enumerate(p)) for p in itertools.permutations(range(5), 3))
        assert ours == pytest.approx(best, abs=1e-5)


def test_a_second_box_on_the_same_object_is_a_mistake() -> None:
    """Why no suppression of duplicates is needed: they cost."""
    box = [20.0, 20, 60, 70]
    target = [objects(box)]
    once = losses(certain(box, queries=4), target)
    twice = losses(certain(box, box, queries=4), target)
    assert once["class"] < 1e-3
    assert twice["class"] > 1
    assert once["l1"] < 1e-5
    assert once["giou"] < 1e-4


def test_the_order_of_queries_and_of_objects_means_nothing() -> None:
    torch.manual_seed(1)
    output = {"pred_logits": torch.randn(1, 6, 4), "pred_boxes": torch.rand(1, 6, 4), "size": torch.tensor([50, 80])}
    target = {"boxes": torch.tensor([[5.0, 5, 20, 30], [30, 10, 60, 40], [1, 1, 70, 9]]), "labels": torch.arange(3)}
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = output | {name: output[name][:, order] for name in ("pred_logits", "pred_boxes")}
    back = {name: value[[2, 0, 1]] for name, value in target.items()}
    torch.testing.assert_close(objective(output, [target]), objective(shuffled, [back]))


def test_the_class_term_is_a_weighted_mean() -> None:
    """Deviation: five queries find nothing, of weight 0.1 each, and one an object."""
    output = certain([10.0, 10, 50, 50], queries=6)
    output["pred_logits"] = torch.randn(1, 6, 4)
    target = [objects([10.0, 10, 50, 50])]
    query = match(output["pred_logits"][0], output["pred_boxes"][0], target[0]["labels"], output["pred_boxes"][0, :1])[
        0
    ]
    logs = output["pred_logits"][0].log_softmax(-1)
    weights = torch.full((6,), 0.1).index_fill(0, query, 1.0)
    wanted = -torch.where(weights == 1, logs[:, 1], logs[:, 3])
    torch.testing.assert_close(losses(output, target)["class"], (weights * wanted).sum() / weights.sum())


def test_box_losses_are_shares_of_the_picture_divided_by_the_objects() -> None:
    output = {
        "pred_logits": torch.zeros(1, 2, 4),
        "pred_boxes": torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]]]),
        "size": torch.tensor([100, 200]),  # H, W
    }
    parts = losses(output, [objects([50.0, 25, 150, 85], [10.0, 5, 30, 15])])  # the second is met exactly
    torch.testing.assert_close(parts["l1"], torch.tensor(L1 * (0.05 + 0.1) / 2))
    torch.testing.assert_close(parts["giou"], torch.tensor(GIOU * (1 - 0.5 / 0.6) / 2))


def test_every_decoder_layer_is_judged_by_an_assignment_of_its_own() -> None:
    box = [20.0, 20, 60, 70]
    good, swapped = certain(box, queries=3), certain(box, queries=3)
    both = good | {
        "aux_logits": swapped["pred_logits"][:, [2, 1, 0]][:, None],
        "aux_boxes": swapped["pred_boxes"][:, [2, 1, 0]][:, None],
    }
    assert objective(both, [objects(box)]) < 0.01
    both["aux_boxes"] = both["aux_boxes"] * 0.5
    alone = good | {"pred_logits": both["aux_logits"][:, 0], "pred_boxes": both["aux_boxes"][:, 0]}
    torch.testing.assert_close(losses(both, [objects(box)])["l1"], losses(alone, [objects(box)])["l1"])


def test_more_objects_than_queries_and_none_at_all() -> None:
    model = DETR(**SMALL)
    output = model(torch.randn(2, 3, 64, 64))
    many = objects(*([5.0 * i, 5, 5 * i + 10, 20] for i in range(9)))
    loss = objective(output, [many, objects()])
    loss.backward()
    assert loss.isfinite()


# -- skips


@pytest.mark.parametrize("kind", [EncoderLayer, DecoderLayer])
def test_a_silent_layer_hands_its_input_on(kind: type[EncoderLayer]) -> None:
    """With outputs of zero only the skips are left, and what was normalised stays as it is."""
    layer = kind(dim=16, heads=4, hidden=32, dropout=0.0)
    module: Any
    for name, module in layer.named_modules():
        if name.endswith(("out_proj", "linear2")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    x, memory, query, position = torch.randn(2, 5, 16), torch.randn(2, 9, 16), torch.randn(5, 16), torch.randn(9, 16)
    x = F.layer_norm(x, (16,))
    y = layer(x, memory, query=query, position=position) if isinstance(layer, DecoderLayer) else layer(x, query)
    torch.testing.assert_close(y, x, rtol=1e-3, atol=1e-3)


def test_skips_keep_the_positions_of_the_encoder_apart() -> None:
    """Without them attention, which averages, makes all positions alike."""
    torch.manual_seed(0)
    model = DETR(**SMALL | {"enc_layers": 6, "hidden_dim": 64}).eval()
    position = sine_encoding(5, 6, 64)
    spread = {}
    for skips in (True, False):
        x = torch.randn(1, 30, 64)
        layers: Any = model.transformer.encoder["layers"]
        for layer in layers:
            if skips:
                x = layer(x, position)
            else:
                q = x + position
                x = layer.norm1(layer.self_attn(q, q, x)[0])
                x = layer.norm2(layer.linear2(F.relu(layer.linear1(x))))
        spread[skips] = float(x.std(dim=1).mean().detach())
    assert spread[True] > 10 * spread[False]


def test_positions_reach_attention_but_not_what_it_reads() -> None:
    layer = EncoderLayer(dim=16, heads=4, hidden=32, dropout=0.0)
    same = torch.randn(1, 1, 16).expand(1, 9, 16)  # wherever one looks, one reads the same
    torch.testing.assert_close(layer(same, sine_encoding(3, 3, 16)), layer(same, torch.zeros(9, 16)))
    x = torch.randn(1, 9, 16)
    assert not torch.allclose(layer(x, sine_encoding(3, 3, 16)), layer(x, torch.zeros(9, 16)), atol=1e-3)


def test_only_their_embeddings_make_queries_differ() -> None:
    model = DETR(**SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    found = model(images)["pred_boxes"][0]
    assert (found[1:] - found[0]).abs().amax(1).min() > 0
    nn.init.ones_(model.query_embed.weight)
    found = model(images)["pred_boxes"][0]
    torch.testing.assert_close(found, found[:1].expand(6, -1))


def test_sine_encoding() -> None:
    coded = sine_encoding(4, 7, 16).view(4, 7, 16)
    assert torch.equal(coded[:, :1, :8].expand(-1, 7, -1), coded[..., :8])  # rows
    assert torch.equal(coded[:1, :, 8:].expand(4, -1, -1), coded[..., 8:])  # columns
    angle = torch.arange(1, 5) / 4 * 2 * torch.pi
    torch.testing.assert_close(coded[:, 0, 0], angle.sin(), rtol=0, atol=1e-4)
    torch.testing.assert_close(coded[:, 0, 1], angle.cos(), rtol=0, atol=1e-4)
    torch.testing.assert_close(coded[:, 0, 4], (angle / 100).sin(), rtol=0, atol=1e-4)


# -- the network


@pytest.mark.parametrize("build", [detr_resnet50, detr_resnet50_dc5, detr_resnet50_panoptic])
def test_published_structure(build: Any) -> None:
    """Deviation: outputs for all identifiers of COCO, and one for no object."""
    with torch.device("meta"):
        model = build()
        out = model(torch.empty(2, 3, 128, 160))
    classes = 251 if build is detr_resnet50_panoptic else 92
    masks = {"pred_masks": (2, 100, 32, 40)} if build is detr_resnet50_panoptic else {}
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "pred_logits": (2, 100, classes), "pred_boxes": (2, 100, 4), "size": (2,), **masks,
    }  # fmt: skip
    layers = getattr(model, "detr", model).transformer
    assert (len(layers.encoder["layers"]), len(layers.decoder["layers"])) == (6, 6)


@pytest.mark.parametrize("dilation", [False, True])
def test_the_trunk_is_resnet_and_all_of_it_can_be_trained(dilation: bool) -> None:
    ours = Trunk(blocks=(1, 2, 1, 2), width=64, dilation=dilation)
    assert all(p.requires_grad for p in ours.parameters())
    theirs = ResNet(
        TorchvisionBottleneck,
        [1, 2, 1, 2],
        norm_layer=FrozenBatchNorm2d,
        replace_stride_with_dilation=[False, False, dilation],
    )
    golden.fill(theirs)
    missing = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == ([], ["fc.weight", "fc.bias"])
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = ours(x)
        theirs.avgpool = theirs.fc = nn.Identity()
        torch.testing.assert_close(maps[-1].flatten(1), theirs(x), rtol=1e-3, atol=1e-3)
    assert [m.shape[-1] for m in maps] == [24, 12, 6, 6 if dilation else 3]


def test_a_batch_is_of_one_size_and_each_picture_alone() -> None:
    """Deviation: there is no padding, so a picture is what it is beside another, at any size."""
    model = DETRsegm(DETR(**WITH_MASKS)).eval()
    for size in ((64, 64), (65, 47), (1, 1)):
        pair = torch.randn(2, 3, *size)
        for name, value in model(pair).items():
            if name != "size":
                torch.testing.assert_close(value[:1], model(pair[:1])[name], rtol=1e-3, atol=1e-4)
    for bad in (torch.randn(3, 64, 64), torch.randn(1, 1, 64, 64)):
        with pytest.raises(ValueError, match=r"DETR: expected input \[N, 3, H, W\]"):
            model(bad)


def test_attention_of_the_mask_head_is_one_softmax() -> None:
    """Deviation: over the places of all heads together."""
    attention = AttentionMap(16, 4)(torch.randn(2, 5, 16), torch.randn(2, 16, 3, 6))
    assert attention.shape == (2, 5, 4, 3, 6)
    torch.testing.assert_close(attention.sum(dim=(2, 3, 4)), torch.ones(2, 5))


def test_the_long_skips_bring_detail_to_the_masks() -> None:
    head = MaskHead(dim=128, heads=8, maps=(32, 16, 8))
    maps = [torch.randn(1, 32, 4, 4), torch.randn(1, 16, 8, 8), torch.randn(1, 8, 16, 16)]
    given = torch.randn(1, 128, 1, 1), torch.rand(1, 2, 8, 1, 1)  # one position, so all detail comes from the maps
    seen: list[Tensor] = []
    head.get_submodule("lay3").register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        masks = head(*given, maps)
        (summed,) = seen
        rest = summed - head.get_submodule("adapter1")(maps[0])
    assert masks.shape == (1, 2, 16, 16)
    assert summed.std(dim=(2, 3)).min() > 0.1
    torch.testing.assert_close(rest, rest[..., :1, :1].expand_as(rest))
    for i in range(3):
        other = [m + (k == i) for k, m in enumerate(maps)]
        assert (head(*given, other) - masks).abs().max() > 1e-3


def test_masks_are_trained() -> None:
    model = DETRsegm(DETR(**WITH_MASKS, aux_loss=True))
    truth = objects([8.0, 8, 40, 40]) | {"masks": torch.zeros(1, 64, 64)}
    truth["masks"][0, 8:40, 8:40] = 1
    output = model(torch.randn(1, 3, 64, 64))
    parts = losses(output, [truth])
    assert sorted(parts) == ["class", "dice", "focal", "giou", "l1"]
    objective(output, [truth]).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    output["pred_masks"] = torch.full_like(output["pred_masks"], -20.0)
    assert losses(output, [truth])["dice"] > 0.9
    filled = {**truth, "masks": torch.ones(1, 64, 64)}
    output["pred_masks"] = -output["pred_masks"]
    assert losses(output, [filled])["dice"] < 1e-3
    assert losses(output, [filled])["focal"] < 1e-3


def test_it_learns_the_coins_of_a_picture() -> None:
    torch.manual_seed(0)
    x, target = detection.batch((1, 3, 64, 64))
    model = DETR(**SMALL | {"num_queries": 24, "width": 8, "aux_loss": True})
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(40):
        loss = objective(model(x), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


def test_detections_are_pixels_and_sorted() -> None:
    model = DETR(**SMALL).eval()
    output = certain([10.0, 20, 30, 60], [50.0, 50, 90, 90], queries=6)
    output["pred_logits"][0, 0, 1] = -9  # the first query is less certain
    model.forward = lambda _images: output  # type: ignore[method-assign,assignment]
    (found,) = model.detect(torch.rand(1, 3, 100, 100))
    torch.testing.assert_close(found["boxes"], torch.tensor([[50.0, 50, 90, 90], [10, 20, 30, 60]]))
    assert found["labels"].tolist() == [1, 1]
    assert len(found["scores"]) == 2


def test_mistakes_are_named() -> None:
    for bad, message in (
        ({"blocks": (3, 4, 6)}, "four numbers"),
        ({"hidden_dim": 30}, "multiple of 4 and of 4 heads, got 30"),
        ({"num_queries": 0}, "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            DETR(**SMALL | bad)
    with pytest.raises(ValueError, match="multiple of 128 and heads of 8, got 32 and 4"):
        DETRsegm(DETR(**SMALL))
    output = DETR(**SMALL)(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        objective(output, [objects([0.0, 0, 9, 9], label=3)])
    with pytest.raises(ValueError, match="2 targets for 1 images"):
        objective(output, [objects([0.0, 0, 9, 9])] * 2)

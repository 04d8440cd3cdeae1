"""What the RetinaNet paper is about: the focal loss, and a dense detector over a pyramid of lateral skips."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, sigmoid_focal_loss

from skipkb.models.detection import retinanet as module
from skipkb.models.detection.retinanet import (
    RetinaNet,
    decode,
    encode,
    focal_loss,
    losses,
    match,
    objective,
    retinanet_r50,
    retinanet_r101,
    retinanet_resnet50_fpn,
)

SMALL: dict[str, Any] = {
    "num_classes": 4,
    "blocks": (1, 1, 1, 1),
    "width": 8,
    "fpn_channels": 16,
    "frozen_bn": False,
}


@pytest.mark.parametrize("build", [retinanet_resnet50_fpn, retinanet_r50, retinanet_r101])
def test_shapes(build: Any) -> None:
    with torch.device("meta"):
        model = build()
        out = model(torch.empty(2, 3, 512, 640))
    anchors = 9 * sum((512 // 2**level) * (640 // 2**level) for level in range(3, 8))
    classes = model.head["classification_head"].outputs
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "cls_logits": (2, anchors, classes),
        "bbox_regression": (2, anchors, 4),
        "anchors": (anchors, 4),
    }


# -- the focal loss


def test_focal_loss_turns_easy_anchors_down_exactly_as_the_formula_says() -> None:
    p_t = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.968, 0.999], dtype=torch.float64)
    logit = (p_t / (1 - p_t)).log()
    for truth in (0.0, 1.0):
        logits = logit if truth else -logit
        targets = torch.full_like(logits, truth)
        alpha_t = 0.25 if truth else 0.75
        for gamma in (0.5, 1.0, 2.0, 5.0):
            factor = focal_loss(logits, targets, gamma=gamma) / focal_loss(logits, targets, gamma=0.0)
            torch.testing.assert_close(factor, (1 - p_t) ** gamma)
            torch.testing.assert_close(
                focal_loss(logits, targets, gamma=gamma), -alpha_t * (1 - p_t) ** gamma * p_t.log()
            )
    # Section 3.2: with gamma = 2, p_t = 0.9 costs 100 times less than cross-entropy, 0.968 some 1000 times.
    gains = focal_loss(logit, torch.ones(6), gamma=0.0) / focal_loss(logit, torch.ones(6))
    assert gains[3].item() == pytest.approx(100)
    assert gains[4].item() == pytest.approx(1000, rel=0.03)


def test_gamma_zero_is_alpha_balanced_cross_entropy() -> None:
    logits, truth = torch.randn(50) * 5, (torch.rand(50) > 0.5).float()
    expected = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    got = focal_loss(logits, truth, alpha=0.3, gamma=0.0)
    torch.testing.assert_close(got, expected * torch.where(truth > 0, 0.3, 0.7))


def test_focal_loss_agrees_with_torchvision_and_stays_finite() -> None:
    logits = torch.cat([torch.randn(200) * 5, torch.tensor([-90.0, 90.0])]).requires_grad_()
    truth = torch.cat([(torch.rand(200) > 0.7).float(), torch.tensor([1.0, 0.0])])
    got, expected = focal_loss(logits, truth), sigmoid_focal_loss(logits, truth)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(got.sum(), logits)
    (peer,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(gradient, peer, rtol=1e-4, atol=1e-5)
    assert gradient.isfinite().all()


def test_easy_background_no_longer_outweighs_the_objects() -> None:
    """A hundred thousand anchors at p_t = 0.99 against ten missed objects."""
    easy = torch.full((100_000,), -math.log(99.0))
    missed = torch.full((10,), -math.log(9.0))
    share = {}
    for gamma in (0.0, 2.0):
        background = focal_loss(easy, torch.zeros_like(easy), gamma=gamma).sum()
        objects = focal_loss(missed, torch.ones_like(missed), gamma=gamma).sum()
        share[gamma] = (objects / (objects + background)).item()
    assert share[0.0] < 0.01
    assert share[2.0] > 0.95


def test_training_starts_with_foreground_probability_pi_and_a_small_loss() -> None:
    images = torch.randn(2, 3, 128, 128)
    target = [{"boxes": torch.tensor([[20.0, 20, 90, 90]]), "labels": torch.tensor([1])}] * 2
    starts = {}
    for prior in (0.01, 0.5):
        torch.manual_seed(0)
        output = RetinaNet(**SMALL, prior=prior)(images)
        starts[prior] = losses(output, target)["classification"].item()
        assert output["cls_logits"].sigmoid().mean().item() == pytest.approx(prior, rel=0.05)
    assert starts[0.01] < 2
    assert starts[0.5] > 20 * starts[0.01]
    classification = RetinaNet(**SMALL).head["classification_head"]
    assert classification.cls_logits.bias.unique().item() == pytest.approx(-math.log(99))


def test_initial_values_of_the_subnets() -> None:
    head = RetinaNet(num_classes=20, blocks=(1, 1, 1, 1), width=8, fpn_channels=64).head
    for m in head.modules():
        if isinstance(m, nn.Conv2d):
            assert m.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head["regression_head"].bbox_reg.bias.abs().max() == 0
    assert head["classification_head"].conv[0][0].bias.abs().max() == 0


# -- anchors and matching


def test_nine_anchors_per_position_with_the_papers_areas_and_ratios() -> None:
    grids = [(512 // 2**level, 640 // 2**level) for level in range(3, 8)]
    for level, (h, w), boxes in zip(range(3, 8), grids, module.make_anchors((512, 640), grids), strict=True):
        assert boxes.shape == (9 * h * w, 4)
        assert torch.equal(boxes, boxes.round())  # deviation: whole pixels
        size = boxes[:9, 2:] - boxes[:9, :2]
        for i, (ratio, scale) in enumerate((r, s) for r in (0.5, 1.0, 2.0) for s in (0, 1 / 3, 2 / 3)):
            edge = 2 ** (level + 2) * 2**scale
            assert size[i].prod().sqrt().item() == pytest.approx(edge, rel=0.03)
            assert (size[i, 1] / size[i, 0]).item() == pytest.approx(ratio, rel=0.1)
        centres = ((boxes[:, 2:] + boxes[:, :2]) / 2).reshape(h, w, 9, 2)
        assert torch.equal(centres[1, 2, 0], torch.tensor([2.0, 1.0]) * 2**level)


def test_step_of_a_level_is_the_image_over_the_grid() -> None:
    """Deviation: 800 pixels have 13 positions on P6, 61 pixels apart where the paper's 2^6 says 64."""
    levels = module.make_anchors((800, 800), [(100, 100), (50, 50), (25, 25), (13, 13), (7, 7)])
    centres = [(b[9 * 1] + b[9 * 1].roll(2)) / 2 for b in levels]
    assert [int(c[0]) for c in centres] == [8, 16, 32, 61, 114]


def test_matching_thresholds() -> None:
    box = torch.tensor([[0.0, 0, 100, 100]])

    def anchor(iou: float) -> list[float]:
        return [0, 0, 100, 100 * iou]

    anchors = torch.tensor([anchor(v) for v in (0.9, 0.51, 0.49, 0.41, 0.39, 0.1)])
    assert match(anchors, box).tolist() == [0, 0, -2, -2, -1, -1]
    assert match(anchors[3:], box).tolist() == [0, -1, -1]  # the best one is kept, as in the RPN
    assert match(anchors, torch.zeros(0, 4)).tolist() == [-1] * 6
    # of two objects the one that overlaps more
    both = torch.cat([box, torch.tensor([[0.0, 0, 100, 60]])])
    assert match(torch.tensor([anchor(0.9), anchor(0.6)]), both).tolist() == [0, 1]


def test_anchors_between_the_thresholds_cost_nothing() -> None:
    output = {
        "cls_logits": torch.zeros(1, 3, 4, requires_grad=True),
        "bbox_regression": torch.zeros(1, 3, 4, requires_grad=True),
        "anchors": torch.tensor([[0.0, 0, 100, 90], [0, 0, 100, 45], [0, 0, 100, 10]]),
    }
    target = [{"boxes": torch.tensor([[0.0, 0, 100, 100]]), "labels": torch.tensor([2])}]
    objective(output, target).backward()
    logits, offsets = output["cls_logits"].grad[0], output["bbox_regression"].grad[0]
    assert (logits.abs().sum(1) > 0).tolist() == [True, False, True]
    assert (offsets.abs().sum(1) > 0).tolist() == [True, False, False]
    assert (logits[0] < 0).tolist() == [False, False, True, False]


def test_losses_are_divided_by_the_foreground_anchors() -> None:
    anchors = torch.tensor([[0.0, 0, 100, 100]] * 2 + [[300.0, 300, 400, 400]])
    output = {"cls_logits": torch.randn(1, 3, 2), "bbox_regression": torch.randn(1, 3, 4), "anchors": anchors}
    target = [{"boxes": torch.tensor([[0.0, 0, 80, 110]]), "labels": torch.tensor([1])}]
    got = losses(output, target)
    truth = torch.tensor([[0.0, 1], [0, 1], [0, 0]])
    torch.testing.assert_close(got["classification"], focal_loss(output["cls_logits"][0], truth).sum() / 2)
    wanted = torch.tensor([-0.1, 0.05, math.log(0.8), math.log(1.1)])
    error = (output["bbox_regression"][0, :2] - wanted).abs()
    smooth = torch.where(error < 1, error**2 / 2, error - 0.5)
    torch.testing.assert_close(got["bbox_regression"], smooth.sum() / 2)
    torch.testing.assert_close(losses(output, target, beta=0.0)["bbox_regression"], error.sum() / 2)


def test_boxes_survive_encoding() -> None:
    anchors = torch.tensor([[10.0, 20, 110, 220], [0, 0, 30, 10]])
    boxes = torch.tensor([[15.0, 0, 95, 300], [5, 5, 6, 7]])
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes)
    far = decode(torch.tensor([[0.0, 0, 80, 80]]), anchors[:1])
    assert far.isfinite().all()
    assert (far[0, 2] - far[0, 0]).item() == pytest.approx(100 * 1000 / 16)


# -- the pyramid


def test_lateral_skip_adds_the_fine_map_to_the_upsampled_coarse_one() -> None:
    fpn = RetinaNet(**SMALL).backbone.fpn
    c = [torch.randn(1, n, s, s) for n, s in ((64, 16), (128, 8), (256, 4))]
    seen: list[Tensor] = []
    for block in fpn.layer_blocks:
        block.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        fpn(c)
        m3, m4, m5 = seen
        assert torch.equal(m5, fpn.inner_blocks[2](c[2]))
        up = lambda x: x.repeat_interleave(2, -1).repeat_interleave(2, -2)  # noqa: E731
        torch.testing.assert_close(m4, fpn.inner_blocks[1](c[1]) + up(m5))
        torch.testing.assert_close(m3, fpn.inner_blocks[0](c[0]) + up(m4))
        # With silent laterals the finest level is the coarsest one, blown up: no detail is left.
        for block in fpn.inner_blocks[:2]:
            nn.init.zeros_(block[0].weight)
        seen.clear()
        fpn(c)
        assert torch.equal(seen[0], up(up(seen[2])))


def test_pyramid_fits_sizes_that_halve_unevenly() -> None:
    model = RetinaNet(**SMALL).eval()
    pyramid = model.backbone(torch.rand(1, 3, 100, 150))
    assert [tuple(p.shape[-2:]) for p in pyramid] == [(13, 19), (7, 10), (4, 5), (2, 3), (1, 2)]
    model.detect(torch.rand(1, 3, 100, 150), score_threshold=0.0)  # counts anchors by itself


@pytest.mark.parametrize("p6_from", ["C5", "P5"])
def test_p6_comes_from_where_it_should(p6_from: str) -> None:
    fpn = RetinaNet(**SMALL, p6_from=p6_from).backbone.fpn
    c = [torch.randn(1, n, s, s) for n, s in ((64, 16), (128, 8), (256, 4))]
    before = fpn(c)
    nn.init.zeros_(fpn.layer_blocks[2][0].weight)
    after = fpn(c)
    assert torch.equal(before[3], after[3]) == (p6_from == "C5")
    torch.testing.assert_close(after[4], fpn.extra_blocks["p7"](F.relu(after[3])))


def test_subnets_are_shared_over_levels_but_not_with_each_other() -> None:
    model = RetinaNet(**SMALL).eval()
    classification, regression = model.head.values()
    features = torch.randn(1, 16, 5, 5)
    twice = classification([features, features])
    assert torch.equal(twice[:, :225], twice[:, 225:])
    assert not {id(p) for p in classification.parameters()} & {id(p) for p in regression.parameters()}
    calls: list[int] = []
    classification.cls_logits.register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(1, 3, 128, 128))
    assert len(calls) == 5


def test_trunk_blocks_add_their_input() -> None:
    block = RetinaNet(**{**SMALL, "blocks": (2, 1, 1, 1)}).backbone.body.layer1[1]
    nn.init.zeros_(block.bn3.weight)
    x = torch.rand(1, 32, 6, 6)
    assert torch.equal(block(x), x)


# -- use


def trained() -> tuple[RetinaNet, Tensor, list[dict[str, Tensor]]]:
    photo = torch.from_numpy(data.astronaut()[:128, 160:288] / 255.0).float().permute(2, 0, 1)[None]
    target = [{"boxes": torch.tensor([[14.0, 2, 98, 126]]), "labels": torch.tensor([2])}]
    model = RetinaNet(**{**SMALL, "width": 16, "fpn_channels": 32})
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        optimiser.zero_grad()
        objective(model(photo), target).backward()
        optimiser.step()
    return model, photo, target


def test_learns_to_find_one_face() -> None:
    model, photo, target = trained()
    found = model.eval().detect(photo)[0]
    assert found["labels"][0] == 2
    assert box_iou(found["boxes"][:1], target[0]["boxes"]).item() > 0.6
    assert torch.equal(found["scores"].sort(descending=True).values, found["scores"])


def test_detections_respect_thresholds_sizes_and_limits() -> None:
    model = RetinaNet(**SMALL).eval()
    images = torch.randn(2, 3, 128, 160)
    settings: dict[str, Any] = {"score_threshold": 0.0, "nms_threshold": 0.5}
    found = model.detect(images, image_sizes=[(100, 160), (128, 90)], detections=50, **settings)
    for result, (h, w) in zip(found, [(100, 160), (128, 90)], strict=True):
        assert len(result["scores"]) == 50
        assert result["boxes"].min() >= 0
        assert result["boxes"][:, 2].max() <= w
        assert result["boxes"][:, 3].max() <= h
        for label in result["labels"].unique():
            boxes = result["boxes"][result["labels"] == label]
            assert box_iou(boxes, boxes).nan_to_num().triu(1).max() <= 0.5  # clipped boxes may be empty
    assert len(model.detect(images, score_threshold=0.99)[0]["boxes"]) == 0
    assert len(model.detect(images, candidates=1, nms_threshold=1.0, score_threshold=0.0)[0]["boxes"]) == 5


def test_mistakes_are_named() -> None:
    for bad, message in (
        ({"blocks": (3, 4, 6)}, "four stages"),
        ({"prior": 0.0}, "between 0 and 1"),
        ({"p6_from": "C4"}, "p6_from"),
    ):
        with pytest.raises(ValueError, match=message):
            RetinaNet(**{**SMALL, **bad})
    with pytest.raises(TypeError):
        RetinaNet(classes=3)
    model = RetinaNet(**SMALL)
    with pytest.raises(ValueError, match=r"must be \[3, H, W\]"):
        model.predict([torch.rand(1, 20, 20)])
    output = model(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"0\.\.3"):
        objective(output, [{"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([4])}])
    with pytest.raises(ValueError, match="2 targets for 1 images"):
        objective(output, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}] * 2)


def test_gradient_reaches_every_parameter_and_an_empty_image_is_fine() -> None:
    model = RetinaNet(**SMALL)
    target = [
        {"boxes": torch.tensor([[20.0, 20, 90, 90]]), "labels": torch.tensor([0])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
    ]
    objective(model(torch.randn(2, 3, 128, 128)), target).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_exports_and_runs_in_bfloat16() -> None:
    model = RetinaNet(**{**SMALL, "frozen_bn": True}).eval()
    images = torch.rand(1, 3, 64, 96)
    exported = torch.export.export(model, (images,)).module()
    for name, value in exported(images).items():
        torch.testing.assert_close(value, model(images)[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images)
        assert output["anchors"].dtype == torch.float32
        target = [{"boxes": torch.tensor([[20.0, 20, 60, 60]]), "labels": torch.tensor([0])}]
        assert objective(output, target).isfinite()

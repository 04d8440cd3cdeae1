"""What the ResUNet-a paper is about: branches of several dilations on one identity, tasks that build on each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation.resunet_a import (
    Combine,
    PyramidPooling,
    ResUNetA,
    Unit,
    boundaries,
    distances,
    objective,
    resunet_a_d6,
    resunet_a_d7,
    tanimoto,
)


def small(**options: int) -> ResUNetA:
    torch.manual_seed(0)
    return ResUNetA(encoder=((1, 3), (1,)), decoder=((1, 3),), filters=4, psp_depth=2, **options)


@torch.no_grad()
def test_a_unit_adds_all_its_branches_to_the_identity() -> None:
    unit = Unit(6, (1, 3, 5)).eval()
    x = torch.randn(1, 6, 16, 16)
    wanted = x + sum(getattr(unit, f"ResBlock{i}")(x) for i in (1, 2, 3))
    torch.testing.assert_close(unit(x), wanted)
    for branch in unit.children():
        nn.init.zeros_(branch.conv2.weight)
        nn.init.zeros_(branch.conv2.bias)
    assert torch.equal(unit(x), x)


def test_a_branch_sees_as_far_as_its_dilation() -> None:
    for dilation in (1, 3, 7):
        unit = Unit(3, (dilation,)).eval()
        x = torch.randn(1, 3, 33, 33, requires_grad=True)
        unit(x)[0, :, 16, 16].sum().backward()
        rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        assert (rows.min(), rows.max()) == (16 - 2 * dilation, 16 + 2 * dilation)
        assert set((rows - 16).tolist()) <= {i * dilation for i in range(-2, 3)}


def test_the_published_dilations() -> None:
    def rates(unit: Unit) -> list[int]:
        return [branch.conv1.dilation[0] for branch in unit.children()]

    with torch.device("meta"):
        d6, d7 = resunet_a_d6(), resunet_a_d7()
    far, middle, near = [1, 3, 15, 31], [1, 3, 15], [1, 3, 5]
    assert [rates(getattr(d6.encoder, f"Dn{i}")) for i in range(1, 7)] == [far, far, middle, near, [1], [1]]
    assert [rates(getattr(d6, f"UpConv{i}")) for i in range(1, 6)] == [near, middle, far, far, far]
    assert [rates(getattr(d7.encoder, f"Dn{i}")) for i in range(1, 8)] == [far, far, middle, near, [1], [1], [1]]
    assert [rates(getattr(d7, f"UpConv{i}")) for i in range(1, 7)] == [[1], middle, far, far, far, far]


@torch.no_grad()
def test_pyramid_pooling_takes_the_largest_of_each_cell() -> None:
    pooling = PyramidPooling(3, 4, depth=2).eval()
    seen: list[Tensor] = []
    for conv in pooling.convs:
        conv.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    x = torch.randn(2, 3, 8, 12)
    assert pooling(x).shape == (2, 4, 8, 12)
    torch.testing.assert_close(seen[0], x.amax((2, 3), keepdim=True).expand_as(x))
    torch.testing.assert_close(seen[1][:, :, :4, 6:], x[:, :, :4, 6:].amax((2, 3), keepdim=True).expand(-1, -1, 4, 6))
    weight = pooling.conv_norm_final.conv2d.weight
    assert weight.shape[1] == 3 + 2 + 2, "the map itself, and two pooled branches"


@torch.no_grad()
def test_the_skip_brings_two_thirds_of_what_is_mixed() -> None:
    combine = Combine(8).eval()
    below, skip = torch.randn(1, 16, 4, 4), torch.randn(1, 8, 8, 8)
    seen = {}
    combine.conv_normed.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    assert combine(below, skip).shape == (1, 8, 8, 8)
    assert torch.equal(seen["x"][:, 4:], skip)
    assert seen["x"].shape[1] == 12
    assert torch.equal(seen["x"][:, :4, ::2, ::2], seen["x"][:, :4, 1::2, 1::2]), "every pixel four times"


def test_each_task_is_conditioned_on_those_before_it() -> None:
    """A gradient of the classes reaches the heads of border and distance, one of the distance neither of the others."""
    model = small()
    x = torch.randn(2, 5, 16, 16)

    def reached(task: str) -> set[str]:
        model.zero_grad()
        found = model(x)[task]
        (found * torch.randn_like(found)).sum().backward()
        heads = ("logits", "bound_logits", "distance_logits", "color_logits")
        return {name for name in heads if any(p.grad is not None for p in getattr(model, name).parameters())}

    assert reached("segmentation") == {"logits", "bound_logits", "distance_logits"}
    assert reached("boundary") == {"bound_logits", "distance_logits"}
    assert reached("distance") == {"distance_logits"}
    assert reached("colour") == {"color_logits"}


@torch.no_grad()
def test_classes_exclude_each_other_and_borders_do_not() -> None:
    model = small().eval()
    x = torch.randn(1, 5, 16, 24)
    found = model(x)
    assert {name: y.shape[1] for name, y in found.items()} == {
        "segmentation": 6, "boundary": 6, "distance": 6, "colour": 3
    }  # fmt: skip
    for name in ("segmentation", "distance"):
        torch.testing.assert_close(found[name].sum(1), torch.ones(1, 16, 24))
    assert (found["boundary"].sum(1) - 1).abs().max() > 0.01
    assert (small(num_classes=1).eval()(x)["segmentation"].sum(1) < 0.999).all()


# ------------------------------------------------------------------------------------------------ training


def test_tanimoto_is_one_for_equal_maps_and_weighs_rare_classes() -> None:
    target = torch.zeros(1, 2, 10, 10)
    target[:, 0, :2, :2] = 1
    target[:, 1] = 1 - target[:, 0]
    torch.testing.assert_close(tanimoto(target, target), torch.ones(1))
    without_rare, without_common = target.clone(), target.clone()
    without_rare[:, 0] = 0
    without_common[:, 1] = 0
    assert tanimoto(without_rare, target) < 0.1, "the rare class is missed"
    assert tanimoto(without_common, target) > 0.9
    p = torch.rand(3, 2, 5, 5)
    t = (p > 0.5).float()
    volume = t.sum((2, 3)).mean(0)
    w = 1 / volume**2
    both, squares = (p * t).sum((2, 3)), (p**2 + t**2).sum((2, 3))
    torch.testing.assert_close(tanimoto(p, t), (w * both).sum(1) / (w * (squares - both)).sum(1), rtol=1e-3, atol=1e-3)
    absent = torch.zeros(1, 2, 4, 4)
    absent[:, 0] = 1
    assert torch.isfinite(tanimoto(torch.rand(1, 2, 4, 4), absent)).all()


def test_borders_and_distances_of_a_square() -> None:
    classes = torch.zeros(1, 9, 9, dtype=torch.long)
    classes[:, 2:7, 2:7] = 1
    border = boundaries(classes, 2)[0]
    assert torch.equal(border[0], border[1])
    assert border[1].sum() == 24 + 16, "a ring of 7 x 7 around one of 5 x 5"
    inside = distances(classes, 2)[0, 1]
    assert inside[4, 4] == 1
    assert inside[2, 4] == pytest.approx(1 / 3)
    assert not inside[0].any()


def test_the_objective_sums_the_tasks() -> None:
    classes = torch.randint(0, 3, (2, 8, 8))
    output = {task: torch.rand(2, 3, 8, 8) for task in ("segmentation", "boundary", "distance", "colour")}
    targets = {
        "segmentation": F.one_hot(classes, 3).permute(0, 3, 1, 2).float(),
        "boundary": boundaries(classes, 3),
        "distance": distances(classes, 3),
    }
    each = [
        (1 - (tanimoto(output[task], t) + tanimoto(1 - output[task], 1 - t)) / 2).mean() for task, t in targets.items()
    ]
    torch.testing.assert_close(objective(output, classes), sum(each))
    perfect = targets | {"colour": torch.rand(2, 3, 8, 8)}
    assert objective(perfect, classes) < 1e-4
    assert objective(perfect, perfect) < 1e-4
    assert objective(output, {"colour": perfect["colour"]}) > 0


@pytest.mark.parametrize("shape", [(1, 5, 16, 20), (1, 5, 0, 16), (1, 3, 16, 16), (5, 16, 16)])
def test_what_the_poolings_do_not_divide_is_refused(shape: tuple[int, ...]) -> None:
    model = small()

    def never(*args: object) -> None:
        raise AssertionError("a convolution ran")

    model.encoder.conv_first_normed.register_forward_pre_hook(never)
    with pytest.raises(ValueError, match=r"multiples of 8, got \["):
        model(torch.zeros(shape))
    with torch.device("meta"), pytest.raises(ValueError, match="multiples of 256, got"):
        resunet_a_d6()(torch.empty(1, 5, 128, 256))
    with pytest.raises(ValueError, match="one level fewer"):
        ResUNetA(encoder=((1,),), decoder=((1,),))

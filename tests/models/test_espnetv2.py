"""What ESPNetv2 is about: grouped and depthwise units, and what is handed on where nothing can be added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import espnetv2 as module
from skipkb.models.segmentation.espnet import class_weights
from skipkb.models.segmentation.espnetv2 import EESP, ESPNetv2, ESPNetv2Seg, StridedUnit, dilations, objective

PICTURE = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def small_seg(**changes: Any) -> ESPNetv2Seg:
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"num_classes": 3, "s": 0.5, "repeats": (1, 2)}
    return ESPNetv2Seg(**kwargs | changes).eval()


def test_the_published_networks() -> None:
    with torch.device("meta"):
        model = module.espnetv2_200().eval()
        assert model(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
        assert model.widths == (32, 128, 256, 512, 1024)
        assert [len(level) for level in (model.level3, model.level4, model.level5)] == [3, 7, 3 + 2]
        assert module.espnetv2_050().widths == (16, 32, 64, 128, 256)
        assert module.espnetv2_125().classifier.in_features == 1024
        assert module.espnetv2_200().classifier.in_features == 1280
        segmentation = module.espnetv2_seg_200().eval()
        assert segmentation(torch.empty(1, 3, 512, 1024)).shape == (1, 20, 512, 1024)


def test_dilations_end_at_the_limit() -> None:
    assert [dilations(limit) for limit in module.LIMITS] == [[1, 2, 3, 4]] * 3 + [[1, 1, 2, 3], [1, 1, 1, 2]]
    found = [
        [m.dilation[0] for m in unit.spp_dw.modules() if isinstance(m, nn.Conv2d)]
        for unit in module.espnetv2_050().modules()
        if isinstance(unit, EESP)
    ]
    first, second, third = [1, 2, 3, 4], [1, 1, 2, 3], [1, 1, 1, 2]
    assert found == 2 * [first] + 3 * [first] + [first] + 7 * [second] + [second] + 3 * [third]


def test_a_unit_costs_less_than_that_of_espnet() -> None:
    """Grouped reduction NN/16, four depthwise kernels 9N, grouped mixing NN/4, in place of two times NN."""
    n = 64
    weights = sum(m.weight.numel() for m in EESP(n, n, limit=9).modules() if isinstance(m, nn.Conv2d))
    assert weights == n * n // 16 + 9 * n + n * n // 4
    assert weights < n * n < 9 * n * n


def test_the_sums_close_the_gaps() -> None:
    """The impulse response of each branch: the widest, of dilation 4, shows the nine pixels of all smaller ones too."""
    unit = EESP(16, 16, limit=9)
    seen: list[Tensor] = []
    unit.br_after_cat.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        for branch in unit.spp_dw:
            nn.init.ones_(branch.conv.weight)  # type: ignore[union-attr, arg-type]
        unit.eval()
        impulse = torch.zeros(1, 16, 21, 21)
        impulse[..., 10, 10] = 1
        unit(impulse)
        unit(0 * impulse)
    response = (seen[0] - seen[1])[0]  # without what the normalisation in front adds
    expected: set[tuple[int, int]] = set()
    for k in range(4):
        expected |= {(10 + (k + 1) * a, 10 + (k + 1) * b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
        group = response[4 * k : 4 * (k + 1)].abs().amax(dim=0)
        assert {tuple(place) for place in (group > 1e-5).nonzero().tolist()} == expected


def test_the_input_is_added_where_the_shapes_agree() -> None:
    unit, x = EESP(16, 16, limit=9).eval(), torch.randn(2, 16, 9, 8)
    with torch.no_grad():
        branch = _before_the_sum(unit, x)
        assert torch.equal(unit(x), unit.module_act(branch + x))
        other = EESP(32, 16, limit=9).eval()
        x = torch.randn(2, 32, 9, 8)
        assert torch.equal(other(x), other.module_act(_before_the_sum(other, x)))


def _before_the_sum(unit: EESP, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = unit.conv_1x1_exp.register_forward_hook(lambda m, args, y: found.append(y.clone()))
    unit(x)
    handle.remove()
    return found[0]


def test_a_strided_unit_hands_on_its_input_and_the_picture() -> None:
    unit = StridedUnit(16, 48, picture_channels=3, limit=9).eval()
    x, small = torch.randn(1, 16, 11, 14), torch.randn(1, 3, 6, 7)
    with torch.no_grad():
        joined = torch.cat([F.avg_pool2d(x, 3, stride=2, padding=1), unit.eesp(x)], dim=1)
        assert torch.equal(unit(x, None), unit.act(joined))
        assert torch.equal(unit(x, small), unit.act(joined + unit.inp_reinf(small)))


@pytest.mark.parametrize("level", [2, 3, 4])
def test_the_picture_reaches_each_halving(level: int) -> None:
    """Shrunken once more each time, and without it the output changes."""
    model = small_seg().double()
    picture = PICTURE.double()
    shrunken, unit = picture, model.net.get_submodule(f"level{level}_0")
    for _ in range(level):
        shrunken = F.avg_pool2d(shrunken, 3, stride=2, padding=1)
    seen: list[Tensor] = []
    unit.get_submodule("inp_reinf").register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    unit.get_submodule("inp_reinf").register_forward_hook(lambda m, args, y: 0 * y)
    with torch.no_grad():
        without = model(picture)
        assert torch.equal(seen[0], shrunken)
        assert (without - small_seg().double()(picture)).abs().max() > 1e-6


def test_unused_parameters_are_kept_and_not_trained() -> None:
    model = ESPNetv2(s=0.5, num_classes=4, repeats=(1, 1, 1))
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    reinforcement = {n for n, _ in model.named_parameters() if n.startswith("level5_0.inp_reinf")}
    assert fixed == {f"level{i}_0.eesp.module_act.weight" for i in (2, 3, 4, 5)} | reinforcement
    model(PICTURE).square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None} == fixed


def _hide(channels: slice) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def hook(layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0].clone()
        x[:, channels] = 0
        return (x,)

    return hook


@pytest.mark.parametrize(
    ("part", "channels"), [("pspMod.0", slice(0, 64)), ("project_l2", slice(0, 32)), ("project_l1.1", slice(0, 16))]
)
def test_each_long_skip_carries(part: str, channels: slice) -> None:
    model = small_seg().double()
    with torch.no_grad():
        before = model(PICTURE.double())
        handle = model.get_submodule(part).register_forward_pre_hook(_hide(channels))
        assert (model(PICTURE.double()) - before).abs().max() > 1e-6
        handle.remove()
        assert torch.equal(model(PICTURE.double()), before)


def test_training_has_a_second_output() -> None:
    model = small_seg()
    assert isinstance(model(PICTURE), Tensor)
    both = small_seg(auxiliary=True)(PICTURE)
    assert torch.equal(both["out"], model(PICTURE))
    assert list(model.train()(PICTURE)) == ["out", "aux"]
    assert both["aux"].shape == both["out"].shape == (2, 3, 64, 48)
    # from an eighth: enlarged in three steps, with the corners where they were
    coarse: list[Tensor] = []
    model = small_seg(auxiliary=True)
    model.project_l3.register_forward_hook(lambda m, args, y: coarse.append(y))
    enlarged = model(PICTURE)["aux"]
    assert coarse[0].shape[2:] == (8, 6)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(enlarged[:, :, *corner], coarse[0][:, :, *corner])


def test_dropout() -> None:
    assert ESPNetv2(s=0.5, repeats=(1, 1, 1)).dropout.p == 0.2
    for s, p in ((0.5, 0.1), (1.0, 0.2)):
        dropped = [m.p for m in small_seg(s=s).modules() if isinstance(m, nn.Dropout2d)]
        assert dropped == [p, p]


def test_initial_values() -> None:
    model = ESPNetv2(s=1.0, num_classes=100, repeats=(1, 1, 1))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2000:
            fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert model.classifier.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not model.classifier.bias.any()
    decoder = small_seg(s=1.0).proj_L4_C.conv.weight
    assert decoder.abs().max().item() <= decoder.shape[1] ** -0.5  # uniform, as PyTorch has it


@pytest.mark.parametrize("size", [(1, 1), (33, 50)])
def test_the_classifier_takes_any_size(size: tuple[int, int]) -> None:
    assert ESPNetv2(s=0.5, num_classes=4, repeats=(1, 1, 1)).eval()(torch.rand(2, 3, *size)).shape == (2, 4)


def test_the_objective() -> None:
    first, second, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    weights = class_weights(target, 3)
    expected = sum(F.cross_entropy(scores, target, weight=weights) for scores in (first, second))
    torch.testing.assert_close(objective({"out": first, "aux": second}, target), expected)
    logits, classes = torch.randn(4, 5), torch.randint(0, 5, (4,))
    assert torch.equal(objective(logits, classes), F.cross_entropy(logits, classes))


def test_mistakes() -> None:
    with pytest.raises(
        ValueError, match="EESP: 8 to 8 channels; the input needs a multiple of 4, the output a multiple of 16"
    ):
        ESPNetv2(s=0.25)
    with pytest.raises(ValueError, match=r"repeats needs three numbers of at least 1, got \(1, 0, 1\)"):
        ESPNetv2(repeats=(1, 0, 1))
    with pytest.raises(ValueError, match=r"multiples of 16, got \[1, 3, 40, 48\]"):
        small_seg()(torch.rand(1, 3, 40, 48))
    for model in (small_seg(), ESPNetv2(s=0.5)):
        with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\]"):
            model(torch.rand(1, 1, 32, 32))

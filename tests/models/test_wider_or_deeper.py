"""Wider or Deeper: the unravelled view, and that dilation changes no place that was there before."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import skipkb
from skipkb.models.classification import wider_or_deeper
from skipkb.models.classification.wider_or_deeper import Unit, WiderResNet

SMALL = {
    "blocks": (1, 1, 1, 2, 1, 1),
    "widths": ((8, 8), (8, 8), (12, 12), (8, 12), (4, 8, 16), (8, 8, 24)),
    "stem_width": 4,
    "num_classes": 5,
}


def scramble(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.normal_(module.bias, std=0.1)


def test_38_layers_in_17_units() -> None:
    """The longest path has 38 layers with weights, the shortest only the stem, six projections and the classifier."""
    with torch.device("meta"):
        model = wider_or_deeper.wider_resnet38().eval()
    units = [module for module in model.modules() if isinstance(module, Unit)]
    assert len(units) == 17
    inside = sum(isinstance(module, nn.Conv2d) for unit in units for module in unit.convs)
    assert 1 + inside + 1 == 38
    assert sum(unit.proj_conv is not None for unit in units) == 6
    counts = skipkb.trace_skips(model, (1, 3, 64, 64)).counts()
    assert counts == {"add": 17, "identity": 11, "projection": 6, "long": 2}


def test_maps_double_in_width_and_halve_in_size() -> None:
    expected = [(64, 224), (128, 112), (256, 56), (512, 28), (1024, 14), (2048, 7), (4096, 7)]
    for build in (wider_or_deeper.wider_resnet38, wider_or_deeper.wider_resnet38_a1):
        with torch.device("meta"):
            model, x = build().eval(), torch.empty(1, 3, 224, 224)
        shapes = []
        for name in model.levels:
            x = getattr(model, name)(x)
            if name.startswith("mod"):
                shapes.append((x.shape[1], x.shape[2]))
        assert shapes == expected


def test_unravelled_view() -> None:
    """Three units are the sum of 2^3 paths: so says the gradient, path by path."""
    units = [Unit(6, (6, 6), project=False).double().eval() for _ in range(3)]
    for unit in units:
        scramble(unit)
    arriving, x = torch.randn(2, 1, 6, 7, 7, dtype=torch.float64)
    inputs = [x]
    for unit in units:
        inputs.append(unit(inputs[-1]).detach())

    def back(function: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(function(x), x, gradient)[0]

    def path(passed: tuple[bool, ...]) -> Tensor:
        gradient = arriving
        for i in (2, 1, 0):
            if passed[i]:
                gradient = back(nn.Sequential(units[i].bn1, units[i].convs), inputs[i], gradient)
        return gradient

    paths = torch.stack([path(passed) for passed in itertools.product((False, True), repeat=3)])
    assert len(paths) == 8
    assert all(each.abs().max() > 0 for each in paths)
    torch.testing.assert_close(paths.sum(0), back(nn.Sequential(*units), x, arriving))


def test_what_the_shortcut_carries() -> None:
    """Within a level the input as it is; at its beginning a projection of what the residual branch gets, too."""
    identity = Unit(8, (8, 8), project=False).eval()
    projection = Unit(8, (4, 8, 16), project=True).eval()
    x = torch.randn(2, 8, 5, 5)
    for unit in (identity, projection):
        scramble(unit)
        nn.init.zeros_(list(unit.convs)[-1].weight)  # type: ignore[arg-type]
    assert torch.equal(identity(x), x)
    assert projection.proj_conv is not None
    active = projection.bn1(x)
    assert active.min() >= 0
    assert torch.equal(projection(x), projection.proj_conv(active))


@pytest.mark.parametrize(("output_stride", "step"), [(16, 2), (8, 4)])
def test_dilation_keeps_what_each_place_computes(output_stride: int, step: int) -> None:
    """The dilated network has more places; at every second or fourth it computes what the strided one does."""
    strided = WiderResNet(pools=0, **SMALL).eval()  # type: ignore[arg-type]
    scramble(strided)
    dilated = WiderResNet(pools=0, output_stride=output_stride, **SMALL).eval()  # type: ignore[arg-type]
    dilated.load_state_dict(strided.state_dict())
    coarse = fine = torch.rand(1, 3, 90, 75)
    for name in strided.levels:
        coarse, fine = getattr(strided, name)(coarse), getattr(dilated, name)(fine)
    assert coarse.shape == (1, 24, 3, 3)
    torch.testing.assert_close(fine[:, :, ::step, ::step], coarse)


def test_a_dilated_pooling_keeps_it_too() -> None:
    strided = WiderResNet(**SMALL).eval()  # type: ignore[arg-type]
    scramble(strided)
    dilated = WiderResNet(output_stride=16, **SMALL).eval()  # type: ignore[arg-type]
    dilated.load_state_dict(strided.state_dict())
    coarse = fine = torch.rand(1, 3, 64, 96)
    for name in strided.levels:
        coarse, fine = getattr(strided, name)(coarse), getattr(dilated, name)(fine)
    torch.testing.assert_close(fine[:, :, ::2, ::2], coarse)


def test_names_of_the_release() -> None:
    """Names of the PyTorch version by Mapillary, with shapes that only fit in the right place."""
    with torch.device("meta"):
        state = wider_or_deeper.wider_resnet38().state_dict()
    names = {name for name in state if not name.endswith("num_batches_tracked")}
    norm = ("weight", "bias", "running_mean", "running_var")
    expected = {"mod1.conv1.weight", "classifier.fc.weight", "classifier.fc.bias"} | {f"bn_out.{part}" for part in norm}
    for level, (count, convolutions) in enumerate([(3, 2), (3, 2), (6, 2), (3, 2), (1, 3), (1, 3)], start=2):
        expected.add(f"mod{level}.block1.proj_conv.weight")
        for unit in (f"mod{level}.block{i + 1}" for i in range(count)):
            expected |= {f"{unit}.bn1.{part}" for part in norm}
            expected |= {f"{unit}.convs.conv{i + 1}.weight" for i in range(convolutions)}
            expected |= {f"{unit}.convs.bn{i + 2}.{part}" for i in range(convolutions - 1) for part in norm}
    assert names == expected
    assert state["mod5.block1.convs.conv2.weight"].shape == (1024, 512, 3, 3)
    assert state["mod7.block1.convs.bn3.weight"].shape == (2048,)


def test_dropout_stands_in_front_of_the_last_convolution() -> None:
    model = WiderResNet(dropout=(0.3, 0.5), **SMALL)  # type: ignore[arg-type]
    found = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert found == {"mod6.block1.convs.dropout": 0.3, "mod7.block1.convs.dropout": 0.5}
    assert [name for name, _ in model.get_submodule("mod7.block1.convs").named_children()][-2:] == ["dropout", "conv3"]


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (1, 1)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    assert WiderResNet(in_channels=1, **SMALL).eval()(torch.rand(2, 1, *shape)).shape == (2, 5)  # type: ignore[arg-type]
    scores = WiderResNet(pools=0, output_stride=8, head="fcn", **SMALL).eval()(torch.rand(1, 3, *shape))  # type: ignore[arg-type]
    assert scores.shape == (1, 5, *(-(-side // 8) for side in shape))


def test_unlabelled_pixels_do_not_count() -> None:
    output, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]]])
    changed = output.clone()
    changed[..., 0, 1] += torch.tensor([5.0, 0.0, -5.0])
    assert wider_or_deeper.objective(output, target) == wider_or_deeper.objective(changed, target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": (3, 3)}, r"for each of levels 2 to 7, got blocks=\(3, 3\)"),
        ({"widths": ((8, 8),) * 5 + ((8,),)}, "two or three channel numbers"),
        ({"pools": 6}, "pools must be 0 to 5"),
        ({"output_stride": 4}, "16, 32, got pools=5 and output_stride=4"),
        ({"output_stride": 8}, "8 .with at most 4 poolings., 16, 32, got pools=5"),
        ({"dropout": (0.3, 1.0)}, "two probabilities below 1"),
        ({"head": "deeplab"}, "head must be one of classifier, fcn, got 'deeplab'"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        WiderResNet(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        WiderResNet(**SMALL)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]

"""DeepLab v1: holes compute what strides did and more, LargeFOV sees far, and five skips carry what is fine."""

from __future__ import annotations

import pytest
import torch
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import deeplabv1 as module
from skipkb.models.segmentation.deeplabv1 import DeepLabV1, DeepLabV1ResNet, objective, refine
from skipkb.nn.dense_crf import dense_crf

SMALL = {"widths": (4, 6, 8, 8, 8), "fc_channels": 10, "rate": 3, "num_classes": 3}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def conv(model: nn.Module, name: str) -> nn.Conv2d:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    return layer


def test_holes_compute_what_strides_did_and_three_times_more() -> None:
    model = DeepLabV1(**SMALL).double().eval()  # type: ignore[arg-type]
    seen: dict[str, Tensor] = {}
    for name in ("conv4_3", "conv5_3"):
        conv(model, name).register_forward_hook(lambda _m, _x, y, name=name: seen.update({name: F.relu(y)}))
    with torch.no_grad():
        model(torch.randn(1, 3, 129, 97, dtype=torch.float64))
        strided = F.max_pool2d(seen["conv4_3"], 3, stride=2, padding=1)
        for j in (1, 2, 3):
            layer = conv(model, f"conv5_{j}")
            strided = F.relu(F.conv2d(strided, layer.weight, layer.bias, padding=1))
    dense = seen["conv5_3"]
    assert dense.shape[2:] == (17, 13)
    torch.testing.assert_close(dense[..., ::2, ::2], strided)
    assert (dense[..., 1::2, ::2] - strided[..., :-1, :]).abs().max() > 1e-3


def test_which_layers_have_holes_and_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    model = DeepLabV1(**SMALL)  # type: ignore[arg-type]
    holes = {name: m.dilation[0] for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1}
    assert holes == {"conv5_1": 2, "conv5_2": 2, "conv5_3": 2, "fc6": 3}
    calls: list[tuple[object, ...]] = []
    pool, average = F.max_pool2d, F.avg_pool2d

    def spy(x: Tensor, size: int, stride: int, *, padding: int, ceil_mode: bool) -> Tensor:
        calls.append((size, stride, padding, ceil_mode))
        return pool(x, size, stride, padding, ceil_mode=ceil_mode)

    def averaged(x: Tensor, size: int, *, stride: int, padding: int) -> Tensor:
        calls.append(("average", size, stride, padding))
        return average(x, size, stride, padding)

    monkeypatch.setattr(F, "max_pool2d", spy)
    monkeypatch.setattr(F, "avg_pool2d", averaged)
    assert model(torch.rand(1, 3, 306, 306))["out"].shape[2:] == (40, 40)
    assert calls == [(3, s, 1, True) for s in (2, 2, 2, 1, 1)] + [("average", 3, 1, 1)]


def test_large_fov_sees_25_positions_with_nine_weights() -> None:
    with torch.device("meta"):
        model = module.deeplabv1_largefov()
    assert (model.fc6.out_channels, model.fc6.kernel_size, model.fc6.dilation) == (1024, (3, 3), (12, 12))
    layer = nn.Conv2d(1, 1, 3, padding=12, dilation=12)
    x = torch.zeros(1, 1, 41, 41, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[0, 0, 20, 20], x)
    rows = gradient[0, 0].nonzero()[:, 0].unique()
    assert rows.tolist() == [8, 20, 32]


def test_five_skips_are_concatenated_in_front_of_the_classifier() -> None:
    model = DeepLabV1(**SMALL, msc_channels=5).eval()  # type: ignore[arg-type]
    joined: list[Tensor] = []
    taps: list[Tensor] = []
    model.fc8.register_forward_pre_hook(lambda _m, args: joined.append(args[0]))
    for branch in model.msc:
        branch.register_forward_hook(lambda _m, args, _y: taps.append(args[0]))
    x = torch.rand(2, 3, 65, 97)
    out = model(x)["out"]
    assert out.shape == (2, 3, 9, 13)
    assert joined[0].shape == (2, 10 + 5 * 5, 9, 13)
    assert torch.equal(taps[0], x)
    assert [tuple(t.shape[1:]) for t in taps] == [(3, 65, 97), (4, 33, 49), (6, 17, 25), (8, 9, 13), (8, 9, 13)]
    for i, (branch, tap) in enumerate(zip(model.msc, list(taps), strict=True)):
        assert torch.equal(joined[0][:, 10 + 5 * i : 15 + 5 * i], branch(tap))


def test_without_what_the_skips_bring_it_is_large_fov() -> None:
    plain = DeepLabV1(**SMALL).eval()  # type: ignore[arg-type]
    model = DeepLabV1(**SMALL, msc_channels=5).eval()  # type: ignore[arg-type]
    state = plain.state_dict()
    weight = torch.cat([state["fc8.weight"], torch.randn(3, 25, 1, 1)], dim=1)
    model.load_state_dict(model.state_dict() | state | {"fc8.weight": weight})
    x = torch.rand(1, 3, 65, 65)
    for i in range(5):  # each of the five matters
        with_skips = model(x)["out"]
        assert (with_skips - plain(x)["out"]).abs().max() > 1e-4
        nn.init.zeros_(model.fc8.weight[:, 10 + 5 * i : 15 + 5 * i].detach())
        assert not torch.equal(model(x)["out"], with_skips)
    torch.testing.assert_close(model(x)["out"], plain(x)["out"])


@pytest.mark.parametrize("edge", [9, 65, 321])
def test_maps_of_every_resolution_fall_on_each_other(edge: int) -> None:
    with torch.device("meta"):
        model = DeepLabV1(**SMALL, msc_channels=2)  # type: ignore[arg-type]
        assert model(torch.empty(1, 3, edge, edge))["out"].shape[2] == (edge - 1) // 8 + 1


def test_how_it_starts() -> None:
    model = DeepLabV1(widths=(8, 16, 32, 64, 64), fc_channels=64)
    for name in ("conv3_2", "conv5_1", "fc6"):
        weight = conv(model, name).weight
        assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.1)
    assert model.fc8.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, nn.Conv2d))  # type: ignore[union-attr]
    assert model.drop.p == 0.5


def test_the_published_networks() -> None:
    with torch.device("meta"):
        x = torch.empty(1, 3, 321, 321)
        for build in (module.deeplabv1_largefov, module.deeplabv1_msc_largefov, module.deeplabv1_resnet101_port):
            assert build(num_classes=5).eval()(x)["out"].shape == (1, 5, 41, 41)
        msc = module.deeplabv1_msc_largefov()
    assert [conv(msc, f"msc.{i}.0").stride[0] for i in range(5)] == [8, 4, 2, 1, 1]


def test_the_port_is_a_dilated_resnet_with_one_convolution_behind() -> None:
    model = DeepLabV1ResNet(layers=(1, 1, 2, 1), widths=(4, 4, 4, 4), num_classes=3)
    rates = [m.dilation[0] for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert rates == [1, 1, 2, 2, 4]
    assert model.eval()(torch.rand(1, 3, 33, 33))["out"].shape == (1, 3, 5, 5)
    with pytest.raises(ValueError, match="DeepLabV1ResNet: layers and widths need one positive number"):
        DeepLabV1ResNet(layers=(1, 1), widths=(4,))


def test_objective_is_averaged_over_the_positions_of_the_scores() -> None:
    scores = torch.randn(2, 3, 5, 7)
    classes = torch.randint(0, 3, (2, 40, 56))
    near = classes[:, ::8, ::8]
    torch.testing.assert_close(objective({"out": scores}, classes), F.cross_entropy(scores, near))
    classes[:, :8] = 255
    torch.testing.assert_close(objective({"out": scores}, classes), F.cross_entropy(scores[:, :, 1:], near[:, 1:]))


def test_the_random_field_has_the_papers_kernel_of_positions() -> None:
    picture = torch.from_numpy(data.astronaut()[20:44, 200:224]).float().permute(2, 0, 1)
    scores = torch.randn(2, 4, 4)
    large = F.interpolate(scores[None], (24, 24), mode="bilinear", align_corners=True)[0].softmax(0)
    expected = dense_crf(
        large, picture, position_weight=3, position_std=3, colour_weight=4, colour_position_std=121, colour_std=5,
        exact=True,
    )  # fmt: skip
    found = refine(scores, picture, exact=True)
    torch.testing.assert_close(found, expected)
    assert (found - large).abs().max() > 0.1


def test_mistakes() -> None:
    for change in ({"widths": (4, 4)}, {"rate": 0}, {"msc_channels": -1}, {"fc_channels": 0}):
        with pytest.raises(ValueError, match="DeepLabV1: there must be five widths and positive numbers"):
            DeepLabV1(**SMALL | change)  # type: ignore[arg-type]
    model = DeepLabV1(**SMALL, msc_channels=2).eval()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"DeepLabV1: expected input \[N, 3, H, W\], got \[2, 1, 33, 33\]"):
        model(torch.rand(2, 1, 33, 33))
    with pytest.raises(ValueError, match=r"H and W must be 8k \+ 1, such as 321, got \[1, 3, 33, 32\]"):
        model(torch.rand(1, 3, 33, 32))
    assert DeepLabV1(**SMALL).eval()(torch.rand(1, 3, 1, 1))["out"].shape == (1, 3, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        module.deeplabv1_largefov(num_clases=2)

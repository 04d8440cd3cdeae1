"""What FCN is about: a classifier that slides, and finer scores added at the right places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import fcn as module
from skipkb.models.segmentation.fcn import FCN, bilinear_kernel, convolutionalise, objective, start_from

SMALL: dict[str, Any] = {"widths": (4, 4, 6, 6, 8), "fc_width": 10, "num_classes": 3, "dropout": 0.0}


def opinionated(stride: module.Stride, **changes: Any) -> FCN:
    """A small network whose scores do not start at zero."""
    torch.manual_seed(0)
    model = FCN(stride=stride, **SMALL | changes).eval()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name.startswith("score"):
            nn.init.normal_(layer.weight)
    return model


def test_the_published_networks() -> None:
    """VGG-16's 13 convolutions, three more that were fully connected, one of scores and two deconvolutions per skip."""
    for build, kinds in ((module.fcn32s, (16, 1)), (module.fcn16s, (17, 2)), (module.fcn8s, (18, 3))):
        with torch.device("meta"):
            model = build()
            assert model(torch.empty(1, 3, 375, 500)).shape == (1, 21, 375, 500)
        layers = [type(layer) for layer in model.modules()]
        assert (layers.count(nn.Conv2d), layers.count(nn.ConvTranspose2d)) == kinds


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("size", [(1, 1), (17, 40), (63, 33)])
def test_any_size_and_a_score_for_each_pixel(stride: module.Stride, size: tuple[int, int]) -> None:
    assert FCN(stride=stride, **SMALL)(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_a_fully_connected_layer_is_a_convolution() -> None:
    """On a picture of the classifier's size, the converted layers give the classifier's values."""
    torch.manual_seed(0)
    features: list[nn.Module] = []
    channels = 3
    for layers, width in zip(module.VGG16, SMALL["widths"], strict=True):
        for _ in range(layers):
            features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        features.append(nn.MaxPool2d(2))
    head = [nn.Linear(8 * 7 * 7, 10), nn.ReLU(), nn.Dropout(0.0), nn.Linear(10, 10), nn.ReLU()]
    classifier = nn.ModuleDict({"features": nn.Sequential(*features), "classifier": nn.Sequential(*head)}).double()
    model = FCN(stride=32, **SMALL).double().eval()
    left_out = model.load_state_dict(convolutionalise(classifier.state_dict()), strict=False)
    assert not left_out.unexpected_keys
    assert left_out.missing_keys == ["score_fr.weight", "score_fr.bias", "upscore.weight"]
    first = model.get_submodule("conv1_1")
    assert isinstance(first, nn.Conv2d)
    first.padding = (1, 1)  # what the classifier sees is padded by 1
    picture = torch.rand(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        expected = classifier["classifier"](classifier["features"](picture).flatten(1))
        top = model.trunk(picture)[2]
        torch.testing.assert_close(top[:, :, 0, 0], expected)
        assert top.shape[2:] == (1, 1)
        assert model.trunk(F.pad(picture, (0, 64, 0, 32)))[2].shape[2:] == (2, 3)  # and on a larger one it slides


def test_the_weights_of_vgg16_fit() -> None:
    with torch.device("meta"):
        state = convolutionalise(torchvision.models.vgg16().state_dict())
        wanted = module.fcn8s().state_dict()
    assert {name: t.shape for name, t in state.items()} == {name: wanted[name].shape for name in state}
    with pytest.raises(ValueError, match="13 convolutions of VGG-16"):
        convolutionalise({"features.0.weight": torch.zeros(4, 3, 3, 3)})
    small = {name: t for name, t in state.items() if "conv" in name}
    for layer in ("classifier.0", "classifier.3"):
        small |= {f"{layer}.weight": torch.zeros(8, 512), f"{layer}.bias": torch.zeros(8)}
    with pytest.raises(ValueError, match=r"classifier\.0 has 512 inputs, expected 512 x 7 x 7"):
        convolutionalise(small)


def test_a_deconvolution_starts_as_bilinear_interpolation() -> None:
    for factor in (2, 8, 16, 32):
        layer = module.upscore(2, factor, learned=True)
        x = torch.rand(1, 2, 5, 6)
        with torch.no_grad():
            found = layer(x)
        expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        half = factor // 2
        inside = found[..., half:-half, half:-half]
        assert inside.shape == expected.shape
        torch.testing.assert_close(inside[..., half:-half, half:-half], expected[..., half:-half, half:-half])
    kernel = bilinear_kernel(3, 4)
    assert not kernel[0, 1].any()  # no class reads another one


def centres(stride: int) -> dict[str, Tensor]:
    """Where in the picture each row of each map lies, worked out from kernels and strides alone."""

    def pooled(rows: Tensor) -> Tensor:
        rows = torch.cat([rows, rows[-1:] + (rows[1] - rows[0])]) if len(rows) % 2 else rows
        return rows.reshape(-1, 2).mean(dim=1)

    def enlarged(rows: Tensor, factor: int) -> Tensor:
        step = rows[1] - rows[0]
        return rows[0] + (torch.arange(factor * (len(rows) + 1)) - (2 * factor - 1) / 2) * step / factor

    maps = {}
    rows = torch.arange(-99, 320 + 99, dtype=torch.float64)  # a picture of 320 rows in 100 zeros, first convolution
    for i in range(1, 6):
        rows = maps[f"pool{i}"] = pooled(rows)
    rows = rows[3:-3]  # a 7x7 kernel
    if stride < 32:
        rows = maps["upscore2"] = enlarged(rows, 2)
    if stride < 16:
        rows = maps["upscore_pool4"] = enlarged(rows, 2)
    maps["score"] = enlarged(rows, stride)
    return maps


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_maps_lie_over_each_other_where_they_are_added(stride: module.Stride) -> None:
    maps = centres(stride)

    def cropped(name: str, like: Tensor, offset: int) -> Tensor:
        return module.crop(maps[name].expand(len(maps[name]), -1), like.expand(len(like), -1), offset)[0]

    if stride < 32:
        assert torch.equal(cropped("pool4", maps["upscore2"], module.CROP_POOL4), maps["upscore2"])
    if stride < 16:
        assert torch.equal(cropped("pool3", maps["upscore_pool4"], module.CROP_POOL3), maps["upscore_pool4"])
    picture = torch.arange(320, dtype=torch.float64)
    assert torch.equal(cropped("score", picture, module.CROP_SCORE[stride]), picture)


def test_scores_are_added() -> None:
    """With the coarser scores silent, what is left is the finer map's: linear in the weights of its 1x1 convolution."""
    model, picture = opinionated(8), torch.rand(1, 3, 40, 50)
    with torch.no_grad():
        whole = model(picture)
        parts = []
        for name in ("score_fr", "score_pool4", "score_pool3"):
            one = opinionated(8)
            for other in {"score_fr", "score_pool4", "score_pool3"} - {name}:
                nn.init.zeros_(getattr(one, other).weight)
            parts.append(one(picture))
        assert all(part.abs().max() > 1e-3 for part in parts)  # each of the three contributes
        torch.testing.assert_close(sum(parts), whole)


def test_a_finer_network_starts_as_the_coarser_one() -> None:
    """The score layers of the skips start at zero: before training only the interpolation differs a little."""
    coarse, fine = opinionated(32), FCN(stride=16, **SMALL).eval()
    start_from(fine, coarse)
    finest = FCN(stride=8, **SMALL).eval()
    start_from(finest, fine)
    assert torch.equal(finest.score_fr.weight, coarse.score_fr.weight)
    assert not finest.score_pool4.weight.any()
    assert not finest.score_pool3.weight.any()
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        outputs = [model(picture) for model in (coarse, fine, finest)]
        for output in outputs[1:]:  # interpolated in two or three steps, not in one
            assert (output - outputs[0]).std() < 0.2 * outputs[0].std()
        nn.init.ones_(fine.score_pool4.weight)
        assert (fine(picture) - outputs[1]).abs().max() > 0.1


def test_only_the_last_deconvolution_is_fixed() -> None:
    fixed = {
        stride: [name for name, p in FCN(stride=stride, **SMALL).named_parameters() if not p.requires_grad]
        for stride in (32, 16, 8)
    }
    assert fixed == {32: ["upscore.weight"], 16: ["upscore16.weight"], 8: ["upscore8.weight"]}


def test_at_once_scales_the_finer_maps() -> None:
    picture = torch.rand(1, 3, 32, 32)
    plain = opinionated(8)
    scaled = opinionated(8, pool_scales=(0.01, 0.0001))
    with torch.no_grad():
        plain.score_pool4.weight *= 0.01
        plain.score_pool3.weight *= 0.0001
        torch.testing.assert_close(scaled(picture), plain(picture))
    with torch.device("meta"):
        published = module.fcn8s_at_once()
    assert (published.pool4_scale, published.pool3_scale) == (0.01, 0.0001)


def test_a_pooling_rounds_up() -> None:
    model = FCN(stride=32, **SMALL)
    assert model.pool(torch.rand(1, 1, 5, 7)).shape == (1, 1, 3, 4)
    padding = {name: layer.padding for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    assert padding.pop("conv1_1") == (100, 100)
    assert {value for name, value in padding.items() if name.startswith("conv")} == {(1, 1)}


def test_the_objective_sums_over_pixels_and_passes_over_255() -> None:
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    target[0, 0] = 255
    energy = -logits.log_softmax(1).gather(1, target.clamp(max=2)[:, None])[:, 0]
    torch.testing.assert_close(objective(logits, target), energy[target != 255].sum() / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 4}, "stride must be 32, 16 or 8, got 4"),
        ({"widths": (4, 4)}, "one number for each of the five poolings"),
        ({"dropout": 1.0}, r"must lie in \[0, 1\), got 1.0"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FCN(**SMALL | change)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 32, 32)])
def test_bad_input(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"FCN: expected input \[N, 3, H, W\], got"):
        FCN(**SMALL)(torch.rand(shape))

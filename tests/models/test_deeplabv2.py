"""DeepLab v2: four rates summed, three scales with one set of weights, the largest score, and borders from colours."""

from __future__ import annotations

import pytest
import torch
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import deeplabv2 as module
from skipkb.models.segmentation.deeplabv2 import ASPP, DeepLabV2, objective, refine
from skipkb.nn import dense_crf

SMALL = {"layers": (1, 1, 2, 2), "widths": (4, 4, 8, 8), "rates": (1, 2), "num_classes": 3}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_the_pyramid_is_a_sum_of_dilated_classifiers() -> None:
    aspp = ASPP(4, 3, (6, 12, 18, 24)).double()
    for parameter in aspp.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 4, 30, 26, dtype=torch.float64)
    expected = torch.zeros(2, 3, 30, 26, dtype=torch.float64)
    for branch, rate in zip(aspp.children(), (6, 12, 18, 24), strict=True):
        padded = F.pad(x, (rate,) * 4)
        for i in range(3):
            for j in range(3):
                tap = padded[..., i * rate : i * rate + 30, j * rate : j * rate + 26]
                expected += torch.einsum("kc,nchw->nkhw", branch.weight[:, :, i, j], tap)  # type: ignore[index]
        expected += branch.bias[:, None, None]  # type: ignore[index]
    torch.testing.assert_close(aspp(x), expected)


def test_each_rate_sees_a_ring_of_its_own() -> None:
    aspp = ASPP(1, 1, (2, 4, 6)).double()
    x = torch.zeros(1, 1, 17, 17, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(aspp(x)[0, 0, 8, 8], x)
    seen = {(int(i) - 8, int(j) - 8) for i, j in gradient[0, 0].nonzero()}
    assert seen == {(i * rate, j * rate) for rate in (2, 4, 6) for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_the_largest_score_of_three_scales_counts() -> None:
    model = DeepLabV2(**SMALL).eval()  # type: ignore[arg-type]
    nn.init.normal_(model.get_parameter("base.aspp.c0.weight"))
    x = torch.rand(2, 3, 49, 65)
    scores = [model.base(x)]
    for scale in (0.5, 0.75):
        smaller = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        scores.append(F.interpolate(model.base(smaller), (7, 9), mode="bilinear", align_corners=False))
    found = model(x)["max"]
    torch.testing.assert_close(found, torch.maximum(torch.maximum(scores[0], scores[1]), scores[2]))
    winners = torch.stack(scores).argmax(0)
    assert all((winners == scale).any() for scale in range(3))  # and none of the three is idle


def test_all_scales_share_the_weights() -> None:
    one, three = DeepLabV2(**SMALL, scales=()), DeepLabV2(**SMALL)  # type: ignore[arg-type]
    assert one.state_dict().keys() == three.state_dict().keys()
    calls: list[tuple[int, ...]] = []
    three.base.register_forward_hook(lambda _m, args, y: calls.append((*args[0].shape[2:], *y.shape[2:])))
    three.eval()(torch.rand(1, 3, 97, 97))
    assert calls == [(97, 97, 13, 13), (48, 48, 7, 7), (72, 72, 10, 10)]


def test_training_gives_every_scale_and_the_maximum() -> None:
    model = DeepLabV2(**SMALL)  # type: ignore[arg-type]
    output = model(torch.rand(2, 3, 65, 65))
    assert {name: y.shape[2] for name, y in output.items()} == {"1": 9, "0.5": 5, "0.75": 7, "max": 9}
    classes = torch.randint(0, 3, (2, 65, 65))
    classes[0, :20] = 255
    expected = torch.zeros(())
    for y in output.values():
        n = y.shape[2]
        index = torch.arange(n) * 65 // n  # the nearest pixel
        labels = classes[:, index][:, :, index]
        expected = expected + F.cross_entropy(y, labels, ignore_index=255)
    torch.testing.assert_close(objective(output, classes), expected)
    assert model.eval()(torch.rand(1, 3, 65, 65)).keys() == {"max"}


def test_the_trunk_trades_strides_for_rates() -> None:
    model = DeepLabV2(**SMALL)  # type: ignore[arg-type]
    base = model.base
    for stage, rate in ((base.layer2, 1), (base.layer3, 1), (base.layer4, 2), (base.layer5, 4)):
        rates = [m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert rates == [rate] * len(stage)
    block = base.get_submodule("layer3.block1")
    assert [m.stride[0] for m in block.modules() if isinstance(m, nn.Conv2d)] == [2, 1, 1, 2]
    pools = [(m.ceil_mode, m.padding) for m in base.modules() if isinstance(m, nn.MaxPool2d)]
    assert pools == [(True, 1)]


def test_the_skip_is_resnets() -> None:
    block = DeepLabV2(**SMALL).eval().base.get_submodule("layer4.block2")  # type: ignore[arg-type]
    nn.init.zeros_(block.get_parameter("increase.bn.weight"))
    x = torch.rand(1, 32, 5, 5)
    assert torch.equal(block(x), x)


def test_how_the_pyramid_starts() -> None:
    aspp = ASPP(64, 21, (6, 12))
    for branch in aspp.children():
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.1)  # type: ignore[operator]
        assert not branch.bias.any()  # type: ignore[operator]


def test_the_published_network() -> None:
    with torch.device("meta"):
        model = module.deeplabv2_resnet101().eval()
        assert model(torch.empty(1, 3, 321, 257))["max"].shape == (1, 21, 41, 33)
    rates = [branch.dilation for branch in model.base.aspp.children()]
    assert rates == [(6, 6), (12, 12), (18, 18), (24, 24)]


def test_the_kernels_of_the_field_are_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the sums over thousands of neighbours drown the network's scores."""
    picture = torch.from_numpy(data.astronaut()[20:52, 200:232]).float().permute(2, 0, 1)
    scores = torch.randn(2, 4, 4)
    kept = refine(scores, picture, exact=True)
    assert kept.shape == (2, 32, 32)
    torch.testing.assert_close(kept.sum(0), torch.ones(32, 32))
    large = F.interpolate(scores[None], (32, 32), mode="bilinear", align_corners=False)[0].softmax(0)
    assert (kept.argmax(0) == large.argmax(0)).float().mean() > 0.7
    assert (kept - large).abs().max() > 0.1

    def plain(kernel: dense_crf.Filter, pixels: Tensor) -> dense_crf.Filter:
        return kernel

    monkeypatch.setattr(dense_crf, "normalised", plain)
    drowned = refine(scores, picture, exact=True)
    assert (drowned - kept).abs().max() > 0.1


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="DeepLabV2: layers and widths need one positive number per stage each"):
        DeepLabV2(**SMALL | {"layers": (1, 1)})  # type: ignore[arg-type]
    for change in ({"rates": ()}, {"scales": (1.5,)}, {"layers": (1,), "widths": (8,)}):
        with pytest.raises(ValueError, match="DeepLabV2: there must be four stages, a rate, and scales between 0 and"):
            DeepLabV2(**SMALL | change)  # type: ignore[arg-type]
    model = DeepLabV2(**SMALL).eval()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"DeepLabV2: expected input \[N, 3, H, W\].*, got \[2, 1, 32, 32\]"):
        model(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r"with H and W at least 2, got \[1, 3, 1, 8\]"):
        model(torch.rand(1, 3, 1, 8))
    assert model(torch.rand(1, 3, 2, 2))["max"].shape == (1, 3, 1, 1)
    with pytest.raises(TypeError):
        module.deeplabv2_resnet101(num_clases=2)

"""DeepLabv3: resolution that costs no weights, rates side by side, and the average of the whole picture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import deeplabv3 as module
from skipkb.models.segmentation.deeplabv3 import ASPP, DeepLabV3, DeepLabV3MultiGrid, ImagePooling, objective

SMALL = {"layers": (1, 1, 2, 3), "widths": (4, 4, 8, 8), "aspp_channels": 8, "num_classes": 3}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def rates(model: nn.Module, prefix: str) -> list[int]:
    """Dilations of the 3x3 convolutions below a name."""
    return [
        m.dilation[0]
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and name.startswith(prefix)
    ]


def dense_and_sparse(kind: type[nn.Module], **options: object) -> tuple[nn.Module, nn.Module]:
    """One set of weights at output stride 8 and at 16."""
    dense = kind(**SMALL, output_stride=8, **options).double().eval()
    sparse = kind(**SMALL, output_stride=16, **options).double().eval()
    sparse.load_state_dict(dense.state_dict())
    return dense, sparse


@pytest.mark.parametrize("grid", [(1, 2, 4), (1, 1, 1)])
def test_half_the_output_stride_keeps_every_value_and_adds_three(grid: tuple[int, ...]) -> None:
    """Section 3.1: train at 16, test at 8 with doubled rates; only the picture's average is taken of other places."""
    dense, sparse = dense_and_sparse(DeepLabV3MultiGrid, multi_grid=grid)
    for model in (dense, sparse):
        nn.init.zeros_(model.get_parameter("aspp.stages.imagepool.conv.conv.weight"))
    x = torch.randn(1, 3, 97, 129, dtype=torch.float64)
    with torch.no_grad():
        fine, coarse = dense(x), sparse(x)
    assert fine.shape == (1, 3, 13, 17)
    torch.testing.assert_close(fine[..., ::2, ::2], coarse)
    assert (fine[..., 1::2, ::2] - coarse[..., :-1, :]).abs().max() > 1e-3  # and the others are new


@pytest.mark.parametrize("grid", [None, (1, 2, 4)])
def test_the_trunk_of_torchvisions_network_too(grid: tuple[int, ...] | None) -> None:
    dense, sparse = dense_and_sparse(DeepLabV3, multi_grid=grid)
    x = torch.randn(1, 3, 97, 65, dtype=torch.float64)
    with torch.no_grad():
        fine, coarse = dense.backbone(x), sparse.backbone(x)  # type: ignore[operator]
    equal = (fine[3][..., ::2, ::2] - coarse[3]).abs().max() < 1e-9
    assert equal == (grid is None)  # with a grid the block that lost its stride already has the larger rate
    assert fine[3].shape[2:] == (13, 9)
    assert coarse[3].shape[2:] == (7, 5)


def test_rates_of_every_block() -> None:
    for output_stride, last, pyramid in ((16, [2, 4, 8], [6, 12, 18]), (8, [4, 8, 16], [12, 24, 36])):
        model = DeepLabV3MultiGrid(**SMALL, output_stride=output_stride)  # type: ignore[arg-type]
        assert rates(model, "layer5") == last
        assert rates(model, "layer4") == [1, 1] if output_stride == 16 else [2, 2]
        assert rates(model, "aspp") == pyramid
    assert module.rates_of(8, (3, 4, 6, 3), None)[2:] == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
    assert module.rates_of(16, (3, 4, 6, 3), None)[2:] == [[1] * 6, [1, 2, 2]]
    assert module.rates_of(8, (1, 1, 1, 4), (1, 2))[3] == [4, 8, 4, 8]


def test_a_kernel_of_a_very_large_rate_is_its_middle() -> None:
    """Section 3.3: where the rate reaches the size of the map, all taps but one fall on the padding."""
    branch = module.branch(4, 5, 9).eval()
    x = torch.randn(2, 4, 9, 9)
    middle = F.relu(branch[1](F.conv2d(x, branch[0].weight[:, :, 1:2, 1:2])))  # type: ignore[index]
    torch.testing.assert_close(branch(x), middle)
    nearer = module.branch(4, 5, 8).eval()
    nearer.load_state_dict(branch.state_dict())
    assert (nearer(x) - middle).abs().max() > 1e-3


def test_the_image_level_feature_is_one_vector_from_everywhere() -> None:
    pooling = ImagePooling(4, 6).double().eval()
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64, requires_grad=True)
    y = pooling(x)
    assert y.shape == (2, 6, 7, 5)
    assert torch.equal(y, y[..., :1, :1].expand_as(y))
    (gradient,) = torch.autograd.grad(y[0, :, 0, 0].sum(), x)
    torch.testing.assert_close(gradient[0], gradient[0, :, :1, :1].expand_as(gradient[0]))
    assert gradient[0].abs().min() > 0
    assert not gradient[1].any()
    order = torch.randperm(35)
    torch.testing.assert_close(pooling(x.flatten(2)[:, :, order].view_as(x)), y)


@pytest.mark.parametrize("pooled", [True, False])
def test_only_the_average_reaches_what_the_rates_miss(pooled: bool) -> None:
    aspp = ASPP(4, 6, rates=(1, 2, 3)).double().eval()
    if not pooled:
        nn.init.zeros_(aspp.get_parameter("convs.4.1.weight"))
    x = torch.randn(1, 4, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(aspp(x)[0, :, 0, 0].sum(), x)
    reached = gradient[0].abs().sum(0) > 0
    assert bool(reached[10, 10]) is pooled
    assert reached[3, 3]  # by the rate of 3


def test_the_branches_are_concatenated_in_their_order() -> None:
    aspp = ASPP(4, 3, rates=(2, 4)).eval()
    joined: list[Tensor] = []
    aspp.project.register_forward_pre_hook(lambda _m, args: joined.append(args[0]))
    x = torch.randn(1, 4, 9, 9)
    aspp(x)
    assert [m.dilation[0] for m in aspp.modules() if isinstance(m, nn.Conv2d)] == [1, 2, 4, 1, 1]
    for i, branch in enumerate(aspp.convs):
        assert torch.equal(joined[0][:, 3 * i : 3 * i + 3], branch(x))


def test_the_published_networks() -> None:
    with torch.device("meta"):
        network = module.deeplabv3_resnet50(num_classes=19).eval()
        out = network(torch.empty(1, 3, 65, 97))
        assert {name: y.shape for name, y in out.items()} == dict.fromkeys(("out", "aux"), (1, 19, 65, 97))
        paper = module.deeplabv3_resnet101_multigrid().eval()
        assert paper(torch.empty(1, 3, 513, 513)).shape == (1, 21, 33, 33)
        assert module.deeplabv3_resnet101_multigrid(output_stride=8).eval()(torch.empty(1, 3, 513, 513)).shape == (
            1, 21, 65, 65,
        )  # fmt: skip
    kept = [1 - m.momentum for m in paper.modules() if isinstance(m, nn.BatchNorm2d)]  # type: ignore[operator]
    assert kept == pytest.approx([0.9997] * len(kept))
    assert set(module.deeplabv3_resnet50(aux_loss=False).eval()(torch.rand(1, 3, 33, 33))) == {"out"}


def test_the_two_networks_differ_where_we_say() -> None:
    options = {"layers": (1, 1, 1, 3), "widths": (4, 4, 4, 4)}
    port, paper = DeepLabV3(**options), DeepLabV3MultiGrid(**options)  # type: ignore[arg-type]
    assert rates(port, "backbone.layer4") == [2, 4, 4]
    assert rates(port, "classifier") == [12, 24, 36, 1]
    assert rates(paper, "layer5") == [2, 4, 8]
    assert sum(isinstance(m, nn.Dropout) for m in port.modules()) == 2
    assert not any(isinstance(m, nn.Dropout) for m in paper.modules())
    assert port.aux_classifier is not None


def test_where_the_strides_are() -> None:
    port = DeepLabV3(**SMALL, output_stride=16).get_submodule("backbone.layer2.0")  # type: ignore[arg-type]
    paper = DeepLabV3MultiGrid(**SMALL).get_submodule("layer3.block1")  # type: ignore[arg-type]
    assert [m.stride[0] for m in port.modules() if isinstance(m, nn.Conv2d)] == [1, 2, 1, 2]
    assert [m.stride[0] for m in paper.modules() if isinstance(m, nn.Conv2d)] == [2, 1, 1, 2]
    pools = [m.ceil_mode for m in DeepLabV3MultiGrid(**SMALL).modules() if isinstance(m, nn.MaxPool2d)]  # type: ignore[arg-type]
    assert pools == [True]


@pytest.mark.parametrize("kind", [DeepLabV3, DeepLabV3MultiGrid])
def test_the_skip_is_resnets(kind: type[nn.Module]) -> None:
    """A block whose residual function is zero passes its input on."""
    model = kind(**SMALL).eval()
    name = "backbone.layer4.2" if kind is DeepLabV3 else "layer5.block3"
    block = model.get_submodule(name)
    last = block.get_submodule("bn3" if kind is DeepLabV3 else "increase.bn")
    nn.init.zeros_(last.weight)  # type: ignore[arg-type]
    x = torch.rand(2, 32, 5, 5)
    assert torch.equal(block(x), x)


def test_objective() -> None:
    out, aux = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    classes = torch.randint(0, 3, (2, 8, 8))
    alone = F.cross_entropy(out, classes)
    torch.testing.assert_close(
        objective({"out": out, "aux": aux}, classes), alone + 0.5 * F.cross_entropy(aux, classes)
    )
    torch.testing.assert_close(objective({"out": out}, classes), alone)
    small = out[..., :2, :2]
    large = F.interpolate(small, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(objective(small, classes), F.cross_entropy(large, classes))
    unknown = classes.clone()
    unknown[:, :4] = 255
    torch.testing.assert_close(objective(out, unknown), F.cross_entropy(out[:, :, 4:], classes[:, 4:]))


@pytest.mark.parametrize("kind", [DeepLabV3, DeepLabV3MultiGrid])
def test_mistakes(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="output_stride must be 8 or 16 and there must be four stages, got 32 and 4"):
        kind(**SMALL | {"output_stride": 32})
    with pytest.raises(ValueError, match="got 16 and 2 stages"):
        kind(**SMALL | {"layers": (1, 1), "widths": (4, 4), "output_stride": 16})
    with pytest.raises(ValueError, match=f"{kind.__name__}: layers and widths need one positive number"):
        kind(**SMALL | {"layers": (1, 1)})
    model = kind(**SMALL)
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[2, 1, 32, 32\]"):
        model(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match="needs at least 2 pictures"):
        model(torch.rand(1, 3, 32, 32))
    assert model.eval()(torch.rand(1, 3, 1, 1)) is not None
    with pytest.raises(TypeError):
        module.deeplabv3_resnet50(num_clases=2)

"""SKNet: branch weights that sum to one, and branches that see windows of different size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skipkb.models.classification import sknet
from skipkb.models.classification.resnext import resnext50_32x4d


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_what_the_units_add_to_resnext50() -> None:
    """A second grouped 3x3 with its normalisation, and the selection, d = max(C / 16, 32)."""
    more = 0
    for blocks, width in zip((3, 4, 6, 3), (128, 256, 512, 1024), strict=True):
        hidden = max(width // 16, 32)
        more += blocks * (9 * width * width // 32 + 2 * width + width * hidden + 2 * hidden + hidden * 2 * width)
    with torch.device("meta"):
        assert size(sknet.sknet50()) == size(resnext50_32x4d()) + more


def unit(branches: int = 2) -> sknet.SelectiveKernel:
    module = sknet.SelectiveKernel(16, branches=branches, stride=1, groups=4, reduction=4, minimum=8)
    nn.init.normal_(module.attn.fc_select.weight)
    return module.eval().double()


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_branch_weights_sum_to_one(branches: int) -> None:
    module = unit(branches)
    maps = [torch.randn(5, 16, 6, 7, dtype=torch.float64) for _ in range(branches)]
    weights = module.attn(maps)
    assert weights.shape == (5, branches, 16, 1, 1)
    torch.testing.assert_close(weights.sum(1), torch.ones(5, 16, 1, 1, dtype=torch.float64))
    assert weights.min() > 0
    if branches > 1:
        assert weights[:, 0].std() > 0.05  # and they do choose, by channel and by picture
        assert (weights[0] - weights[1]).abs().max() > 0.05


def test_the_selection_is_a_mixture() -> None:
    """Where branches agree, it changes nothing; else, the result lies between them."""
    module = unit()
    x = torch.randn(2, 16, 9, 9, dtype=torch.float64)
    first, second = (path(x) for path in module.paths)
    y = module(x)
    assert (y >= torch.minimum(first, second) - 1e-9).all()
    assert (y <= torch.maximum(first, second) + 1e-9).all()
    a = module.attn([first, second])[:, 0]
    torch.testing.assert_close(y, a * first + (1 - a) * second)  # equation 6
    module.paths[1] = module.paths[0]
    torch.testing.assert_close(module(x), first)


def test_branches_see_3x3_and_5x5_of_the_whole_input() -> None:
    module = unit()
    x = torch.randn(1, 16, 11, 11, dtype=torch.float64, requires_grad=True)
    for path, side in zip(module.paths, (3, 5), strict=True):
        assert isinstance(path, sknet.ConvNorm)
        (grad,) = torch.autograd.grad(path.conv(x)[0, :, 5, 5].sum(), x)
        touched = grad[0].abs().sum(0) > 0
        assert touched.any(0).nonzero().flatten().tolist() == list(range(5 - side // 2, 6 + side // 2, side // 2))
        assert (grad[0].abs().sum((1, 2)) > 0).all()  # every channel: the input is not divided


def test_the_selection_sees_the_whole_map() -> None:
    module = unit()
    nn.init.constant_(module.attn.bn.bias, 5.0)
    maps = [torch.randn(1, 16, 6, 7, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = module.attn(maps)
    for grad in torch.autograd.grad(weights[0, 0].square().sum(), maps):
        assert grad.abs().min() > 0


def test_the_skip() -> None:
    block = sknet.Bottleneck(64, 16, groups=4, base_width=16, branches=2, reduction=16, minimum=8).eval()
    nn.init.zeros_(block.conv3.bn.weight)
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(block(x), F.relu(x))


def test_initial_values() -> None:
    model = sknet.SKNet(layers=(1,), widths=(64,), base_width=8)
    for name in ("layer1.0.conv2.attn.fc_reduce", "layer1.0.conv2.attn.fc_select", "fc"):
        assert model.get_parameter(f"{name}.weight").std().item() == pytest.approx(0.01, rel=0.1)
    assert model.get_parameter("layer1.0.conv3.conv.weight").std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.1)
    assert torch.count_nonzero(model.fc.bias) == 0
    assert model.layer1[0].conv2.attn.fc_reduce.bias is model.layer1[0].conv2.attn.fc_select.bias is None  # type: ignore[index,union-attr]


@pytest.mark.parametrize("port", [False, True])
def test_the_authors_pooling_is_not_padded_and_rounds_up(port: bool) -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8)
    found = sknet.SKNet(layers=(1,), widths=(64,), port=port).maxpool(x)[0, 0, 0].tolist()
    assert found == ([9, 11, 13, 15] if port else [18, 20, 22, 23])


@pytest.mark.parametrize(("port", "momentum"), [(False, 0.05), (True, 0.1)])
def test_every_normalisation_keeps_as_much_as_in_the_authors_caffe(port: bool, momentum: float) -> None:
    model = sknet.SKNet(layers=(1,), widths=(64,), port=port)
    found = [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert found == [momentum] * 7


@pytest.mark.parametrize("shape", [(32, 32), (33, 47)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = sknet.SKNet(layers=(1, 1), widths=(16, 32), groups=4, num_classes=5, in_channels=1)
    assert model(torch.rand(2, 1, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (1,)}, "one positive number per stage each"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"base_width": 1}, "a group one channel wide"),
        ({"branches": 0}, "branches, reduction and minimum must be positive"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"layers": (1, 1), "widths": (16, 32)}
    with pytest.raises(ValueError, match=message):
        sknet.SKNet(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\] with H and W at least 3, got \[1, 1, 8, 8\]"):
        sknet.SKNet(**right)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"H and W at least 3, got \[1, 3, 2, 8\]"):
        sknet.SKNet(**right)(torch.rand(1, 3, 2, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        sknet.sknet50(num_clases=10)  # type: ignore[call-arg]

"""Res2Net: groups that see more and more of the map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import res2net
from skipkb.models.classification.resnet import resnet50


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("base_width", "scale", "millions"), [(26, 8, 48.40), (14, 8, 25.06), (48, 2, 25.29)])
def test_other_sizes_of_table_3(base_width: int, scale: int, millions: float) -> None:
    with torch.device("meta"):
        model = res2net.Res2Net(layers=(3, 4, 6, 3), base_width=base_width, scale=scale)
    assert size(model) / 1e6 == pytest.approx(millions, abs=0.005)


def test_one_group_is_resnet() -> None:
    with torch.device("meta"):
        assert size(res2net.Res2Net(layers=(3, 4, 6, 3), base_width=64, scale=1)) == size(resnet50())
    block = res2net.Bottle2neck(64, 16, base_width=64, scale=1).eval()
    x = torch.randn(1, 64, 5, 5)
    middle = F.relu(block.bns[0](block.convs[0](F.relu(block.bn1(block.conv1(x))))))
    torch.testing.assert_close(block(x), F.relu(block.bn3(block.conv3(middle)) + x))


def open_block(*, scale: int, first: bool, stride: int = 1) -> res2net.Bottle2neck:
    """No ReLU hides a dependence."""
    block = res2net.Bottle2neck(64, 16, base_width=16, scale=scale, first=first, stride=stride).eval()
    for norm in block.bns:
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.constant_(norm.bias, 20.0)
    return block


def reach(block: res2net.Bottle2neck, groups: list[Tensor]) -> list[list[int]]:
    """Side of the window that each result (rows) sees of each group (columns); 0 where it sees nothing."""
    sides = []
    for result in block.hierarchy(groups):
        grads = torch.autograd.grad(result[:, :, 7, 7].sum(), groups, retain_graph=True, allow_unused=True)
        sides.append([0 if g is None else int((g.abs().sum((0, 1, 2)) > 0).sum()) for g in grads])
    return sides


def test_each_group_sees_further_than_the_one_before() -> None:
    block = open_block(scale=5, first=False)
    groups = [torch.randn(1, block.width, 15, 15, requires_grad=True) for _ in range(5)]
    assert reach(block, groups) == [
        [3, 0, 0, 0, 0],
        [5, 3, 0, 0, 0],
        [7, 5, 3, 0, 0],
        [9, 7, 5, 3, 0],
        [0, 0, 0, 0, 1],  # the untouched one
    ]


def test_the_first_block_of_a_stage_has_no_inner_additions() -> None:
    block = open_block(scale=4, first=True)
    groups = [torch.randn(1, block.width, 15, 15, requires_grad=True) for _ in range(4)]
    assert reach(block, groups) == [[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 3]]


def test_equation_1() -> None:
    block = open_block(scale=4, first=False)
    x = [torch.randn(2, block.width, 6, 6) for _ in range(4)]

    def k(i: int, group: Tensor) -> Tensor:
        return F.relu(block.bns[i](block.convs[i](group)))

    first = k(0, x[0])
    second = k(1, x[1] + first)
    third = k(2, x[2] + second)
    for ours, expected in zip(block.hierarchy(x), (first, second, third, x[3]), strict=True):
        assert torch.equal(ours, expected)


def test_the_outer_skip() -> None:
    block = res2net.Bottle2neck(64, 16, base_width=26, scale=4).eval()
    nn.init.zeros_(block.bn3.weight)
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(block(x), F.relu(x))


def test_where_the_first_blocks_are() -> None:
    with torch.device("meta"):
        model = res2net.res2net50_26w_4s()
    first = {name for name, m in model.named_modules() if isinstance(m, res2net.Bottle2neck) and m.first}
    assert first == {"layer1.0", "layer2.0", "layer3.0", "layer4.0"}


@pytest.mark.parametrize("shape", [(32, 32), (33, 47)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = res2net.Res2Net(layers=(2, 1), widths=(16, 32), num_classes=5, in_channels=1)
    assert model(torch.rand(2, 1, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (1,)}, "one positive number per stage each"),
        ({"scale": 0}, "scale must be at least 1"),
        ({"base_width": 3}, "a group one channel wide"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"layers": (1, 1), "widths": (16, 32)}
    with pytest.raises(ValueError, match=message):
        res2net.Res2Net(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        res2net.Res2Net(**right)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        res2net.res2net50_26w_4s(num_clases=10)  # type: ignore[call-arg]

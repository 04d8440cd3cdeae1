"""SENet: a squeeze that sees the whole map, and a skip that is not scaled."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skipkb.models.classification import senet
from skipkb.models.classification.resnet import resnet50


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_what_the_gates_of_se_resnet50_cost() -> None:
    """Equation 5, 2/r times the sum of N C^2, and the biases, on top of ResNet-50."""
    stages = list(zip((3, 4, 6, 3), (256, 512, 1024, 2048), strict=True))
    weights = sum(2 * n * c * c // 16 for n, c in stages)
    biases = sum(n * (c + c // 16) for n, c in stages)
    with torch.device("meta"):
        assert size(senet.se_resnet50()) == size(resnet50()) + weights + biases


def test_the_squeeze_sees_the_whole_map() -> None:
    """Any pixel of any channel moves the gate of every channel; and where in the map it lies does not matter."""
    block = senet.SEBlock(32, 4).double()
    nn.init.constant_(block.fc1.bias, 3.0)  # type: ignore[arg-type]  # no ReLU hides a change
    x = torch.randn(1, 32, 11, 7, dtype=torch.float64, requires_grad=True)
    gate = block(x)
    for channel in (0, 17, 31):
        (grad,) = torch.autograd.grad(gate[0, channel, 0, 0], x, retain_graph=True)
        assert grad.abs().min() > 0
        assert torch.equal(grad, grad[:, :, :1, :1].expand_as(grad))
    order = torch.randperm(77)
    torch.testing.assert_close(block(x.flatten(2)[:, :, order].view_as(x)), gate)


def test_a_corner_reaches_the_opposite_corner_through_the_gate_only() -> None:
    block = senet.Bottleneck(32, 8, reduction=4).eval().double()
    nn.init.constant_(block.se_module.fc1.bias, 3.0)  # type: ignore[arg-type]
    x = torch.randn(1, 32, 9, 9, dtype=torch.float64)
    other = x.clone()
    other[0, :, 0, 0] += 1
    corner = block.function(x)[..., 8, 8]
    torch.testing.assert_close(corner, block.function(other)[..., 8, 8], rtol=0, atol=1e-12)
    assert (block(x) - block(other))[..., 8, 8].abs().max() > 1e-9


def test_the_gate_is_one_number_between_0_and_1_per_channel() -> None:
    gate = senet.SEBlock(32, 4)(3 * torch.randn(5, 32, 6, 6))
    assert gate.shape == (5, 32, 1, 1)
    assert gate.min() > 0
    assert gate.max() < 1
    assert gate.std() > 0.01


def test_the_gate_scales_the_branch_and_not_the_skip() -> None:
    block = senet.Bottleneck(32, 8, reduction=4).eval()
    x = torch.randn(2, 32, 5, 5)
    branch = block.function(x)
    for bias, expected in ((-1e4, x), (0.0, None), (1e4, x + branch)):  # shut, half-way, open
        nn.init.constant_(block.se_module.fc2.bias, bias)  # type: ignore[arg-type]
        if expected is None:
            nn.init.zeros_(block.se_module.fc2.weight)
            expected = x + 0.5 * branch
        torch.testing.assert_close(block(x), F.relu(expected))


def test_the_blocks_of_the_two_networks() -> None:
    with torch.device("meta"):
        plain, large = senet.se_resnet50().get_submodule("layer2.0"), senet.senet154().get_submodule("layer2.0")
    assert isinstance(plain, senet.Bottleneck)
    assert isinstance(large, senet.Bottleneck)
    assert (plain.conv1.stride, plain.conv2.stride) == ((2, 2), (1, 1))
    assert (large.conv1.stride, large.conv2.stride) == ((1, 1), (2, 2))
    assert (large.conv1.out_channels, large.conv2.out_channels, large.conv2.groups) == (256, 512, 64)
    assert plain.get_submodule("downsample.0").weight.shape == (512, 256, 1, 1)
    assert large.get_submodule("downsample.0").weight.shape == (512, 256, 3, 3)


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (3, 5)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = senet.SENet(layers=(1, 1), widths=(8, 16), deep_stem=True, groups=4, num_classes=5, in_channels=1).eval()
    assert model(torch.rand(2, 1, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (1,)}, "one positive number per stage each"),
        ({"reduction": 33}, "between 1 and the 32 channels of the narrowest block, got 33"),
        ({"groups": 3}, "groups must divide twice each width"),
        ({"projection": 5}, "projection must be 1 or 3, got 5"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"layers": (1, 1), "widths": (8, 16)}
    with pytest.raises(ValueError, match=message):
        senet.SENet(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\] with H and W at least 3, got \[1, 1, 8, 8\]"):
        senet.SENet(**right)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        senet.senet154(num_clases=10)  # type: ignore[call-arg]

"""ResNeXt: three forms of one function, and what cardinality costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipkb.models.classification import resnet, resnext


def scrambled(block: resnext.Bottleneck) -> resnext.Bottleneck:
    """Statistics and scales of its own for every channel, so that a part given to the wrong path is seen."""
    for norm in (block.bn1, block.bn2, block.bn3):
        nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return block.eval().double()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("cardinality", "base_width"), [(1, 64), (2, 40), (8, 14), (32, 4)])
def test_three_forms_of_one_function(cardinality: int, base_width: int, stride: int) -> None:
    """Figure 3: the sum of paths, their concatenation and the grouped convolution agree, gradients included."""
    block = scrambled(resnext.Bottleneck(24, 64, cardinality=cardinality, base_width=base_width, stride=stride))
    x = torch.randn(2, 24, 9, 9, dtype=torch.float64)
    results = []
    for form in (block.function, block.split_transform_merge, block.early_concatenation):
        block.zero_grad()
        y = form(x)
        y.square().sum().backward()
        results.append((y.detach(), *(p.grad.clone() for p in block.parameters() if p.grad is not None)))
    for other in results[1:]:
        assert len(other) == len(results[0])
        for mine, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_cardinality_one_is_a_resnet_bottleneck() -> None:
    with torch.device("meta"):
        ours = resnext.ResNeXt(layers=(3, 4, 6, 3), cardinality=1, base_width=64)
        plain = resnet.resnet50()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


@pytest.mark.parametrize(("cardinality", "base_width"), [(1, 64), (2, 40), (4, 24), (8, 14), (32, 4)])
def test_equal_complexity(cardinality: int, base_width: int) -> None:
    """Table 2: the width of a path is chosen so that a block of any cardinality has about as many parameters."""
    with torch.device("meta"):
        block = resnext.Bottleneck(256, 64, cardinality=cardinality, base_width=base_width)
    convolutions = sum(p.numel() for p in block.parameters() if p.dim() == 4)
    assert convolutions == cardinality * (256 * base_width + 9 * base_width**2 + base_width * 256)  # equation 4
    assert abs(convolutions - 70_000) < 3_000


def test_a_path_sees_only_its_own_channels() -> None:
    """Groups do not mix: silencing one path's 3x3 changes exactly its channels in front of the last 1x1."""
    block = scrambled(resnext.Bottleneck(16, 64, cardinality=4, base_width=4))
    nn.init.constant_(block.bn2.bias, 10)  # no ReLU hides a change
    x = torch.randn(1, 16, 5, 5, dtype=torch.float64)
    before = torch.cat(block._paths(x), 1)
    with torch.no_grad():
        block.conv2.weight[4:8] = 0
    changed = (torch.cat(block._paths(x), 1) - before).abs().amax((2, 3))[0] > 1e-12
    assert changed.tolist() == [4 <= i < 8 for i in range(16)]


@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_any_picture_size(size: tuple[int, int]) -> None:
    model = resnext.ResNeXt(layers=(1, 1), widths=(64, 128), cardinality=2, base_width=4, num_classes=5)
    assert model(torch.rand(2, 3, *size)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (1,)}, "one positive number per stage each"),
        ({"layers": (1, 0)}, "one positive number per stage each"),
        ({"cardinality": 0}, "cardinality must be at least 1"),
        ({"base_width": 0}, "a path one channel wide"),
        ({"stem": "mnist"}, "stem must be one of imagenet, cifar"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"layers": (1, 1), "widths": (64, 128), "cardinality": 2, "base_width": 4}
    with pytest.raises(ValueError, match=message):
        resnext.ResNeXt(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        resnext.ResNeXt(**right)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]

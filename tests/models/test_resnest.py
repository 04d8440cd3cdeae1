"""ResNeSt: split weights that sum to one, and radix 1 as squeeze-and-excitation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skipkb.models.classification import resnest
from skipkb.models.classification.resnet import resnet50


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_resnest101_is_as_large_as_the_paper_says() -> None:
    with torch.device("meta"):
        model = resnest.ResNeSt(layers=(3, 4, 23, 3), stem_width=64)
    assert size(model) / 1e6 == pytest.approx(48.3, abs=0.05)


def test_what_split_attention_adds() -> None:
    """On top of ResNet-50: the convolution costs the same (twice the outputs, half the inputs of each)."""
    stem = 3 * 9 * 32 + 9 * 32 * 32 + 9 * 32 * 64 + 4 * 32 - 3 * 49 * 64
    more = 0
    for blocks, c in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        hidden = max(c // 2, 32)
        more += blocks * (2 * c + (c + 1) * hidden + 2 * hidden + (hidden + 1) * 2 * c)
    with torch.device("meta"):
        assert size(resnest.resnest50()) == size(resnet50()) + stem + more


def attention(radix: int, cardinality: int = 1) -> resnest.SplitAttention:
    module = resnest.SplitAttention(24, radix=radix, cardinality=cardinality)
    hidden = module.fc1.out_channels
    assert hidden == 32
    nn.init.normal_(module.fc2.weight)
    return module.eval().double()


@pytest.mark.parametrize(("radix", "cardinality"), [(2, 1), (2, 2), (3, 1), (3, 4)])
def test_split_weights_sum_to_one(radix: int, cardinality: int) -> None:
    module = attention(radix, cardinality)
    splits = [torch.randn(5, 24, 6, 7, dtype=torch.float64) for _ in range(radix)]
    weights = torch.stack(list(module.weights(splits)))
    assert weights.shape == (radix, 5, 24, 1, 1)
    torch.testing.assert_close(weights.sum(0), torch.ones(5, 24, 1, 1, dtype=torch.float64))
    assert weights.min() > 0
    assert weights.std() > 0.02


def test_radix_1_is_squeeze_and_excitation() -> None:
    """One sigmoid per channel, from the average of the whole map; nothing competes."""
    module = attention(1)
    x = torch.randn(2, 24, 6, 7, dtype=torch.float64)
    u = F.relu(module.bn0(module.conv(x)))
    squeezed = u.mean((2, 3), keepdim=True)
    gate = torch.sigmoid(module.fc2(F.relu(module.bn1(module.fc1(squeezed)))))
    torch.testing.assert_close(module(x), u * gate)
    (weights,) = module.weights([u])
    assert weights.shape == (2, 24, 1, 1)
    assert weights.min() > 0
    assert weights.max() < 0.999
    shifted = module.fc2.bias
    assert shifted is not None
    with torch.no_grad():
        shifted += 1  # a softmax would not notice
    assert (module.weights([u])[0] > weights).all()
    other = attention(2)
    assert other.fc2.bias is not None
    splits = [u, 2 * u]
    before = torch.stack(list(other.weights(splits)))
    with torch.no_grad():
        other.fc2.bias += 1
    torch.testing.assert_close(torch.stack(list(other.weights(splits))), before)


def test_the_sum_is_weighted_split_by_split() -> None:
    module = attention(2)
    x = torch.randn(2, 24, 6, 7, dtype=torch.float64)
    u = F.relu(module.bn0(module.conv(x)))
    first, second = u[:, :24], u[:, 24:]
    a, b = module.weights([first, second])
    torch.testing.assert_close(module(x), a * first + b * second)


def test_cardinal_groups_do_not_mix() -> None:
    """With K = 2, a weight depends on the channels of its own cardinal group only."""
    module = attention(2, cardinality=2)
    nn.init.constant_(module.bn1.bias, 5.0)
    splits = [torch.randn(1, 24, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = module.weights(splits)
    for channel, own in ((3, slice(0, 12)), (20, slice(12, 24))):
        for grad in torch.autograd.grad(weights[0][0, channel].sum(), splits, retain_graph=True):
            reached = grad[0].abs().sum((1, 2)) > 0
            assert reached[own].all()
            assert reached.sum() == 12


def test_the_skip_and_the_average() -> None:
    block = resnest.Bottleneck(64, 16, radix=2, cardinality=1, base_width=64).eval()
    nn.init.zeros_(block.bn3.weight)
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(block(x), F.relu(x))
    halving = resnest.Bottleneck(64, 16, radix=2, cardinality=1, base_width=64, stride=2)
    assert halving.conv2.conv.stride == (1, 1)
    assert isinstance(halving.avd_layer, nn.AvgPool2d)
    assert halving(torch.randn(2, 64, 7, 6)).shape == (2, 64, 4, 3)


@pytest.mark.parametrize("shape", [(32, 32), (33, 47)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = resnest.ResNeSt(layers=(1, 1), widths=(16, 32), stem_width=8, num_classes=5, in_channels=1)
    assert model(torch.rand(2, 1, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (1,)}, "one positive number per stage each"),
        ({"radix": 3}, "radix divide the channels of a cardinal group, got radix=3"),
        ({"cardinality": 0}, "radix and cardinality must be positive"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"layers": (1, 1), "widths": (16, 32)}
    with pytest.raises(ValueError, match=message):
        resnest.ResNeSt(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        resnest.ResNeSt(**right)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        resnest.resnest50(num_clases=10)  # type: ignore[call-arg]

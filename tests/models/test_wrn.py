"""WRN: width against depth, dropout inside the block."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from skipkb.models.classification import resnet, wrn


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("depth", "k", "millions"),
    [
        (40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (40, 8, 35.7), (28, 10, 36.5), (28, 12, 52.5), (22, 8, 17.2),
        (22, 10, 26.8), (16, 8, 11.0), (16, 10, 17.1),
    ],
)  # fmt: skip
def test_table_4(depth: int, k: int, millions: float) -> None:
    with torch.device("meta"):
        model = wrn.WideResNet(depth=depth, widen_factor=k)
    assert round(size(model) / 1e6, 1) == pytest.approx(millions, abs=0.051)


def by_hand(depth: int, k: int, classes: int = 10) -> int:
    """9ab weights in a 3x3 convolution, ab in a 1x1, 2a in a normalisation of a channels."""
    n, total, a = (depth - 4) // 6, 27 * 16, 16
    for b in (16 * k, 32 * k, 64 * k):
        for _ in range(n):
            total += 2 * a + 9 * a * b + 2 * b + 9 * b * b
            total += a * b if a != b else 0
            a = b
    return total + 2 * a + (a + 1) * classes


@pytest.mark.parametrize(("depth", "k"), [(10, 1), (16, 8), (22, 3), (28, 10), (40, 4)])
def test_count_by_hand(depth: int, k: int) -> None:
    with torch.device("meta"):
        assert size(wrn.WideResNet(depth=depth, widen_factor=k)) == by_hand(depth, k)


# --- width against depth ------------------------------------------------------------------------------------


def test_wrn28_10_and_its_thin_twin() -> None:
    """The same chain of layers, about a hundred times the parameters and operations."""
    with torch.device("meta"):
        wide, thin = wrn.wrn28_10(), wrn.wrn28_1()
    names = [[n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and "convdim" not in n]
             for net in (wide, thin)]  # fmt: skip
    assert names[0] == names[1]
    assert len(names[0]) == 1 + 6 * 4
    convolutions = sum(isinstance(m, nn.Conv2d) for m in wide.modules())
    assert convolutions == 28  # the figure in the name counts the shortcuts of the three groups, not the classifier
    assert 95 < size(wide) / size(thin) < 105
    assert 90 < macs(wide) / macs(thin) < 105
    for key, module in wide.named_modules():
        if isinstance(module, nn.Conv2d) and "group" in key and "convdim" not in key:
            assert module.out_channels == 10 * thin.get_submodule(key).out_channels  # type: ignore[operator]


def test_wrn40_4_has_the_size_of_a_thousand_layers() -> None:
    """Section 3: as many parameters as ResNet-1001 (10.2 million) in a chain 25 times shorter."""
    with torch.device("meta"):
        model = wrn.wrn40_4()
    chain = sum(isinstance(m, nn.Conv2d) for n, m in model.named_modules() if "convdim" not in n) + 1
    assert 0.8 < size(model) / 10.2e6 < 1
    assert 1001 / chain > 25


def test_only_the_inner_convolution_of_the_bottleneck_is_wide() -> None:
    with torch.device("meta"):
        wide, plain = wrn.wide_resnet50_2(), resnet.resnet50()
    assert wide.state_dict().keys() == plain.state_dict().keys()
    for key, value in wide.state_dict().items():
        other = plain.state_dict()[key].shape
        if key.endswith("conv2.weight") and key.startswith("layer"):
            assert value.shape[:2] == (2 * other[0], 2 * other[1])
        elif not any(part in key for part in (".bn1.", ".bn2.", ".conv1.", ".conv3.")):
            assert value.shape == other, key


# --- the block ----------------------------------------------------------------------------------------------


def test_an_empty_block_passes_its_input_on() -> None:
    """Equation 1 with F = 0: no ReLU behind the addition, so that negative values pass too."""
    block = wrn.WideBasicBlock(8, 8).eval()
    nn.init.zeros_(block.conv1.weight)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), x)


def test_the_projection_reads_the_activated_input() -> None:
    block = wrn.WideBasicBlock(4, 8, stride=2).eval()
    nn.init.zeros_(block.conv1.weight)
    nn.init.constant_(block.bn0.bias, 0.3)
    x = torch.randn(2, 4, 7, 9)
    assert block.convdim is not None
    assert torch.equal(block(x), block.convdim(F.relu(block.bn0(x))))
    assert block(x).shape == (2, 8, 4, 5)


def test_dropout_sits_between_the_convolutions() -> None:
    """Section 2.4: the skip is never dropped, and at test nothing is."""
    block = wrn.WideBasicBlock(8, 8, drop_rate=0.5)
    x = torch.randn(4, 8, 6, 6)
    seen = []
    block.conv1.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        y = block(x)
        fraction = (seen[0] == 0).float().mean().item()
        assert fraction == pytest.approx(0.75, abs=0.05)  # half by ReLU, half of the rest by dropout
        torch.testing.assert_close(y - x, block.conv1(seen[0]), rtol=1e-5, atol=1e-5)
        block.eval()
        assert torch.equal(block(x), block(x))


def test_wide_learns_faster_than_thin() -> None:
    """The same steps on the same digits: the wider network of equal depth has the lower training loss."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images[:256], dtype=torch.float32).unsqueeze(1) / 16
    target = torch.tensor(data.target[:256])

    def loss_after(k: int) -> float:
        torch.manual_seed(0)
        model = wrn.WideResNet(depth=10, widen_factor=k, in_channels=1)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        losses = []
        for step in range(12):
            batch = slice(64 * (step % 4), 64 * (step % 4) + 64)
            loss = wrn.objective(model(x[batch]), target[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return sum(losses[-4:]) / 4

    assert loss_after(4) < 0.8 * loss_after(1)


@pytest.mark.parametrize("picture", [(32, 32), (17, 30)])
def test_any_picture_size(picture: tuple[int, int]) -> None:
    assert wrn.WideResNet(depth=10, widen_factor=2, num_classes=5)(torch.rand(2, 3, *picture)).shape == (2, 5)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"6n\+4, got 27; the nearest are 22 and 28"):
        wrn.WideResNet(depth=27, widen_factor=1)
    with pytest.raises(ValueError, match=r"6n\+4, got 4; the nearest are 10 and 16"):
        wrn.WideResNet(depth=4, widen_factor=1)
    with pytest.raises(ValueError, match="widen_factor must be at least 1"):
        wrn.WideResNet(depth=10, widen_factor=0)
    with pytest.raises(ValueError, match=r"drop_rate in \[0, 1\)"):
        wrn.WideResNet(depth=10, widen_factor=1, drop_rate=1.0)
    with pytest.raises(ValueError, match="four positive numbers"):
        wrn.WideBottleneckNet(layers=(1, 1), widen_factor=2)
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        wrn.WideResNet(depth=10, widen_factor=1)(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[3, 8, 8\]"):
        wrn.WideBottleneckNet(layers=(1, 1, 1, 1), widen_factor=1)(torch.rand(3, 8, 8))
    with pytest.raises(TypeError):
        wrn.wrn28_10(depth=40)  # type: ignore[call-arg]

"""Stochastic depth: survival falls linearly, a dropped block is not computed, and test time is the expectation."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import resnet, stochastic_depth
from skipkb.models.classification.stochastic_depth import StochasticBlock, StochasticDepthNet, survival_probabilities


@pytest.mark.parametrize("depth", [110, 152, 1202])
def test_sizes_are_those_of_resnet(depth: int) -> None:
    with torch.device("meta"):
        model = getattr(stochastic_depth, f"stochastic_depth{depth}")()
        plain = resnet.resnet_cifar(depth=depth)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


# --- survival -----------------------------------------------------------------------------------------------


def test_survival_falls_linearly() -> None:
    """Equation 4, in the blocks as they are built."""
    with torch.device("meta"):
        model = stochastic_depth.stochastic_depth110()
    found = [m.survival for m in model.modules() if isinstance(m, StochasticBlock)]
    assert len(found) == 54
    assert found == pytest.approx([1 - i / 54 * 0.5 for i in range(1, 55)])
    steps = {round(before - after, 12) for before, after in pairwise(found)}
    assert len(steps) == 1
    assert found[-1] == 0.5
    # "(3L - 1) / 4" blocks are there in expectation (Section 3): about forty of 54.
    assert sum(found) == pytest.approx((3 * 54 - 1) / 4)


def test_uniform_and_constant_depth() -> None:
    assert survival_probabilities(4, 0.7, "uniform") == [0.7] * 4
    assert survival_probabilities(4, 1.0) == [1.0] * 4
    with torch.device("meta"):
        model = StochasticDepthNet(depth=8, survival=0.7, decay="uniform")
    assert {m.survival for m in model.modules() if isinstance(m, StochasticBlock)} == {0.7}


def test_blocks_survive_as_often_as_they_should_and_independently() -> None:
    model = StochasticDepthNet(depth=14, widths=(2, 2, 2)).train()
    blocks = [m for m in model.modules() if isinstance(m, StochasticBlock)]
    survived = torch.tensor([[float(block.survives()) for block in blocks] for _ in range(4000)])
    wanted = torch.tensor([block.survival for block in blocks])
    torch.testing.assert_close(survived.mean(0), wanted, atol=0.03, rtol=0)
    off_diagonal = torch.corrcoef(survived.T) - torch.eye(6)
    assert off_diagonal.abs().max() < 0.06


# --- a dropped block ----------------------------------------------------------------------------------------


def test_a_dropped_block_is_its_skip_and_computes_nothing() -> None:
    block = StochasticBlock(4, 4, survival=1e-12).train()
    calls: list[int] = []
    block.conv1.register_forward_hook(lambda *_: calls.append(1))
    before = {key: value.clone() for key, value in block.state_dict().items()}
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    y = block(x)
    assert torch.equal(y, F.relu(x))
    assert calls == []
    y.sum().backward()
    assert all(p.grad is None for p in block.parameters())
    for key, value in block.state_dict().items():  # running averages too
        assert torch.equal(value, before[key])
    block.eval()(x)
    assert calls == [1]  # at test time every block is used


def test_a_surviving_block_is_resnets() -> None:
    block = StochasticBlock(4, 4, survival=1.0).train()
    twin = resnet.BasicBlock(4, 4).train()
    twin.load_state_dict(block.state_dict())
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(block(x), twin(x))


def test_one_throw_for_the_whole_batch() -> None:
    block = StochasticBlock(4, 4, survival=0.5).train()
    x = torch.randn(8, 4, 5, 5)
    for _ in range(20):
        same = (block(x) == F.relu(x)).flatten(1).all(1)
        assert same.all() or not same.any()


# --- test time ----------------------------------------------------------------------------------------------


def fixed_statistics(block: StochasticBlock) -> None:
    """Normalise as in test mode while the block itself trains, so that only the coin differs."""
    block.train()
    block.bn1.eval()
    block.bn2.eval()


@pytest.mark.parametrize("survival", [0.5, 0.8])
def test_test_time_is_the_expectation(survival: float) -> None:
    """Equation 5, where the ReLU cuts nothing off: the mean over many mini-batches is the test output."""
    block = StochasticBlock(4, 6, stride=2, survival=survival)
    x = torch.randn(2, 4, 6, 6) + 20
    nn.init.constant_(block.bn2.bias, 30)  # the new channels have no skip to keep them above zero
    with torch.no_grad():
        fixed_statistics(block)
        outputs = torch.stack([block(x) for _ in range(3000)])
        wanted = block.eval()(x)
        function = block.function(x)
        assert outputs.unique(dim=0).shape[0] == 2
        standard_error = (survival * (1 - survival) / 3000) ** 0.5 * function.abs()
        assert ((outputs.mean(0) - wanted).abs() < 4 * standard_error + 1e-3).all()
        torch.testing.assert_close(wanted, F.relu(survival * function + block.shortcut(x)))


def test_the_skip_pools_and_pads() -> None:
    block = StochasticBlock(2, 5, stride=2, survival=0.5)
    x = torch.arange(32.0).view(1, 2, 4, 4)
    y = block.shortcut(x)
    assert torch.equal(y[:, :2], F.avg_pool2d(x, 2))
    assert torch.count_nonzero(y[:, 2:]) == 0


def test_a_bias_in_front_of_a_normalisation_has_no_effect() -> None:
    """The listed deviation: the authors' convolutions have biases, which the batch statistics subtract again."""
    block = StochasticBlock(3, 3, survival=1.0).train()
    x = torch.randn(4, 3, 6, 6)
    without = block(x)
    block.conv1.bias = nn.Parameter(torch.randn(3))
    block.conv2.bias = nn.Parameter(torch.randn(3))
    torch.testing.assert_close(block(x), without, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("picture", [(32, 32), (17, 30)])
def test_any_picture_size(picture: tuple[int, int]) -> None:
    x: Tensor = torch.rand(2, 3, *picture)
    for mode in (True, False):
        assert StochasticDepthNet(depth=8, num_classes=5).train(mode)(x).shape == (2, 5)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"6n\+2, got 111; the nearest are 110 and 116"):
        StochasticDepthNet(depth=111)
    for survival in (0, 1.1):
        with pytest.raises(ValueError, match=r"survival must lie in \(0, 1\]"):
            StochasticDepthNet(depth=8, survival=survival)
    with pytest.raises(ValueError, match="decay must be one of linear, uniform"):
        StochasticDepthNet(depth=8, decay="cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="three numbers that do not fall"):
        StochasticDepthNet(depth=8, widths=(8, 4, 4))
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        StochasticDepthNet(depth=8)(torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError):
        stochastic_depth.stochastic_depth110(depth=20)  # type: ignore[call-arg]

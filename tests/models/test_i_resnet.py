"""i-ResNet: it inverts, its residual functions contract, and its log-determinant is that of the exact Jacobian."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import i_resnet


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "blocks"), [("i_resnet64", 7), ("i_resnet164", 18)])
def test_size_by_hand(name: str, blocks: int) -> None:
    with torch.device("meta"):
        model = getattr(i_resnet, name)()
    # per block 18wc + c^2 + 2c + 3w with widths w (16, 64, 256) and channels c between the convolutions
    stages = [18 * w * c + c * c + 2 * c + 3 * w for w, c in ((16, 32), (64, 64), (256, 128))]
    assert size(model) == blocks * sum(stages) + 2 * 256 + (256 + 1) * 10


def small(*, coeff: float = 0.9, scale: float = 3.0) -> i_resnet.IResNet:
    """A network whose weights would be far too large, as after training, and whose estimates have converged."""
    model = i_resnet.IResNet(blocks=(2, 2), channels=(8, 8), strides=(1, 2), size=8, pad_channels=2, coeff=coeff)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, i_resnet.ContractiveConv2d):
                module.weight_orig.mul_(scale)
        for _ in range(60):
            model.train()(torch.rand(4, 3, 8, 8))
    return model.eval()


def test_it_inverts() -> None:
    """The issue's figure: 1e-4 by fixed-point iteration; the input is found, not merely some input."""
    model = small()
    x = torch.rand(3, 3, 8, 8)
    z = model.features(x)
    assert (model.inverse(z) - x).abs().max() < 1e-4
    assert (model.inverse(z, iterations=1) - x).abs().max() > 1e-2
    assert z.shape == (3, 20, 4, 4)


def test_the_error_shrinks_by_the_lipschitz_constant() -> None:
    """Theorem 1: after n steps the error is at most c^n times the first."""
    block = small().stack[1]
    y = torch.randn(1, 5, 8, 8)
    assert isinstance(block, i_resnet.Block)
    with torch.no_grad():
        exact = y
        for _ in range(400):
            exact = y - block.bottleneck_block(exact)
        x, errors = y, []
        for _ in range(12):
            errors.append((x - exact).norm().item())
            x = y - block.bottleneck_block(x)
    bound = 0.9**3  # three convolutions of norm 0.9, ELU of slope 1
    assert all(after <= bound * before + 1e-5 for before, after in pairwise(errors))


def exact_norm(conv: i_resnet.ContractiveConv2d, weight: Tensor) -> float:
    """Spectral norm of the whole linear map, as a matrix."""
    channels, side = weight.shape[1], 8 if conv.size == 1 else conv.size
    pixels = torch.eye(channels * side**2).view(-1, channels, side, side)
    matrix = F.conv2d(pixels, weight, padding=conv.padding).flatten(1)
    return torch.linalg.matrix_norm(matrix, 2).item()


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("coeff", [0.5, 0.9])
def test_power_iteration_finds_the_exact_norm(kernel_size: int, coeff: float) -> None:
    conv = i_resnet.ContractiveConv2d(4, 6, kernel_size, size=7, coeff=coeff, power_iterations=5)
    with torch.no_grad():
        conv.weight_orig.mul_(4)
        assert exact_norm(conv, conv.weight_orig) > 1
        for _ in range(80):
            conv.weight()
        bounded = exact_norm(conv.eval(), conv.weight())
    assert bounded == pytest.approx(coeff, rel=1e-3)
    assert bounded < coeff * 1.001


@pytest.mark.parametrize(("kernel_size", "divisor"), [(1, 1.0), (3, 1 + 1e-5)])
def test_small_weights_stay_as_they_are_but_for_the_official_divisor(kernel_size: int, divisor: float) -> None:
    conv = i_resnet.ContractiveConv2d(4, 6, kernel_size, size=7, coeff=0.9, power_iterations=5).double()
    with torch.no_grad():
        conv.weight_orig.mul_(0.1)
        torch.testing.assert_close(conv.weight(), conv.weight_orig / divisor, rtol=1e-12, atol=0)


def test_an_official_checkpoint_loads() -> None:
    """Shapes of the official buffers: a block that squeezes has them for the size before it. Its unused names pass."""
    with torch.device("meta"):
        model = i_resnet.i_resnet64()
    state = model.state_dict()
    for block, outside, inside, size in ((0, 16, 32, 32), (7, 64, 64, 32), (8, 64, 64, 16), (14, 256, 128, 16)):
        first, last = (0, 4) if block == 0 else (1, 5)  # no ELU in front of the picture
        names = f"stack.{block}.bottleneck_block"
        assert state[f"{names}.{first}.weight_v"].numel() == outside * size**2
        assert state[f"{names}.{first}.weight_u"].numel() == inside * size**2
        assert state[f"{names}.{last}.weight_v"].numel() == inside * size**2
        assert state[f"{names}.{last}.weight_u"].numel() == outside * size**2
        assert state[f"{names}.{first + 2}.weight_u"].numel() == inside
    unused = {"prior_mu": torch.zeros(16384), "prior_logstd": torch.zeros(16384)}
    unused |= {name[:-1] + "sigma": torch.ones(1) for name in state if name.endswith("weight_u")}
    assert len(unused) == 2 + 63
    model.load_state_dict({**state, **unused}, assign=True)
    with pytest.raises(RuntimeError, match="something_else"):
        model.load_state_dict({**state, "something_else": torch.ones(1)}, assign=True)


def test_the_norm_for_the_size_before_squeezing_bounds_the_one_after() -> None:
    block = small().stack[2]
    assert isinstance(block, i_resnet.Block)
    assert block.stride == 2
    for conv in block.bottleneck_block:
        if isinstance(conv, i_resnet.ContractiveConv2d) and conv.size > 1:
            weight = conv.weight().detach()
            assert conv.size == 8
            assert exact_norm(conv, weight) == pytest.approx(0.9, rel=1e-3)
            conv.size = 4
            assert 0.5 < exact_norm(conv, weight) < 0.9


def test_every_residual_function_contracts() -> None:
    """On the exact Jacobian at a random point, not only by the product of bounds."""
    model = small()
    x = torch.randn(1, 5, 8, 8)
    for block in model.stack:
        assert isinstance(block, i_resnet.Block)
        if block.stride == 2:
            x = i_resnet.squeeze(x)
        jacobian = torch.autograd.functional.jacobian(block.bottleneck_block, x).reshape(x.numel(), -1)
        assert torch.linalg.matrix_norm(jacobian, 2) < 0.9**3 * 1.01


def test_without_the_bound_it_does_not_invert() -> None:
    model = small()
    x = torch.rand(3, 3, 8, 8)
    for module in model.modules():
        if isinstance(module, i_resnet.ContractiveConv2d):
            module.coeff = 1e9
    with torch.no_grad():
        assert not (model.inverse(model.features(x)) - x).abs().max() < 1


def test_the_log_determinant_is_that_of_the_exact_jacobian() -> None:
    block = small().stack[1]
    assert isinstance(block, i_resnet.Block)
    g = block.bottleneck_block.double()
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64)
    exact = []
    for one in x:
        jacobian = torch.autograd.functional.jacobian(g, one[None]).reshape(one.numel(), -1)
        exact.append(torch.linalg.slogdet(torch.eye(one.numel(), dtype=torch.float64) + jacobian)[1])
    generator = torch.Generator().manual_seed(1)
    estimate = i_resnet.log_determinant(g, x, terms=12, samples=800, generator=generator)
    torch.testing.assert_close(estimate, torch.stack(exact), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("terms", [1, 2, 5, 10])
def test_what_the_cut_off_series_gives(terms: int) -> None:
    """For g = c x every trace is known: the partial sum of the logarithm's series, within the bound of equation 7."""
    c, n = 0.8, 20
    found = i_resnet.log_determinant(lambda x: c * x, torch.zeros(1, n, dtype=torch.float64), terms=terms, samples=4000)
    partial = n * sum((-1) ** (k + 1) * c**k / k for k in range(1, terms + 1))
    assert found.item() == pytest.approx(partial, rel=0.05)
    exact = n * torch.log1p(torch.tensor(c)).item()
    rest = sum(c**k / k for k in range(1, terms + 1))
    assert abs(partial - exact) <= -n * (torch.log1p(torch.tensor(-c)).item() + rest)


def test_squeeze_and_its_inverse() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    y = i_resnet.squeeze(x)
    assert y.shape == (2, 12, 2, 3)
    assert torch.equal(i_resnet.unsqueeze(y), x)
    assert y[0, :, 0, 0].tolist() == [x[0, c, r, q].item() for r in (0, 1) for q in (0, 1) for c in range(3)]


def test_actnorm_is_set_once_and_never_over_a_checkpoint() -> None:
    norm = i_resnet.ActNorm(3)
    x = torch.randn(16, 3, 5, 5) * 4 + 2
    assert torch.equal(norm.eval()(x), x)
    y = norm.train()(x)
    assert y.mean((0, 2, 3)).abs().max() < 1e-5
    assert (y.std((0, 2, 3)) - 1).abs().max() < 0.01
    before = norm._shift.clone()
    norm(x + 5)
    assert torch.equal(norm._shift, before)
    torch.testing.assert_close(norm.inverse(y), x, rtol=1e-4, atol=1e-4)
    other = i_resnet.ActNorm(3)
    other.load_state_dict(norm.state_dict())
    other.train()(x + 5)
    assert torch.equal(other._shift, before)
    jacobian = torch.autograd.functional.jacobian(norm, x[:1, :, :2, :2]).reshape(12, 12)
    torch.testing.assert_close(norm.log_determinant(2, 2), torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": (1,)}, "one positive number per stage"),
        ({"strides": (1, 3)}, "strides are 1 or 2"),
        ({"size": 7}, "their product divides size"),
        ({"coeff": 1.0}, r"only a coeff in \(0, 1\) makes the blocks invertible"),
        ({"power_iterations": 0}, "power_iterations at least 1"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"blocks": (1, 1), "channels": (4, 4), "strides": (1, 2), "size": 8}
    with pytest.raises(ValueError, match=message):
        i_resnet.IResNet(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, 8, 8\], got \[1, 3, 9, 9\]"):
        i_resnet.IResNet(**right)(torch.rand(1, 3, 9, 9))  # type: ignore[arg-type]

"""ShakeDrop: a coin that falls linearly, and factors of the two passes that are drawn independently."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.classification import pyramidnet, shakedrop
from skipkb.models.classification.shakedrop import ShakeDrop, ShakeDropPyramidNet, ShakenBasicUnit, ShakenUnit


@pytest.mark.parametrize("name", ["110_a270", "272_a200"])
def test_sizes_are_those_of_pyramidnet(name: str) -> None:
    with torch.device("meta"):
        model = getattr(shakedrop, f"shakedrop_pyramidnet{name}")()
        plain = getattr(pyramidnet, f"pyramidnet{name}")()
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


def by_hand(*, depth: int, widening: int) -> int:
    """Convolutions 9ab and 9bb, normalisations 2a, 2b and 2b in each basic unit; here every step is a whole number."""
    units = (depth - 2) // 2
    widths = [16 + widening * k // units for k in range(units + 1)]
    stem, head = 27 * 16 + 2 * 16, 2 * widths[-1] + 10 * (widths[-1] + 1)
    return stem + head + sum(9 * a * b + 9 * b * b + 2 * a + 4 * b for a, b in pairwise(widths))


def test_size_by_hand() -> None:
    with torch.device("meta"):
        model = shakedrop.shakedrop_pyramidnet110_a270()
    assert sum(p.numel() for p in model.parameters()) == by_hand(depth=110, widening=270)


# --- the coin -----------------------------------------------------------------------------------------------


def test_survival_falls_linearly_to_a_half() -> None:
    with torch.device("meta"):
        model = shakedrop.shakedrop_pyramidnet110_a270()
    found = [m.survival for m in model.modules() if isinstance(m, ShakeDrop)]
    assert found == pytest.approx([1 - i / 54 * 0.5 for i in range(1, 55)])
    assert {m.level for m in model.modules() if isinstance(m, ShakeDrop)} == {"pixel"}


def test_the_coin_is_thrown_as_often_as_it_should_and_for_the_whole_batch() -> None:
    shake = ShakeDrop(survival=0.7).train()
    x = torch.ones(3, 2, 4, 4)
    kept = 0
    for _ in range(3000):
        same = shake(x) == x
        assert same.all() or not same.any()
        kept += int(same.all())
    assert kept / 3000 == pytest.approx(0.7, abs=0.03)


# --- the two factors ----------------------------------------------------------------------------------------


def factors(shake: ShakeDrop, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """What multiplies the branch and what multiplies its gradient, element by element."""
    x = torch.ones(shape, requires_grad=True)
    y = shake.train()(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), gradient


def always(**options: object) -> ShakeDrop:
    """A layer whose coin always says: shake."""
    return ShakeDrop(survival=1e-12, **options)  # type: ignore[arg-type]


def test_forward_and_backward_are_drawn_independently() -> None:
    alpha, beta = factors(always(), (4, 5, 40, 40))
    assert -1 <= alpha.min() < -0.99
    assert 0.99 < alpha.max() <= 1
    assert 0 <= beta.min() < 0.01
    assert 0.99 < beta.max() <= 1
    assert alpha.mean().item() == pytest.approx(0, abs=0.02)
    assert alpha.var().item() == pytest.approx(4 / 12, abs=0.01)  # uniform
    assert beta.mean().item() == pytest.approx(1 / 2, abs=0.02)
    assert beta.var().item() == pytest.approx(1 / 12, abs=0.005)
    assert abs(torch.corrcoef(torch.stack((alpha.flatten(), beta.flatten())))[0, 1].item()) < 0.02


def test_a_kept_block_is_plain_in_both_passes() -> None:
    """b = 1: neither alpha nor beta is left in b + alpha - b alpha."""
    forward, backward = factors(ShakeDrop(survival=1.0), (2, 3, 4, 4))
    assert torch.equal(forward, torch.ones_like(forward))
    assert torch.equal(backward, torch.ones_like(backward))


@pytest.mark.parametrize(("level", "numbers"), [("batch", 1), ("image", 3), ("channel", 12), ("pixel", 300)])
def test_levels(level: str, numbers: int) -> None:
    for values in factors(always(level=level), (3, 4, 5, 5)):
        assert values.unique().numel() == numbers
    alpha, _ = factors(always(level=level), (3, 4, 5, 5))
    if level == "image":
        assert torch.equal(alpha, alpha[:, :1, :1, :1].expand_as(alpha))
    if level == "channel":
        assert torch.equal(alpha, alpha[:, :, :1, :1].expand_as(alpha))


def test_ranges() -> None:
    alpha, beta = factors(always(alpha=(0.0, 0.0), beta=(0.25, 0.5)), (2, 3, 20, 20))
    assert torch.equal(alpha, torch.zeros_like(alpha))
    assert beta.min() >= 0.25
    assert beta.max() <= 0.5


def test_gradients_are_drawn_anew_in_every_backward_pass() -> None:
    x = torch.ones(2, 3, 4, 4, requires_grad=True)
    y = always().train()(x).sum()
    first, second = (torch.autograd.grad(y, x, retain_graph=True)[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("alpha", [(-1.0, 1.0), (0.0, 1.0)])
def test_test_time_is_the_expectation(alpha: tuple[float, float]) -> None:
    shake = ShakeDrop(survival=0.6, alpha=alpha, level="image")
    x = torch.randn(1, 2, 3, 3)
    runs = 300
    mean = torch.stack([shake.train()(x.expand(50, -1, -1, -1)).mean(0) for _ in range(runs)]).mean(0)
    wanted = shake.eval()(x)[0]
    torch.testing.assert_close(wanted, x[0] * (0.6 + 0.4 * sum(alpha) / 2))
    torch.testing.assert_close(mean, wanted, atol=0.12, rtol=0)


# --- in the network -----------------------------------------------------------------------------------------


def shaken_unit(channels: int = 4) -> ShakenBasicUnit:
    return ShakenBasicUnit(channels, channels + 2, shake=always())


def test_the_skip_is_never_shaken() -> None:
    unit = shaken_unit()
    nn.init.zeros_(unit.bn3.weight)
    x = torch.randn(5, 4, 6, 6, requires_grad=True)
    weight = torch.randn(5, 6, 6, 6)
    y = unit.train()(x)
    assert torch.equal(y[:, :4], x)
    assert torch.count_nonzero(y[:, 4:]) == 0
    (gradient,) = torch.autograd.grad((y * weight).sum(), x)
    assert torch.equal(gradient, weight[:, :4])


def test_the_shaken_gradient_reaches_the_weights() -> None:
    """With beta = 0 nothing is learned where a block is shaken, with beta = 1 what the plain block would learn."""
    x = torch.randn(2, 4, 6, 6)
    weight = torch.randn(2, 6, 6, 6)
    found = {}
    for beta in (None, 0.0, 1.0):
        unit = shaken_unit().train()
        unit.shake = ShakeDrop(survival=1.0) if beta is None else always(beta=(beta, beta))
        torch.manual_seed(1)
        nn.init.normal_(unit.conv1.weight)
        nn.init.normal_(unit.conv2.weight)
        (unit(x) * weight).sum().backward()
        found[beta] = unit.conv1.weight.grad
    assert found[0.0] is not None
    assert torch.count_nonzero(found[0.0]) == 0
    torch.testing.assert_close(found[1.0], found[None])


@pytest.mark.parametrize("bottleneck", [False, True])
def test_without_the_coin_it_is_pyramidnet(bottleneck: bool) -> None:
    """survival = 1 in training and, up to the factor p_l on every branch, at test time."""
    depth = 20 if bottleneck else 14
    model = ShakeDropPyramidNet(depth=depth, widening=10, bottleneck=bottleneck, survival=1.0)
    plain = pyramidnet.pyramidnet_cifar(depth=depth, alpha=10, bottleneck=bottleneck)
    plain.load_state_dict(model.state_dict(), strict=True)
    x = torch.rand(3, 3, 12, 12)
    for training in (True, False):
        torch.testing.assert_close(model.train(training)(x), plain.train(training)(x))
    shaken = ShakeDropPyramidNet(depth=depth, widening=10, bottleneck=bottleneck)
    shaken.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        for block in plain.modules():
            if isinstance(block, pyramidnet.Unit):
                last = block.bn4 if bottleneck else block.bn3
                last.weight.mul_(0.75)  # type: ignore[operator,union-attr]
                last.bias.mul_(0.75)  # type: ignore[operator,union-attr]
        for unit in shaken.modules():
            if isinstance(unit, ShakenUnit):
                unit.shake.survival = 0.75
        torch.testing.assert_close(shaken.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("picture", [(32, 32), (17, 30)])
def test_any_picture_size(picture: tuple[int, int]) -> None:
    for mode in (True, False):
        model = ShakeDropPyramidNet(depth=8, widening=6, num_classes=5).train(mode)
        assert model(torch.rand(2, 3, *picture)).shape == (2, 5)


def test_initial_values_are_those_of_the_authors_code() -> None:
    model = shakedrop.ShakeDropPyramidNet(depth=8, widening=240)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.weight.shape[0] * 9
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
    assert not model.fc.bias.any()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"6n\+2, got 111; the nearest are 110 and 116"):
        ShakeDropPyramidNet(depth=111, widening=10)
    with pytest.raises(ValueError, match=r"9n\+2, got 113"):
        ShakeDropPyramidNet(depth=113, widening=10, bottleneck=True)
    with pytest.raises(ValueError, match="widening must not be negative"):
        ShakeDropPyramidNet(depth=8, widening=-1)
    for survival in (0, 1.1):
        with pytest.raises(ValueError, match=r"survival must lie in \(0, 1\]"):
            ShakeDrop(survival=survival)
    with pytest.raises(ValueError, match="level must be one of batch, image, channel, pixel"):
        ShakeDrop(survival=0.5, level="row")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta needs a lower and an upper end"):
        ShakeDrop(survival=0.5, beta=(1, 0))
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        ShakeDropPyramidNet(depth=8, widening=4)(torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError):
        shakedrop.shakedrop_pyramidnet110_a270(depth=20)  # type: ignore[call-arg]

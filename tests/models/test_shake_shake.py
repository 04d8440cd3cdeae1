"""Shake-Shake: weights of the two passes that are drawn independently."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import shake_shake
from skipkb.models.classification.shake_shake import ShakeShake, ShakeShakeBlock, Shortcut


def by_hand(width: int) -> int:
    """A branch from a to b channels has 9ab + 9bb weights and 4b in normalisations, a shortcut ab and 2b."""
    total, a = 27 * 16 + 32, 16
    for b in (width, 2 * width, 4 * width):
        total += 2 * (9 * a * b + 9 * b * b + 4 * b) + a * b + 2 * b
        total += 3 * 2 * (18 * b * b + 4 * b)
        a = b
    return total + 10 * (a + 1)


@pytest.mark.parametrize("width", [32, 64, 96])
def test_size_by_hand(width: int) -> None:
    with torch.device("meta"):
        model = getattr(shake_shake, f"shake_shake26_2x{width}d")()
    assert sum(p.numel() for p in model.parameters()) == by_hand(width)
    chain = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "branch2" not in n]
    assert len([m for m in chain if not (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))]) == 26


# --- the coefficients ---------------------------------------------------------------------------------------


def coefficients(shake: ShakeShake, pictures: int) -> tuple[Tensor, Tensor]:
    """alpha from the output for the branches 1 and 0, beta from the gradients of the first branch."""
    a = torch.ones(pictures, 2, 3, 3, requires_grad=True)
    b = torch.zeros(pictures, 2, 3, 3, requires_grad=True)
    y = shake.train()(a, b)
    gradients = torch.autograd.grad(y.sum(), (a, b))
    torch.testing.assert_close(sum(gradients), torch.ones_like(a))  # nothing of the gradient is lost
    alpha, beta = y.detach(), gradients[0]
    for values in (alpha, beta):  # one number for all channels and pixels of a picture
        assert torch.equal(values, values[:, :1, :1, :1].expand_as(values))
    return alpha[:, 0, 0, 0], beta[:, 0, 0, 0]


def test_forward_and_backward_are_drawn_independently() -> None:
    alpha, beta = coefficients(ShakeShake(), 4000)
    for values in (alpha, beta):
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.mean().item() == pytest.approx(1 / 2, abs=0.02)
        assert values.var().item() == pytest.approx(1 / 12, abs=0.005)  # uniform
    assert abs(torch.corrcoef(torch.stack((alpha, beta)))[0, 1].item()) < 0.05
    assert not torch.equal(alpha, beta)


def test_the_other_ways_to_mix() -> None:
    alpha, beta = coefficients(ShakeShake(backward="keep"), 50)
    assert torch.equal(alpha, beta)
    assert alpha.unique().numel() == 50
    alpha, beta = coefficients(ShakeShake(backward="even"), 50)
    assert torch.equal(beta, torch.full_like(beta, 0.5))
    assert alpha.unique().numel() == 50
    alpha, beta = coefficients(ShakeShake(forward_shake=False), 50)
    assert torch.equal(alpha, torch.full_like(alpha, 0.5))
    assert beta.unique().numel() == 50
    alpha, beta = coefficients(ShakeShake(level="batch"), 50)
    assert alpha.unique().numel() == beta.unique().numel() == 1
    assert alpha[0] != beta[0]


def test_every_block_draws_for_itself_and_every_batch_anew() -> None:
    model = shake_shake.ShakeShakeNet(depth=8, width=16)
    drawn: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, ShakeShake):
            module.register_forward_hook(lambda _m, args, y: drawn.append(_alpha(*args, y)))
    x = torch.rand(3, 3, 8, 8)
    model(x)
    model(x)
    assert len(drawn) == 6
    assert torch.cat(drawn).round(decimals=3).unique().numel() == 18


def _alpha(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
    difference = (a - b).flatten(1)
    return ((y - b).flatten(1) * difference).sum(1) / difference.square().sum(1)


def test_the_test_output_is_the_mean_of_training() -> None:
    shake = ShakeShake()
    a, b = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    repeated = shake.train()(a.expand(20_000, -1, -1, -1), b.expand(20_000, -1, -1, -1)).mean(0, keepdim=True)
    torch.testing.assert_close(shake.eval()(a, b), repeated, atol=0.02, rtol=0)
    assert torch.equal(shake.eval()(a, b), (a + b) / 2)


def test_the_skip_is_never_shaken() -> None:
    block = ShakeShakeBlock(4, 4, shake=ShakeShake())
    for part in (block.branch1, block.branch2):
        nn.init.zeros_(part[-1].weight)  # type: ignore[arg-type]
    x = torch.randn(5, 4, 6, 6, requires_grad=True)
    weight = torch.randn(5, 4, 6, 6)
    y = block(x)
    assert torch.equal(y, x)  # negative values too: the ReLU is inside the branches
    (gradient,) = torch.autograd.grad((y * weight).sum(), x)
    assert torch.equal(gradient, weight)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_two_halves_of_a_shortcut_see_pixels_one_apart(stride: int) -> None:
    shortcut = Shortcut(1, 2, stride).eval()
    nn.init.ones_(shortcut.conv1.weight)
    nn.init.ones_(shortcut.conv2.weight)
    x = torch.arange(1.0, 50).view(1, 1, 7, 7)
    y = shortcut(x) * (1 + shortcut.bn.eps) ** 0.5
    torch.testing.assert_close(y[:, :1], x[:, :, ::stride, ::stride])
    torch.testing.assert_close(y[:, 1:], F.pad(x, (1, 0, 1, 0))[:, :, :7:stride, :7:stride])


@pytest.mark.parametrize("picture", [(32, 32), (17, 30)])
def test_any_picture_size(picture: tuple[int, int]) -> None:
    model = shake_shake.ShakeShakeNet(depth=8, width=16, num_classes=5)
    assert model(torch.rand(2, 3, *picture)).shape == (2, 5)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"6n\+2, got 27; the nearest are 26 and 32"):
        shake_shake.ShakeShakeNet(depth=27, width=32)
    with pytest.raises(ValueError, match="width must be even"):
        shake_shake.ShakeShakeNet(depth=8, width=15)
    with pytest.raises(ValueError, match="width must be above 8"):
        shake_shake.ShakeShakeNet(depth=8, width=8)
    with pytest.raises(ValueError, match="backward must be one of shake, keep, even"):
        ShakeShake(backward="odd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level must be one of image, batch"):
        ShakeShake(level="pixel")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        shake_shake.ShakeShakeNet(depth=8, width=16)(torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError):
        shake_shake.shake_shake26_2x32d(width=64)  # type: ignore[call-arg]

"""AlexNet: what the two GPUs see of each other, and the normalisation as printed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skipkb.models.classification import alexnet


def small(groups: int = 2) -> alexnet.AlexNet:
    return alexnet.AlexNet(widths=(4, 8, 12, 12, 8), hidden=16, groups=groups, num_classes=3).eval()


def test_the_maps_are_those_of_figure_2() -> None:
    with torch.device("meta"):
        model = alexnet.alexnet()
        shapes: list[tuple[int, ...]] = []
        for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
            getattr(model, name).register_forward_hook(lambda _m, _x, y: shapes.append(tuple(y.shape[1:])))
        model(torch.empty(1, 3, 224, 224))
    assert shapes == [(96, 55, 55), (256, 27, 27), *[(384, 13, 13)] * 2, (256, 13, 13), (4096,), (4096,), (1000,)]


@pytest.mark.parametrize("groups", [1, 2])
def test_only_the_third_convolution_sees_both_halves(groups: int) -> None:
    """A change on one GPU, in front of convolutions 2, 4 and 5, stays there; in front of 3 it does not."""
    model = small(groups)
    for name, crosses in (("conv2", groups == 1), ("conv3", True), ("conv4", groups == 1), ("conv5", groups == 1)):
        layer = getattr(model, name)
        inside = layer.in_channels if name == "conv3" else layer.weight.shape[1] * groups
        x = torch.randn(1, inside, 7, 7)
        other = x.clone()
        other[:, : inside // 2] += 1
        changed = (layer(x) - layer(other)).abs().amax((2, 3))[0] > 1e-6
        half = len(changed) // 2
        assert changed[:half].all()
        assert changed[half:].all() == crosses
        assert changed[half:].any() == crosses


def by_hand(x: Tensor, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Tensor:
    """The formula of Section 3.3, kernel by kernel."""
    out = torch.empty_like(x)
    count = x.shape[1]
    for i in range(count):
        near = x[:, max(0, i - n // 2) : min(count - 1, i + n // 2) + 1]
        out[:, i] = x[:, i] / (k + alpha * near.square().sum(1)) ** beta
    return out


def test_normalisation_is_the_printed_one_on_each_gpu() -> None:
    x = 60 * torch.randn(2, 14, 3, 4)
    torch.testing.assert_close(alexnet.Normalise()(x), by_hand(x))
    halves = torch.cat([by_hand(half) for half in x.chunk(2, 1)], 1)
    torch.testing.assert_close(alexnet.Normalise(groups=2)(x), halves)
    assert not torch.allclose(halves, by_hand(x), rtol=1e-2)
    assert not torch.allclose(by_hand(x), by_hand(x, alpha=1e-4 / 5), rtol=1e-2)  # with PyTorch's alpha


def test_pooling_overlaps() -> None:
    pool = small().pool
    assert pool.kernel_size > pool.stride


def test_initial_values() -> None:
    model = small()
    assert all(getattr(model, name).bias.eq(1).all() for name in ("conv2", "conv4", "conv5", "fc6", "fc7"))
    assert all(getattr(model, name).bias.eq(0).all() for name in ("conv1", "conv3", "fc8"))
    assert model.fc6.weight.std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("side", [224, 227, 255])
def test_sizes_that_fit(side: int) -> None:
    assert small()(torch.rand(1, 3, side, 224)).shape == (1, 3)


@pytest.mark.parametrize("shape", [(1, 3, 223, 224), (1, 3, 224, 256), (1, 1, 224, 224), (3, 224, 224)])
def test_sizes_that_do_not(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\] with sides of 224 to 255, got"):
        small()(torch.rand(shape))


def test_widths_that_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match="widths must be five numbers that groups=2 divides"):
        alexnet.AlexNet(widths=(4, 8, 11, 12, 8))

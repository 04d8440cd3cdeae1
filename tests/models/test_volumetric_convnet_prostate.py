"""What the Volumetric ConvNet paper is about: residuals of two lengths, both sums, and auxiliary losses, in 3-D."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation.volumetric_convnet_prostate import (
    VolumetricConvNet,
    objective,
    segment,
    trilinear_kernel,
    volumetric_convnet_prostate,
)

WIDTHS = (3, 4, 5, 6)


@pytest.fixture
def model() -> VolumetricConvNet:
    torch.manual_seed(0)
    return VolumetricConvNet(widths=WIDTHS).eval()


def silence(norm: nn.Module) -> None:
    assert isinstance(norm, nn.BatchNorm3d)
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)


def test_the_published_network() -> None:
    with torch.device("meta"):
        model = volumetric_convnet_prostate()
        found = model(torch.empty(2, 1, 16, 64, 64))
    assert list(found) == ["out", "aux1", "aux2"]
    assert all(y.shape == (2, 2, 16, 64, 64) for y in found.values())
    deconvolutions = [m for m in model.modules() if isinstance(m, nn.ConvTranspose3d)]
    assert [m.kernel_size[0] for m in deconvolutions] == [4, 4, 4, 8, 4]
    assert not any(isinstance(m, nn.Dropout) for m in model.modules())


@torch.no_grad()
def test_what_is_left_without_the_branches(model: VolumetricConvNet) -> None:
    """Down, a projection of the pooled map; up, the long skip itself, through both sums."""
    x = torch.randn(1, 3, 8, 8, 8)
    silence(model.conv2b_batch)
    torch.testing.assert_close(model.down(2, x), F.relu(model.conv2_branch2_batch(model.conv2_branch2(x))))
    silence(model.Deconv3a_batch)
    silence(model.Deconv3c_batch)
    skip = torch.rand(1, 3, 8, 8, 8)
    assert torch.equal(model.up(3, torch.randn(1, 4, 4, 4, 4), skip), skip)


@torch.no_grad()
def test_every_long_skip_is_a_sum(model: VolumetricConvNet) -> None:
    """Where the deconvolved map is silent the skip passes alone, and where the skip is zero, the deconvolved map."""
    below = torch.randn(1, 4, 4, 4, 4)
    zero, skip = torch.zeros(1, 3, 8, 8, 8), torch.rand(1, 3, 8, 8, 8)
    silence(model.Deconv3c_batch)
    up = model.Deconv3a_batch(model.Deconv3a(below))
    assert torch.equal(model.up(3, below, zero), up.relu())
    assert torch.equal(model.up(3, below, skip), (up + skip).relu())


@torch.no_grad()
def test_auxiliary_scores_start_as_interpolation(model: VolumetricConvNet) -> None:
    for name, factor in (("aux1", 4), ("aux2", 2)):
        up = getattr(model, f"upscore_{name}")
        coarse = torch.randn(1, 2, 4, 4, 4)
        wanted = F.interpolate(coarse, scale_factor=factor, mode="trilinear", align_corners=False)
        inner = (..., *[slice(factor, -factor)] * 3)
        torch.testing.assert_close(up(coarse)[inner], wanted[inner])
    assert trilinear_kernel(3, 4).sum().item() == pytest.approx(3 * 8)
    assert up.groups == 2


def test_the_gradient_of_an_auxiliary_loss_takes_the_short_way(model: VolumetricConvNet) -> None:
    found = model(torch.randn(1, 1, 8, 8, 8))
    found["aux1"].sum().backward()
    assert model.conv4a.weight.grad.any()
    assert model.Deconv2a.weight.grad is None, "finer levels are not on its way"


def test_the_objective_weighs_the_three_outputs() -> None:
    output = {name: torch.randn(2, 2, 4, 4, 4) for name in ("out", "aux1", "aux2")}
    target = torch.randint(0, 2, (2, 4, 4, 4))
    wanted = 0.5 * F.cross_entropy(output["out"], target) + 0.333 * F.cross_entropy(output["aux2"], target)
    torch.testing.assert_close(objective(output, target), wanted + 0.167 * F.cross_entropy(output["aux1"], target))


@torch.no_grad()
def test_a_volume_of_any_size_is_covered(model: VolumetricConvNet) -> None:
    for size in ((20, 19, 33), (5, 16, 16), (16, 16, 16)):
        found = segment(model, torch.randn(1, 1, *size), crop=(16, 16, 16))
        assert found.shape == (1, 2, *size)
        torch.testing.assert_close(found.sum(1), torch.ones(1, *size))
    volume = torch.randn(1, 1, 16, 16, 16)
    whole = model(volume)["out"].softmax(1)
    torch.testing.assert_close(segment(model, volume, crop=(16, 16, 16)), whole)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    segment(model, torch.randn(1, 1, 16, 16, 32), crop=(16, 16, 16))
    assert len(seen) == 3, "two beside each other and one over their border"


@pytest.mark.parametrize("shape", [(1, 1, 16, 20, 16), (1, 1, 0, 16, 16), (1, 2, 16, 16, 16), (1, 16, 16, 16)])
def test_what_is_not_such_a_volume_is_refused(model: VolumetricConvNet, shape: tuple[int, ...]) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a convolution ran")

    model.conv1a.register_forward_pre_hook(never)
    with pytest.raises(ValueError, match=r"multiples of 8, got \[1"):
        model(torch.zeros(shape))
    with pytest.raises(ValueError, match="four numbers"):
        VolumetricConvNet(widths=(1, 2, 3))

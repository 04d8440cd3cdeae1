"""MobileNetV2: where the skips are, and that nothing activates the narrow ends."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipkb.models.classification import mobilenet_v2


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def blocks(model: mobilenet_v2.MobileNetV2) -> list[mobilenet_v2.InvertedResidual]:
    return [module for module in model.modules() if isinstance(module, mobilenet_v2.InvertedResidual)]


def test_skips_join_narrow_ends_of_equal_shape() -> None:
    """Table 2: of each line with n blocks all but the first have a skip, and every skip is narrower than its inside."""
    with torch.device("meta"):
        found = blocks(mobilenet_v2.mobilenet_v2())
    expected = [j > 0 for _, _, n, _ in mobilenet_v2.TABLE_2 for j in range(n)]
    assert [block.residual for block in found] == expected
    for block in found:
        if block.residual:
            expand = block.get_submodule("conv.0.0")
            assert isinstance(expand, nn.Conv2d)
            assert expand.out_channels == 6 * expand.in_channels


def test_the_skip_is_the_identity_and_the_bottleneck_is_linear() -> None:
    block = mobilenet_v2.InvertedResidual(8, 8, stride=1, expansion=6).eval()
    x = torch.randn(2, 8, 5, 5)
    y = block(x)
    assert (y - x).min() < 0 < (y - x).max()  # no ReLU behind the projection
    assert y.min() < 0  # and none on the sum
    nn.init.zeros_(block.get_submodule("conv.2").weight)  # type: ignore[arg-type]
    assert torch.equal(block(x), x)


def test_the_projection_is_linear_in_the_wide_map() -> None:
    """Twice the wide map gives twice the output: what follows the last ReLU6 is one linear map."""
    block = mobilenet_v2.InvertedResidual(8, 4, stride=1, expansion=6).eval()
    tail = nn.Sequential(*list(block.conv)[-2:])
    wide = torch.rand(1, 48, 3, 3)
    torch.testing.assert_close(tail(2 * wide), 2 * tail(wide))


def test_the_wide_map_is_filtered_channel_by_channel() -> None:
    block = mobilenet_v2.InvertedResidual(4, 4, stride=1, expansion=6)
    depthwise = block.get_submodule("conv.1.0")
    assert isinstance(depthwise, nn.Conv2d)
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == 24


def test_without_skips() -> None:
    with torch.device("meta"):
        plain, full = mobilenet_v2.mobilenet_v2(residual=False), mobilenet_v2.mobilenet_v2()
    assert not any(block.residual for block in blocks(plain))
    assert size(plain) == size(full)  # they cost nothing


@pytest.mark.parametrize(
    ("channels", "rounded"), [(3.2, 8), (8, 8), (11.9, 16), (12, 16), (33.6, 32), (35, 32), (44.8, 48), (134.4, 136)]
)
def test_rounding(channels: float, rounded: int) -> None:
    assert mobilenet_v2.make_divisible(channels) == rounded
    assert rounded >= 0.9 * channels


def test_initial_values_are_those_of_torchvision() -> None:
    """He Gaussians by fan-out: the wide end of an expansion, the narrow end of a projection, all of a depthwise one."""
    model = mobilenet_v2.MobileNetV2(blocks=((6, 64, 2, 1),), num_classes=100)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            sure = 3 / (2 * module.weight.numel()) ** 0.5  # three standard errors
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=sure), name
            assert module.bias is None
    linear = model.classifier[-1]
    assert isinstance(linear, nn.Linear)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not linear.bias.any()


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (1, 1)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = mobilenet_v2.MobileNetV2(width_mult=0.25, blocks=((1, 16, 1, 1), (6, 24, 2, 2)), num_classes=5).eval()
    assert model(torch.rand(2, 3, *shape)).shape == (2, 5)


@pytest.mark.parametrize("change", [{"width_mult": 0.0}, {"blocks": ()}, {"blocks": ((6, 24, 2, 3),)}])
def test_mistakes(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="width_mult must be positive and blocks be lines of"):
        mobilenet_v2.MobileNetV2(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        mobilenet_v2.MobileNetV2(width_mult=0.25)(torch.rand(1, 1, 8, 8))

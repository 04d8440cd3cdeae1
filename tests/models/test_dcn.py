"""Deformable convolution: zero offsets are the plain convolution, whole ones a shift, and the loss moves them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.evidence import meta
from skipkb.models.detection import dcn
from skipkb.models.detection.dcn import Bottleneck, DeformableDeepLab, DeformConv2d, Upsampling


def small(**options: object) -> DeformableDeepLab:
    arguments = {"layers": (1, 1, 2, 2), "num_classes": 3, "width": 8, "fc_channels": 16, "frozen_bn": False, **options}
    return DeformableDeepLab(**arguments)  # type: ignore[arg-type]


# --- sizes --------------------------------------------------------------------------------------------------


def by_hand(*, layers: tuple[int, ...], num_classes: int) -> int:
    """Convolutions of the ResNet, three for offsets from 512 to 18 channels, fc6 and score; nothing else learns."""
    total, channels = 3 * 64 * 49, 64
    for i, count in enumerate(layers):
        width = 64 * 2**i
        total += channels * 4 * width  # the projection
        for _ in range(count):
            total += channels * width + 9 * width * width + width * 4 * width
            channels = 4 * width
    return total + 3 * (512 * 9 * 18 + 18) + 2048 * 1024 + 1024 + 1024 * num_classes + num_classes


@pytest.mark.parametrize(
    ("name", "layers", "num_classes"),
    [
        ("deformable_deeplab_r101", (3, 4, 23, 3), 19),
        ("deformable_deeplab_r101_voc", (3, 4, 23, 3), 21),
        ("deformable_deeplab_r50", (3, 4, 6, 3), 19),
    ],
)
def test_sizes_are_exact(name: str, layers: tuple[int, ...], num_classes: int) -> None:
    with torch.device("meta"):
        model = getattr(dcn, name)()
    assert sum(p.numel() for p in model.parameters()) == by_hand(layers=layers, num_classes=num_classes)
    blocks = [m for m in model.modules() if isinstance(m, Bottleneck)]
    assert [isinstance(b.conv2, DeformConv2d) for b in blocks] == [False] * (len(blocks) - 3) + [True] * 3
    for block in blocks[-3:]:
        assert isinstance(block.conv2, DeformConv2d)
        assert (block.conv2.dilation, block.conv2.padding) == (2, 2)
        assert block.conv2.conv_offset.out_channels == 2 * 3 * 3


@pytest.mark.parametrize(("groups", "kernel_size"), [(1, 3), (4, 3), (2, 5)])
def test_two_numbers_for_every_point_of_every_group(groups: int, kernel_size: int) -> None:
    layer = DeformConv2d(8, 6, kernel_size=kernel_size, groups=groups, dilation=2)
    x = torch.rand(2, 8, 9, 7)
    assert layer.offsets(x).shape == (2, 2 * kernel_size**2 * groups, 9, 7)
    assert layer(x).shape == (2, 6, 9, 7)
    assert torch.count_nonzero(layer.offsets(x)) == 0  # as initialised
    assert layer.conv_offset.bias is not None


def test_offsets_are_predicted_without_dilation() -> None:
    """The listed deviation, and the paper's form: a pixel reaches the offsets one pixel away, or two."""
    for dilation, reached in ((1, [2, 3, 4]), (2, [1, 3, 5])):
        layer = small(offset_dilation=dilation).layer4[-1].conv2
        assert isinstance(layer, DeformConv2d)
        nn.init.ones_(layer.conv_offset.weight)
        x = torch.zeros(1, 64, 7, 7)
        x[..., 3, 3] = 1
        rows = layer.offsets(x)[0, 0].sum(1).nonzero().flatten()
        assert rows.tolist() == reached


# --- what offsets do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_zero_offsets_are_the_plain_convolution(dilation: int, groups: int) -> None:
    layer = DeformConv2d(8, 5, dilation=dilation, groups=groups)
    x = torch.randn(2, 8, 11, 9)
    plain = F.conv2d(x, layer.weight, padding=dilation, dilation=dilation)
    torch.testing.assert_close(layer(x), plain)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -2), (3, 2)])
def test_whole_offsets_are_a_shifted_picture(down: int, right: int) -> None:
    """Every point of the kernel moved by the same whole number of pixels reads a picture moved the other way."""
    layer = DeformConv2d(2, 3)
    with torch.no_grad():
        layer.conv_offset.bias.copy_(torch.tensor([float(down), float(right)]).repeat(9))  # type: ignore[union-attr]
    x = torch.randn(1, 2, 12, 13)
    moved = torch.roll(x, (-down, -right), (2, 3))
    wanted = F.conv2d(moved, layer.weight, padding=1)
    inner = (slice(None), slice(None), slice(4, 8), slice(4, 9))  # where nothing comes in over the edge
    torch.testing.assert_close(layer(x)[inner], wanted[inner])


def test_half_a_pixel_is_the_mean_of_two() -> None:
    layer = DeformConv2d(1, 1, kernel_size=1)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        layer.conv_offset.bias.copy_(torch.tensor([0.0, 0.5]))  # type: ignore[union-attr]
    x = torch.randn(1, 1, 4, 6)
    torch.testing.assert_close(layer(x)[..., :-1], (x[..., :-1] + x[..., 1:]) / 2)


def test_groups_move_apart() -> None:
    """The second half of the channels is read one pixel further right; the first stays."""
    layer = DeformConv2d(2, 2, kernel_size=1, groups=2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
        layer.conv_offset.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))  # type: ignore[union-attr]
    x = torch.randn(1, 2, 4, 6)
    y = layer(x)
    torch.testing.assert_close(y[:, 0], x[:, 0])
    torch.testing.assert_close(y[:, 1, :, :-1], x[:, 1, :, 1:])


def test_the_loss_moves_the_points_to_where_the_signal_is() -> None:
    """A kernel of one point learns by itself to look two pixels to the right."""
    layer = DeformConv2d(1, 1, kernel_size=1)
    nn.init.ones_(layer.weight)
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 8, 16)
    x = ramp.square() / 16
    wanted = torch.roll(x, -2, 3)[..., 2:-4]
    optimiser = torch.optim.Adam([layer.conv_offset.bias], lr=0.1)  # type: ignore[list-item]
    for _ in range(80):
        optimiser.zero_grad()
        F.mse_loss(layer(x)[..., 2:-4], wanted).backward()
        optimiser.step()
    _, right = layer.conv_offset.bias.detach().tolist()  # type: ignore[union-attr]
    assert right == pytest.approx(2, abs=0.1)


def test_gradients_reach_offsets_that_are_zero() -> None:
    model = small(deformable=2)
    loss = dcn.objective(model(torch.rand(2, 3, 32, 48)), torch.randint(0, 3, (2, 32, 48)))
    loss.backward()
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            for parameter in module.conv_offset.parameters():
                assert parameter.grad is not None
                assert torch.count_nonzero(parameter.grad) > 0


# --- the network --------------------------------------------------------------------------------------------


def without_offsets(model: DeformableDeepLab) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if "conv_offset" not in key}


@pytest.mark.parametrize("deformable", [1, 3, 6])
def test_with_zero_offsets_the_network_is_plain_deeplab(deformable: int) -> None:
    model, plain = small(deformable=deformable).eval(), small(deformable=0).eval()
    assert sum(isinstance(m, DeformConv2d) for m in model.modules()) == deformable
    plain.load_state_dict(without_offsets(model), strict=True)
    x = torch.rand(2, 3, 40, 56)
    wanted = plain(x)
    torch.testing.assert_close(model(x), wanted)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, DeformConv2d):
                nn.init.normal_(module.conv_offset.weight, std=0.5)
    assert (model(x) - wanted).abs().max() > 0.01 * wanted.abs().max()


def test_the_last_stage_keeps_the_resolution() -> None:
    model = small().eval()
    x = torch.rand(1, 3, 64, 96)
    assert model.features(x).shape == (1, 256, 4, 6)
    for block in model.layer4:
        assert isinstance(block, Bottleneck)
        assert block.conv1.stride == (1, 1)
    assert model.layer3[0].conv1.stride == (2, 2)  # the stride is in the first convolution


def test_upsampling_is_bilinear_and_fixed() -> None:
    """In the middle it agrees with bilinear interpolation; it has nothing to learn."""
    layer = Upsampling(2, 16)
    assert list(layer.parameters()) == []
    x = torch.randn(1, 2, 5, 6)
    wanted = F.interpolate(x, scale_factor=16, mode="bilinear")
    torch.testing.assert_close(layer(x, (80, 96))[..., 8:-8, 8:-8], wanted[..., 8:-8, 8:-8])


@pytest.mark.parametrize("groups", [1, 2])
def test_operations_are_those_of_the_plain_convolution(groups: int) -> None:
    """And of the convolution that predicts the offsets; PyTorch's own counter does not know the operation."""
    with torch.device("meta"):
        deformable = DeformConv2d(8, 6, groups=groups)
        plain = nn.ModuleList([nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 18 * groups, 3, padding=1)])
    x = (torch.empty(2, 8, 5, 7, device="meta"),)
    wanted = sum(meta.run(conv, x)[1] for conv in plain)
    assert meta.run(deformable, x)[1] == wanted


@pytest.mark.parametrize("size", [(3, 3), (18, 17), (22, 50), (65, 97), (33, 128)])
def test_any_picture_size(size: tuple[int, int]) -> None:
    for classes in (1, 3):
        assert small(num_classes=classes).eval()(torch.rand(2, 3, *size)).shape == (2, classes, *size)


def test_bfloat16_autocast_reads_positions_in_full() -> None:
    model = small().eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    torch.testing.assert_close(y.float(), model(x).detach(), atol=0.02, rtol=0.1)


def test_fixed_normalisations_do_not_learn() -> None:
    model = small(frozen_bn=True)
    trained = small(frozen_bn=False)
    names = {key for key in trained.state_dict() if "num_batches" not in key}
    assert set(model.state_dict()) == names
    model.load_state_dict(trained.state_dict(), strict=True)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.train()(x), trained.eval()(x))
    assert not any("bn" in name for name, _ in model.named_parameters())


def test_unlabelled_pixels_do_not_count() -> None:
    output, target = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    target[:, :, 2:] = 255
    torch.testing.assert_close(
        dcn.objective(output, target), F.cross_entropy(output[..., :2], target[..., :2])
    )  # fmt: skip


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        DeformConv2d(4, 4, kernel_size=2)
    with pytest.raises(ValueError, match="groups must divide the 4 input channels, got 3"):
        DeformConv2d(4, 4, groups=3)
    with pytest.raises(ValueError, match="the four stages of a ResNet"):
        DeformableDeepLab(layers=(3, 4, 6))
    with pytest.raises(ValueError, match=r"deformable must lie in \[0, 6\], got 7"):
        small(deformable=7)
    for shape in ((1, 1, 8, 8), (1, 3, 2, 8), (3, 8, 8)):
        with pytest.raises(ValueError, match="at least 3"):
            small()(torch.rand(shape))
    with pytest.raises(TypeError):
        dcn.deformable_deeplab_r101(layers=(1, 1, 1, 1))  # type: ignore[call-arg]

"""What SegNet is about: the decoder puts its values back where the maxima were, and nothing else crosses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import segnet as module
from skipkb.models.segmentation.segnet import SegNet, SegNetBasic, median_frequency, objective, unpool

SMALL: dict[str, Any] = {"widths": (4, 6, 8), "layers": (1, 2, 2), "num_classes": 3}


def small(kind: str) -> module.EncoderDecoder:
    torch.manual_seed(0)
    if kind == "basic":
        return SegNetBasic(width=6, levels=3, num_classes=3).eval()
    return SegNet(**SMALL).eval()


def copies(model: module.EncoderDecoder) -> module.EncoderDecoder:
    """Each convolution passes its first channel on, so that what comes out shows what the poolings did."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.zero_()
                layer.weight[0, 0, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.zero_()
                layer.eps = 0.0
    return model.double().eval()


def test_the_published_networks() -> None:
    with torch.device("meta"):
        model, basic = module.segnet(), module.segnet_basic()
        for network in (model, basic):
            assert network(torch.empty(1, 3, 360, 480)).shape == (1, 11, 360, 480)
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert len(convolutions) == 26
    assert [convolutions[f"conv{i}_1_D"].out_channels for i in (5, 4, 3, 2, 1)] == [512, 256, 128, 64, 11]
    kernels = [m.kernel_size for m in basic.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == 8 * [(7, 7)] + [(1, 1)]


def test_a_bright_pixel_comes_back_to_its_place() -> None:
    """Through three poolings and three unpoolings, wherever in its window of 8 x 8 it was."""
    model = copies(SegNet(**SMALL))
    for row, column in ((0, 0), (9, 14), (20, 23), (31, 8), (13, 10)):
        picture = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
        picture[0, 0, row, column] = 1
        with torch.no_grad():
            assert torch.equal(model(picture)[:, :1], picture[:, :1]), (row, column)


@pytest.mark.parametrize("kind", ["vgg", "basic"])
def test_only_positions_cross(kind: str) -> None:
    """The decoder has the coarsest map and integers, and with these alone it gives what the network gives."""
    model, picture = small(kind), torch.rand(2, 3, 40, 24)
    x, links = model.encode(picture)
    assert all(not indices.is_floating_point() for indices, _ in links)
    assert torch.equal(model.decode(x.detach(), links), model(picture))
    gradients = torch.autograd.grad(model.decode(x.detach(), links).sum(), _encoder(model), allow_unused=True)
    assert all(gradient is None for gradient in gradients)  # no way back but through the coarsest map


def _encoder(model: module.EncoderDecoder) -> list[nn.Parameter]:
    names = [f"conv{i}" for i in range(1, 4)]
    return [p for n, p in model.named_parameters() if n.startswith(tuple(names)) and "_D" not in n]


@pytest.mark.parametrize("kind", ["vgg", "basic"])
def test_each_of_the_links_matters(kind: str) -> None:
    """With its maxima put into the corners of their windows, each level changes the output."""
    model, picture = small(kind), torch.rand(1, 3, 40, 24)
    with torch.no_grad():
        x, links = model.encode(picture)
        before = model.decode(x, links)
        for level, (indices, size) in enumerate(links):
            height, width = indices.shape[-2:]
            corner = 2 * torch.arange(height)[:, None] * size[-1] + 2 * torch.arange(width)
            changed = [*links[:level], (corner.expand(indices.shape), size), *links[level + 1 :]]
            assert (model.decode(x, changed) - before).abs().max() > 1e-3


def test_mixed_precision_does_not_move_the_maxima() -> None:
    model, picture = small("vgg"), torch.rand(1, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.encode(picture)[1]
        assert model(picture).dtype == torch.bfloat16
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(found, model.encode(picture)[1], strict=True))


def test_unpooling_fills_with_zeros() -> None:
    x = torch.tensor([[1.0, 5, 2, 3], [4, 0, 9, 1], [7, 6, 0, 1], [5, 8, 2, 3]])[None, None]
    pooled, indices = nn.MaxPool2d(2, return_indices=True)(x)
    expected = torch.tensor([[0.0, 5, 0, 0], [0, 0, 9, 0], [0, 0, 0, 0], [0, 8, 0, 3]])
    assert torch.equal(unpool(pooled, (indices, x.shape))[0, 0], expected)


@pytest.mark.parametrize("size", [(1, 1), (45, 60), (23, 31)])
def test_any_size(size: tuple[int, int]) -> None:
    for model in (small("vgg"), small("basic")):
        assert model(torch.rand(2, 3, *size)).shape == (2, 3, *size)
    assert small("vgg").pool(torch.rand(1, 1, 45, 60))[0].shape == (1, 1, 23, 30)  # rounded up


def test_the_decoder_mirrors_the_encoder() -> None:
    order: list[str] = []
    model = SegNet(**SMALL).eval()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda m, x, y, name=name: order.append(name))
    model(torch.rand(1, 3, 16, 16))
    half = len(order) // 2
    assert order[half:] == [f"{name}_D" for name in reversed(order[:half])]


def test_no_relu_on_the_way_up_of_basic() -> None:
    model = small("basic")
    x = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        assert (model.decoder(1, x) < 0).any()
        assert not (small("vgg").decoder(2, torch.randn(2, 8, 8, 8)) < 0).any()
        up, minus = model.decoder(1, x), model.decoder(1, -x)
        torch.testing.assert_close(up + minus, 2 * model.decoder(1, 0 * x))  # affine


def test_basic_normalises_the_picture_across_channels() -> None:
    model, picture = small("basic"), 30 * torch.rand(1, 3, 8, 8)
    seen: list[Tensor] = []
    model.get_submodule("conv1").register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(picture)
    expected = picture / (1 + 1e-4 / 5 * picture.square().sum(dim=1, keepdim=True)) ** 0.75
    torch.testing.assert_close(seen[0], expected)


def test_biases_and_the_start_of_the_normalisations() -> None:
    for model in (small("vgg"), small("basic")):
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                assert not layer.bias.any()
            if isinstance(layer, nn.BatchNorm2d):
                assert (layer.bias == 0.001).all()
                assert (layer.eps, layer.track_running_stats) == (1e-5, True)


def test_median_frequency() -> None:
    target = torch.zeros(2, 2, 4, dtype=torch.long)
    target[0, 0] = 1  # class 1: 4 of 8 pixels of the one picture that has it; class 0: 12 of 16
    assert torch.equal(median_frequency(target, 3), torch.tensor([0.625 / 0.75, 0.625 / 0.5, 0.0]))
    assert not median_frequency(torch.full((1, 2, 2), 3), 3).any()


def test_the_objective_weighs_the_classes() -> None:
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    target[0, 0] = 3  # no class
    weights = torch.tensor([0.5, 2.0, 1.0])
    energy = F.cross_entropy(logits, target, weight=weights, ignore_index=3, reduction="none")
    torch.testing.assert_close(objective(logits, target, class_weights=weights), energy.sum() / 35)
    balanced = objective(logits, target, class_weights=median_frequency(target, 3))
    assert torch.equal(objective(logits, target), balanced)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="one positive number per resolution each"):
        SegNet(widths=(4, 6), layers=(1,))
    with pytest.raises(ValueError, match="levels must be at least 1, got 0"):
        SegNetBasic(levels=0)
    for model in (small("vgg"), small("basic")):
        with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
            model(torch.rand(1, 1, 8, 8))

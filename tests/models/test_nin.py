"""NIN: that an mlpconv is one perceptron everywhere, and what global average pooling is blind to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skipkb
from skipkb.models.classification import nin
from skipkb.models.classification.nin import NIN

PICTURES = {
    "nin_cifar10": (3, 32, 32),
    "nin_cifar100": (3, 32, 32),
    "nin_svhn": (3, 32, 32),
    "nin_mnist": (1, 28, 28),
    "nin_imagenet": (3, 224, 224),
}


def small(**options: Any) -> NIN:
    settings = {"stages": ((8, 6, 5), (7, 6)), "kernels": (5, 3), "dropout": (0.5,), "initial": 0.3, "num_classes": 4}
    return NIN(**{**settings, **options}).eval()


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("nin_cifar10", [32, 16, 8]),
        ("nin_svhn", [32, 16, 8]),
        ("nin_mnist", [28, 14, 7]),
        ("nin_imagenet", [54, 27, 13, 6]),
    ],
)
def test_maps(name: str, sides: list[int]) -> None:
    """What the definitions say: the last pooling takes the mean over all that is left, 8 x 8, 7 x 7 or 6 x 6."""
    with torch.device("meta"):
        model, x = getattr(nin, name)(), torch.empty(1, *PICTURES[name])
        found = []
        for layer, _ in model.layers:
            x = getattr(model, layer)(x)
            if layer.startswith("conv"):
                found.append(x.shape[2])
    assert found == sides
    assert x.shape[1:] == (
        model.cccp8.out_channels if len(sides) == 4 else model.cccp6.out_channels,
        sides[-1],
        sides[-1],
    )


def test_names_are_those_of_the_definitions() -> None:
    with torch.device("meta"):
        model = nin.nin_cifar10()
    assert [name for name, _ in model.named_children()] == [
        *("conv1", "cccp1", "cccp2", "pool1", "dropout1"),
        *("conv2", "cccp3", "cccp4", "pool2", "dropout2"),
        *("conv3", "cccp5", "cccp6"),
    ]
    assert [relu for _, relu in model.layers] == [isinstance(layer, nn.Conv2d) for layer in model.children()]


def test_an_mlpconv_is_the_same_perceptron_at_each_place() -> None:
    """Equation 2, patch by patch, with linear layers in place of the convolutions."""
    model = small(stages=((8, 6),), kernels=(5,), dropout=(), num_classes=4)
    x = torch.randn(2, 3, 9, 7)
    patches = F.unfold(x, 5, padding=2).transpose(1, 2)  # [2, 63, 75]
    for layer in (model.get_submodule(name) for name in ("conv1", "cccp1", "cccp2")):
        assert isinstance(layer, nn.Conv2d)
        patches = F.linear(patches, layer.weight.flatten(1), layer.bias).clamp(min=0)
    torch.testing.assert_close(model.maps(x), patches.transpose(1, 2).unflatten(2, (9, 7)))


def test_cross_channel_pooling_does_not_mix_places() -> None:
    model = small()
    x, order = torch.rand(1, 8, 6, 6), torch.randperm(36)

    def cccp(y: Tensor) -> Tensor:
        for name in ("cccp1", "cccp2"):
            y = F.relu(model.get_submodule(name)(y))
        return y

    def mixed(y: Tensor) -> Tensor:
        return y.flatten(2)[:, :, order].unflatten(2, (6, 6))

    assert cccp(x).abs().max() > 0
    torch.testing.assert_close(cccp(mixed(x)), mixed(cccp(x)))
    assert not torch.allclose(
        model.get_submodule("conv2")(mixed(cccp(x))), mixed(model.get_submodule("conv2")(cccp(x)))
    )


def test_global_average_pooling_is_blind_to_where() -> None:
    """The score of a class is the mean of its own map: no parameters, and any order of places gives the same."""
    model = small()
    x = torch.randn(3, 3, 16, 16)
    maps = model.maps(x)
    torch.testing.assert_close(model(x), maps.mean(dim=(2, 3)))
    shuffled = maps.flatten(2)[:, :, torch.randperm(64)]
    torch.testing.assert_close(shuffled.mean(2), model(x))
    # a class gets a gradient through its own map only
    gradient = torch.autograd.grad(model.maps(x.requires_grad_()).mean(dim=(2, 3))[0, 1], model.cccp4.weight)[0]  # type: ignore[union-attr]
    assert gradient[1].abs().max() > 0
    assert gradient[[0, 2, 3]].abs().max() == 0
    assert list(model.state_dict())[-1] == "cccp4.bias"  # nothing comes after the last map


def test_a_moved_picture_keeps_its_scores() -> None:
    """Four pixels, which is one place of the last map, as long as nothing leaves the picture."""
    model = nin.nin_cifar10(dropout=0.0).eval()
    for parameter in model.parameters():
        if parameter.dim() == 4:
            nn.init.kaiming_normal_(parameter)
    x = torch.zeros(1, 3, 64, 64)
    x[:, :, 28:36, 28:36] = torch.rand(3, 8, 8)
    scores = model(x)
    assert scores.max() > 0
    torch.testing.assert_close(model(torch.roll(x, (4, -8), (2, 3))), scores)
    moved = model.maps(torch.roll(x, 4, 2))
    torch.testing.assert_close(moved, torch.roll(model.maps(x), 1, 2))


def test_the_network_is_a_chain() -> None:
    for name, shape in PICTURES.items():
        with torch.device("meta"):
            graph = skipkb.trace_skips(getattr(nin, name)().eval(), (1, *shape))
        assert not graph.skips
        assert not graph.multi_branch


def test_initial_values() -> None:
    model = nin.nin_cifar100()
    stds = [p.std().item() for p in model.parameters() if p.dim() == 4]
    assert stds == pytest.approx([0.001, 0.01, 0.01, *[0.05] * 6], rel=0.03)
    assert all((p == 0).all() for p in model.parameters() if p.dim() == 1)
    with torch.device("meta"):
        dropout = [m.p for m in nin.nin_imagenet().modules() if isinstance(m, nn.Dropout)]
    assert dropout == [0.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("name", "shape"), [("nin_cifar10", (4, 5)), ("nin_cifar10", (41, 33)), ("nin_imagenet", (39, 60))]
)
def test_any_picture_size(name: str, shape: tuple[int, int]) -> None:
    with torch.device("meta"):
        assert getattr(nin, name)(num_classes=7, in_channels=1)(torch.empty(2, 1, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ()}, "got 0, 2 and 1"),
        ({"stages": ((8,), ())}, "channels for each mlpconv"),
        ({"kernels": (5, 3, 3)}, "got 2, 3 and 1"),
        ({"kernels": (5, 4)}, r"kernels must be odd and dropout in \[0, 1\), got kernels=\(5, 4\)"),
        ({"dropout": (1.0,)}, "dropout=\\(1.0,\\)"),
        ({"initial": (0.1, 0.2)}, "one for each of 6 layers, got 2"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**change)
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\] with H and W at least 2, got \[1, 3, 1, 9\]"):
        small()(torch.rand(1, 3, 1, 9))
    with torch.device("meta"), pytest.raises(ValueError, match="H and W at least 39"):
        nin.nin_imagenet()(torch.empty(1, 3, 38, 60))

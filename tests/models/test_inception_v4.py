"""Inception-v4: the maps of Figure 9, and that nothing bypasses a module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import skipkb
from skipkb.models.classification import inception_v4 as v4


def test_parameters_are_exact() -> None:
    with torch.device("meta"):
        model = v4.inception_v4()
    # The release has no scale in its normalisations and is as much smaller.
    scales = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert scales == 31_584


def test_maps_of_figure_9() -> None:
    with torch.device("meta"):
        model = v4.inception_v4().eval()
    x = torch.empty(1, 3, 299, 299, device="meta")
    shapes = []
    for module in model.features:
        x = module(x)
        shapes.append(tuple(x.shape[1:]))
    stem = [(32, 149, 149), (32, 147, 147), (64, 147, 147), (160, 73, 73), (192, 71, 71), (384, 35, 35)]
    modules = [(384, 35, 35)] * 4 + [(1024, 17, 17)] * 8 + [(1536, 8, 8)] * 4
    assert shapes == stem + modules


MODULES = [(v4.InceptionA, 384), (v4.InceptionB, 1024), (v4.InceptionC, 1536)]


@pytest.mark.parametrize(("module", "channels"), MODULES)
def test_nothing_bypasses_a_module(module: type[nn.Module], channels: int) -> None:
    """Without its convolutions a module says nothing about its input; a residual module would still pass it on."""
    block = module().eval()
    x = torch.randn(1, channels, 5, 5)
    with torch.no_grad():
        assert block(x).std(dim=(2, 3)).max() > 0
        for part in block.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.zeros_(part.weight)
        assert block(x).abs().max() == 0


def test_the_only_skips_are_poolings() -> None:
    with torch.device("meta"):
        graph = skipkb.trace_skips(v4.inception_v4().eval(), (1, 3, 299, 299))
    assert {(skip.kind, skip.shortcut) for skip in graph.skips} == {("concat", "resampled")}
    assert [skip.merge for skip in graph.skips] == [f"features.{i}:cat" for i in (3, 5, 10, 18)]
    # Every module is a merge of branches of equal standing, and one of the stem.
    assert [merge.merge for merge in graph.multi_branch] == [
        f"features.{i}:cat" for i in range(4, 22) if i not in (5, 10, 18)
    ]


@pytest.mark.parametrize(
    ("module", "channels", "extents"),
    [(v4.InceptionA, 384, [1, 3, 5, 3]), (v4.InceptionB, 1024, [1, 7, 13, 3])],
)
def test_branches_see_different_extents(module: type[nn.Module], channels: int, extents: list[int]) -> None:
    block = module().eval()
    for i, extent in enumerate(extents):
        x = torch.rand(1, channels, 17, 17, requires_grad=True)
        with torch.no_grad():
            for part in block.modules():
                if isinstance(part, nn.Conv2d):
                    part.weight.abs_()  # no ReLU hides a path
        block.get_submodule(f"branch{i}")(x)[0, :, 8, 8].sum().backward()
        assert x.grad is not None
        seen = x.grad[0].abs().sum(0) > 0
        rows, columns = seen.any(1).sum().item(), seen.any(0).sum().item()
        assert (rows, columns) == (extent, extent)


def test_the_border_of_the_average_is_not_darker() -> None:
    """Padding is not counted: a constant map stays constant."""
    torch.testing.assert_close(v4._average_pool()(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize("size", [(75, 75), (80, 101)])
def test_any_picture_from_75_pixels(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = v4.InceptionV4(blocks=(1, 0, 1), num_classes=5, in_channels=1)
    assert model(torch.empty(2, 1, *size, device="meta")).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": (1, 2)}, r"blocks needs a number of modules A, B and C each, got \(1, 2\)"),
        ({"blocks": (1, -2, 3)}, "blocks needs a number of modules"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    with torch.device("meta"):
        with pytest.raises(ValueError, match=message):
            v4.InceptionV4(**change)  # type: ignore[arg-type]
        model = v4.InceptionV4(blocks=(0, 0, 0))
        with pytest.raises(ValueError, match=r"H and W at least 75, got \[1, 3, 74, 80\]"):
            model(torch.empty(1, 3, 74, 80))
        with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\]"):
            model(torch.empty(1, 1, 80, 80))

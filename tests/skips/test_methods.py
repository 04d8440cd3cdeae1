"""Our own methods, small: counts by hand, both captures, both modes, on meta and on real weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification.highway import highway19
from skipkb.models.classification.resnet import resnet_cifar
from skipkb.models.detection.retinanet import RetinaNet
from skipkb.models.reconstruction.swinir import SwinIR
from skipkb.models.segmentation.unet import unet

from .ways import CAPTURES, traced  # type: ignore[import-not-found]

METHODS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]] = {
    # two blocks a stage; the first of stages two and three takes every second pixel (option A)
    "resnet": (lambda: resnet_cifar(depth=14, widths=(8, 16, 32)), (2, 3, 32, 32),
               {"add": 6, "identity": 4, "resampled": 2}),
    "highway": (
        lambda: highway19(num_classes=4, widths=(8, 12), layers=(2, 2), head_maps=20, dropout=(0.2, 0.2, 0.2)),
        (2, 3, 16, 16),
        {"add": 4, "gate": 4, "gated": 4},
    ),
    "unet": (
        lambda: unet(widths=(4, 6, 8, 10, 12), dropout=0.1),
        (1, 1, 284, 284),
        {"concat": 4, "identity": 4, "long": 4, "cross_scale": 4},
    ),
    # one bottleneck a stage, each with a projection, and the laterals to P4 and P3
    "retinanet": (
        lambda: RetinaNet(num_classes=2, blocks=(1, 1, 1, 1), width=16, fpn_channels=32, frozen_bn=False),
        (2, 3, 64, 64),
        {"add": 6, "projection": 6, "long": 6, "cross_scale": 2},
    ),
    # 2 x 2 layers of two, 2 groups (one convolution each), the body (three), the image (five)
    "swinir": (
        lambda: SwinIR(img_size=16, embed_dim=12, depths=(2, 2), num_heads=(3, 3), upscale=1, upsampler=""),
        (1, 3, 16, 16),
        {"add": 12, "identity": 12, "long": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", METHODS)
def test_method(name: str, device: str, training: bool, capture: Any) -> None:
    build, shape, expected = METHODS[name]
    with torch.device(device):
        model = build().train(training)
    graph = traced(model, shape, capture)
    assert graph.counts() == expected
    assert not graph.lost
    assert graph.training is training


@pytest.mark.parametrize("name", METHODS)
def test_captures_agree_in_every_fact(name: str) -> None:
    build, shape, _ = METHODS[name]
    with torch.device("meta"):
        model = build().eval()
    above, below = (traced(model, shape, capture) for capture in ("function", "dispatch"))  # type: ignore[arg-type]
    assert [(layer.name, layer.kind, layer.channels, layer.places) for layer in above.layers] == [
        (layer.name, layer.kind, layer.channels, layer.places) for layer in below.layers
    ]
    for one, two in zip((*above.skips, *above.gates), (*below.skips, *below.gates), strict=True):
        assert one.merge.partition(":")[0] == two.merge.partition(":")[0]
        for fact in ("kind", "shortcut", "layers", "convs", "long", "cross_scale", "partial", "start", "end", "shape"):
            assert getattr(one, fact) == getattr(two, fact), (fact, one.merge)

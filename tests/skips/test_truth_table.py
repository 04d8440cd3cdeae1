"""Networks everybody knows, with the counts everybody can check against the paper.

Built on the meta device from torchvision, timm and segmentation_models_pytorch, so no weights and no arithmetic.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from skipkb.skips import SkipGraph, trace_skips

from .ways import CAPTURES, traced  # type: ignore[import-not-found]

PICTURE = (1, 3, 224, 224)


def tv(name: str) -> nn.Module:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        model: nn.Module = torchvision.models.get_model(name)
    return model.eval()


def from_timm(name: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name)
    return model.eval()


def found(graph: SkipGraph) -> dict[str, int]:
    """Counts, with the partial ones beside them."""
    partial = {f"partial {skip.kind}": 0 for skip in (*graph.skips, *graph.gates) if skip.partial}
    for skip in (*graph.skips, *graph.gates):
        if skip.partial:
            partial[f"partial {skip.kind}"] += 1
    apart = {"multi_branch": len(graph.multi_branch), "weak": len(graph.weak)}
    return {**graph.counts(), **partial, **{name: number for name, number in apart.items() if number}}


TABLE: list[tuple[Callable[[str], nn.Module], str, dict[str, int]]] = [
    (tv, "resnet18", {"add": 8, "identity": 5, "projection": 3}),
    # The survey's own rule makes every bottleneck long ...
    (tv, "resnet50", {"add": 16, "identity": 12, "projection": 4, "long": 16}),
    (tv, "densenet121", {"concat": 58, "identity": 58, "long": 54}),
    # ... and no skip of a vision transformer: there is no convolution to cross.
    (tv, "vit_b_16", {"add": 24, "identity": 24}),
    (from_timm, "vit_tiny_patch16_224", {"add": 24, "identity": 24}),
    (tv, "convnext_tiny", {"add": 18, "identity": 18}),
    (from_timm, "convnext_tiny", {"add": 18, "identity": 18}),
    (tv, "swin_t", {"add": 24, "identity": 24}),
    (from_timm, "swin_tiny_patch4_window7_224", {"add": 24, "identity": 24}),
    (tv, "mobilenet_v2", {"add": 10, "identity": 10, "long": 10}),
    # Inception's pooling branch in the two reduction blocks bypasses convolutions, at another resolution.
    (tv, "inception_v3", {"concat": 2, "resampled": 2, "long": 2, "multi_branch": 13}),
    (tv, "googlenet", {"multi_branch": 9}),
    (tv, "vgg11_bn", {}),
    (tv, "alexnet", {}),
    (from_timm, "seresnet50", {"add": 16, "gate": 16, "identity": 12, "projection": 4, "long": 16}),
    # Two convolutions of the block and two (1x1) of the gate: four crossed.
    (from_timm, "legacy_seresnet18", {"add": 8, "gate": 8, "identity": 5, "projection": 3, "long": 8}),
    (tv, "efficientnet_b0", {"add": 9, "gate": 16, "identity": 9, "long": 9}),
    (tv, "shufflenet_v2_x1_0", {"partial concat": 13, "multi_branch": 3}),
    (from_timm, "poolformer_s12", {"add": 12, "identity": 12, "weak": 12}),
    (from_timm, "hrnet_w18_small", {"add": 23, "identity": 18, "projection": 5, "long": 5, "multi_branch": 12}),
]


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize(
    ("source", "name", "expected"), TABLE, ids=lambda value: value if isinstance(value, str) else ""
)
def test_known_network(source: Callable[[str], nn.Module], name: str, expected: dict[str, int], capture: Any) -> None:
    assert found(traced(source(name), PICTURE, capture)) == expected


@pytest.mark.parametrize("capture", CAPTURES)
def test_densenet_edges(capture: Any) -> None:
    """A block of L layers has a shortcut from every feature but the newest into each of its L merges: L(L+1)/2."""
    graph = traced(tv("densenet121"), PICTURE, capture)
    assert sum(len(skip.edges) for skip in graph.skips) == sum(n * (n + 1) // 2 for n in (6, 12, 24, 16))


@pytest.mark.parametrize("capture", CAPTURES)
def test_res2net(capture: Any) -> None:
    """16 blocks, 24 hierarchical additions of channel splits, 16 concatenations of the splits."""
    counts = traced(from_timm("res2net50_26w_4s"), PICTURE, capture).counts(partial=True)
    assert (counts["add"], counts["concat"]) == (16 + 24, 16)


@pytest.mark.parametrize("capture", CAPTURES)
def test_s3d(capture: Any) -> None:
    graph = traced(tv("s3d"), (1, 3, 16, 224, 224), capture)
    assert found(graph) == {"multi_branch": 9}


@pytest.mark.parametrize("capture", CAPTURES)
def test_detectors(capture: Any) -> None:
    """Real weights: what a detector does depends on its numbers."""
    rcnn = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    rcnn.transform.min_size, rcnn.transform.max_size = (64,), 64  # type: ignore[union-attr,assignment]
    graph = traced(rcnn, ([torch.rand(3, 64, 64)],), capture)
    assert graph.counts() == {"add": 19, "identity": 12, "projection": 4 + 3, "long": 19, "cross_scale": 3}
    ssd = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None).eval()
    assert not traced(ssd, ([torch.rand(3, 300, 300)],), capture).counts()


# -- Highway, and encoder-decoders


class HighwayLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.plain, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return torch.relu(self.plain(x)) * t + x * (1.0 - t)


@pytest.mark.parametrize("capture", CAPTURES)
def test_highway(capture: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), *(HighwayLayer(8) for _ in range(3)), nn.Linear(8, 2))
    graph = traced(model, (2, 4), capture)
    assert graph.counts() == {"add": 3, "gated": 3, "gate": 3}


def block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.Conv2d(outer, outer, 3, padding=1), nn.ReLU()
    )


class PlainUNet(nn.Module):
    """Four levels; ``crop`` as in the paper, whose convolutions have no padding."""

    def __init__(self, crop: bool = False) -> None:
        super().__init__()
        self.crop = crop
        widths = (4, 8, 16, 32, 64)
        self.down = nn.ModuleList(block(i, o) for i, o in zip((3, *widths), widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[:-1])
        self.join = nn.ModuleList(block(2 * w, w) for w in widths[:-1])

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for level in (3, 2, 1, 0):
            skip, x = kept[level], self.up[level](x)
            if self.crop:
                x = x[:, :, 1:-1, 1:-1]
                skip = (
                    skip[:, :, 1:-1, 1:-1]
                    if skip.shape[-1] == x.shape[-1] + 2
                    else F.pad(skip, [(x.shape[-1] - skip.shape[-1]) // 2] * 4)
                )
            x = self.join[level](torch.cat([skip, x], 1))
        return x


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("crop", [False, True])
def test_plain_unet(crop: bool, capture: Any) -> None:
    """Depth-d nesting: each skip crosses four convolutions and one transposed one per level below."""
    graph = traced(PlainUNet(crop), (1, 3, 64, 64), capture)
    assert graph.counts() == {"concat": 4, "identity": 4, "long": 4, "cross_scale": 4}
    assert [skip.convs for skip in graph.skips] == [2 + 1, 2 + 1 + 5, 2 + 1 + 10, 2 + 1 + 15]
    assert [(skip.start, skip.end) for skip in graph.skips] == [(8, 11), (6, 14), (4, 17), (2, 20)]


DECODERS: dict[str, dict[str, int]] = {
    "Unet": {"add": 16, "concat": 4, "identity": 17, "projection": 3, "long": 4, "cross_scale": 4},
    # Six of the ten nodes join in two steps: all of their level (a skip), then that with what comes from below, where
    # both sides have passed convolutions since they parted (branches).
    "UnetPlusPlus": {"add": 16, "concat": 10, "identity": 23, "projection": 3, "long": 10, "cross_scale": 10,
                     "multi_branch": 6},
    "Linknet": {"add": 20, "identity": 17, "projection": 3, "long": 4, "cross_scale": 4},
    # The three laterals are 1x1 convolutions with no activation: projections. The heads' sum is multi-branch.
    "FPN": {"add": 19, "identity": 13, "projection": 6, "long": 3, "cross_scale": 3, "multi_branch": 1},
    "DeepLabV3Plus": {"add": 16, "concat": 1, "identity": 13, "projection": 3, "lateral": 1, "long": 1,
                      "cross_scale": 1, "multi_branch": 1},
}  # fmt: skip
"""Decoders of segmentation_models_pytorch over ResNet-34, whose 13 identity and 3 projection shortcuts are in all."""


def decoder(name: str) -> nn.Module:
    with torch.device("meta"):
        return getattr(smp, name)("resnet34", encoder_weights=None).eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("name", DECODERS)
def test_encoder_decoder(name: str, capture: Any) -> None:
    assert found(traced(decoder(name), (1, 3, 64, 64), capture)) == DECODERS[name]


def test_deeplab_lateral_crosses_the_encoder() -> None:
    (skip,) = [skip for skip in trace_skips(decoder("DeepLabV3Plus"), (1, 3, 64, 64)).skips if skip.kind == "concat"]
    # On the longest path: 26 convolutions of layers 2 to 4; then a separable one (two) in the ASPP, one that projects,
    # and another separable one
    assert skip.convs == 26 + 2 + 1 + 2

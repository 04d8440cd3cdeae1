"""Graphs of well-known networks, written by hand: the structure a trace must find, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from skipkb.skips.graph import Edge, Kind, Layer, MultiBranch, Operand, Shape, Shortcut, Skip, SkipGraph


class Sketch:
    """Writes layers one after the other and closes skips where the line has got to."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.layers: list[Layer] = []
        self.skips: list[Skip] = []
        self.gates: list[Skip] = []
        self.weak: list[Skip] = []
        self.branches: list[MultiBranch] = []

    @property
    def here(self) -> int:
        return len(self.layers)

    def conv(self, side: int, channels: int = 64, *, name: str = "", times: int = 1) -> None:
        for _ in range(times):
            self.layer("Conv2d", "conv", channels, (side, side), side * side, name)

    def linear(self, size: Shape, channels: int = 64, *, name: str = "", type: str = "Linear") -> None:
        places = 1
        for extent in size:
            places *= extent
        self.layer(type, "linear", channels, size, places, name)

    def layer(
        self, type: str, kind: Literal["conv", "linear"], channels: int, size: Shape, places: int, name: str = ""
    ) -> None:
        step = len(self.layers)
        self.layers.append(Layer(name or f"layer{step}", type, kind, channels, size, places, step=step))

    def merge(
        self,
        starts: int | Sequence[int],
        kind: Kind = "add",
        shortcut: Shortcut = "identity",
        *,
        into: Literal["skips", "gates", "weak"] = "skips",
        **flags: Any,
    ) -> None:
        starts = [starts] if isinstance(starts, int) else list(starts)
        where: list[Skip] = getattr(self, into)
        shape = flags.get("shape") or self._shape(self.here)
        operand = Operand.parse(f"at{self.here}:{kind}/0")
        edges = tuple(
            Edge(
                source=f"from{start}:relu",
                shortcut=shortcut,
                layers=self.here - start,
                convs=sum(layer.kind == "conv" for layer in self.layers[start:]),
                start=start,
                step=start,
                cross_scale=flags.get("cross_scale", False),
                partial=flags.get("partial", False),
                source_shape=flags.get("source_shape") or self._shape(start),
                shape=shape,
                operand=operand,
            )
            for start in sorted(starts)
        )
        where.append(Skip(len(where), f"at{self.here}:{kind}", kind, self.here, self.here, shape, edges, ()))

    def _shape(self, position: int) -> Shape:
        if not self.layers:
            return (1,)
        layer = self.layers[max(position - 1, 0)]
        return (1, layer.channels, *layer.size)

    def graph(self) -> SkipGraph:
        return SkipGraph(
            self.model,
            "function",
            False,
            tuple(self.layers),
            tuple(self.skips),
            tuple(self.gates),
            tuple(self.weak),
            tuple(self.branches),
        )


def _excite(to: Sketch, side: int, channels: int) -> None:
    start = to.here
    to.conv(1, channels // 16)
    to.conv(1, channels)
    to.merge(start, "gate", into="gates", source_shape=(1, channels, side, side), shape=(1, channels, side, side))


def resnet(name: str, depths: Sequence[int], *, bottleneck: bool = True, excite: bool = False) -> SkipGraph:
    to = Sketch(name)
    to.conv(112)
    channels = 64
    for stage, depth in enumerate(depths):
        side, width = 56 >> stage, 64 << stage
        for block in range(depth):
            start, before = to.here, side if stage == 0 or block else side * 2
            shape = (1, channels, before, before)
            if bottleneck:
                to.conv(before, width)
            to.conv(side, width)
            channels = width * 4 if bottleneck else width
            to.conv(side, channels)
            if excite:
                _excite(to, side, channels)
            if block == 0 and (bottleneck or stage):
                to.conv(side, channels, name="downsample")
                to.merge(start, shortcut="projection", source_shape=shape)
            else:
                to.merge(start, source_shape=shape)
    to.linear((1,), 1000)
    return to.graph()


def densenet121() -> SkipGraph:
    to = Sketch("DenseNet")
    to.conv(112)
    for stage, depth in enumerate((6, 12, 24, 16)):
        side = 56 >> stage
        starts = [to.here]
        for _ in range(depth):
            to.conv(side, 128)
            to.conv(side, 32)
            to.merge(starts, "concat")
            starts.append(to.here)
        if stage < 3:
            to.conv(side, 128 << stage)
    to.linear((1,), 1000)
    return to.graph()


def unet() -> SkipGraph:
    to = Sketch("UNet")
    ends = []
    side = 572
    for level in range(5):
        to.conv(side - 2, 64 << level)
        to.conv(side - 4, 64 << level)
        side -= 4
        ends.append((to.here, side))
        side //= 2
    side = ends.pop()[1]
    for level in reversed(range(4)):
        start, wide = ends.pop()
        side *= 2
        to.conv(side, 64 << level)
        to.merge(start, "concat", cross_scale=True, source_shape=(1, 64 << level, wide, wide))
        to.conv(side - 2, 64 << level)
        to.conv(side - 4, 64 << level)
        side -= 4
    to.conv(side, 2)
    return to.graph()


def vit(name: str = "VisionTransformer", depth: int = 12) -> SkipGraph:
    to = Sketch(name)
    to.conv(14, 768)
    for _ in range(depth):
        start = to.here
        to.linear((197,), 768, type="MultiheadAttention")
        to.linear((197,), 768)
        to.merge(start)
        start = to.here
        to.linear((197,), 3072)
        to.linear((197,), 768)
        to.merge(start)
    to.linear((1,), 1000)
    return to.graph()


def convnext() -> SkipGraph:
    to = Sketch("ConvNeXt")
    for stage, depth in enumerate((3, 3, 9, 3)):
        side = 56 >> stage
        to.conv(side, 96 << stage)
        for _ in range(depth):
            start = to.here
            to.conv(side, 96 << stage)
            to.linear((side, side), 384 << stage)
            to.linear((side, side), 96 << stage)
            to.merge(start)
    to.linear((1,), 1000)
    return to.graph()


def swinir() -> SkipGraph:
    to = Sketch("SwinIR")
    to.conv(64, 180)
    whole = to.here
    for _ in range(6):
        outer = to.here
        for _ in range(6):
            start = to.here
            to.linear((64, 64), 540)
            to.linear((64, 64), 180)
            to.merge(start)
            start = to.here
            to.linear((64, 64), 360)
            to.linear((64, 64), 180)
            to.merge(start)
        to.conv(64, 180)
        to.merge(outer)
    to.conv(64, 180)
    to.merge(whole)
    to.conv(64, 64)
    to.conv(64, 256)
    to.conv(128, 256)
    to.conv(256, 3)
    return to.graph()


def highway(depth: int = 10) -> SkipGraph:
    to = Sketch("Highway")
    to.linear((), 50)
    for _ in range(depth):
        start = to.here
        to.linear((), 50)
        middle = to.here
        to.linear((), 50)
        to.merge(middle, "gate", into="gates")
        to.merge(start, "add", "gated")
    to.linear((), 10)
    return to.graph()


def fpn() -> SkipGraph:
    to = Sketch("FeaturePyramid")
    base = resnet("", (3, 4, 6, 3))
    to.layers, to.skips = list(base.layers[:-1]), list(base.skips)
    ends = [11, 24, 43]
    to.conv(7, 256)
    for level, end in enumerate(reversed(ends)):
        side = 14 << level
        to.conv(side, 256)
        to.merge(end, "add", "lateral", cross_scale=True, source_shape=(1, 256, side, side))
    for level in range(4):
        to.conv(56 >> level, 256)
    return to.graph()


def inception() -> SkipGraph:
    to = Sketch("Inception")
    for side in (149, 147, 147, 73, 71):
        to.conv(side)
    for side, blocks in ((35, 3), (17, 5), (8, 3)):
        for _ in range(blocks):
            start = to.here
            to.conv(side, times=7)
            at = to.here
            to.branches.append(
                MultiBranch(f"{at}:cat", "concat", "in", (1, 2, 3, 1), start, at, at, (1, 64, side, side))
            )
    to.linear((1,), 1000)
    return to.graph()


def mlp() -> SkipGraph:
    to = Sketch("MLP")
    for width in (300, 100, 10):
        to.linear((), width)
    return to.graph()


def poolformer() -> SkipGraph:
    """Partial and weak skips too."""
    to = Sketch("Weak and partial")
    for stage in range(4):
        side = 56 >> stage
        to.conv(side)
        for _ in range(2):
            to.merge(to.here, into="weak")
            start = to.here
            to.conv(side)
            to.conv(side)
            to.merge(start, partial=stage == 3)
    return to.graph()


NETWORKS: dict[str, Callable[[], SkipGraph]] = {
    "ResNet-18": lambda: resnet("ResNet", (2, 2, 2, 2), bottleneck=False),
    "ResNet-50": lambda: resnet("ResNet", (3, 4, 6, 3)),
    "ResNet-101": lambda: resnet("ResNet", (3, 4, 23, 3)),
    "ResNet-152": lambda: resnet("ResNet", (3, 8, 36, 3)),
    "SE-ResNet-50": lambda: resnet("SEResNet", (3, 4, 6, 3), excite=True),
    "DenseNet-121": densenet121,
    "U-Net": unet,
    "ViT-B/16": vit,
    "ViT-L/16": lambda: vit(depth=24),
    "ConvNeXt-T": convnext,
    "SwinIR": swinir,
    "Highway": highway,
    "FPN": fpn,
    "Inception": inception,
    "MLP": mlp,
    "Weak": poolformer,
    "Empty": lambda: SkipGraph("Nothing", "function", False),
}

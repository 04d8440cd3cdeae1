"""The recorded graph: a node for every operation on data, in the order they ran."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from skipkb.skips.graph import Layer, Lost, Site
from skipkb.skips.record.ops import Family
from skipkb.skips.record.places import Frame

# What happens at a node, or somewhere on a path, as bits.
RESAMPLED = 1
AFFINE = 2  # norm, or a scale that is learned
ACTIVATED = 4
GATED = 8  # product of data with data
MIXED = 16  # attention, or an operation nobody knows
MERGED = 32  # sum or concatenation of data with data
UPSAMPLED = 64
PARTIAL = 128
WEIGHTED = 256
SQUASHED = 512  # ends in a sigmoid, softmax, tanh


@dataclass(slots=True)
class Node:
    """One operation on data. ``preds`` are the nodes of its data operands, ``slots`` their operand positions."""

    name: str
    family: Family
    frame: Frame
    nth: int
    preds: tuple[int, ...]
    slots: tuple[int, ...]
    shape: tuple[int, ...]
    places: float
    """Output positions per batch: resolution. Inherited from the operands where the operation keeps it."""
    flags: int = 0
    weight: int = 0
    """Weighted layers in it: two in attention."""
    conv: int = 0
    """Convolutions in it."""
    merge: str = ""
    """add, concat, product or maximum, where two data operands meet."""
    total: float = 0.0
    """Number of elements."""
    cut: tuple[int, ...] = ()
    """Axes of which only some is left: a crop, or a part."""
    pieces: tuple[tuple[int, int, int], ...] = ()
    """Of a concatenation: axis, first place and length of each operand."""
    axes: tuple[int, ...] = ()
    """Of a permutation: which axis of the operand each axis is."""
    spatial: int = 0
    """What the operation says of its tensors: the picture lies in so many axes, the last; -1: the channels are last."""
    layers: int = 0
    """Weighted layers executed up to and including this node."""

    def site(self, level: str = "") -> Site:
        """Address of the operation; ``level`` tells aten operators from functions."""
        return Site(self.frame.path, max(self.frame.call, 1), level + self.name, self.nth)


@dataclass
class Trace:
    """The recorded graph."""

    nodes: list[Node] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    ends: set[int] = field(default_factory=set)
    """Nodes whose values leave the forward, or are read where the data cannot be followed."""
    fixed: list[Site] = field(default_factory=list)
    """Products and convolutions with a matrix that is not a parameter."""
    level: str = ""
    """``aten.`` where the operations are aten operators."""

    def add(self, node: Node) -> int:
        """Append the node; returns its number."""
        node.total = float(math.prod(node.shape))
        node.layers = len(self.layers)
        self.nodes.append(node)
        return len(self.nodes) - 1

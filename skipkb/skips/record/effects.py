"""What an operation does to the data that passes through it: the flags, the weight and the resolution of its node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from skipkb.skips.record.calls import Call, sides
from skipkb.skips.record.line import Line
from skipkb.skips.record.nodes import (
    ACTIVATED,
    AFFINE,
    GATED,
    MERGED,
    MIXED,
    PARTIAL,
    RESAMPLED,
    SQUASHED,
    UPSAMPLED,
    WEIGHTED,
    Node,
    Trace,
)
from skipkb.skips.record.ops import Family, Op
from skipkb.skips.record.values import Operands

_WEIGHTED = {Family.MATMUL, Family.CONV, Family.EMBEDDING, Family.RECURRENT, Family.ATTENTION}
_MERGES = {Family.ADD: "add", Family.CAT: "concat", Family.STACK: "concat", Family.EXTREME: "maximum"}
_NO_LAYERS = {"where", "prelu", "scaled_dot_product_attention", "rrelu", "bucketize", "cdist", "gather"}
"""Operations that may meet a matrix of parameters and are not a layer for that."""
_PERMUTES = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT"}


class Effects:
    """Appends the nodes of operations that compute something from data."""

    def __init__(self, trace: Trace, line: Line) -> None:
        self.trace = trace
        self.line = line

    def add(self, call: Call, operands: Operands, out: Tensor) -> int:
        """Append the node, or the two nodes of an addmm, of a call that gave ``out``; returns the number."""
        op, data = call.op, operands.data
        preds = tuple(node for node, _ in data)
        slots = tuple(position for _, position in data)
        places = max(self.trace.nodes[node].places for node in preds)
        node = Node(op.name, op.family, call.frame, call.nth, preds, slots, sides(out), places)
        if op.family is Family.ADDMM and 0 in slots and len(slots) > 1:
            return self._biased(node, call, operands, out)
        node.family = family = _meaning(op.family, operands)
        if (
            op.family in (Family.MATMUL, Family.CONV)
            and family in (Family.IDENT, Family.RESAMPLE)
            and len(call.found) > 1
        ):
            self.trace.fixed.append(node.site(self.trace.level))
        distinct = len(set(preds)) > 1
        if family in _WEIGHTED:
            if family is not Family.EMBEDDING or operands.matrix is not None:
                self._weigh(node, operands)
        elif family is Family.RESAMPLE:
            self._resample(node)
        elif family is Family.SLICE:
            self._slice(node, call, distinct)
        elif family is Family.SPLIT:
            if len(call.outs) > 1:
                _shorten(node, sides(call.found[node.slots[0]]))
        elif family is Family.NORM:
            node.flags = AFFINE
        elif family is Family.IDENT:
            self._rearrange(node, call, out)
        elif family is Family.SQUASH:
            node.flags = ACTIVATED | SQUASHED
        elif family in _MERGES:
            if family is Family.CAT:
                node.pieces = _pieces(call, slots, out)
            if distinct:
                node.flags, node.merge = MERGED, _MERGES[family]
            elif family is Family.ADD and op.name in ("addcmul", "addcdiv", "lerp") and operands.parameters:
                node.flags = AFFINE
        elif family is Family.MUL:
            if distinct:
                node.flags, node.merge = GATED, "product"
            elif operands.parameters:
                node.flags = AFFINE
        elif family is Family.OTHER:
            self._other(node, operands, distinct)
        node.spatial = _spatial(node, operands)
        return self.trace.add(node)

    def _rearrange(self, node: Node, call: Call, out: Tensor) -> None:
        """Padding by less than nothing is a crop."""
        before = call.found[node.slots[0]]
        if node.name in ("pad", "constant_pad_nd"):
            node.cut = tuple(axis for axis in _axes(sides(before), node.shape) if before.shape[axis] > out.shape[axis])
        elif node.name in _PERMUTES and len(node.preds) == 1:
            node.axes = _permutation(before, out)

    def _biased(self, node: Node, call: Call, operands: Operands, out: Tensor) -> int:
        """addmm with data for a bias: a product, and a sum of its own."""
        rest = [pair for pair in operands.data if pair[1] != 0]
        inner = call._replace(op=Op(call.op.name + ".product", Family.MATMUL, False))
        product = self.add(inner, operands._replace(data=rest), out)
        node.family = Family.ADD
        node.preds, node.slots = (node.preds[0], product), (0, rest[0][1])
        node.flags, node.merge = MERGED, "add"
        return self.trace.add(node)

    def _weigh(self, node: Node, operands: Operands) -> None:
        """A weighted layer. The resolution changes with a convolution's stride, and begins where there was none."""
        family, before, after = node.family, self.trace.nodes[node.preds[0]].shape, node.shape
        fused = any(part in ("relu", "tanh") for part in node.name.split("_"))
        node.flags = WEIGHTED | (ACTIVATED if fused and family is not Family.RECURRENT else 0)
        node.weight = 2 if family is Family.ATTENTION else 1
        absolute = self.line.add(family, node.frame, operands.matrix, after)
        node.places = node.places or absolute
        if family is Family.CONV:
            node.conv = 1
            pixels = math.prod(before[2:])
            if pixels and len(after) == len(before):
                ratio = math.prod(after[2:]) / pixels
                node.places *= ratio
            if "transpose" in node.name or _grows(before, after):
                node.flags |= UPSAMPLED

    def _resample(self, node: Node) -> None:
        """Pooling, interpolation, or a fixed kernel."""
        source = self.trace.nodes[node.preds[0]]
        ratio = _ratio(node.name, source.shape, node.shape)
        node.flags = RESAMPLED | (UPSAMPLED if ratio > 1.0 else 0)
        node.places = source.places * ratio

    def _slice(self, node: Node, call: Call, distinct: bool) -> None:
        """Every nth pixel is a lower resolution; anything else is a crop or a part."""
        source = self.trace.nodes[node.preds[0]]
        if _strided(call.op, call.args):
            node.flags = RESAMPLED
            if source.total:
                node.places = source.places * math.prod(node.shape) / source.total
        elif source.name != "view_as_real":  # whose last axis is the real and the imaginary part
            _shorten(node, sides(call.found[node.slots[0]]))
        if distinct:
            node.flags |= MIXED

    def _other(self, node: Node, operands: Operands, distinct: bool) -> None:
        """An activation, or an operation nobody knows, which may hold a layer."""
        if distinct:
            node.flags = MIXED
        elif node.name not in ("where", "masked_fill"):
            node.flags = ACTIVATED | (MIXED if len(node.preds) > 1 else 0)
        if operands.matrix is not None and node.name not in _NO_LAYERS:
            node.flags |= WEIGHTED
            node.weight = 1
            self.line.add(Family.MATMUL, node.frame, operands.matrix, node.shape)


def _meaning(family: Family, operands: Operands) -> Family:
    """What a product or a convolution is, given what it works on."""
    if family is Family.ADDMM:  # data for a bias alone: the product is one of constants
        family = Family.IDENT if operands.data[0][1] == 0 else Family.MATMUL
    if operands.matrix is None:
        if family is Family.MATMUL:
            # A fixed matrix only rearranges; two factors of data are attention and its kin.
            return Family.OTHER if len(operands.data) > 1 else Family.IDENT
        if family is Family.CONV and len(operands.data) == 1:
            return Family.RESAMPLE  # a fixed kernel, such as a blur
    return family


def _strided(op: Op, args: Sequence[Any]) -> bool:
    """Every second pixel: ``x[:, :, ::2]``, or aten's slice(x, axis, start, end, step)."""
    if op.name == "slice":
        return len(args) > 4 and args[1] > 0 and args[4] > 1
    if op.name != "getitem" or len(args) < 2:
        return False
    parts = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(part, slice) and isinstance(part.step, int) and part.step > 1 for part in parts)


def _shorten(node: Node, before: tuple[int, ...]) -> None:
    """Note which axes were cut; an axis that is gone altogether makes a part."""
    if len(before) != len(node.shape):
        node.flags |= PARTIAL if math.prod(before) != math.prod(node.shape) else 0
    else:
        node.cut = tuple(_axes(before, node.shape))


def _pieces(call: Call, slots: Sequence[int], out: Tensor) -> tuple[tuple[int, int, int], ...]:
    """See ``Node.pieces``."""
    shapes = [sides(tensor) for tensor in call.found]
    if any(len(shape) != out.dim() for shape in shapes):
        return ()
    axes = [axis for axis in range(out.dim()) if any(shape[axis] != out.shape[axis] for shape in shapes)]
    if len(axes) != 1:
        return ()
    (axis,) = axes
    return tuple((axis, sum(shape[axis] for shape in shapes[:slot]), shapes[slot][axis]) for slot in slots)


def _spatial(node: Node, operands: Operands) -> int:
    """See ``Node.spatial``."""
    name, family = node.name, node.family
    if family is Family.CONV and operands.matrix is not None:
        return max(operands.matrix.dims - 2, 0)
    if family in (Family.CONV, Family.RESAMPLE):
        digit = next((int(side) for side in "123" if f"{side}d" in name), 0)
        return digit or (max(len(node.shape) - 2, 0) if name == "interpolate" else 0)
    if family is Family.NORM and ("layer_norm" in name or "rms_norm" in name):
        return -1
    if family is Family.NORM and name.split("_")[-1] == "norm":
        return max(len(node.shape) - 2, 0) if name != "normalize" else 0
    return -1 if node.weight and family is not Family.EMBEDDING else 0


def _permutation(before: Tensor, after: Tensor) -> tuple[int, ...]:
    """Which axis of ``before`` each axis of its view ``after`` is; nothing where that does not show."""
    try:
        here = list(zip(before.shape, before.stride(), strict=True))
        there = list(zip(after.shape, after.stride(), strict=True))
    except RuntimeError:  # has no strides
        return ()
    if len({*here}) != len(here) or sorted(here) != sorted(there) or here == there:
        return ()
    return tuple(here.index(axis) for axis in there)


def _axes(before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """The axes that became shorter."""
    if len(before) != len(after):
        return []
    return [axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]


def _ratio(name: str, before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """How many output positions there are for one input position."""
    if name.startswith("pixel_") and len(before) >= 3 and before[-1] and before[-2]:
        return (after[-1] * after[-2]) / (before[-1] * before[-2])
    if not math.prod(before) or (len(after) < len(before) and before[-2:] == after[-2:]):
        return 1.0  # reduced over something else than the picture
    return math.prod(after) / math.prod(before)


def _grows(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return len(before) == len(after) >= 4 and math.prod(after[2:]) > 1.5 * math.prod(before[2:])

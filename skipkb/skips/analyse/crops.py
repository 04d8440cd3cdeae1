"""Is a slice a crop or a part? A crop of the picture, or of a signal in time, keeps what it is; some of the channels or
tokens are a part. Which axis is which shows in how the tensor is made and used: a convolution over two axes has its
channels in front of the last two, a linear layer has them last.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from skipkb.skips.record.nodes import MIXED, PARTIAL, Node, Trace
from skipkb.skips.record.ops import Family

_FAR = 60
"""Operations looked at around a slice."""

Map = tuple[int | None, ...]
"""For each axis of the sliced tensor, which axis of another tensor it is."""


class Layout(NamedTuple):
    """Which axis holds channels, and which the picture; None: all but the first, where there are two or more."""

    channels: int
    spatial: frozenset[int] | None


def settle(trace: Trace) -> None:
    """Mark as partial what is not a crop, and give crops their lower resolution."""
    nodes = trace.nodes
    sliced = [number for number, node in enumerate(nodes) if node.cut]
    if not sliced:
        return
    consumers: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        for pred in dict.fromkeys(node.preds):
            consumers[pred].append(number)
    crops = {number for number in sliced if _is_crop(number, nodes, consumers)}
    for number in sliced:
        if number not in crops:
            nodes[number].flags |= PARTIAL
    if crops:
        _scale(nodes, crops)


def _is_crop(number: int, nodes: list[Node], consumers: list[list[int]]) -> bool:
    node = nodes[number]
    layout = _layout(number, nodes, consumers)
    if node.family is Family.SPLIT:  # one of several parts, unless the others go nowhere
        base = nodes[node.preds[0]]
        used = [k for k in consumers[node.preds[0]] if nodes[k].nth == node.nth and nodes[k].frame is node.frame
                and nodes[k].family is Family.SPLIT and consumers[k]]  # fmt: skip
        if used != [number] or len(base.shape) != len(node.shape):
            return False
    if layout is None:
        return node.family is Family.IDENT or (
            node.family is Family.SLICE and _looks_like_one(number, nodes, consumers)
        )
    spatial = layout.spatial
    if spatial is None:
        if _is_piece(number, nodes, consumers):
            return False
        dims = len(node.shape)
        spatial = frozenset(axis for axis in range(1, dims) if axis != layout.channels) if dims >= 4 else frozenset()
    return spatial.issuperset(node.cut)


def _is_piece(number: int, nodes: list[Node], consumers: list[list[int]]) -> bool:
    """One of several slices that make up the whole, such as the class token and the others: the aten operators of a
    split."""
    node = nodes[number]
    base = nodes[node.preds[0]]
    users = (nodes[k] for k in consumers[node.preds[0]])
    beside = [other for other in users if other.family is Family.SLICE and other.cut == node.cut]
    if len(beside) < 2 or len(node.cut) != 1 or len(base.shape) != len(node.shape):
        return False
    (axis,) = node.cut
    return sum(other.shape[axis] for other in beside) == base.shape[axis]


def _looks_like_one(number: int, nodes: list[Node], consumers: list[list[int]]) -> bool:
    """Without a clue: two neighbouring axes of four or more, also when they are cut one after the other (aten)."""
    node = nodes[number]
    cut = {*node.cut}
    for step in (lambda k: nodes[k].preds[:1], lambda k: consumers[k] if len(consumers[k]) == 1 else ()):
        at = number
        while (beside := step(at)) and nodes[beside[0]].family is Family.SLICE and nodes[beside[0]].cut:
            at = beside[0]
            cut.update(nodes[at].cut)
    axes = sorted(cut)
    return len(node.shape) >= 4 and len(axes) > 1 and (axes[0] >= 2 or axes == [1, 2])


def _layout(number: int, nodes: list[Node], consumers: list[list[int]]) -> Layout | None:
    """The nearest clue before, beside or behind the slice."""
    start: Map = tuple(range(len(nodes[number].shape)))
    queue: deque[tuple[int, Map]] = deque([(number, start)])
    seen = {number}
    while queue and len(seen) < _FAR:
        at, axes = queue.popleft()
        node = nodes[at]
        for user in consumers[at]:
            other = nodes[user]
            clue = _clue(other, len(node.shape))
            if clue is not None:
                return _back(clue, axes)
            if user not in seen and (there := _across(axes, node, other)) is not None:
                seen.add(user)
                queue.append((user, there))
        clue = _clue(node, len(node.shape))
        if clue is not None:
            return _back(clue, axes)
        for pred in node.preds:
            if pred not in seen and (there := _across(axes, nodes[pred], node, back=True)) is not None:
                seen.add(pred)
                queue.append((pred, there))
    return None


def _clue(node: Node, dims: int) -> Layout | None:
    """What an operation says of a tensor of so many axes that goes into it or comes out."""
    if node.spatial < 0:
        return Layout(dims - 1, None)
    channels = dims - node.spatial - 1
    if not node.spatial or channels < 0:
        return None
    return Layout(channels, frozenset(range(channels + 1, dims)))


def _back(clue: Layout, axes: Map) -> Layout:
    """A clue in terms of the axes of the slice; -1 for channels that are not among them."""
    channels = axes.index(clue.channels) if clue.channels in axes else -1
    if clue.spatial is None:
        return Layout(channels, None)
    return Layout(channels, frozenset(axis for axis, there in enumerate(axes) if there in clue.spatial))


def _across(axes: Map, before: Node, after: Node, back: bool = False) -> Map | None:
    """The map behind an operation (or in front of it, going back); None where axes cannot be followed."""
    here, there = (after, before) if back else (before, after)
    if after.flags & MIXED or after.weight:
        return None
    if after.axes:
        if back:
            return tuple(None if axis is None else after.axes[axis] for axis in axes)
        return tuple(None if axis is None else after.axes.index(axis) for axis in axes)
    if len(here.shape) == len(there.shape):
        if after.family is Family.IDENT and after.name in _REARRANGES and here.shape != there.shape:
            return _trailing(axes, here.shape, there.shape)
        return axes
    if after.family in (Family.IDENT, Family.SLICE):
        return _trailing(axes, here.shape, there.shape)
    return None


_REARRANGES = {"view", "reshape", "unsafe_view", "reshape_alias", "flatten", "unflatten"}


def _trailing(axes: Map, here: tuple[int, ...], there: tuple[int, ...]) -> Map | None:
    """A reshape leaves the last axes what they are as long as their sides agree."""
    same = 0
    while same < min(len(here), len(there)) and here[-1 - same] == there[-1 - same]:
        same += 1
    moved = tuple(None if axis is None or axis < len(here) - same else axis + len(there) - len(here) for axis in axes)
    return moved if any(axis is not None for axis in moved) else None


def _scale(nodes: list[Node], crops: set[int]) -> None:
    """What comes from a crop has fewer places, up to where something larger joins."""
    old = [node.places for node in nodes]
    for number, node in enumerate(nodes):
        if not node.preds or not node.places:
            continue
        before = max(old[pred] for pred in node.preds)
        now = max(nodes[pred].places for pred in node.preds)
        if before and now != before:
            node.places *= now / before
        if number in crops:
            source = math.prod(nodes[node.preds[0]].shape)
            node.places *= math.prod(node.shape) / source if source else 1.0

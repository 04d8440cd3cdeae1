"""Norms written by hand: ``(x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)`` is a difference and a quotient of
data, and yet one path. Where a tensor meets a statistic of itself, computed without a layer, that is a norm.
"""

from __future__ import annotations

from skipkb.skips.record.nodes import AFFINE, MIXED, SQUASHED, Node, Trace
from skipkb.skips.record.ops import Family

_FAR = 60
"""Operations that a statistic may take."""
_CARRIES = {Family.IDENT, Family.NORM, Family.MUL, Family.ADD}


def simplify(trace: Trace) -> None:
    """Turn each such sum or product into a norm of what is carried."""
    nodes = trace.nodes
    for node in nodes:
        if node.merge not in ("add", "product") or len(node.preds) != 2:
            continue
        one, two = (nodes[pred] for pred in node.preds)
        if (
            node.merge == "add"
            and one.family is two.family is Family.SLICE
            and one.preds == two.preds
            and one.cut == two.cut
        ):
            node.merge, node.flags = "", 0  # a difference of neighbours is linear in what they are parts of
            node.preds, node.slots = one.preds, node.slots[:1]
            continue
        for place, (carried, statistic) in enumerate((node.preds, node.preds[::-1])):
            if nodes[carried].total == node.total > _least(statistic, nodes) and _is_statistic(
                statistic, _behind(carried, nodes), nodes
            ):
                node.merge, node.flags = "", AFFINE
                node.preds, node.slots = (carried,), (node.slots[place],)
                break


def _least(number: int, nodes: list[Node]) -> float:
    """Number of elements, before they were repeated."""
    least = nodes[number].total
    while nodes[number].family is Family.IDENT and len(nodes[number].preds) == 1:
        number = nodes[number].preds[0]
        least = min(least, nodes[number].total)
    return least


def _behind(number: int, nodes: list[Node]) -> set[int]:
    """Where the carried tensor comes from, up to the next layer or merge."""
    found = {number}
    while len(found) < _FAR:
        node = nodes[number]
        if node.weight or node.family not in _CARRIES or len(node.preds) != 1:
            break
        number = node.preds[0]
        found.add(number)
    return found


def _is_statistic(number: int, origin: set[int], nodes: list[Node]) -> bool:
    """Whether nothing but the origin, reduced and without a layer, is in it."""
    reduced = False
    seen, todo = {number}, [number]
    while todo:
        node = nodes[todo.pop()]
        if node.weight or node.flags & (MIXED | SQUASHED) or not node.preds or len(seen) > _FAR:
            return False
        reduced |= node.family is Family.RESAMPLE
        for pred in node.preds:
            if pred not in origin and pred not in seen:
                seen.add(pred)
                todo.append(pred)
    return reduced

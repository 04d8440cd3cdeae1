"""In-place operations: a write into a view is a write into everything that sees its storage."""

from __future__ import annotations

import math

from torch import Tensor

from skipkb.skips.record.calls import Call
from skipkb.skips.record.nodes import MERGED, PARTIAL, Node, Trace
from skipkb.skips.record.ops import Family
from skipkb.skips.record.values import Operands, Values
from skipkb.skips.record.views import covers, geometry_of, region_of, storage_of


class InPlace:
    """Appends the nodes of writes, and notes what the tensors hold afterwards."""

    def __init__(self, trace: Trace, values: Values) -> None:
        self.trace = trace
        self.values = values

    def assign(self, call: Call, operands: Operands, target: Tensor | None) -> None:
        """``x[index] = y``, ``x.copy_(y)``, ``index_put``: a value written over a part, or the whole, of another."""
        if target is None:
            self._scatter(call, operands)
            return
        op, args, found = call.op, call.args, call.found
        shape = tuple(found[0].shape)
        region: Tensor | None = target
        if op.name == "setitem" and len(args) == 3:
            region = region_of(target, args[1])
        values = [pair for pair in operands.data if pair[1] != 0]
        if not values:  # a constant; written into a part, the rest is still the data
            if op.family is Family.COPY or (region is not None and tuple(region.shape) == shape):
                self.values.fill(target)
            return
        node, slot = values[0]
        value = found[slot]
        if region is not None and storage_of(value) == storage_of(target) and geometry_of(value) == geometry_of(region):
            return  # x[i] += y writes back what is there already
        places = max(self.trace.nodes[node].places for node, _ in operands.data)
        copy = Node(op.name, Family.IDENT, call.frame, call.nth, (node,), (slot,), tuple(value.shape), places)
        inside = region is None or math.prod(region.shape) != math.prod(shape)
        number = self.trace.add(copy)
        self.write(call, number, target, region, merge="concat", slot=slot, inside=inside)

    def _scatter(self, call: Call, operands: Operands) -> None:
        """Out of place: a new tensor of two operands."""
        preds, slots = tuple(n for n, _ in operands.data), tuple(p for _, p in operands.data)
        places = max(self.trace.nodes[node].places for node in preds)
        node = Node(
            call.op.name, Family.WRITE, call.frame, call.nth, preds, slots, tuple(call.found[0].shape), places, PARTIAL
        )
        if len(set(preds)) > 1:
            node.flags, node.merge = MERGED | PARTIAL, "concat"
        number = self.trace.add(node)
        for tensor in call.outs:
            self.values.give(tensor, number)

    def write(
        self,
        call: Call,
        node: int,
        target: Tensor,
        region: Tensor | None,
        *,
        merge: str = "",
        slot: int = 0,
        inside: bool = False,
    ) -> None:
        """``target`` (or a ``region`` ``inside`` it, None if unknown) now holds ``node``."""
        covering = covers(target) and not inside
        whole = node if covering else self._spliced(call, node, target, merge, slot)
        place = None if region is None else geometry_of(region)
        self.values.write(target, node, whole, None if covering else place)
        self.values.put(target, whole if inside else node)

    def _spliced(self, call: Call, node: int, target: Tensor, merge: str, slot: int) -> int:
        """What the storage as a whole holds once ``node`` stands in a part of it: what else sees it sees this."""
        op, frame, nth, nodes = call.op, call.frame, call.nth, self.trace.nodes
        storage = storage_of(target)
        base = self.values.beneath(storage)
        if base < 0:  # the first write into a buffer of constants
            shape, places = tuple(target.shape), nodes[node].places
            return self.trace.add(Node(op.name, Family.IDENT, frame, nth, (node,), (slot,), shape, places))
        shape, places = nodes[base].shape, nodes[base].places
        kept = base
        if self.values.began_as_data(storage):  # the rest of a data tensor, not of a buffer being filled
            kept = self.trace.add(Node(op.name, Family.SLICE, frame, nth, (base,), (0,), shape, places, PARTIAL))
        places = max(places, nodes[node].places)
        written = Node(op.name, Family.WRITE, frame, nth, (kept, node), (0, slot), shape, places)
        written.flags, written.merge = MERGED if merge else PARTIAL, merge
        return self.trace.add(written)

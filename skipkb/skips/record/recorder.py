"""The data-flow graph of one forward pass, recorded operation by operation.

Only *data* carries edges: what descends from an input of the model. Parameters, buffers and fresh constants do not, so
biases, position embeddings and masks vanish by construction; of a constant only the parameters it was made from are
remembered, which is how a standardised or re-parametrised kernel still names its layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor as is_wrapped

from skipkb.skips.graph import Lost, Site
from skipkb.skips.record.calls import Call, sides, tensors_in, tensors_of
from skipkb.skips.record.effects import Effects
from skipkb.skips.record.inplace import InPlace
from skipkb.skips.record.line import Line
from skipkb.skips.record.nodes import MIXED, Node, Trace
from skipkb.skips.record.ops import Family, Op
from skipkb.skips.record.places import Frame
from skipkb.skips.record.values import MADE, NOTHING, ONCE_DATA, Matrix, Operands, Values
from skipkb.skips.record.views import storage_of

_LAYERS = {Family.MATMUL, Family.ADDMM, Family.CONV, Family.RECURRENT, Family.ATTENTION}

_LIKE = {"expand_as", "view_as", "reshape_as", "type_as"}
"""Of their second operand, only the shape or the type matters."""


class Recorder:
    """Turns executed operations into a ``Trace``."""

    def __init__(self, modules: dict[str, nn.Module], level: str = "") -> None:
        self.trace = Trace(level=level)
        self.values = Values()
        self.line = Line(self.trace, modules)
        self.effects = Effects(self.trace, self.line)
        self.inplace = InPlace(self.trace, self.values)
        self.complete = False
        """Whether all of the output is known to descend from the inputs."""
        self.escaped = ""
        """Where data last left PyTorch."""
        for path, module in modules.items():
            self.values.add_module(path, module)

    def add_input(self, tensor: Tensor, name: str, frame: Frame) -> None:
        """An input of the model: data of its own source. Masks (bool) are not data."""
        if tensor.dtype == torch.bool:
            self.values.put(tensor, -1)
            return
        shape = sides(tensor)
        if not self.trace.nodes and shape:
            self.line.batch = max(shape[0], 1)
        places = math.prod(shape) / shape[1] if len(shape) >= 4 and shape[1] else 0.0
        node = self.trace.add(Node(name, Family.CONST, frame, 1, (), (), shape, places))
        self.values.give(tensor, node)

    def after(
        self, op: Op, frame: Frame, nth: int, args: Sequence[Any], found: list[Tensor], mutated: list[Tensor], out: Any
    ) -> None:
        """An operation has run: ``found`` are its tensors, ``mutated`` those of them it wrote to."""
        outs = [out] if isinstance(out, Tensor) else tensors_of((out,), {}) if isinstance(out, (list, tuple)) else []
        call = Call(op, frame, nth, args, found, mutated, outs)
        if any(is_wrapped(tensor) and not self.values.known(tensor) for tensor in found):
            self._wrapped(call)
        if op.family is Family.CONST:
            if not op.name.endswith("_like") and not op.name.startswith("new_"):
                self.ends(found)
            self._constant(call)
        elif op.family is Family.ESCAPE:
            self.ends(found)
            if found and self.values.is_data(found[0]):
                self.escaped = self._site(call)
        elif op.family is Family.DETACH:
            self.ends(found)
            self._detached(call)
        elif outs or mutated:
            operands = self.values.operands(found[:1] if op.name in _LIKE else found)
            if operands.data:
                self._flows(call, operands)
            else:
                self._derived(call, operands)

    def _wrapped(self, call: Call) -> None:
        """torch.func hands its function tensors of its own, which the calls of the Python API cannot be traced to."""
        if not self.trace.lost:
            self.trace.lost.append(
                Lost(self._site(call), "inside torch.func (vmap, grad): its tensors come from nowhere")
            )

    def _constant(self, call: Call) -> None:
        """New tensors, or old ones filled, with values that have nothing to do with what went in."""
        for tensor in call.outs:
            if call.mutated:
                self.values.fill(tensor)
            else:
                self.values.put(tensor, -1)
            if self.escaped and call.op.name in ("tensor", "as_tensor") and not call.found:
                self.values.strangers.add(id(tensor))  # made from numbers, and numbers had left

    def _detached(self, call: Call) -> None:
        """Constants that were data."""
        for tensor in call.outs:
            node, names = self.values.read(call.found[0]) if call.found else (-1, NOTHING)
            self.values.put(tensor, -1, names | ONCE_DATA if node >= 0 else names)

    def _derived(self, call: Call, operands: Operands) -> None:
        """Constants made from constants."""
        names = operands.names
        if call.op.family in _LAYERS and operands.parameters:
            names |= MADE
        elif operands.weighted:
            names -= MADE
        strangers = self.values.strangers
        strange = bool(strangers) and any(id(tensor) in strangers for tensor in call.found)
        written = {id(tensor) for tensor in call.mutated}
        for tensor in call.outs:
            if id(tensor) not in written:
                self.values.put(tensor, -1, names)
                if strange:
                    strangers.add(id(tensor))

    def _flows(self, call: Call, operands: Operands) -> None:
        """Data goes through."""
        op, outs = call.op, call.outs
        if self.values.strangers:
            self._report(call)
        if operands.matrix is None:
            operands = operands._replace(matrix=_packed(call))
        target = _target(call)
        if target is None and len(outs) == 1 and outs[0] is call.found[operands.data[0][1]] and not call.mutated:
            return  # handed back as it came
        if op.family is Family.COPY or op.family is Family.WRITE:
            self.inplace.assign(call, operands, target)
            return
        out = outs[0] if outs else target
        assert out is not None
        node = self.effects.add(call, operands, out)
        if target is not None:
            self.inplace.write(call, node, target, target)
        elif op.family is Family.SPLIT or (len(outs) > 1 and op.family in (Family.SLICE, Family.IDENT)):
            self._split(node, call, outs)
        else:
            for tensor in outs:
                if tensor.dtype is torch.bool:
                    self.trace.ends.add(node)
                    self.values.put(tensor, -1)
                else:
                    self.values.give(tensor, self._piece(node, call, tensor))

    def _piece(self, node: int, call: Call, out: Tensor) -> int:
        """A slice that takes one operand of a concatenation out again is that operand; one of several is not a part."""
        here = self.trace.nodes[node]
        if len(here.cut) != 1 or len(here.preds) != 1:
            return node
        (axis,), joined, whole = here.cut, self.trace.nodes[here.preds[0]], call.found[here.slots[0]]
        if not joined.pieces or joined.pieces[0][0] != axis or out.stride() != whole.stride() or not whole.stride(axis):
            return node
        if storage_of(out) != storage_of(whole):
            return node
        first = (out.storage_offset() - whole.storage_offset()) // whole.stride(axis)
        last = first + out.shape[axis]
        inside = [k for k, (_, start, length) in enumerate(joined.pieces) if first <= start and start + length <= last]
        if sum(joined.pieces[k][2] for k in inside) != last - first:
            return node
        if len(inside) == 1:
            return joined.preds[inside[0]]
        here.cut = ()
        return node

    def _split(self, node: int, call: Call, outs: list[Tensor]) -> None:
        """Every output is a part of its own: the first is ``node``, the others are like it."""
        base = self.trace.nodes[node]
        for number, tensor in enumerate(outs):
            part = node
            if number:
                origin = base.name, base.family, base.frame, base.nth, base.preds, base.slots
                part = self.trace.add(Node(*origin, sides(tensor), base.places, base.flags, cut=base.cut))
            self.values.give(tensor, self._piece(part, call, tensor))

    def _report(self, call: Call) -> None:
        """A tensor of unknown origin meets data: a skip may be missing."""
        strangers = self.values.strangers
        for tensor in call.found:
            if id(tensor) in strangers and tensor.dtype.is_floating_point and tensor.dim() > 0:
                strangers.discard(id(tensor))
                left = f"data left PyTorch at {self.escaped}" if self.escaped else "nothing known returned it"
                self.trace.lost.append(Lost(self._site(call), f"a tensor of unknown origin comes in: {left}"))

    def ends(self, tensors: Iterable[Tensor]) -> None:
        """The forward hands these out, or looks at their values."""
        self.trace.ends.update(node for tensor in tensors if (node := self.values.read(tensor)[0]) >= 0)

    def finish(self, outputs: list[Tensor], modules: Iterable[nn.Module]) -> None:
        """The forward is over: what it returned, and what it left in the modules, was not in vain."""
        self.complete = bool(outputs) and all(self.values.read(tensor)[0] >= 0 for tensor in outputs)
        self.ends(outputs)
        for module in modules:
            for thing in module.__dict__.values():
                if type(thing) in (list, tuple, dict, Tensor):
                    self.ends(tensor for tensor in tensors_in(thing) if self.values.known(tensor))
            self.ends(buffer for buffer in module._buffers.values() if buffer is not None)

    def alive(self) -> set[int] | None:
        """The nodes that lead to the output; None where that is not known."""
        if not self.complete:
            return None
        found, todo = set(self.trace.ends), list(self.trace.ends)
        while todo:
            for pred in self.trace.nodes[todo.pop()].preds:
                if pred not in found:
                    found.add(pred)
                    todo.append(pred)
        return found

    def _site(self, call: Call) -> str:
        return str(Site(call.frame.path, max(call.frame.call, 1), self.trace.level + call.op.name, call.nth))

    def opaque(self, module: nn.Module, frame: Frame, inputs: list[Tensor], outs: list[Tensor], kind: str) -> None:
        """A module whose inside was not seen (TorchScript, a recurrent layer): one node from inputs to outputs."""
        data = [(node, place) for place, tensor in enumerate(inputs) if (node := self.values.read(tensor)[0]) >= 0]
        if not data or not outs:
            return
        names = [(name, p) for name, p in module.named_parameters() if p.dim() >= 2]
        prefix = f"{frame.path}." if frame.path else ""
        matrix = Matrix(frozenset(prefix + name for name, _ in names), names[0][1].dim()) if names else None
        op = Op(type(module).__name__, Family.RECURRENT if kind == "recurrent" else Family.OTHER, False)
        call = Call(op, frame, frame.next(op.name), (), inputs, [], outs)
        node = self.effects.add(call, Operands(data, NOTHING, matrix, weighted=matrix is not None), outs[0])
        if kind != "recurrent":
            self.trace.nodes[node].flags |= MIXED
        for tensor in outs:
            self.values.strangers.discard(id(tensor))
            self.values.give(tensor, node)


def _packed(call: Call) -> Matrix | None:
    """The weight of a quantised layer, which is handed over with its bias in one object."""
    for value in call.args:
        if isinstance(value, torch.ScriptObject) and hasattr(value, "unpack"):
            return Matrix(frozenset((f"{call.frame.path}.weight".lstrip("."),)), value.unpack()[0].dim())
    return None


def _target(call: Call) -> Tensor | None:
    """The operand that the operation was asked to write to; not statistics that a norm updates."""
    for tensor in call.mutated:
        if not call.outs or (len(call.outs) == 1 and call.outs[0] is tensor):
            return tensor
    if call.op.family in (Family.WRITE, Family.COPY) and call.op.writes and call.found:
        return call.found[0]
    return None

"""The data-flow graph of one forward pass, recorded operation by operation.

Only *data* carries edges: what descends from an input of the model. Parameters, buffers and fresh constants do not, so
biases, position embeddings and masks vanish by construction; of a constant only the parameters it was made from are
remembered, which is how a standardised or re-parametrised kernel still names its layer.

In-place operations are followed through views: what a tensor holds is what was last written to its storage, if that is
newer than the tensor.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from skipkb.skips.graph import Layer, Lost, Site
from skipkb.skips.ops import Family, Op
from skipkb.skips.places import Frame

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

_LAYERS = {Family.MATMUL, Family.ADDMM, Family.CONV, Family.RECURRENT, Family.ATTENTION}

_OWN = frozenset(nn.Module().__dict__)
"""Attributes that every module has: no place where a model keeps tensors of its own."""

Geometry = tuple[int, tuple[int, ...], tuple[int, ...]]


@dataclass(slots=True)
class Node:
    """One operation on data. ``preds`` are the nodes of its data operands, ``slots`` their operand positions."""

    name: str
    family: Family
    frame: Frame
    nth: int
    preds: tuple[int, ...]
    slots: tuple[int, ...]
    flags: int
    weight: int
    conv: int
    shape: tuple[int, ...]
    places: float
    """Output positions per batch: resolution. Inherited from the operands where the operation keeps it."""
    total: float = 0.0
    """Number of elements."""
    merge: str = ""
    """add, concat, product or maximum, where two data operands meet."""
    layers: int = 0
    """Weighted layers executed up to and including this node."""

    def site(self, level: str = "") -> Site:
        """Address of the operation; ``level`` tells aten operators from functions."""
        return Site(self.frame.path, max(self.frame.call, 1), level + self.name, self.nth)


class Value(NamedTuple):
    """What is known of a tensor: the node that made it, or for a constant -1 and the parameters it comes from."""

    alive: Any
    node: int
    names: frozenset[str]
    time: int


class Written(NamedTuple):
    """An in-place write: the storage as a whole is ``whole`` afterwards, the region itself ``node``."""

    node: int
    whole: int
    time: int
    region: Geometry | None


NOTHING: frozenset[str] = frozenset()
ONCE_DATA = frozenset(("\0data",))
"""Among the names behind a constant: it was data before it was detached."""
MADE = frozenset(("\0made",))
"""Among the names behind a constant: a layer made it from parameters (a learned query), so it is no weight itself."""
_MARKS = ONCE_DATA | MADE


@dataclass
class Trace:
    """The recorded graph."""

    nodes: list[Node] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    level: str = ""
    """``aten.`` where the operations are aten operators."""


def tensors_of(args: Iterable[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensor inputs of a call in the order they are written, lists flattened: the positions that operands have."""
    found: list[Tensor] = []
    for value in args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(tensors_of(value, {}))
    for value in kwargs.values():
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(tensors_of(value, {}))
    return found


class Recorder:
    """Turns executed operations into a ``Trace``."""

    def __init__(self, modules: dict[str, nn.Module], level: str = "") -> None:
        self.trace = Trace(level=level)
        self.batch = 1
        self.escaped = ""
        """Where data last left PyTorch."""
        self._values: dict[int, Value] = {}
        self._writes: dict[int, list[Written]] = {}
        self._owners: dict[int, int] = {}
        """Storage -> first node seen in it."""
        self._held: dict[int, StorageWeakRef] = {}
        """Keeps addresses of storages from being used again while they are keys here."""
        self._time = 0
        self._calls: dict[str, int] = {}
        self._modules = modules
        self._strangers: set[int] = set()
        for path, module in modules.items():
            for name, thing in module.__dict__.items():  # tensors kept as plain attributes are constants too
                if isinstance(thing, Tensor):
                    self._put(thing, -1, NOTHING)
                elif type(thing) in (list, tuple, dict) and thing and name not in _OWN:
                    for item in tensors_of(thing.values() if isinstance(thing, dict) else thing, {}):
                        if not self.known(item):
                            self._put(item, -1, NOTHING)
            for buffer in module._buffers.values():
                if buffer is not None:
                    self._put(buffer, -1, NOTHING)
            for name, parameter in module._parameters.items():
                if parameter is not None and not self._names(parameter):
                    self._put(parameter, -1, frozenset((f"{path}.{name}" if path else name,)))

    # -- values

    def _put(self, tensor: Tensor, node: int, names: frozenset[str]) -> None:
        self._time += 1
        self._values[id(tensor)] = Value(weakref.ref(tensor), node, names, self._time)
        if self._strangers:
            self._strangers.discard(id(tensor))

    def _is_data(self, tensor: Tensor) -> bool:
        node, names = self.read(tensor)
        return node >= 0 or not names.isdisjoint(ONCE_DATA)

    def _names(self, tensor: Tensor) -> frozenset[str]:
        return self._values[id(tensor)].names if self.known(tensor) else NOTHING

    def known(self, tensor: Tensor) -> bool:
        """Whether this very tensor object has been seen."""
        value = self._values.get(id(tensor))
        return value is not None and value.alive() is tensor

    def read(self, tensor: Tensor) -> tuple[int, frozenset[str]]:
        """The node (or -1) and the parameters behind what the tensor holds now."""
        value = self._values.get(id(tensor))
        if value is None or value.alive() is not tensor:
            return self._stranger(tensor)
        if self._writes:
            writes = self._writes.get(_storage(tensor))
            if writes is not None and writes[-1].time > value.time:
                return self._newest(writes, value, tensor), value.names
        return value.node, value.names

    def _newest(self, writes: list[Written], value: Value, tensor: Tensor) -> int:
        here = _geometry(tensor)
        for write in reversed(writes):
            if write.time <= value.time:
                break
            if write.region == here:
                return write.node
            if write.region is None or not _disjoint(write.region, here):
                return write.whole
        return value.node

    def _stranger(self, tensor: Tensor) -> tuple[int, frozenset[str]]:
        """A tensor nobody handed us: another Python object over a known storage, or of unknown origin."""
        key = _storage(tensor)
        writes = self._writes.get(key)
        node = writes[-1].whole if writes is not None else self._owners.get(key, -1)
        self._put(tensor, node, NOTHING)
        if node < 0:
            self._strangers.add(id(tensor))
        return node, NOTHING

    def _own(self, tensor: Tensor, node: int) -> None:
        key = _storage(tensor)
        if key not in self._owners and key not in self._writes:
            self._owners[key] = node
            self._hold(tensor, key)

    def _hold(self, tensor: Tensor, key: int) -> None:
        if key not in self._held:
            self._held[key] = StorageWeakRef(tensor.untyped_storage())

    # -- nodes

    def add_input(self, tensor: Tensor, name: str, frame: Frame) -> None:
        """An input of the model: data of its own source. Masks (bool) are no data."""
        if tensor.dtype == torch.bool:
            self._put(tensor, -1, NOTHING)
            return
        shape = tuple(tensor.shape)
        if not self.trace.nodes and shape:
            self.batch = max(shape[0], 1)
        places = math.prod(shape) / shape[1] if len(shape) >= 4 and shape[1] else 0.0
        node = self._append(name, Family.CONST, frame, 1, (), (), 0, shape, places)
        self._put(tensor, node, NOTHING)
        self._own(tensor, node)

    def _append(
        self,
        name: str,
        family: Family,
        frame: Frame,
        nth: int,
        preds: tuple[int, ...],
        slots: tuple[int, ...],
        flags: int,
        shape: tuple[int, ...],
        places: float,
        weight: int = 0,
        conv: int = 0,
        merge: str = "",
    ) -> int:
        node = Node(name, family, frame, nth, preds, slots, flags, weight, conv, shape, places)
        node.total = float(math.prod(shape))
        node.merge = merge
        node.layers = len(self.trace.layers)
        self.trace.nodes.append(node)
        return len(self.trace.nodes) - 1

    def after(
        self, op: Op, frame: Frame, nth: int, args: Sequence[Any], found: list[Tensor], mutated: list[Tensor], out: Any
    ) -> None:
        """An operation has run: ``found`` are its tensors, ``mutated`` those of them it wrote to."""
        family = op.family
        outs = [out] if isinstance(out, Tensor) else tensors_of((out,), {}) if isinstance(out, (list, tuple)) else []
        if family is Family.CONST:
            for tensor in outs:
                self._overwrite(tensor) if mutated else self._put(tensor, -1, NOTHING)
                if self.escaped and op.name in ("tensor", "as_tensor") and not found:
                    self._strangers.add(id(tensor))  # made from numbers, and numbers had left
            return
        if family is Family.ESCAPE:
            if found and self._is_data(found[0]):
                self.escaped = str(Site(frame.path, max(frame.call, 1), self.trace.level + op.name, nth))
            return
        if family is Family.DETACH:
            for tensor in outs:
                node, names = self.read(found[0]) if found else (-1, NOTHING)
                self._put(tensor, -1, names | ONCE_DATA if node >= 0 else names)
            return
        if not outs and not mutated:
            return

        data: list[tuple[int, int]] = []
        whole: list[tuple[int, int]] = []
        names = NOTHING
        pure = False
        matrix: tuple[frozenset[str], int] | None = None
        for position, tensor in enumerate(found):
            node, lineage = self.read(tensor)
            if node >= 0:
                kind = tensor.dtype
                if kind.is_floating_point or kind.is_complex:
                    data.append((node, position))
                elif kind is not torch.bool:
                    whole.append((node, position))
            elif lineage:
                names |= lineage
                if tensor.dim() >= 2 and MADE.isdisjoint(lineage):
                    pure = True
                    if matrix is None and lineage != ONCE_DATA:
                        matrix = (lineage - ONCE_DATA, tensor.dim())
        data = data or whole
        if not data:
            if family in _LAYERS and names - _MARKS:
                names |= MADE
            elif pure:
                names -= MADE
            strange = bool(self._strangers) and any(id(tensor) in self._strangers for tensor in found)
            for tensor in outs:
                if not mutated or tensor not in _Same(mutated):
                    self._put(tensor, -1, names)
                    if strange:
                        self._strangers.add(id(tensor))
            return
        names -= _MARKS
        if self._strangers:
            self._report(op, frame, nth, found)

        target = self._target(op, found, mutated, outs)
        if target is None and len(outs) == 1 and outs[0] is found[data[0][1]] and not mutated:
            return  # handed back as it came
        if op.family is Family.COPY or op.family is Family.WRITE:
            self._write_into(op, frame, nth, args, found, data, target, outs)
            return
        strided = family is Family.SLICE and _strided(op, args)
        node = self._compute(op, frame, nth, found, data, names, matrix, outs, target, strided)
        if target is not None:
            self._write(target, node, frame, op, merge="")
            return
        if family is Family.SPLIT or (len(outs) > 1 and family in (Family.SLICE, Family.IDENT)):
            base = self.trace.nodes[node]
            for number, tensor in enumerate(outs):
                part = node
                if number:
                    part = self._append(
                        base.name,
                        family,
                        frame,
                        nth,
                        base.preds,
                        base.slots,
                        base.flags,
                        tuple(tensor.shape),
                        base.places,
                    )
                self._give(tensor, part)
            return
        for tensor in outs:
            if tensor.dtype is torch.bool:
                self._put(tensor, -1, NOTHING)
            else:
                self._give(tensor, node)

    def _give(self, tensor: Tensor, node: int) -> None:
        self._put(tensor, node, NOTHING)
        self._own(tensor, node)

    def _target(self, op: Op, found: list[Tensor], mutated: list[Tensor], outs: list[Tensor]) -> Tensor | None:
        """The operand that the operation was asked to write to; statistics that a norm updates are none."""
        for tensor in mutated:
            if not outs or (len(outs) == 1 and outs[0] is tensor):
                return tensor
        if op.family in (Family.WRITE, Family.COPY) and op.writes and found:
            return found[0]
        return None

    def _overwrite(self, tensor: Tensor) -> None:
        """Filled with a constant."""
        node, _ = self.read(tensor)
        self._put(tensor, -1, NOTHING)
        if node >= 0 and _covers(tensor):
            self._writes.setdefault(_storage(tensor), []).append(Written(-1, -1, self._time, None))
            self._hold(tensor, _storage(tensor))

    def _report(self, op: Op, frame: Frame, nth: int, found: list[Tensor]) -> None:
        for tensor in found:
            if id(tensor) in self._strangers and tensor.dtype.is_floating_point and tensor.dim() > 0:
                self._strangers.discard(id(tensor))
                where = str(Site(frame.path, max(frame.call, 1), self.trace.level + op.name, nth))
                left = f"data left PyTorch at {self.escaped}" if self.escaped else "nothing known returned it"
                self.trace.lost.append(Lost(where, f"a tensor of unknown origin comes in: {left}"))

    def _compute(
        self,
        op: Op,
        frame: Frame,
        nth: int,
        found: list[Tensor],
        data: list[tuple[int, int]],
        names: frozenset[str],
        matrix: tuple[frozenset[str], int] | None,
        outs: list[Tensor],
        target: Tensor | None,
        strided: bool = False,
    ) -> int:
        """Append the node (or the two nodes of addmm) for an operation that computes something from data."""
        nodes = self.trace.nodes
        family = op.family
        out = outs[0] if outs else target
        assert out is not None
        shape = tuple(out.shape)
        preds = tuple(node for node, _ in data)
        slots = tuple(position for _, position in data)
        distinct = len(set(preds)) > 1
        places = max(nodes[node].places for node in preds)
        flags, weight, conv, merge = 0, 0, 0, ""

        if family is Family.ADDMM:
            if 0 in slots:  # the bias is data: a sum of its own
                rest = [pair for pair in data if pair[1] != 0]
                inner = Op(op.name + ".product", Family.MATMUL, False)
                if rest:
                    product = self._compute(inner, frame, nth, found, rest, names, matrix, outs, target)
                    flags = MERGED
                    return self._append(
                        op.name,
                        Family.ADD,
                        frame,
                        nth,
                        (preds[0], product),
                        (0, rest[0][1]),
                        flags,
                        shape,
                        places,
                        merge="add",
                    )
                family = Family.IDENT
            else:
                family = Family.MATMUL
        if family is Family.MATMUL and matrix is None:
            # A fixed matrix only rearranges; two factors of data are attention and its kin.
            family = Family.OTHER if len(data) > 1 else Family.IDENT
        elif family is Family.CONV and matrix is None and len(data) == 1:
            family = Family.RESAMPLE  # a fixed kernel, such as a blur

        if family in (Family.MATMUL, Family.CONV, Family.EMBEDDING, Family.RECURRENT, Family.ATTENTION):
            if family is not Family.EMBEDDING or matrix is not None:
                flags |= WEIGHTED
                weight = 2 if family is Family.ATTENTION else 1
                conv = int(family is Family.CONV)
                absolute = self._layer(family, frame, matrix, found, shape)
                places = places or absolute
                if conv and len(shape) == len(nodes[preds[0]].shape) and math.prod(nodes[preds[0]].shape[2:]):
                    places *= math.prod(shape[2:]) / math.prod(nodes[preds[0]].shape[2:])
                if conv and ("transpose" in op.name or _grows(nodes[preds[0]].shape, shape)):
                    flags |= UPSAMPLED
        elif family is Family.RESAMPLE:
            flags |= RESAMPLED
            source = nodes[preds[0]]
            ratio = _ratio(op.name, source.shape, shape)
            if ratio > 1.0:
                flags |= UPSAMPLED
            places = source.places * ratio
        elif family is Family.SLICE:
            flags |= RESAMPLED if strided else self._slice_flags(found, data, shape)
            if flags & RESAMPLED and nodes[preds[0]].total:
                places = nodes[preds[0]].places * math.prod(shape) / nodes[preds[0]].total
            if len(data) > 1 and distinct:
                flags |= MIXED
        elif family is Family.SPLIT:
            if len(outs) > 1:
                flags |= PARTIAL
        elif family is Family.NORM:
            flags |= AFFINE
        elif family is Family.SQUASH:
            flags |= ACTIVATED | SQUASHED
        elif family in (Family.ADD, Family.CAT, Family.STACK, Family.EXTREME):
            if distinct:
                flags |= MERGED
                merge = {Family.ADD: "add", Family.EXTREME: "maximum"}.get(family, "concat")
            elif names and family is Family.ADD and op.name in ("addcmul", "addcdiv", "lerp"):
                flags |= AFFINE
        elif family is Family.MUL:
            if distinct:
                flags |= GATED
                merge = "product"
            elif names:
                flags |= AFFINE
        elif family is Family.OTHER:
            flags |= MIXED if distinct else self._unary_flags(op, found, data)
            if matrix is not None and _matrix_like(op.name):
                flags |= WEIGHTED
                weight = 1
                self._layer(Family.MATMUL, frame, matrix, found, shape)
        return self._append(op.name, family, frame, nth, preds, slots, flags, shape, places, weight, conv, merge)

    def _unary_flags(self, op: Op, found: list[Tensor], data: list[tuple[int, int]]) -> int:
        return 0 if op.name in ("where", "neg", "masked_fill") else ACTIVATED | (MIXED if len(data) > 1 else 0)

    def _slice_flags(self, found: list[Tensor], data: list[tuple[int, int]], shape: tuple[int, ...]) -> int:
        """A crop of the picture keeps what it is; a part of the channels or tokens is partial."""
        source = found[data[0][1]]
        before, after = tuple(source.shape), shape
        if math.prod(before) == math.prod(after):
            return 0
        if len(before) != len(after) or len(before) < 4:
            return PARTIAL
        cut = _axes(before, after)
        if len(cut) > 1:
            return 0 if cut[0] >= 2 or cut == [1, 2] else PARTIAL
        # aten crops one axis after the other: two neighbouring axes make a crop
        previous = self.trace.nodes[data[0][0]]
        if previous.family is Family.SLICE and previous.preds:
            earlier = _axes(self.trace.nodes[previous.preds[0]].shape, previous.shape)
            if len(earlier) == 1 and 0 < earlier[0] == cut[0] - 1:
                previous.flags &= ~PARTIAL
                return 0
        return PARTIAL

    def _layer(
        self,
        family: Family,
        frame: Frame,
        matrix: tuple[frozenset[str], int] | None,
        found: list[Tensor],
        shape: tuple[int, ...],
    ) -> float:
        """Append to the line; returns the resolution."""
        owners = {name.rpartition(".")[0] for name in matrix[0]} if matrix else set()
        name = owners.pop() if len(owners) == 1 else frame.path
        kind: Any = {
            Family.CONV: "conv",
            Family.RECURRENT: "recurrent",
            Family.ATTENTION: "attention",
            Family.EMBEDDING: "embedding",
        }.get(family, "linear")
        if kind == "conv":
            batched = matrix is None or len(shape) >= matrix[1]
            channels = shape[1] if batched and len(shape) > 1 else shape[0]
            size = shape[2:] if batched else shape[1:]
        else:
            channels = shape[-1] if shape else 1
            size = shape[1:-1]
        places = math.prod(shape) / max(channels, 1)
        owner = self._modules.get(name, frame.module)
        for part in (".in_proj", ".out_proj") if kind == "attention" else ("",):
            self._calls[name + part] = call = self._calls.get(name + part, 0) + 1
            self.trace.layers.append(
                Layer(
                    name=(name + part).lstrip("."),
                    type=type(owner).__name__ if owner is not None else "",
                    kind=kind,
                    channels=int(channels),
                    size=tuple(int(side) for side in size),
                    places=round(places / self.batch),
                    call=call,
                    step=len(self.trace.nodes),
                )
            )
        return places

    # -- in-place

    def _write_into(
        self,
        op: Op,
        frame: Frame,
        nth: int,
        args: Sequence[Any],
        found: list[Tensor],
        data: list[tuple[int, int]],
        target: Tensor | None,
        outs: list[Tensor],
    ) -> None:
        """``x[index] = y``, ``x.copy_(y)``, ``index_put``: a value written over a part, or the whole, of another."""
        values = [pair for pair in data if pair[1] != 0]
        shape = tuple(found[0].shape)
        places = max(self.trace.nodes[node].places for node, _ in data)
        if target is None:  # out of place: a scatter of two operands
            preds, slots = tuple(n for n, _ in data), tuple(p for _, p in data)
            merge = "concat" if len(set(preds)) > 1 else ""
            node = self._append(
                op.name,
                Family.WRITE,
                frame,
                nth,
                preds,
                slots,
                (MERGED if merge else 0) | PARTIAL,
                shape,
                places,
                0,
                0,
                merge,
            )
            for tensor in outs:
                self._give(tensor, node)
            return
        region: Tensor | None = target
        if op.name == "setitem" and len(args) == 3:
            region = _region(target, args[1])
        if values:
            source = found[values[0][1]]
            if region is not None and _storage(source) == _storage(target) and _geometry(source) == _geometry(region):
                return  # x[i] += y writes back what is there already
            node, slot = values[0]
        else:  # a constant; written into a part, the rest is still the data
            if op.family is Family.COPY or (region is not None and tuple(region.shape) == shape):
                self._overwrite(target)
            return
        copy = self._append(op.name, Family.IDENT, frame, nth, (node,), (slot,), 0, tuple(found[slot].shape), places)
        inside = region is None or math.prod(region.shape) != math.prod(shape)
        self._write(target, copy, frame, op, merge="concat", nth=nth, slot=slot, inside=inside, region=region)

    def _write(
        self,
        target: Tensor,
        node: int,
        frame: Frame,
        op: Op,
        *,
        merge: str,
        nth: int = 1,
        slot: int = 0,
        inside: bool = False,
        region: Tensor | None = None,
    ) -> None:
        """``target`` (or a region ``inside`` it) now holds ``node``; whatever else sees the storage sees it too."""
        key = _storage(target)
        history = self._writes.setdefault(key, [])
        covers = _covers(target) and not inside
        whole = node
        if not covers:
            nodes = self.trace.nodes
            base = history[-1].whole if history else self._owners.get(key, -1)
            if base < 0:  # the first write into a buffer of constants
                shape = tuple(target.shape)
                whole = self._append(op.name, Family.IDENT, frame, nth, (node,), (slot,), 0, shape, nodes[node].places)
            else:
                shape = nodes[base].shape
                kept = base
                if self._owners.get(key, -1) >= 0:  # the rest of a data tensor, not of a buffer being filled
                    kept = self._append(
                        op.name, Family.SLICE, frame, nth, (base,), (0,), PARTIAL, shape, nodes[base].places
                    )
                flags = PARTIAL if not merge else MERGED
                whole = self._append(
                    op.name,
                    Family.WRITE,
                    frame,
                    nth,
                    (kept, node),
                    (0, slot),
                    flags,
                    shape,
                    max(nodes[base].places, nodes[node].places),
                    merge=merge,
                )
        self._hold(target, key)
        self._time += 1
        geometry = _geometry(region if region is not None else target) if not inside or region is not None else None
        history.append(Written(node, whole, self._time, geometry if not covers else None))
        if covers or not inside:
            self._put(target, node, NOTHING)
        else:
            self._put(target, whole, NOTHING)

    def opaque(self, module: nn.Module, frame: Frame, inputs: list[Tensor], outs: list[Tensor], kind: str) -> None:
        """A module whose inside was not seen (TorchScript, a recurrent layer): one node from inputs to outputs."""
        data = [(node, place) for place, tensor in enumerate(inputs) if (node := self.read(tensor)[0]) >= 0]
        if not data or not outs:
            return
        names = [(name, p) for name, p in module.named_parameters() if p.dim() >= 2]
        prefix = f"{frame.path}." if frame.path else ""
        matrix = (frozenset(prefix + name for name, _ in names), names[0][1].dim()) if names else None
        family = Family.RECURRENT if kind == "recurrent" else Family.OTHER
        op = Op(type(module).__name__, family, False)
        node = self._compute(op, frame, frame.next(op.name), inputs, data, NOTHING, matrix, outs, None)
        if kind != "recurrent":
            self.trace.nodes[node].flags |= MIXED
        for tensor in outs:
            self._strangers.discard(id(tensor))
            self._give(tensor, node)


class _Same:
    """Membership by identity."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._ids = {id(tensor) for tensor in tensors}

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._ids


def _matrix_like(name: str) -> bool:
    """Unknown operations that may hold a layer: not elementwise ones that happen to meet a parameter."""
    return name not in ("where", "prelu", "scaled_dot_product_attention", "rrelu", "bucketize", "cdist", "gather")


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, functorch
        return -id(tensor)


def _geometry(tensor: Tensor) -> Geometry:
    return int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()


def _covers(tensor: Tensor) -> bool:
    """Whether the tensor is all of its storage."""
    return tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()


def _region(target: Tensor, index: Any) -> Tensor | None:
    """The view that basic indexing gives; None for an index by tensors."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, (Tensor, list)) for part in parts):
        return None
    with torch._C.DisableTorchFunction():
        return target[index]


def _disjoint(one: Geometry, two: Geometry) -> bool:
    """Whether two views of one storage certainly share no element."""
    (start, shape, strides), (other, shape2, strides2) = sorted((one, two), key=lambda region: region[0])
    if start + sum((side - 1) * step for side, step in zip(shape, strides, strict=True)) < other:
        return True
    if strides != strides2 or len(shape) != len(shape2):
        return False
    gap = other - start
    for side, step in zip(shape, strides, strict=True):
        if step and gap % step == 0 and gap // step >= side:
            larger = [s for s in strides if s > step]
            if not larger or gap < min(larger):
                return True
    return False


def _axes(before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """The axes that became shorter."""
    if len(before) != len(after):
        return []
    return [axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]


def _strided(op: Op, args: Sequence[Any]) -> bool:
    """Every second pixel: ``x[:, :, ::2]``, or aten's slice(x, axis, start, end, step)."""
    if op.name == "slice":
        return len(args) > 4 and args[1] > 0 and args[4] > 1
    if op.name != "getitem" or len(args) < 2:
        return False
    parts = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(part, slice) and isinstance(part.step, int) and part.step > 1 for part in parts)


def _ratio(name: str, before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """How many output positions there are for one input position."""
    if name.startswith("pixel_") and len(before) >= 3 and before[-1] and before[-2]:
        return (after[-1] * after[-2]) / (before[-1] * before[-2])
    if not math.prod(before) or (len(after) < len(before) and before[-2:] == after[-2:]):
        return 1.0  # reduced over something else than the picture
    return math.prod(after) / math.prod(before)


def _grows(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return len(before) == len(after) >= 4 and math.prod(after[2:]) > 1.5 * math.prod(before[2:])

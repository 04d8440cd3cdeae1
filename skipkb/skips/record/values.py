"""What every tensor holds: data, and then of which node, or a constant, and then made from which parameters.

In-place operations are followed through views: what a tensor holds is what was last written to its storage, if that is
newer than the tensor.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from skipkb.skips.record.calls import tensors_of
from skipkb.skips.record.views import Geometry, covers, disjoint, geometry_of, storage_of

NOTHING: frozenset[str] = frozenset()
ONCE_DATA = frozenset(("\0data",))
"""Among the names behind a constant: it was data before it was detached."""
MADE = frozenset(("\0made",))
"""Among the names behind a constant: a layer made it from parameters (a learned query), and it is not a weight."""
MARKS = ONCE_DATA | MADE

_OWN = frozenset(nn.Module().__dict__)
"""Attributes that every module has: no place where a model keeps tensors of its own."""


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


class Matrix(NamedTuple):
    """A weight to multiply with: its parameters, and how many dimensions it has."""

    names: frozenset[str]
    dims: int


class Operands(NamedTuple):
    """The inputs of a call, sorted."""

    data: list[tuple[int, int]]
    """Node and position of each."""
    names: frozenset[str]
    """Names behind the constants."""
    matrix: Matrix | None
    """The first weight among the constants."""
    weighted: bool
    """A constant has the shape of a weight."""

    @property
    def parameters(self) -> frozenset[str]:
        """The names that are parameters."""
        return self.names - MARKS


class Values:
    """Follows what tensors hold, by object and by storage."""

    def __init__(self) -> None:
        self.strangers: set[int] = set()
        """Tensors of unknown origin."""
        self._values: dict[int, Value] = {}
        self._writes: dict[int, list[Written]] = {}
        self._owners: dict[int, int] = {}
        """Storage -> first node seen in it."""
        self._held: dict[int, StorageWeakRef] = {}
        """Keeps addresses of storages from being used again while they are keys here."""
        self._time = 0

    def add_module(self, path: str, module: nn.Module) -> None:
        """The tensors that a module keeps are constants, those in plain attributes too."""
        for name, thing in module.__dict__.items():
            if isinstance(thing, Tensor):
                self.put(thing, -1, _weight(f"{path}.{name}".lstrip("."), thing))
            elif type(thing) in (list, tuple, dict) and thing and name not in _OWN:
                for item in tensors_of(thing.values() if isinstance(thing, dict) else thing, {}):
                    if not self.known(item):
                        self.put(item, -1, _weight(f"{path}.{name}".lstrip("."), item))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                self.put(buffer, -1, _quantised(f"{path}.{name}".lstrip("."), buffer))
        for name, parameter in module._parameters.items():
            if parameter is not None and not self._names(parameter):
                self.put(parameter, -1, frozenset((f"{path}.{name}" if path else name,)))

    # -- reading

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
            writes = self._writes.get(storage_of(tensor))
            if writes is not None and writes[-1].time > value.time:
                return self._newest(writes, value, tensor), value.names
        return value.node, value.names

    def _newest(self, writes: list[Written], value: Value, tensor: Tensor) -> int:
        here = geometry_of(tensor)
        for write in reversed(writes):
            if write.time <= value.time:
                break
            if write.region == here:
                return write.node
            if write.region is None or not disjoint(write.region, here):
                return write.whole
        return value.node

    def _stranger(self, tensor: Tensor) -> tuple[int, frozenset[str]]:
        """A tensor nobody handed us: another Python object over a known storage, or of unknown origin."""
        node = self.beneath(storage_of(tensor))
        self.put(tensor, node)
        if node < 0:
            self.strangers.add(id(tensor))
        return node, NOTHING

    def beneath(self, storage: int) -> int:
        """The node behind a storage as a whole, or -1."""
        writes = self._writes.get(storage)
        return writes[-1].whole if writes is not None else self._owners.get(storage, -1)

    def began_as_data(self, storage: int) -> bool:
        """Whether the storage was made for data, and is not a buffer of constants that is being filled."""
        return self._owners.get(storage, -1) >= 0

    def is_data(self, tensor: Tensor) -> bool:
        """Whether the tensor holds data, or did before it was detached."""
        node, names = self.read(tensor)
        return node >= 0 or not names.isdisjoint(ONCE_DATA)

    def _names(self, tensor: Tensor) -> frozenset[str]:
        return self._values[id(tensor)].names if self.known(tensor) else NOTHING

    def operands(self, found: list[Tensor]) -> Operands:
        """What a call works on. Integers are data where nothing else is (tokens); masks (bool) never are."""
        data: list[tuple[int, int]] = []
        whole: list[tuple[int, int]] = []
        names = NOTHING
        weighted = False
        matrix: Matrix | None = None
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
                    weighted = True
                    if matrix is None and lineage != ONCE_DATA:
                        matrix = Matrix(lineage - ONCE_DATA, tensor.dim())
        return Operands(data or whole, names, matrix, weighted)

    # -- writing

    def put(self, tensor: Tensor, node: int, names: frozenset[str] = NOTHING) -> None:
        """The tensor holds data of ``node``, or for -1 a constant made from the parameters ``names``."""
        self._time += 1
        self._values[id(tensor)] = Value(weakref.ref(tensor), node, names, self._time)
        if self.strangers:
            self.strangers.discard(id(tensor))

    def give(self, tensor: Tensor, node: int) -> None:
        """The tensor is new and holds data of ``node``; so does a storage seen for the first time."""
        self.put(tensor, node)
        storage = storage_of(tensor)
        if storage >= 0 and storage not in self._owners and storage not in self._writes:
            self._owners[storage] = node
            self._hold(tensor, storage)

    def fill(self, tensor: Tensor) -> None:
        """The tensor was overwritten with a constant."""
        node, _ = self.read(tensor)
        self.put(tensor, -1)
        if node >= 0 and covers(tensor):
            self._writes.setdefault(storage_of(tensor), []).append(Written(-1, -1, self._time, None))
            self._hold(tensor, storage_of(tensor))

    def write(self, tensor: Tensor, node: int, whole: int, region: Geometry | None) -> None:
        """``node`` was written in place to the ``region`` (None: all, or unknown) of the tensor's storage."""
        storage = storage_of(tensor)
        self._hold(tensor, storage)
        self._time += 1
        self._writes.setdefault(storage, []).append(Written(node, whole, self._time, region))

    def _hold(self, tensor: Tensor, storage: int) -> None:
        if storage >= 0 and storage not in self._held:
            self._held[storage] = StorageWeakRef(tensor.untyped_storage())


_SHORT = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)


def _quantised(name: str, buffer: Tensor) -> frozenset[str]:
    """A matrix of short numbers is a weight to be scaled; one of floats is fixed, such as a blur or a transform."""
    return frozenset((name,)) if buffer.dtype in _SHORT and buffer.dim() >= 2 else NOTHING


def _weight(name: str, tensor: Tensor) -> frozenset[str]:
    """A tensor that can be trained is a weight, wherever it is kept."""
    return frozenset((name,)) if tensor.requires_grad and tensor.is_leaf else NOTHING

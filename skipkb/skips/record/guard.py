"""Leaves a model exactly as it was, whatever its forward does to it."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = {list, dict, set, OrderedDict}


class Guard:
    """Remembers parameters, buffers, attributes, flags and hooks of a model; ``restore`` puts them back.

    Buffers are copied beforehand (they are small). Parameters are copied only when something is about to write to
    them: the capture calls ``touch`` first.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._attributes: list[tuple[nn.Module, dict[str, Any], list[tuple[Any, Any]]]] = []
        parameters: dict[int, Tensor] = {}
        kept: dict[int, Tensor] = {}
        for module in modules:
            contents = []
            for value in module.__dict__.values():
                if type(value) in _CONTAINERS:
                    contents.append((value, value.copy() if value else ()))
                elif isinstance(value, Tensor):
                    kept[id(value)] = value
            self._attributes.append((module, module.__dict__.copy(), contents))
            parameters.update((id(p), p) for p in module._parameters.values() if p is not None)
            kept.update((id(b), b) for b in module._buffers.values() if b is not None)
        self._flags = [(p, p.requires_grad, p.grad) for p in parameters.values()]
        self._copies = [(tensor, tensor.detach().clone()) for tensor in kept.values() if not tensor.is_meta]
        self._owned: dict[int, Tensor] | None = None
        self._touched: dict[int, tuple[Tensor, Tensor]] = {}
        self._data: list[tuple[Tensor, Tensor]] = []

    def touch(self, tensor: Tensor) -> None:
        """Called before an in-place operation on ``tensor``: copies it if it is, or looks into, a parameter."""
        if self._owned is None:
            self._owned = {_storage(parameter): parameter for parameter, _, _ in self._flags}
        key = _storage(tensor)
        if key in self._owned and key not in self._touched:
            parameter = self._owned[key]
            self._touched[key] = (parameter, parameter.detach().clone())

    def swap(self, tensor: Tensor) -> None:
        """Called before ``tensor.data = ...``."""
        self._data.append((tensor, tensor.detach()))

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for tensor, data in reversed(self._data):
                tensor.data = data
            for buffer, copy in self._copies:
                # By value: batch norm writes its statistics without counting a version.
                if not _equal(buffer, copy):
                    buffer.copy_(copy)
            for parameter, copy in self._touched.values():
                parameter.copy_(copy)
        for module, attributes, contents in self._attributes:
            for container, copy in contents:
                if (container or copy) and not _same(container, copy):
                    _refill(container, copy)
            if not _same(module.__dict__, attributes):
                for name in module.__dict__.keys() - attributes.keys():
                    del module.__dict__[name]
                module.__dict__.update(attributes)
        for parameter, requires_grad, grad in self._flags:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not grad:
                parameter.grad = grad


def _equal(buffer: Tensor, copy: Tensor) -> bool:
    """By value. Sparse layouts have no such comparison: what they are made of does."""
    if buffer.layout is torch.strided:
        return torch.equal(buffer, copy)
    if buffer.layout is torch.sparse_coo:
        buffer, copy = buffer.coalesce(), copy.coalesce()
        return torch.equal(buffer.indices(), copy.indices()) and torch.equal(buffer.values(), copy.values())
    return torch.equal(buffer.to_dense(), copy.to_dense())


def _same(left: Any, right: Any) -> bool:
    """The same things in the same order, by identity: comparing tensors by value would be something else."""
    if isinstance(left, dict) and isinstance(right, dict):
        return len(left) == len(right) and all(
            key == other and value is thing
            for (key, value), (other, thing) in zip(left.items(), right.items(), strict=True)
        )
    return len(left) == len(right) and all(mine is yours for mine, yours in zip(left, right, strict=True))


def _refill(container: Any, copy: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(copy)
    elif copy:
        container.update(copy)


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, functorch
        return id(tensor)


def version(tensor: Tensor) -> int | None:
    """How often the tensor was written to; None where PyTorch does not say."""
    try:
        return tensor._version
    except RuntimeError:  # made in inference mode
        return None


@contextmanager
def random_state() -> Iterator[None]:
    """Random numbers drawn inside are drawn again outside: PyTorch (CPU and CUDA), Python and NumPy."""
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    python = random.getstate()
    numpy: Any = sys.modules.get("numpy.random")
    drawn = numpy.get_state() if numpy is not None else None
    try:
        yield
    finally:
        if not torch.equal(cpu, torch.get_rng_state()):
            torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        random.setstate(python)
        if drawn is not None:
            numpy.set_state(drawn)

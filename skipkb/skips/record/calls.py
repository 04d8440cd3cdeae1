"""A call of an operation that has run, and its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skipkb.skips.record.ops import Op
from skipkb.skips.record.places import Frame


class Call(NamedTuple):
    """The ``nth`` use of an operation inside one call of a module."""

    op: Op
    frame: Frame
    nth: int
    args: Sequence[Any]
    found: list[Tensor]
    """Its tensor inputs."""
    mutated: list[Tensor]
    """Those of them that it wrote to."""
    outs: list[Tensor]


def sides(tensor: Tensor) -> tuple[int, ...]:
    """The shape in plain numbers. The ragged axis of a nested tensor has the mean length of its parts."""
    if not tensor.is_nested:
        return tuple(tensor.shape)
    if tensor.layout is torch.strided:
        parts = [tuple(part.shape) for part in tensor.unbind()]
        return (len(parts), *(round(sum(side) / len(parts)) for side in zip(*parts, strict=True)))
    shape = [side if type(side) is int else 0 for side in tensor.shape]
    ragged = tensor.values().shape[0] / max(shape[0], 1)
    return tuple(side or round(ragged) for side in shape)


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


def tensors_in(value: Any, seen: set[int] | None = None) -> list[Tensor]:
    """Every tensor in nested lists, tuples, mappings, dataclasses and other objects that hold tensors."""
    if isinstance(value, Tensor):
        return [value]
    seen = set() if seen is None else seen
    if id(value) in seen:
        return []
    seen.add(id(value))
    return [tensor for item in items_of(value) for tensor in tensors_in(item, seen)]


def items_of(value: Any) -> list[Any]:
    """What a container or an object holds; but not what holds no data: modules, classes, functions."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (nn.Module, type, ModuleType)) or callable(value) or not hasattr(value, "__dict__"):
        return []
    return list(vars(value).values())

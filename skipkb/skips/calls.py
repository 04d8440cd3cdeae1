"""A call of an operation that has run, and its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skipkb.skips.ops import Op
from skipkb.skips.places import Frame


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


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested lists, tuples, dicts and dataclasses."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [tensor for name in value.__dataclass_fields__ for tensor in tensors_in(getattr(value, name))]
    return []

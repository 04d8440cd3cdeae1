"""A call of an operation that has run, and its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

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

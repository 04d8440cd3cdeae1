"""Gradient checkpointing runs parts of the forward again in the backward pass, when the ablation may be over or another
thread at work. What it runs again must be cut as it was the first time.

``torch.utils.checkpoint`` looks up what does the work by these names each time; while an ablation is entered they
hand it a function that carries the ablation along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.utils.checkpoint as library

Function = Callable[..., Any]
_GENERATORS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")


class Carrier(Protocol):
    """An ablation."""

    def carried(self, function: Function) -> Function:
        """The function, to be run as if it were called now."""


_LOCK = threading.Lock()
_ENTERED: list[Carrier] = []
_ORIGINALS: dict[str, Any] = {}


def enter(carrier: Carrier) -> None:
    """From now on, checkpointed functions carry this ablation along."""
    with _LOCK:
        _ENTERED.append(carrier)
        if _ORIGINALS:
            return
        name = next((name for name in _GENERATORS if hasattr(library, name)), None)
        if name is not None:
            _ORIGINALS[name] = getattr(library, name)
            setattr(library, name, _generator(_ORIGINALS[name]))
        _ORIGINALS["CheckpointFunction"] = library.CheckpointFunction
        library.CheckpointFunction = _Reentrant(library.CheckpointFunction)  # type: ignore[misc,assignment]


def leave(carrier: Carrier) -> None:
    """Checkpointed functions that run from now on are as they were."""
    with _LOCK:
        _ENTERED.remove(carrier)
        if not _ENTERED:
            for name, original in _ORIGINALS.items():
                setattr(library, name, original)
            _ORIGINALS.clear()


def in_backward() -> bool:
    """Whether autograd runs this."""
    return bool(torch._C._current_graph_task_id() != -1)


def _carried(function: Function) -> Function:
    for carrier in dict.fromkeys(_ENTERED):
        function = carrier.carried(function)
    return function


def _generator(original: Function) -> Function:
    def generator(function: Function, *args: Any, **kwargs: Any) -> Any:
        return original(_carried(function), *args, **kwargs)

    return generator


class _Reentrant:
    """In place of ``CheckpointFunction``, which calls the same function in both passes."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def apply(self, function: Function, *args: Any) -> Any:
        again = _carried(function)

        def either(*inputs: Any, **named: Any) -> Any:
            return (again if in_backward() else function)(*inputs, **named)

        return self._original.apply(either, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

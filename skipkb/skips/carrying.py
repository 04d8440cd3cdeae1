"""What an ablation hands on. While one is entered, a thread that is started, or a task given to a pool, carries it
along; so does what gradient checkpointing runs again in the backward pass, when the ablation may be over and another
thread at work. What threads of their own do meanwhile is left alone.

The libraries look up what does the work by name each time; for as long as an ablation is entered anywhere, these names
lead through here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any, Protocol

import torch
import torch.utils.checkpoint as library

Function = Callable[..., Any]
_GENERATORS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")


class Carrier(Protocol):
    """An ablation."""

    def again(self, function: Function) -> Function:
        """The function, to be run later from this place of the forward on."""

    def elsewhere(self, function: Function) -> Function:
        """The function, to be run in another thread while the ablation is entered."""


_LOCK = threading.Lock()
_ENTERED: list[Carrier] = []
_ORIGINALS: list[tuple[Any, str, Any]] = []


def enter(carrier: Carrier) -> None:
    """From now on, functions are handed on with this ablation."""
    with _LOCK:
        _ENTERED.append(carrier)
        if _ORIGINALS:
            return
        name = next((name for name in _GENERATORS if hasattr(library, name)), None)
        if name is not None:
            _replace(library, name, _generator)
        _replace(library, "CheckpointFunction", _Reentrant)
        _replace(threading.Thread, "start", _start)
        _replace(ThreadPoolExecutor, "submit", _given)
        for name in ("apply_async", "_map_async", "imap", "imap_unordered"):  # what its other methods lead to
            _replace(ThreadPool, name, _given)


def leave(carrier: Carrier) -> None:
    """Functions handed on from now on are as they were."""
    with _LOCK:
        _ENTERED.remove(carrier)
        if not _ENTERED:
            for owner, name, original in _ORIGINALS:
                setattr(owner, name, original)
            _ORIGINALS.clear()


def in_backward() -> bool:
    """Whether autograd runs this."""
    return bool(torch._C._current_graph_task_id() != -1)


def _replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    _ORIGINALS.append((owner, name, original))
    setattr(owner, name, wrap(original))


def _again(function: Function) -> Function:
    for carrier in dict.fromkeys(_ENTERED):
        function = carrier.again(function)
    return function


def _elsewhere(function: Function) -> Function:
    for carrier in dict.fromkeys(_ENTERED):
        function = carrier.elsewhere(function)
    return function


def _generator(original: Function) -> Function:
    def generator(function: Function, *args: Any, **kwargs: Any) -> Any:
        return original(_again(function), *args, **kwargs)

    return generator


class _Reentrant:
    """In place of ``CheckpointFunction``, which calls the same function in both passes."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def apply(self, function: Function, *args: Any) -> Any:
        again = _again(function)

        def either(*inputs: Any, **named: Any) -> Any:
            return (again if in_backward() else function)(*inputs, **named)

        return self._original.apply(either, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _start(original: Function) -> Function:
    def start(thread: threading.Thread) -> None:
        run = thread.run
        carried = _elsewhere(run)
        if carried is not run:
            thread.run = carried  # type: ignore[method-assign]
        original(thread)

    return start


def _given(original: Function) -> Function:
    def given(pool: Any, function: Function, /, *args: Any, **kwargs: Any) -> Any:
        return original(pool, _elsewhere(function), *args, **kwargs)

    return given

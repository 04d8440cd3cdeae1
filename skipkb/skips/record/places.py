"""Where in the model an operation runs: the stack of modules that are being called.

Global module hooks give the names, so the model itself is not touched. They are process-wide; whatever another thread
runs meanwhile passes through them unseen.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


class Frame:
    """One call of one module."""

    __slots__ = ("call", "counts", "module", "path")

    def __init__(self, path: str, call: int, module: nn.Module | None) -> None:
        self.path = path
        self.call = call
        self.module = module
        self.counts: dict[str, int] = {}

    def copy(self) -> Frame:
        """The same call, to go on from."""
        twin = Frame(self.path, self.call, self.module)
        twin.counts = self.counts.copy()
        return twin

    def next(self, op: str) -> int:
        """Number of this use of ``op`` inside this call, from 1."""
        nth = self.counts.get(op, 0) + 1
        self.counts[op] = nth
        return nth


class Frames:
    """Follows the module calls of one thread while it is entered."""

    def __init__(
        self,
        model: nn.Module,
        modules: dict[str, nn.Module],
        enter: Callable[[nn.Module, Any], None] | None = None,
        leave: Callable[[nn.Module, Any, Any], None] | None = None,
    ) -> None:
        self.root = model
        self.names = {id(module): name for name, module in modules.items()}
        self.calls: Counter[str] = Counter()
        self.current = Frame("", 0, None)
        self._stack: list[Frame] = []
        self._enter, self._leave = enter, leave

    def __enter__(self) -> Frames:
        self._thread = threading.get_ident()
        self._handles = [
            register_module_forward_pre_hook(self._before),
            register_module_forward_hook(self._after, always_call=True),
        ]
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() == self._thread and not torch.compiler.is_compiling():
            self.before(module, args)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == self._thread and not torch.compiler.is_compiling():
            self.after(module, args, output)

    @property
    def inside(self) -> bool:
        """Whether a module is being called."""
        return bool(self._stack)

    def copy(self) -> Frames:
        """The same place in the model, to go on from."""
        twin = Frames(self.root, {}, self._enter, self._leave)
        twin.names = self.names
        twin.calls = self.calls.copy()
        twin.current = self.current.copy()
        return twin

    def before(self, module: nn.Module, args: Any) -> None:
        """A module is about to be called."""
        if module is self.root:  # sites are counted per forward pass of the model
            self.calls.clear()
        path = self.names.get(id(module))
        if path is None:  # made on the fly
            path = f"{self.current.path}.({type(module).__name__})".lstrip(".")
        self.calls[path] += 1
        self._stack.append(self.current)
        self.current = Frame(path, self.calls[path], module)
        if self._enter is not None:
            self._enter(module, args)

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """A module has been called."""
        if self.current.module is not module:
            return
        if self._leave is not None:
            self._leave(module, args, output)
        self.current = self._stack.pop()

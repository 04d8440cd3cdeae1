"""Two ways to watch a model run.

``FunctionCapture`` sees the calls of the Python API (``x + y``, ``F.conv2d``): the level at which a skip can be
switched off with gradients intact. ``DispatchCapture`` sees the aten operators underneath, where nothing hides, not
even TorchScript. They share the recorder and nothing else, so each checks the other.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from skipkb.skips.record import shapes
from skipkb.skips.record.calls import tensors_in, tensors_of
from skipkb.skips.record.guard import Guard, version
from skipkb.skips.record.ops import READS, Family, Op, describe
from skipkb.skips.record.places import Frames
from skipkb.skips.record.recorder import Recorder

Capture = Literal["function", "dispatch"]


class FunctionCapture(TorchFunctionMode):
    """Records at the level of the Python API. With ``dry``, nothing is computed: the forward runs on shapes alone."""

    def __init__(
        self, model: nn.Module, modules: dict[str, nn.Module], recorder: Recorder, guard: Guard, *, dry: bool = False
    ) -> None:
        plain(super()).__init__()
        self.recorder = recorder
        self.guard = guard
        self.dry = dry
        self.frames = Frames(model, modules, leave=self._left)
        self.scripted: list[str] = []
        self._ops: dict[Any, Op] = {}

    def __enter__(self) -> FunctionCapture:
        self.frames.__enter__()
        plain(super()).__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        plain(super()).__exit__(*exc)
        self.frames.__exit__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = self._ops.get(func)
        if op is None:
            op = self._ops[func] = describe(func)
        if op.family is Family.PASS:
            if op.name == "set_data" and isinstance(args[0], Tensor):
                self.guard.swap(args[0])
            if self.dry and op.name == "device":
                return shapes.META
            if op.name in READS:
                self.recorder.ends(tensors_of(args, {}))
            return func(*args, **kwargs)
        found = tensors_of(args, kwargs)
        if op.writes and found:
            self.guard.touch(found[0])
        if "out" in kwargs and isinstance(kwargs["out"], Tensor):
            self.guard.touch(kwargs["out"])
        before = [version(tensor) for tensor in found]
        frame = self.frames.current
        nth = frame.next(op.name)
        out = shapes.run(func, args, kwargs, found, op.writes) if self.dry else func(*args, **kwargs)
        mutated = [tensor for tensor, old in zip(found, before, strict=True) if version(tensor) != old]
        if None in before and op.writes:
            mutated = found[:1]
        self.recorder.after(op, frame, nth, args, found, mutated, out)
        return out

    def _left(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, ScriptModule) and output is not None:
            self.scripted.append(self.frames.current.path)
            outs = [tensor for tensor in tensors_in(output) if not self.recorder.values.known(tensor)]
            self.recorder.opaque(module, self.frames.current, tensors_in(args), outs, "script")


class DispatchCapture(TorchDispatchMode):
    """Records at the level of aten operators."""

    def __init__(self, model: nn.Module, modules: dict[str, nn.Module], recorder: Recorder, guard: Guard) -> None:
        plain(super()).__init__()
        self.recorder = recorder
        self.guard = guard
        self.frames = Frames(model, modules, self._entered, self._left)
        self.scripted: list[str] = []
        self._ops: dict[Any, tuple[Op, tuple[int, ...], tuple[str, ...]]] = {}
        self._inside: nn.Module | None = None
        """The recurrent module being run: taken as one layer, like the Python API does."""
        self._python = _Python(self)

    def __enter__(self) -> DispatchCapture:
        self.frames.__enter__()
        plain(self._python).__enter__()
        plain(super()).__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        plain(super()).__exit__(*exc)
        plain(self._python).__exit__(*exc)
        self.frames.__exit__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = self._ops.get(func)
        if known is None:
            schema = func._schema.arguments
            written = [(i, a.name) for i, a in enumerate(schema) if a.alias_info is not None and a.alias_info.is_write]
            known = describe(func), tuple(i for i, _ in written), tuple(name for _, name in written)
            self._ops[func] = known
        op, positions, names = known
        if op.name in READS:
            self.recorder.ends(tensors_of(args, {}))
        if op.family is Family.PASS or self._inside is not None:
            return func(*args, **kwargs)
        found = tensors_of(args, kwargs)
        mutated: list[Tensor] = []
        if positions:
            written_to = [args[i] for i in positions if i < len(args)] + [kwargs[n] for n in names if n in kwargs]
            mutated = tensors_of(written_to, {})
            for tensor in mutated:
                self.guard.touch(tensor)
        frame = self.frames.current
        nth = frame.next(op.name)
        out = func(*args, **kwargs)
        self.recorder.after(op, frame, nth, args, found, mutated, out)
        return out

    def _entered(self, module: nn.Module, args: Any) -> None:
        if self._inside is None and isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            self._inside = module

    def _left(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is self._inside:
            self._inside = None
            if output is not None:
                self.recorder.opaque(module, self.frames.current, tensors_in(args), tensors_in(output), "recurrent")


class _Python(TorchFunctionMode):
    """Beside the dispatch mode: notes what never reaches aten (numpy), and keeps attention off its fused fast path,
    which PyTorch takes only when no function mode is active."""

    def __init__(self, capture: DispatchCapture) -> None:
        plain(super()).__init__()
        self._capture = capture

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = describe(func)
        if op.family is Family.ESCAPE:
            capture = self._capture
            frame = capture.frames.current
            capture.recorder.after(op, frame, frame.next(op.name), args, tensors_of(args, {}), [], None)
        elif op.name == "set_data" and isinstance(args[0], Tensor):
            self._capture.guard.swap(args[0])
        return func(*args, **(kwargs or {}))


def plain(parent: Any) -> Any:
    """PyTorch's modes carry no types; this says so once."""
    return parent


@contextmanager
def eager() -> Iterator[None]:
    """What is under torch.compile runs uncompiled while it is watched."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield

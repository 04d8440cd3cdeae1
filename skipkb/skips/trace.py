"""``trace_skips``: run a model once, watch, and report its skip connections."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from skipkb.skips.analyse import crops, standard
from skipkb.skips.analyse.shortcuts import Analysis
from skipkb.skips.graph import Lost, SkipGraph
from skipkb.skips.record.calls import tensors_in
from skipkb.skips.record.capture import DispatchCapture, FunctionCapture, eager
from skipkb.skips.record.guard import Guard, random_state
from skipkb.skips.record.inputs import TraceError, prepare
from skipkb.skips.record.nodes import Trace
from skipkb.skips.record.places import Frame
from skipkb.skips.record.recorder import Recorder

__all__ = ["TraceError", "trace_skips"]

_ONE_AT_A_TIME = threading.RLock()
"""A trace puts the model's state back afterwards; two at once on one model would put back each other's."""


def trace_skips(
    model: nn.Module, x: Any, *, capture: Literal["auto", "function", "dispatch"] = "auto", values: bool = False
) -> SkipGraph:
    """Find every skip connection in one forward pass of ``model``.

    Shapes are enough for most models, so nothing is computed: the forward runs without values, which costs a fraction
    of a real pass and no memory. Where a model looks at values, the forward starts again on real ones.

    Args:
        model: any module, on any device (``meta`` too), in train or eval mode. It is left exactly as it was.
        x: a tensor, a tuple of positional inputs, a dict of keyword inputs, or an input shape such as
            ``(1, 3, 224, 224)``; anything else is passed as the only input.
        capture: ``function`` watches calls of the Python API, ``dispatch`` the aten operators below. ``auto`` takes the
            first, and the second where the first cannot see (TorchScript).
        values: run on real values from the start, for a forward that must not be entered twice or that hands what it
            computes to something outside the model. ``dispatch`` always does.

    Raises:
        TraceError: the model cannot be called with ``x``; the message shows what it takes.
        Exception: whatever the model's own forward raises, with a note.
    """
    if capture not in ("auto", "function", "dispatch"):
        raise ValueError(f"capture must be 'auto', 'function' or 'dispatch', not {capture!r}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    with _ONE_AT_A_TIME:
        if capture == "dispatch":
            return _traced(model, x, "dispatch", values=True)[0]
        graph, scripted = _traced(model, x, "function", values=values)
        if capture == "function" or (not scripted and not graph.lost):
            return graph
        below, _ = _traced(model, x, "dispatch", values=True)
        if scripted:
            note = f"Read from aten operators, because TorchScript hides what is inside{_places(scripted)}."
            return replace(below, notes=(*below.notes, note))
        return below if len(below.lost) < len(graph.lost) else graph


def _without_layers(trace: Trace) -> list[str]:
    """What to say of a network all of whose matrices are kept where fixed ones are."""
    if trace.layers or not trace.fixed:
        return []
    sites = ", ".join(map(str, trace.fixed[:3])) + (", ..." if len(trace.fixed) > 3 else "")
    return [
        "No layer with parameters ran. A product with a buffer of floats is taken for a fixed one, such as a blur or a "
        f"transform: {sites}. If these are weights, make them parameters."
    ]


def _places(paths: list[str]) -> str:
    named = [path for path in paths if path][:3]
    return f": {', '.join(named)}" if named else ""


def _traced(
    model: nn.Module, x: Any, capture: Literal["function", "dispatch"], *, values: bool
) -> tuple[SkipGraph, list[str]]:
    if not values:
        try:
            graph, scripted = _run(model, x, capture, dry=True)
            if not scripted and not graph.lost:
                return graph, scripted
        except TraceError:
            raise
        except Exception:  # whatever it was: the run on values succeeds, or raises what the model itself raises
            pass
    try:
        return _run(model, x, capture)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        return _run(model, x, capture, grad=True)  # a forward that differentiates


def _run(
    model: nn.Module, x: Any, capture: Literal["function", "dispatch"], *, dry: bool = False, grad: bool = False
) -> tuple[SkipGraph, list[str]]:
    args, kwargs = prepare(model, x, dry=dry)
    named = [*((f"input{i or ''}", value) for i, value in enumerate(args)), *kwargs.items()]
    inputs = [
        (name if k == 0 else f"{name}.{k}", tensor)
        for name, value in named
        for k, tensor in enumerate(tensors_in(value))
    ]
    if not any(tensor.dtype != torch.bool for _, tensor in inputs):
        raise TraceError(f"no tensor among the inputs of {type(model).__name__}: there is no data to follow")
    modules = dict(model.named_modules())
    guard = Guard(modules.values())
    recorder = Recorder(modules, "aten." if capture == "dispatch" else "")
    start = Frame("", 1, None)
    for name, tensor in inputs:
        recorder.add_input(tensor, name, start)
    watch = (
        FunctionCapture(model, modules, recorder, guard, dry=dry)
        if capture == "function"
        else DispatchCapture(model, modules, recorder, guard)
    )
    mode = torch.is_grad_enabled()
    try:
        with random_state(), torch.set_grad_enabled(grad), eager(), _uncollected(), watch:
            output = model(*args, **kwargs)
        recorder.finish(tensors_in(output), modules.values())
    except Exception as error:
        error.add_note(f"raised in the forward of {type(model).__name__} while trace_skips watched it")
        raise
    finally:
        torch.set_grad_enabled(mode)
        guard.restore()
    with _uncollected():
        alive = recorder.alive()
        crops.settle(recorder.trace)
        standard.simplify(recorder.trace)
        found = Analysis(recorder.trace, alive).run()
    lost = list(recorder.trace.lost)
    if capture == "function":
        lost += [Lost(f"{path}:forward", "TorchScript: what is inside is not seen") for path in watch.scripted]
    graph = SkipGraph(
        model=type(model).__name__,
        capture=capture,
        training=model.training,
        layers=tuple(recorder.trace.layers),
        skips=tuple(found.skips),
        gates=tuple(found.gates),
        weak=tuple(found.weak),
        multi_branch=tuple(found.multi_branch),
        lost=tuple(lost),
        notes=(*found.notes, *_without_layers(recorder.trace)),
    )
    return graph, watch.scripted


@contextmanager
def _uncollected() -> Iterator[None]:
    """A trace makes many small objects and no cycles: collecting garbage meanwhile costs more than the trace."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()

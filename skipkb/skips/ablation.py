"""Switch skip connections off in a model that stays as it is.

>>> with ablate(model, graph.skips[3]):
...     model(x)

While the context is entered, the operations that merge those skips get a neutral operand in place of the real one:
zeros for a sum or a concatenation, ones for a product. That happens above autograd, so gradients are those of the
network without the skip.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from skipkb.skips import carrying
from skipkb.skips.graph import Edge, Operand, Shape, Site, Skip, SkipGraph
from skipkb.skips.record.calls import tensors_of
from skipkb.skips.record.capture import eager, plain
from skipkb.skips.record.ops import Family, Op, describe
from skipkb.skips.record.places import Frames


class AblationError(ValueError):
    """The skips do not belong to this model, or its forward did not pass them."""


class ablate:  # noqa: N801  (used like a function, as torch.no_grad is)
    """Context in which ``skips`` of ``model`` contribute nothing.

    It holds in this thread, in threads it starts and pools it hands a task to meanwhile; for a compiled model (which
    runs uncompiled); and for what gradient checkpointing runs again in the backward pass, even after the context.
    Other threads that use the model meanwhile see it untouched.

    Args:
        model: the model that was traced.
        skips: one skip, one edge of a skip, or several, as ``trace_skips`` found them (gates too); or a whole graph,
            which stands for all of ``graph.skips``.
        drop: ``shortcut`` silences the shortcut; ``residual`` silences every other operand of the merge, so that
            only the shortcut is left.

    Raises:
        AblationError: on entering, a skip names a module that the model lacks, comes from the aten capture, or has
            nothing but shortcuts to drop the residual of; in the forward, an operand has another shape or number than
            the trace saw, or the model runs where the ablation cannot follow; on leaving, a skip was never reached.
    """

    def __init__(
        self,
        model: nn.Module,
        skips: SkipGraph | Skip | Edge | Iterable[Skip | Edge],
        *,
        drop: Literal["shortcut", "residual"] = "shortcut",
    ) -> None:
        if drop not in ("shortcut", "residual"):
            raise ValueError(f"drop must be 'shortcut' or 'residual', not {drop!r}")
        self._model = getattr(model, "_orig_mod", model)
        self._modules = dict(self._model.named_modules())
        self._names = {id(module): name for name, module in self._modules.items()}
        self._cuts: dict[tuple[str, int, str, int], dict[int, tuple[Operand, Shape | None]]] = {}
        for skip in _chosen(skips):
            for operand, shape in _operands(skip, drop):
                self._check(operand.site)
                site = operand.site
                key = (site.module, site.call, site.op, site.nth)
                self._cuts.setdefault(key, {})[operand.position] = (operand, shape)
        self._ops = {key[2] for key in self._cuts}
        self._met: set[Operand] = set()
        self._ran = False
        self._runs: dict[int, _Run] = {}
        """By thread."""
        self._handles: list[Any] = []
        self._watching = 0
        self._stance: Any = None
        self._home: _Run | None = None
        self._entered = 0
        self._lock = threading.Lock()

    def _check(self, site: Site) -> None:
        if site.op.startswith("aten."):
            raise AblationError(
                f"{site} is an aten operator, below autograd, and cannot be switched off; "
                "trace the model with capture='function'"
            )
        if site.module not in self._modules and ".(" not in f".{site.module}":
            raise AblationError(
                f"{type(self._model).__name__} has no module {site.module!r}: "
                f"the skip {site} was traced on another model"
            )

    def __enter__(self) -> ablate:
        if self._home is not None:
            raise AblationError("this ablation is entered already; make another one to nest it")
        self._met.clear()
        self._ran = False
        self._entered += 1
        self._stance = eager()
        self._stance.__enter__()
        self._watch()
        self._home = _Run(self, self._new_frames())
        self._home.__enter__()
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        assert self._home is not None
        self._home.__exit__(kind, *rest)
        self._home = None
        self._unwatch()
        self._stance.__exit__(kind, *rest)
        if kind is None and self._ran:
            missed = {operand for cut in self._cuts.values() for operand, _ in cut.values()} - self._met
            if missed:
                sites = ", ".join(sorted(str(operand.site) for operand in missed)[:3])
                raise AblationError(
                    f"{len(missed)} of the skips were not reached: {sites}. Trace the model again in the mode "
                    "(train or eval) and with the inputs you run it with, with capture='function'"
                )

    # -- handed on (see ``carrying``)

    def again(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, to be run later from this place of the forward on."""
        run = self._runs.get(threading.get_ident())
        if run is None:
            return function
        place = run.frames.copy()

        def recomputed(*args: Any, **kwargs: Any) -> Any:
            with self._watched(), _Run(self, place.copy()):
                return function(*args, **kwargs)

        return recomputed

    def elsewhere(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, to be run in another thread while the ablation is entered."""
        if threading.get_ident() not in self._runs:
            return function

        def carried(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() in self._runs:  # a thread that carries it already
                return function(*args, **kwargs)
            with self._watched(), _Run(self, self._new_frames(), started=self._entered):
                return function(*args, **kwargs)

        return carried

    # -- following the calls of modules, in every thread

    def _new_frames(self) -> Frames:
        return Frames(self._model, self._modules, leave=self._left)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watch()
        try:
            yield
        finally:
            self._unwatch()

    def _watch(self) -> None:
        carrying.enter(self)
        with self._lock:
            self._watching += 1
            if self._watching == 1:
                self._handles = [
                    register_module_forward_pre_hook(self._before),
                    register_module_forward_hook(self._after, always_call=True),
                ]

    def _unwatch(self) -> None:
        carrying.leave(self)
        with self._lock:
            self._watching -= 1
            if not self._watching:
                for handle in self._handles:
                    handle.remove()

    def _before(self, module: nn.Module, args: Any) -> None:
        run = self._runs.get(threading.get_ident())
        if run is None:
            return
        if torch.compiler.is_compiling():
            raise AblationError("a model is compiled while its skips are switched off; compile it before, or after")
        if getattr(module, "_is_replica", False):
            raise AblationError("DataParallel runs copies of the model, which no ablation reaches; call its module")
        path = self._names.get(id(module))
        if path is not None and not run.frames.inside and not run.frames.current.call and carrying.in_backward():
            self._refuse(path)
        run.frames.before(module, args)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        run = self._runs.get(threading.get_ident())
        if run is not None:
            run.frames.after(module, args, output)

    def _refuse(self, path: str) -> None:
        """A module runs again in the backward pass, and nothing says in which place of the forward pass."""
        for site, *_ in self._cuts:
            if f"{site}.".startswith(f"{path}.") or f"{path}.".startswith(f"{site}.") or not site or not path:
                raise AblationError(
                    f"{path or type(self._model).__name__} is run again in the backward pass, by other means than "
                    "torch.utils.checkpoint, and the ablation cannot follow; turn the recomputation off"
                )

    def _left(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is self._model and output is not None:
            self._ran = True

    # -- cutting

    def apply(self, run: _Run, op: Op, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Call ``func`` with neutral operands in place of those that are cut."""
        frame = run.frames.current
        cut = self._cuts.get((frame.path, frame.call, op.name, frame.next(op.name)))
        if cut is None:
            return func(*args, **kwargs)
        found = tensors_of(args, kwargs)
        neutral = {}
        for position, (operand, shape) in cut.items():
            if position >= len(found) or (shape is not None and not _alike(found[position], shape)):
                raise AblationError(
                    f"{operand.site} does not do what it did when it was traced: "
                    "the skip is of another model, mode or input"
                )
            self._met.add(operand)
            tensor = found[position]
            neutral[position] = (torch.ones_like if op.family is Family.MUL else torch.zeros_like)(tensor)
        return _call(func, args, kwargs, found, neutral, op.writes)


class _Run(TorchFunctionMode):
    """The ablation at work in one thread, from one place of the model on."""

    def __init__(self, owner: ablate, frames: Frames, *, started: int | None = None) -> None:
        plain(super()).__init__()
        self.frames = frames
        self._owner = owner
        self._started = started
        """Which entering of the ablation it belongs to, and ends with; None if it outlasts it."""
        self._known: dict[Any, Op] = {}
        self._before: _Run | None = None

    @property
    def over(self) -> bool:
        """Whether the ablation has been left meanwhile."""
        return self._started is not None and (self._owner._home is None or self._started != self._owner._entered)

    def __enter__(self) -> _Run:
        runs = self._owner._runs
        self._before = runs.get(threading.get_ident())
        runs[threading.get_ident()] = self
        plain(super()).__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        plain(super()).__exit__(*exc)
        if self._before is None:
            del self._owner._runs[threading.get_ident()]
        else:
            self._owner._runs[threading.get_ident()] = self._before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = self._known.get(func)
        if op is None:
            op = self._known[func] = describe(func)
        if op.name not in self._owner._ops or self._owner._runs.get(threading.get_ident()) is not self or self.over:
            return func(*args, **kwargs)
        return self._owner.apply(self, op, func, args, kwargs)


def _chosen(skips: SkipGraph | Skip | Edge | Iterable[Skip | Edge]) -> list[Skip | Edge]:
    if isinstance(skips, SkipGraph):
        if not skips.skips:
            raise AblationError(f"the graph of {skips.model} has no skips to switch off")
        return list(skips.skips)
    return [skips] if isinstance(skips, (Skip, Edge)) else list(skips)


def _operands(skip: Skip | Edge, drop: str) -> list[tuple[Operand, Shape | None]]:
    if isinstance(skip, Edge):
        if drop == "residual":
            raise ValueError("an edge knows only its own operand; pass its skip to drop the residual")
        return [(skip.operand, skip.shape)]
    if not isinstance(skip, Skip):
        raise TypeError(f"ablate takes skips as trace_skips finds them, not {type(skip).__name__}")
    if drop == "shortcut":
        return [(edge.operand, edge.shape) for edge in skip.edges]
    if not skip.others:
        raise AblationError(f"every operand of {skip.merge} is a shortcut: there is no residual to drop")
    return [(operand, None) for operand in skip.others]


def _alike(tensor: Tensor, shape: Shape) -> bool:
    """Another batch size and another picture size are fine; another number of axes or channels is not."""
    return tensor.dim() == len(shape) and (tensor.dim() < 2 or tensor.shape[1] == shape[1] or tensor.dim() == 3)


def _call(
    func: Any, args: Any, kwargs: dict[str, Any], found: list[Tensor], neutral: dict[int, Tensor], in_place: bool
) -> Any:
    """Call ``func`` with some of its tensors replaced. An in-place operation whose target is replaced computes aside
    and copies the result into the real target, so that whoever else holds it sees the same."""
    counter = iter(range(len(found)))
    replaced = _replace(args, neutral, counter)
    named = {name: _replace(value, neutral, counter) for name, value in kwargs.items()}
    if "out" in kwargs:
        named["out"] = kwargs["out"]
    result = func(*replaced, **named)
    if in_place and 0 in neutral:
        return found[0].copy_(neutral[0])
    return result


def _replace(value: Any, neutral: dict[int, Tensor], counter: Any) -> Any:
    if isinstance(value, Tensor):
        return neutral.get(next(counter), value)
    if isinstance(value, (list, tuple)):
        items = [_replace(item, neutral, counter) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value

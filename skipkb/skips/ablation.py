"""Switch skip connections off in a model that stays as it is.

>>> with ablate(model, graph.skips[3]):
...     model(x)

While the context is entered, the operations that merge those skips get a neutral operand in place of the real one:
zeros for a sum or a concatenation, ones for a product. That happens above autograd, so gradients are those of the
network without the skip.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skipkb.skips.calls import tensors_of
from skipkb.skips.capture import plain
from skipkb.skips.graph import Edge, Operand, Shape, Skip
from skipkb.skips.ops import Family, Op, describe
from skipkb.skips.places import Frames


class AblationError(ValueError):
    """The skips do not belong to this model, or its forward did not pass them."""


class ablate(TorchFunctionMode):  # noqa: N801  (used like a function, as torch.no_grad is)
    """Context in which ``skips`` of ``model`` contribute nothing.

    Args:
        model: the model that was traced.
        skips: one skip, one edge of a skip, or several, as ``trace_skips`` found them (gates too).
        drop: ``shortcut`` silences the shortcut; ``residual`` silences every other operand of the merge, so that
            only the shortcut is left.

    Raises:
        AblationError: on entering, a skip names a module that the model lacks or comes from the aten capture; in the
            forward, an operand has another shape or number than the trace saw; on leaving, a skip was never reached.
    """

    def __init__(
        self,
        model: nn.Module,
        skips: Skip | Edge | Iterable[Skip | Edge],
        *,
        drop: Literal["shortcut", "residual"] = "shortcut",
    ) -> None:
        plain(super()).__init__()
        if drop not in ("shortcut", "residual"):
            raise ValueError(f"drop must be 'shortcut' or 'residual', not {drop!r}")
        self._model = getattr(model, "_orig_mod", model)
        chosen = [skips] if isinstance(skips, (Skip, Edge)) else list(skips)
        modules = dict(self._model.named_modules())
        self._cuts: dict[tuple[str, int, str, int], dict[int, tuple[Operand, Shape | None]]] = {}
        for skip in chosen:
            for operand, shape in _operands(skip, drop):
                site = operand.site
                if site.op.startswith("aten."):
                    raise AblationError(
                        f"{site} is an aten operator, below autograd, and cannot be switched off; "
                        "trace the model with capture='function'"
                    )
                if site.module not in modules and ".(" not in f".{site.module}":
                    raise AblationError(
                        f"{type(self._model).__name__} has no module {site.module!r}: "
                        f"the skip {operand.site} was traced on another model"
                    )
                key = (site.module, site.call, site.op, site.nth)
                self._cuts.setdefault(key, {})[operand.position] = (operand, shape)
        self._ops = {key[2] for key in self._cuts}
        self._frames = Frames(self._model, modules, leave=self._left)
        self._met: set[Operand] = set()
        self._ran = False
        self._known: dict[Any, Op] = {}

    def __enter__(self) -> ablate:
        self._met.clear()
        self._ran = False
        self._frames.__enter__()
        plain(super()).__enter__()
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        plain(super()).__exit__(kind, *rest)
        self._frames.__exit__()
        if kind is None and self._ran:
            missed = {operand for cut in self._cuts.values() for operand, _ in cut.values()} - self._met
            if missed:
                sites = ", ".join(sorted(str(operand.site) for operand in missed)[:3])
                raise AblationError(
                    f"{len(missed)} of the skips were not reached: {sites}. Trace the model again in the mode "
                    "(train or eval) and with the inputs you run it with, with capture='function'"
                )

    def _left(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is self._model and output is not None:
            self._ran = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = self._known.get(func)
        if op is None:
            op = self._known[func] = describe(func)
        if op.name not in self._ops:
            return func(*args, **kwargs)
        frame = self._frames.current
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


def _operands(skip: Skip | Edge, drop: str) -> list[tuple[Operand, Shape | None]]:
    if isinstance(skip, Edge):
        if drop == "residual":
            raise ValueError("an edge knows only its own operand; pass its skip to drop the residual")
        return [(skip.operand, skip.shape)]
    if not isinstance(skip, Skip):
        raise TypeError(f"ablate takes skips as trace_skips finds them, not {type(skip).__name__}")
    if drop == "shortcut":
        return [(edge.operand, edge.shape) for edge in skip.edges]
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

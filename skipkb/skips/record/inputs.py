"""What ``trace_skips(model, x)`` makes of ``x``, and what it says when a model wants something else."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from skipkb.skips.record.calls import tensors_in


class TraceError(ValueError):
    """A model or an input that cannot be traced, with what to do about it."""


def prepare(model: nn.Module, x: Any, *, dry: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for ``model``. Tensors are copied: a model may work in place on its input.
    With ``dry`` the copies have shapes and no values."""
    if not isinstance(model, nn.Module):
        raise TraceError(f"trace_skips follows a torch.nn.Module, not {type(model).__name__}")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise TraceError("the model has lazy parameters that no input has shaped yet; call it once, then trace it")
    if _is_shape(x):
        x = _random(model, tuple(x), dry)
    if isinstance(x, Mapping) and not isinstance(x, dict):
        x = dict(x)
    if isinstance(x, dict) and _takes_any(model):
        x = tuple(x.values())
    args, kwargs = ((), x) if isinstance(x, dict) else (x, {}) if isinstance(x, tuple) else ((x,), {})
    if isinstance(x, dict) and not all(isinstance(name, str) for name in x):
        raise TraceError("a dict of inputs names the arguments of forward; its keys must be text")
    _check_signature(model, args, kwargs)
    device = torch.device("meta") if dry or _on_meta(model) else None
    args, kwargs = copied(args, device), copied(kwargs, device)
    return args, kwargs


def _takes_any(model: nn.Module) -> bool:
    """Whether forward names none of its arguments, so that they are told apart by their order alone."""
    try:
        kinds = {parameter.kind for parameter in inspect.signature(model.forward).parameters.values()}
    except (TypeError, ValueError):
        return False
    return kinds == {inspect.Parameter.VAR_POSITIONAL}


def _is_shape(x: Any) -> bool:
    whole = isinstance(x, (tuple, list)) and len(x) > 0
    return whole and all(isinstance(side, int) and not isinstance(side, bool) for side in x)


def _tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _on_meta(model: nn.Module) -> bool:
    owned: list[Tensor] = [*model.parameters()] or [*model.buffers()]
    return bool(owned) and all(tensor.is_meta for tensor in owned)


def _random(model: nn.Module, shape: tuple[int, ...], dry: bool) -> Tensor:
    """Noise on the device and in the precision of the model; PyTorch's own random numbers stay where they were."""
    if any(side < 0 for side in shape):
        raise TraceError(f"an input shape has no negative sides: {shape}")
    like = next((tensor for tensor in _tensors_of(model) if tensor.is_floating_point()), torch.empty(0))
    dtype = like.dtype if like.element_size() > 1 else torch.float32
    if dry or like.is_meta:
        return torch.empty(shape, device="meta", dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.device, dtype)


def _check_signature(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    forward: Callable[..., Any] = model.forward
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):  # no Python signature to be had
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        names = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        positional = ", ".join(names) + ("," if len(names) == 1 else "")
        keywords = ", ".join(f"{name!r}: {name}" for name in names)
        raise TraceError(
            f"{type(model).__name__}.forward{signature} cannot be called like this: {error}.\n"
            f"Pass its inputs as a tuple, trace_skips(model, ({positional})), "
            f"or by name, trace_skips(model, {{{keywords}}})."
        ) from None


def copied(value: Any, device: torch.device | None) -> Any:
    """The same structure with every tensor copied (and moved, for a model on the meta device)."""
    if isinstance(value, Tensor):
        fresh = value.detach().clone() if device is None else value.detach().to(device)
        return fresh.requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {key: copied(item, device) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copied(item, device) for item in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(copied(item, device) for item in value))
    if isinstance(value, Mapping):
        return type(value)({key: copied(item, device) for key, item in value.items()})  # type: ignore[call-arg]
    if tensors_in(value):
        twin = copy.copy(value)
        for name, item in vars(value).items():
            object.__setattr__(twin, name, twin if item is value else copied(item, device))
        return twin
    return value

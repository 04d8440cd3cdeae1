"""Runs a forward pass on shapes alone, so that tracing a network computes nothing and needs no memory for activations.

The inputs are tensors on PyTorch's ``meta`` device, which have a shape and no values. Parameters stay where they are:
wherever one enters an operation, a stand-in without values takes its place, so nothing can write to it either. Other
tensors of the model (index tables, masks) keep their values until they meet data. An operation that needs the value of
something without values raises, and the trace starts again on real values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

META = torch.device("meta")


class NeedsValuesError(RuntimeError):
    """Shapes are not enough for what the model does."""


def run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any], found: list[Tensor], writes: bool) -> Any:
    """Call ``func`` on shapes if any of its tensors has no values; ``found`` are the tensors among its arguments."""
    without = [tensor.is_meta for tensor in found]
    if all(without):
        if not writes and (short := _shortcut(func, args, kwargs, found)) is not None:
            return short
        return func(*args, **kwargs)
    if not any(without) and not any(isinstance(tensor, nn.Parameter) for tensor in found):
        return func(*args, **kwargs)
    if writes and not without[0]:
        raise NeedsValuesError("a tensor with values is written to")
    if not writes and (short := _shortcut(func, args, kwargs, found)) is not None:
        return short
    return func(*stand_ins(args), **{name: stand_ins(value) for name, value in kwargs.items()})


def stand_ins(value: Any) -> Any:
    """The same nested lists and tuples, with a meta tensor of the same shape in place of every tensor."""
    if isinstance(value, Tensor):
        return value if value.is_meta else stand_in(value)
    if type(value) in (list, tuple):
        return type(value)(stand_ins(item) for item in value)
    return value


def stand_in(tensor: Tensor) -> Tensor:
    """A tensor of this shape, layout in memory and type, without values."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise NeedsValuesError("sparse and quantised tensors have no stand-in")
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def _shortcut(func: Callable[..., Any], args: Any, kwargs: dict[str, Any], found: list[Tensor]) -> Tensor | None:
    """The result of an elementwise function or a norm: what went in, again. PyTorch finds that out, too, but takes
    up to half a millisecond each time, longer than many a real computation."""
    if func in _LIKE_INPUT:
        x = args[0] if args else None
        # True among the arguments is ``inplace`` or ``training``, by position or by name.
        special = any(argument is True for argument in (*args, *kwargs.values())) or "out" in kwargs
        if not isinstance(x, Tensor) or special or torch.is_autocast_enabled():
            return None
        if func is F.batch_norm and kwargs.get("running_mean", args[1] if len(args) > 1 else None) is None:
            return None
        return torch.empty_like(x) if x.is_meta else None
    if func in _ELEMENTWISE and len(args) == 2 and not kwargs:
        left, right = found[0], found[-1]
        scalar = len(found) == 1 and left.is_floating_point() and isinstance(args[1], (int, float))
        if left.is_meta and (scalar or (left.shape == right.shape and left.dtype == right.dtype)):
            return torch.empty_like(left)
    if func is F.scaled_dot_product_attention and len(found) >= 3 and not torch.is_autocast_enabled():
        query, value = found[0], found[2]
        if query.is_meta and query.dim() == value.dim():
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
    return None


_LIKE_INPUT = {
    *(F.batch_norm, F.layer_norm, F.group_norm, F.rms_norm, torch.layer_norm, torch.group_norm),
    *(F.relu, F.gelu, F.silu, F.hardswish, F.leaky_relu, F.elu, F.mish, torch.relu),
    *(F.sigmoid, torch.sigmoid, Tensor.sigmoid, F.tanh, torch.tanh, Tensor.tanh, F.hardsigmoid),
    *(torch._C._nn.gelu, torch._C._nn.silu),
}
_ELEMENTWISE = {
    *(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, torch.sub, Tensor.sub, Tensor.__sub__),
    *(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
}

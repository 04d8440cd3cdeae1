"""Real data for the contract: the same small batches on every machine, with no download.

Each kind of data is a module of this package with two functions. ``batch(shape, ...)`` gives what the network takes (a
tensor, or a tuple where it takes several) and the target; ``misfit(output, target)`` says which shape was wanted if the
output does not fit. A kind that is not pictures alone also has ``inputs(shape)``, what the network takes without a
target, and ``blank(shape)``, the same without content.

A batch is a pure function of its arguments: crops are drawn by a generator of their own with a fixed seed, and the
global random state is neither read nor changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, get_args

import torch
from torch import Tensor

from skipkb.evidence.data.sources import photograph
from skipkb.vocabulary import DataKind

KINDS: tuple[DataKind, ...] = get_args(DataKind)


def batch(kind: str, shape: Sequence[int], **kwargs: Any) -> tuple[tuple[Tensor, ...], Any]:
    """A fixed batch of real data.

    Args:
        kind: one of :data:`KINDS`.
        shape: shape of the network's input; of the first, where it takes several.
        kwargs: what the kind takes, see its module.

    Returns:
        What the network takes, and the target.

    Raises:
        ValueError: for an unknown kind or keyword, or a shape that cannot be served.
    """
    make = _module(kind).batch
    allowed = make.__kwdefaults__ or {}
    if unknown := sorted(set(kwargs) - set(allowed)):
        raise ValueError(f"{kind} takes no {unknown[0]!r}; it takes {', '.join(allowed) or 'no keyword'}")
    x, target = make(shape, **kwargs)
    return _several(x), target


def inputs(kind: str, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """What a network for this kind of data takes, real and without a target: photographs, if nothing else is said."""
    return _several(getattr(_module(kind), "inputs", photograph)(shape))


def blank(kind: str, shape: Sequence[int], device: str = "meta") -> tuple[Tensor, ...]:
    """The same shapes and types without content."""
    with torch.device(device):
        return _several(getattr(_module(kind), "blank", torch.empty)(shape))


def misfit(kind: str, output: Any, target: Any) -> str | None:
    """The shape that was wanted, if that of the output does not fit the target; None also where only the objective
    can tell, as of several outputs."""
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        return None
    wanted: str | None = _module(kind).misfit(output, target)
    return wanted


def file_of(kind: str) -> str:
    """Name of the module of a kind, as source files are found by."""
    return f"{__name__}.{kind.replace('-', '_')}"


def _module(kind: str) -> Any:
    if kind not in KINDS:
        raise ValueError(f"there is no data for {kind!r}; kinds are {', '.join(KINDS)}")
    return import_module(file_of(kind))


def _several(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)

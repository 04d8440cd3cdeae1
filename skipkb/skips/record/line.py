"""The line: a network's weighted layers in the order they run."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from skipkb.skips.graph import Layer
from skipkb.skips.record.nodes import Trace
from skipkb.skips.record.ops import Family
from skipkb.skips.record.places import Frame
from skipkb.skips.record.values import Matrix

_Kind = Literal["conv", "linear", "recurrent", "attention", "embedding"]
_KINDS: dict[Family, _Kind] = {
    Family.CONV: "conv",
    Family.RECURRENT: "recurrent",
    Family.ATTENTION: "attention",
    Family.EMBEDDING: "embedding",
}


class Line:
    """Appends layers to a trace."""

    def __init__(self, trace: Trace, modules: dict[str, nn.Module]) -> None:
        self.trace = trace
        self.batch = 1
        """Samples in a batch; a resolution is that of one."""
        self._modules = modules
        self._calls: dict[str, int] = {}

    def add(self, family: Family, frame: Frame, matrix: Matrix | None, shape: tuple[int, ...]) -> float:
        """Append a layer, or the two of attention, with an output of this shape; returns the resolution."""
        owners = {name.rpartition(".")[0] for name in matrix.names} if matrix else set()
        name = owners.pop() if len(owners) == 1 else frame.path
        kind: _Kind = _KINDS.get(family, "linear")
        if kind == "conv":
            batched = matrix is None or len(shape) >= matrix.dims
            channels = shape[1] if batched and len(shape) > 1 else shape[0]
            size = shape[2:] if batched else shape[1:]
        else:
            channels = shape[-1] if shape else 1
            size = shape[1:-1]
        places = math.prod(shape) / max(channels, 1)
        owner = self._modules.get(name, frame.module)
        for part in (".in_proj", ".out_proj") if kind == "attention" else ("",):
            self._calls[name + part] = call = self._calls.get(name + part, 0) + 1
            self.trace.layers.append(
                Layer(
                    name=(name + part).lstrip("."),
                    type=type(owner).__name__ if owner is not None else "",
                    kind=kind,
                    channels=int(channels),
                    size=tuple(int(side) for side in size),
                    places=round(places / self.batch),
                    call=call,
                    step=len(self.trace.nodes),
                )
            )
        return places

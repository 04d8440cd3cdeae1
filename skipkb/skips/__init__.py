"""Find, count, draw and switch off the skip connections of any PyTorch model.

>>> graph = trace_skips(model, torch.randn(1, 3, 224, 224))
>>> graph.counts()
Counter({'add': 16, 'identity': 12, 'projection': 4, 'long': 16})
>>> with ablate(model, graph.skips[3]):
...     model(x)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipkb.skips.ablation import AblationError, ablate
    from skipkb.skips.graph import Edge, Layer, Lost, MultiBranch, Operand, Site, Skip, SkipGraph
    from skipkb.skips.trace import TraceError, trace_skips

_HOME = {
    "AblationError": "skipkb.skips.ablation",
    "ablate": "skipkb.skips.ablation",
    "Edge": "skipkb.skips.graph",
    "Layer": "skipkb.skips.graph",
    "Lost": "skipkb.skips.graph",
    "MultiBranch": "skipkb.skips.graph",
    "Operand": "skipkb.skips.graph",
    "Site": "skipkb.skips.graph",
    "Skip": "skipkb.skips.graph",
    "SkipGraph": "skipkb.skips.graph",
    "TraceError": "skipkb.skips.trace",
    "trace_skips": "skipkb.skips.trace",
}

__all__ = [
    "AblationError",
    "Edge",
    "Layer",
    "Lost",
    "MultiBranch",
    "Operand",
    "Site",
    "Skip",
    "SkipGraph",
    "TraceError",
    "ablate",
    "trace_skips",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

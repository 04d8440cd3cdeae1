"""skipkb: the survey of skip connections that you can run.

>>> import skipkb
>>> skipkb.get("unet").name
'U-Net'

Every name below is imported when it is first used, so ``import skipkb`` itself costs nothing and
the catalogue works without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipkb.catalog.citations import cite
    from skipkb.catalog.problems import CatalogueError, UnknownNameError
    from skipkb.catalog.search import entries, get, search
    from skipkb.catalog.tables import table
    from skipkb.factory import create_model, list_models
    from skipkb.skips.ablation import ablate
    from skipkb.skips.graph import SkipGraph
    from skipkb.skips.trace import trace_skips

__version__ = "0.1.0"

__all__ = [
    "CatalogueError",
    "SkipGraph",
    "UnknownNameError",
    "ablate",
    "cite",
    "create_model",
    "entries",
    "get",
    "list_models",
    "search",
    "table",
    "trace_skips",
]

_HOME = {
    "CatalogueError": "skipkb.catalog.problems",
    "UnknownNameError": "skipkb.catalog.problems",
    "SkipGraph": "skipkb.skips.graph",
    "ablate": "skipkb.skips.ablation",
    "cite": "skipkb.catalog.citations",
    "create_model": "skipkb.factory",
    "entries": "skipkb.catalog.search",
    "get": "skipkb.catalog.search",
    "list_models": "skipkb.factory",
    "search": "skipkb.catalog.search",
    "table": "skipkb.catalog.tables",
    "trace_skips": "skipkb.skips.trace",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

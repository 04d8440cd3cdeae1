"""The facts: typed entries, loading and checking, index, search, citations, tables, export.

Nothing here needs torch. Names are imported where they are used, so that a search pays for the
standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipkb.catalog.loading import Catalogue, load
    from skipkb.catalog.problems import CatalogueError, Problem, UnknownNameError

__all__ = ["Catalogue", "CatalogueError", "Problem", "UnknownNameError", "load"]

_HOME = {
    "Catalogue": "skipkb.catalog.loading",
    "load": "skipkb.catalog.loading",
    "CatalogueError": "skipkb.catalog.problems",
    "Problem": "skipkb.catalog.problems",
    "UnknownNameError": "skipkb.catalog.problems",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)

"""Evidence: the contract every implemented entry must pass, the runner, and what it leaves behind.

``checks`` names the checks and ``contract`` makes them, ``worker`` for one entry in a process of its own;
``runner`` starts the workers, ``key`` says what a result depends on, ``recorded`` and ``counts`` read and
write the committed results, and ``report`` shows them. Only the contract and what it uses load torch, and
only in the worker; so the site can read all evidence on a machine without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipkb.evidence.recorded import read_recorded
    from skipkb.evidence.results import Check, Report
    from skipkb.evidence.runner import run

__all__ = ["Check", "Report", "read_recorded", "run"]

_HOME = {
    "Check": "skipkb.evidence.results",
    "Report": "skipkb.evidence.results",
    "read_recorded": "skipkb.evidence.recorded",
    "run": "skipkb.evidence.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)

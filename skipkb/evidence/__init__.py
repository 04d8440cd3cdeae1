"""Evidence: the contract every implemented entry must pass, the runner, and what it leaves behind.

``contract`` holds the checks, ``worker`` performs them for one entry in a process of its own,
``runner`` starts the workers, ``ledger`` and ``counts`` read and write the committed results, and
``report`` shows them. Only the contract and what it uses load torch, and only in the worker; so the
site can read all evidence on a machine without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipkb.evidence.ledger import read_ledgers
    from skipkb.evidence.results import Check, Report
    from skipkb.evidence.runner import run

__all__ = ["Check", "Report", "read_ledgers", "run"]

_HOME = {
    "Check": "skipkb.evidence.results",
    "Report": "skipkb.evidence.results",
    "read_ledgers": "skipkb.evidence.ledger",
    "run": "skipkb.evidence.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)

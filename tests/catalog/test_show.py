"""One work as text: every line of it, with how far it was checked."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from pathlib import Path

import sample

from skipkb.catalog.search import get
from skipkb.catalog.show import show

DAY = datetime.date(2026, 1, 2)


def test_show_says_everything_with_how_far_it_was_checked(install: Callable[..., Path]) -> None:
    checked = {"checked": "paper", "where": "Table 2", "date": DAY}
    entry = sample.running(
        1000,
        code=[
            sample.repository("own", licence="MIT"),
            sample.repository("port", "third-party", framework="JAX"),
        ],
        results=[
            {"dataset": "SVHN", "metric": "error", "value": "6.4%", "variant": "AlphaNet 9", "source": checked},
            {
                "dataset": "MNIST",
                "metric": "AP",
                "value": "41",
                "variant": "AlphaNet 8",
                "source": {"checked": "unverified"},
            },
        ],
        errata=[
            {
                **{"type": "dataset", "where": "Table I", "says": "a", "truth": "It is b.", "status": "disputed"},
                "evidence": {"checked": "paper", "date": datetime.date(2026, 1, 2)},
            },
            {
                **{"type": "dataset", "where": "Table I", "says": "a", "truth": "It is c.", "status": "unverified"},
                "evidence": {"checked": "unverified"},
            },
        ],
        notes=[
            {
                "where": "Table I",
                "adds": "Also on SVHN.",
                "evidence": {"checked": "paper", "date": datetime.date(2026, 1, 2)},
            },
            {"where": "Table I", "adds": "Also on MNIST.", "evidence": {"checked": "unverified"}},
        ],
        deviations=[{"what": "A mean.", "reason": "It is stable.", "test": "tests/catalog/sample.py"}],
    )
    install(entry)
    assert [line for line in show(get("alpha")).splitlines() if re.match(r"[a-z]+ +\S", line[:10])] == [
        "skip     add, short: from block input to block output (identity)",
        "table    classification; data sets: CIFAR-10 (unverified); code: PyTorch (as in the survey, unverified)",
        "model    alpha1: 1,000 parameters, 1,000,000 MACs at [1, 1, 28, 28]",
        "code     https://example.com/own (official, PyTorch, MIT): Models.",
        "code     https://example.com/port (third-party, JAX, no licence known): Models.",
        "result   SVHN, error: 6.4% (AlphaNet 9; checked: paper, 2026-01-02)",
        "result   MNIST, AP: 41 (AlphaNet 8; unverified)",
        "erratum  Table I, dataset (disputed): It is b.",
        "note     Table I (checked: paper, 2026-01-02): Also on SVHN.",
        "deviates A mean. Why: It is stable.",
    ]

"""The two captures against each other over the zoo: ``make test-zoo``.

They read one forward pass at two levels and share no table of what happened. Where they disagree, one is wrong.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from skipkb.skips import SkipGraph, trace_skips

from . import models  # type: ignore[import-not-found]

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]

SLOWEST = 20.0
"""Times its own forward that a trace may take."""


def facts(graph: SkipGraph) -> Counter[tuple[Any, ...]]:
    """What both captures must say: where, what kind, around how much."""
    return Counter(
        (s.merge.partition(":")[0], s.kind, s.shortcut, s.layers, s.convs, s.partial, s.cross_scale)
        for s in (*graph.skips, *graph.gates)
    )


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.mark.parametrize("name", models.names())
def test_captures_agree(name: str, record_property: Callable[[str, object], None]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, x, device = models.ready(name)

    def forward() -> None:
        with torch.no_grad():
            model(*x) if isinstance(x, tuple) else model(x)

    alone = min(seconds(forward) for _ in range(2))
    start = time.process_time()
    above = trace_skips(model, x, capture="function")
    took = time.process_time() - start
    below = trace_skips(model, x, capture="dispatch")
    record_property("device", device)
    record_property("ratio", took / alone)
    only_above, only_below = facts(above) - facts(below), facts(below) - facts(above)
    assert not only_above, f"only the function capture sees {dict(only_above)}; the other {dict(only_below)}"
    assert not only_below, f"only the dispatch capture sees {dict(only_below)}"
    assert len(above.layers) == len(below.layers)
    if device == "cpu":
        assert above == trace_skips(model, x, capture="function", values=True)
    assert not above.lost
    assert not above.notes, above.notes
    assert took < SLOWEST * alone, f"{took:.2f} s for a forward of {alone:.2f} s"

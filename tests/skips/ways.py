"""The ways a trace can go. What a test says of skips must hold for each."""

from __future__ import annotations

from typing import Any

from torch import nn

from skipkb.skips import SkipGraph, trace_skips

CAPTURES = ["shapes", "function", "dispatch"]
"""The Python API on shapes alone (the default), the Python API on values, aten operators on values."""


def traced(model: nn.Module, x: Any, capture: str) -> SkipGraph:
    """``trace_skips`` in one of the ways above."""
    if capture == "dispatch":
        return trace_skips(model, x, capture="dispatch")
    return trace_skips(model, x, capture="function", values=capture != "shapes")

"""Tracing allocates nothing that grows with the weights, on the meta device and on shapes alone."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from skipkb.skips import SkipGraph, trace_skips


class Real(TorchDispatchMode):
    """Adds up the bytes of every tensor with values that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                self.bytes += tensor.numel() * tensor.element_size()
        return out


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(width, width), nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


def cost(width: int, device: str, **how: bool) -> tuple[SkipGraph, int, int]:
    """Graph, bytes of real tensors, and peak of Python's own memory."""
    with torch.device(device):
        model = nn.Sequential(*(Block(width) for _ in range(4)))
    trace_skips(model, (2, width), **how)  # imports and caches
    tracemalloc.start()
    with Real() as real:
        graph = trace_skips(model, (2, width), **how)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return graph, real.bytes, peak


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_nothing_grows_with_the_weights(device: str) -> None:
    small, small_bytes, small_peak = cost(16, device)
    large, large_bytes, large_peak = cost(1024, device)  # 4096 times the weights
    assert small.counts() == large.counts() == {"add": 4, "identity": 4}
    assert small_bytes == large_bytes
    assert large_peak < 1.1 * small_peak


def test_values_are_what_costs() -> None:
    """The measurement above can see growth."""
    assert cost(1024, "cpu", values=True)[1] > 20 * cost(16, "cpu", values=True)[1]

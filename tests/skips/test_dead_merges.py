"""A merge whose result is thrown away is not counted, and that is said. Counts are whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cases import Net  # type: ignore[import-not-found]
from .ways import CAPTURES, traced  # type: ignore[import-not-found]


def residual(m: Any, x: Tensor) -> Tensor:
    return x + m.b(F.relu(m.a(x)))  # type: ignore[no-any-return]


def thrown_away(m: Any, x: Tensor) -> Any:
    residual(m, x)
    return m.c(x)


def overwritten(m: Any, x: Tensor) -> Any:
    y = residual(m, x)
    y = F.relu(y).mean()
    y = m.c(x)
    return {"y": y}


def only_its_shape_is_used(m: Any, x: Tensor) -> Any:
    y = residual(m, x)
    return m.c(x) + torch.zeros_like(y) * y.shape[0]


def gate_thrown_away(m: Any, x: Tensor) -> Any:
    x * torch.sigmoid(m.a(x))
    return m.c(x), x


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("rule", [thrown_away, overwritten, only_its_shape_is_used, gate_thrown_away])
def test_dead(rule: Callable[..., Any], capture: str) -> None:
    graph = traced(Net(rule, **{name: nn.Linear(8, 8) for name in "abc"}), (2, 8), capture)
    assert not graph.counts()
    assert not graph.skips
    assert any("never reaches the output" in note for note in graph.notes)


def second_output(m: Any, x: Tensor) -> Any:
    return m.c(x), [{"aux": residual(m, x)}]


def kept_by_the_model(m: Any, x: Tensor) -> Any:
    m.features = [residual(m, x)]
    return m.c(x)


def mask(m: Any, x: Tensor) -> Any:
    return m.c(x) * (residual(m, x) > 0)


def detached(m: Any, x: Tensor) -> Any:
    return m.c(x) * residual(m, x).detach()


def chosen(m: Any, x: Tensor) -> Any:
    return m.c(x)[residual(m, x).argmax(0)]


def looked_at(m: Any, x: Tensor) -> Any:
    return m.c(x) if residual(m, x).sum() > -1e9 else x


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("rule", [second_output, kept_by_the_model, mask, detached, chosen, looked_at])
def test_alive(rule: Callable[..., Any], capture: str) -> None:
    graph = traced(Net(rule, **{name: nn.Linear(8, 8) for name in "abc"}), (2, 8), capture)
    assert graph.counts()["add"] == 1
    assert not graph.notes


@pytest.mark.parametrize("capture", CAPTURES)
def test_counts_are_whole_numbers(capture: str) -> None:
    def unet(m: Any, x: Tensor) -> Tensor:
        return torch.cat([x, F.interpolate(m.c(m.b(m.a(F.max_pool2d(x, 2)))), scale_factor=2)], 1)

    parts = {name: nn.Conv2d(4, 4, 3, padding=1) for name in "abc"}
    counts = traced(Net(unet, **parts), (1, 4, 8, 8), capture).counts()
    assert counts == {"concat": 1, "identity": 1, "long": 1, "cross_scale": 1}
    assert {type(number) for number in counts.values()} == {int}

"""Sums of more than two, sums that run along, merges all of whose operands come from one another."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipkb.skips import AblationError, SkipGraph, ablate, trace_skips

from .cases import Net  # type: ignore[import-not-found]
from .ways import CAPTURES, traced  # type: ignore[import-not-found]


def in_place(h: list[Tensor]) -> Tensor:
    y = h[0] + h[1]
    for other in h[2:]:
        y += other
    return y


SUMS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "from the left": lambda h: h[0] + h[1] + h[2] + h[3] + h[4],
    "from the right": lambda h: h[0] + (h[1] + (h[2] + (h[3] + h[4]))),
    "backwards": lambda h: h[4] + h[3] + h[2] + h[1] + h[0],
    "in pairs": lambda h: (h[0] + h[1]) + (h[2] + h[3]) + h[4],
    "sum": lambda h: sum(h),  # type: ignore[arg-type,return-value]
    "reduce": lambda h: reduce(add, h),
    "in place": in_place,
    "stack": lambda h: torch.stack(h).sum(0),
    "mean": lambda h: torch.stack(h, 1).mean(1),
    "weighted": lambda h: (torch.ones(5, 1, 1) * torch.stack(h)).sum(0),
    "einsum": lambda h: torch.einsum("k,kbc->bc", torch.ones(5), torch.stack(h)),
    "product": lambda h: torch.stack(h, -1) @ torch.ones(5),
}


def chain(way: Callable[[list[Tensor]], Tensor]) -> nn.Module:
    def rule(m: Any, x: Tensor) -> Tensor:
        h = [x]
        for layer in m.f:
            h.append(torch.tanh(layer(h[-1])))
        return m.out(way(h))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    return Net(rule, f=nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), out=nn.Linear(8, 8))  # type: ignore[no-any-return]


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("way", SUMS)
def test_every_spelling_of_one_sum(way: str, capture: str) -> None:
    (skip,) = traced(chain(SUMS[way]), (2, 8), capture).skips
    assert [edge.layers for edge in skip.edges] == [4, 3, 2, 1]
    assert len(skip.others) == 1


@pytest.mark.parametrize("way", SUMS)
def test_ablation_of_each_spelling(way: str) -> None:
    """Without the shortcuts, the last of the five is left; without the rest, the first four."""
    model, x = chain(SUMS[way]), torch.randn(2, 8)
    h = [x]
    for layer in model.f:  # type: ignore[union-attr]
        h.append(torch.tanh(layer(h[-1])))
    scale = 5 if way == "mean" else 1
    (skip,) = trace_skips(model, x).skips
    with ablate(model, skip):
        torch.testing.assert_close(model(x), model.out(h[4] / scale))  # type: ignore[operator]
    with ablate(model, skip, drop="residual"):
        torch.testing.assert_close(model(x), model.out(sum(h[:4]) / scale))  # type: ignore[operator]


def test_nothing_left_to_drop() -> None:
    graph = trace_skips(chain(SUMS["sum"]), (2, 8))
    text = graph.to_json()
    skip = SkipGraph.from_json(text).skips[0]
    object.__setattr__(skip, "others", ())
    with pytest.raises(AblationError, match="no residual to drop"):
        ablate(chain(SUMS["sum"]), skip, drop="residual")


# -- the main path is not a shortcut


def gated_unet(m: Any, x: Tensor) -> Tensor:
    """Attention U-Net: what comes from below steers what is let through."""
    x = F.relu(m.e(x))
    up = F.interpolate(F.relu(m.d(F.max_pool2d(x, 2))), scale_factor=2)
    let_through = x * torch.sigmoid(m.p(F.relu(m.g(up) + m.x(x))))
    return m.o(m.join(let_through, up))  # type: ignore[no-any-return]


JOINS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "cat": (lambda a, b: torch.cat([a, b], 1), "concat"),
    "cat turned round": (lambda a, b: torch.cat([b, a], 1), "concat"),
    "sum": (lambda a, b: torch.cat([a + b, a + b], 1), "add"),
}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("join", JOINS)
def test_the_main_path_is_not_cut(join: str, capture: str) -> None:
    torch.manual_seed(0)
    convs = {name: nn.Conv2d(8, 8, 1) for name in "edgxp"}
    model = Net(gated_unet, **convs, o=nn.Conv2d(16, 1, 1))
    model.join, kind = JOINS[join]
    x = torch.randn(1, 8, 16, 16)
    graph = traced(model, x, capture)
    skips = [skip for skip in graph.skips if skip.kind == kind and skip.shape[1] in (8, 16) and skip.cross_scale]
    for skip in [skip for skip in skips if skip.shortcut == "gated"]:
        assert (len(skip.edges), len(skip.others)) == (1, 1)
    assert [skip.shortcut for skip in skips if skip.shortcut == "gated"]
    if capture != "dispatch":
        with ablate(model, [skip for skip in skips if skip.shortcut == "gated"]):
            assert model(x).detach().std() > 0


# -- running sums


def pyramid(m: Any, x: Tensor) -> Tensor:
    """LapSRN: the picture goes up and gathers a residual at each level."""
    h, y = m.i(x), x
    for f, r in zip(m.f, m.r, strict=True):
        h = F.interpolate(F.relu(f(h)), scale_factor=2)
        y = F.interpolate(y, scale_factor=2) + r(h)
    return y


def every_level(m: Any, x: Tensor) -> list[Tensor]:
    h, y, found = m.i(x), x, []
    for f, r in zip(m.f, m.r, strict=True):
        h = F.interpolate(F.relu(f(h)), scale_factor=2)
        y = r(h) + F.interpolate(y, scale_factor=2, mode="bilinear")
        found.append(torch.tanh(y))
    return found


def in_a_loop_with_dropout(m: Any, x: Tensor) -> Tensor:
    h, y = m.i(x), x
    for f, r in zip(m.f, m.r, strict=True):
        h = F.max_pool2d(F.relu(f(h)), 2)
        y = F.dropout(F.avg_pool2d(y, 2), 0.1, training=True).add(r(h))
    return y


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("rule", [pyramid, every_level, in_a_loop_with_dropout])
def test_running_sum(rule: Callable[..., Any], capture: str) -> None:
    def convs() -> nn.ModuleList:
        return nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    model = Net(rule, i=nn.Conv2d(3, 3, 1), f=convs(), r=convs())
    counts = traced(model, (1, 3, 8, 8), capture).counts()
    assert (counts["add"], counts["resampled"]) == (3, 3)


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("way", [lambda y: F.interpolate(y, scale_factor=2), lambda y: F.dropout(y, 0.1, True)])
def test_running_sum_of_projections(way: Callable[[Tensor], Tensor], capture: str) -> None:
    """StyleGAN2's toRGB, WaveNet's skip sum."""

    def rule(m: Any, x: Tensor) -> Tensor:
        y = None
        for f, r in zip(m.f, m.r, strict=True):
            x = F.leaky_relu(f(x))
            y = r(x) if y is None else way(y) + r(x)
            x = way(x)
        assert y is not None
        return y

    model = Net(rule, f=nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(4)),
                r=nn.ModuleList(nn.Conv2d(8, 3, 1) for _ in range(4)))  # fmt: skip
    counts = traced(model, (1, 8, 4, 4), capture).counts()
    assert (counts["add"], counts["projection"]) == (3, 3)


@pytest.mark.parametrize("capture", CAPTURES)
def test_a_top_down_sum_is_no_running_one(capture: str) -> None:
    """A feature pyramid: each level adds a lateral projection to what comes from above; nothing else is a shortcut."""

    def rule(m: Any, x: Tensor) -> list[Tensor]:
        levels = [x]
        for f in m.f:
            levels.append(F.relu(f(levels[-1])))
        y = m.r[3](levels[3])
        found = [y]
        for k in (2, 1, 0):
            y = m.r[k](levels[k]) + F.interpolate(y, scale_factor=2)
            found.append(y)
        return found

    model = Net(rule, f=nn.ModuleList(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(3)),
                r=nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(4)))  # fmt: skip
    assert traced(model, (1, 8, 16, 16), capture).counts() == {"add": 3, "projection": 3, "long": 2, "cross_scale": 3}


# -- an earlier common source

CARRIED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "as it is": (lambda m, x: x, "identity"),
    "view": (lambda m, x: x.view(2, 2, 4), "identity"),
    "dropout": (lambda m, x: F.dropout(x, 0.1, True), "identity"),
    "permuted": (lambda m, x: x.t().contiguous(), "identity"),
    "norm": (lambda m, x: F.layer_norm(x, (8,)), "affine"),
    "activation": (lambda m, x: F.silu(x), "activated"),
}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("way", CARRIED)
def test_gate_made_before_what_it_gates(way: str, capture: str) -> None:
    carry, shortcut = CARRIED[way]

    def rule(m: Any, x: Tensor) -> Tensor:
        gate = torch.sigmoid(m.f(x))
        v = carry(m, x)
        gate = gate.t() if way == "permuted" else gate.view_as(v)
        return v + v * gate

    counts = traced(Net(rule, f=nn.Linear(8, 8)), (2, 8), capture).counts()
    assert (counts["add"], counts[shortcut]) == (1, 1)


@pytest.mark.parametrize("capture", CAPTURES)
def test_state_space_layer(capture: str) -> None:
    def rule(m: Any, x: Tensor) -> Tensor:
        b, t = m.b(F.silu(x)).transpose(1, 2), x.transpose(1, 2)
        return (t * b).cumsum(-1) + t * m.scale

    model = Net(rule, b=nn.Linear(8, 8), scale=nn.Parameter(torch.ones(8, 1)))
    counts = traced(model, (2, 5, 8), capture).counts()
    assert (counts["add"], counts["affine"]) == (1, 1)

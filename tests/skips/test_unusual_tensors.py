"""Sparse, nested and batched tensors go through; the picture of an attention U-Net is a valley."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipkb.skips import trace_skips
from skipkb.skips.draw.stages import find_stages

from .cases import Net  # type: ignore[import-not-found]
from .ways import CAPTURES, traced  # type: ignore[import-not-found]

ONE = {"add": 1, "identity": 1}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("kept", [False, True])
def test_sparse_matrix_as_input_or_buffer(kept: bool, layout: torch.layout, capture: str) -> None:
    matrix = torch.eye(6).to_sparse(layout=layout)
    if kept:
        model, x = Net(lambda m, x: x + F.relu(m.A @ m.l(x)), l=nn.Linear(8, 8), A=matrix), torch.randn(6, 8)
    else:
        model = Net(lambda m, x, a: x + F.relu(torch.sparse.mm(a, m.l(x))), l=nn.Linear(8, 8))
        x = (torch.randn(6, 8), matrix)
    assert traced(model, x, capture).counts() == ONE


@pytest.mark.parametrize("capture", ["shapes", "function"])
def test_nested_tensor(capture: str) -> None:
    x = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(5, 8)], layout=torch.jagged)
    graph = traced(Net(lambda m, x: x + F.relu(m.l(x)), l=nn.Linear(8, 8)), x, capture)
    assert graph.counts() == ONE
    assert graph.skips[0].shape == (2, 4, 8)  # of the ragged axis, the mean


def test_ensemble_by_vmap() -> None:
    def rule(m: Any, x: Tensor) -> Tensor:
        stacked, buffers = torch.func.stack_module_state(list(m.members))
        base = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).to("meta")

        def one(p: Any, b: Any, x: Tensor) -> Any:
            return torch.func.functional_call(base, (p, b), (x,))

        return x + torch.vmap(one, in_dims=(0, 0, None))(stacked, buffers, x).mean(0)

    model = Net(rule, members=nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)))
    assert trace_skips(model, torch.randn(2, 8)).counts() == ONE


class Gate(nn.Module):
    def __init__(self, coarse: bool) -> None:
        super().__init__()
        self.g, self.x, self.p = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 1, 1)
        self.coarse = coarse

    def forward(self, up: Tensor, x: Tensor) -> Tensor:
        a, b = (F.avg_pool2d(up, 2), F.avg_pool2d(x, 2)) if self.coarse else (up, x)
        a = torch.sigmoid(self.p(F.relu(self.g(a) + self.x(b))))
        return x * (F.interpolate(a, scale_factor=2) if self.coarse else a)


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("how", ["plain", "gated", "gated at the coarser level"])
def test_an_attention_unet_is_a_valley(how: str, capture: str) -> None:
    def rule(m: Any, x: Tensor) -> Tensor:
        kept = []
        for down in m.down:
            x = F.relu(down(x))
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = F.relu(m.middle(x))
        for up, gate in zip(m.up, m.gates, strict=True):
            x, skip = F.interpolate(x, scale_factor=2), kept.pop()
            x = F.relu(up(torch.cat([skip if how == "plain" else gate(x, skip), x], 1)))
        return x

    def convs(*widths: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Conv2d(width, 8, 3, padding=1) for width in widths)

    gates = nn.ModuleList(Gate(how != "gated") for _ in range(3))
    model = Net(rule, down=convs(3, 8, 8), middle=convs(8)[0], up=convs(16, 16, 16), gates=gates)
    sides = [stage.size[0] for stage in find_stages(traced(model, (1, 3, 32, 32), capture))]
    assert (min(sides), sides[0], sides[-1]) == (4, 32, 32)
    if how != "gated at the coarser level":
        assert sides == [32, 16, 8, 4, 8, 16, 32]


def test_a_gate_on_a_pooled_copy_still_stands_aside() -> None:
    rule: Callable[..., Any] = lambda m, x: m.b(m.a(x) * torch.sigmoid(m.g(m.a(x).mean((2, 3), keepdim=True))))  # noqa: E731
    convs = {name: nn.Conv2d(4, 4, 1) for name in "abg"}
    assert len(find_stages(trace_skips(Net(rule, **convs), (1, 4, 16, 16)))) == 1


class Data:
    def __init__(self, x: Tensor) -> None:
        self.x, self.me = x, self


@pytest.mark.parametrize("capture", CAPTURES)
def test_objects_and_mappings_that_hold_tensors(capture: str) -> None:
    def rule(m: Any, d: Any) -> Tensor:
        x = d if isinstance(d, Tensor) else d["x"] if isinstance(d, UserDict) else d.x
        return x + F.relu(m.l(x))  # type: ignore[no-any-return]

    x = torch.randn(6, 8)
    for held in (SimpleNamespace(x=x), Data(x), UserDict(x=x), (UserDict(x=x),)):
        assert traced(Net(rule, l=nn.Linear(8, 8)), held, capture).counts() == ONE


@pytest.mark.parametrize("capture", CAPTURES)
def test_trainable_tensors_that_are_not_registered(capture: str) -> None:
    weight = torch.randn(8, 8, requires_grad=True)
    for kept in ([weight], {"w": weight}, (weight,)):
        model = Net(lambda m, x: x + torch.tanh(x @ weight))
        model.kept = kept
        assert traced(model, torch.randn(2, 8), capture).counts() == ONE

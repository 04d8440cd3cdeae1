"""What trace_skips takes, what it gives back, and what it says to bad input."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipkb.skips import SkipGraph, TraceError, trace_skips

from .ways import CAPTURES, traced  # type: ignore[import-not-found]

ONE = {"add": 1, "identity": 1}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def block(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))

    def forward(self, x: Tensor) -> Any:
        return self.block(x)


class Masked(Net):
    def forward(self, x: Tensor, mask: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.block(x * scale).masked_fill(mask, 0.0)


@pytest.mark.parametrize(
    "x", [torch.randn(2, 4), (torch.randn(2, 4),), {"x": torch.randn(2, 4)}, (2, 4), torch.Size((2, 4)), [2, 4]]
)
def test_every_way_to_say_the_input(x: Any) -> None:
    assert trace_skips(Net(), x).counts() == ONE


def test_several_inputs() -> None:
    x, mask = torch.randn(2, 4), torch.zeros(2, 4, dtype=torch.bool)
    for inputs in ((x, mask), {"x": x, "mask": mask}, {"x": x, "mask": mask, "scale": 2.0}):
        graph = trace_skips(Masked(), inputs)
        assert graph.counts() == ONE


def test_missing_input_names_the_signature_and_shows_how() -> None:
    with pytest.raises(TraceError) as error:
        trace_skips(Masked(), torch.randn(2, 4))
    message = str(error.value)
    assert "Masked.forward(x: " in message
    assert "missing a required argument: 'mask'" in message
    assert "trace_skips(model, (x, mask))" in message
    assert "trace_skips(model, {'x': x, 'mask': mask})" in message
    with pytest.raises(TraceError, match="unexpected keyword argument 'y'"):
        trace_skips(Net(), {"x": torch.randn(2, 4), "y": 1})
    with pytest.raises(TraceError, match="too many positional arguments"):
        trace_skips(Net(), (torch.randn(2, 4), torch.randn(2, 4)))


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (lambda x: x, (2, 4), "not function"),
        (nn.LazyLinear(4), (2, 4), "call it once"),
        (Net(), (2, -4), "no negative sides"),
        (Net(), {1: torch.randn(2, 4)}, "keys must be text"),
        (Net(), None, "no tensor among the inputs"),
        (Net(), (), "missing a required argument"),
        (Net(), {"x": [3.0]}, "no tensor among the inputs"),
    ],
)
def test_bad_input(model: Any, x: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace_skips(model, x)


def test_bad_capture() -> None:
    with pytest.raises(ValueError, match="'auto', 'function' or 'dispatch'"):
        trace_skips(Net(), (2, 4), capture="fx")  # type: ignore[arg-type]


def test_the_forward_s_own_error_comes_through() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as error:
        trace_skips(Net(), (2, 5))
    assert "forward of Net" in error.value.__notes__[0]


@dataclass
class Output:
    logits: Tensor
    hidden: list[Tensor]


Pair = namedtuple("Pair", ["one", "two"])
RETURNS: dict[str, Any] = {
    "dict": lambda y: {"y": y, "nested": {"more": [y, (y,)]}},
    "dataclass": lambda y: Output(y, [y]),
    "nested lists": lambda y: [[y, [y]], y],
    "namedtuple": lambda y: Pair(y, y),
    "None": lambda y: None,
    "number": lambda y: float(y.sum()),
}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("returned", RETURNS)
def test_whatever_a_forward_returns(returned: str, capture: Any) -> None:
    class Returns(Net):
        def forward(self, x: Tensor) -> Any:
            return RETURNS[returned](self.block(x))

    assert traced(Returns(), (2, 4), capture).counts() == ONE


@pytest.mark.parametrize("capture", CAPTURES)
def test_blocks_that_hand_on_dicts_and_dataclasses(capture: Any) -> None:
    class Inner(Net):
        def forward(self, x: Output) -> Output:
            return Output(self.block(x.logits), x.hidden)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Inner(), Inner()

        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            out = self.two(self.one(Output(batch["x"][0], [])))
            return {"y": out.logits}

    graph = traced(Outer(), ({"x": [torch.randn(2, 4)]},), capture)
    assert graph.counts() == {"add": 2, "identity": 2}


@pytest.mark.parametrize("capture", CAPTURES)
def test_tensors_in_an_object_nobody_can_look_into_are_reported(capture: Any) -> None:
    class Bag:
        def __init__(self, x: Tensor) -> None:
            self.x = lambda: x

    class Opens(Net):
        def forward(self, x: Tensor, bag: Bag) -> Tensor:
            return self.block(x) + bag.x()

    graph = traced(Opens(), (torch.randn(2, 4), Bag(torch.randn(2, 4))), capture)
    assert graph.counts() == ONE
    assert len(graph.lost) == 1


@pytest.mark.parametrize("capture", CAPTURES)
def test_control_flow_on_data_follows_the_path_taken(capture: Any) -> None:
    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            while x.abs().max() > 1:
                x = x / 2
            return self.block(x) if bool((x > 0).any()) else self.b(x)

    assert traced(Branching(), torch.ones(2, 4) * 5, capture).counts() == ONE
    assert not traced(Branching(), -torch.ones(2, 4), capture).counts()


@pytest.mark.parametrize("capture", CAPTURES)
def test_a_forward_that_differentiates(capture: Any) -> None:
    class Score(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = x.detach().requires_grad_() if not x.requires_grad else x
            with torch.enable_grad():
                energy = self.block(x).square().sum()
            return torch.autograd.grad(energy, x)[0]

    class Plain(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.autograd.grad(self.block(x).sum(), x)[0]

    traced(Score(), torch.randn(2, 4), capture)
    graph = traced(Plain(), torch.randn(2, 4, requires_grad=True), capture)
    assert graph.counts()["add"] >= 1


def test_train_and_eval_may_differ() -> None:
    class Supervised(Net):
        def forward(self, x: Tensor) -> Any:
            y = self.block(x)
            return (self.block(y), y) if self.training else y

    assert trace_skips(Supervised().train(), (2, 4)).counts() == {"add": 2, "identity": 2}
    assert trace_skips(Supervised().eval(), (2, 4)).counts() == ONE


def test_meta_model_takes_an_input_from_anywhere() -> None:
    with torch.device("meta"):
        model = Net()
    assert trace_skips(model, torch.randn(2, 4)).counts() == ONE
    assert trace_skips(model, (2, 4)).counts() == ONE


def test_half_precision_and_autocast() -> None:
    assert trace_skips(Net().to(torch.bfloat16), (2, 4)).counts() == ONE
    with torch.autocast("cpu", torch.bfloat16):
        for capture in CAPTURES:
            assert traced(Net(), (2, 4), capture).counts() == ONE  # type: ignore[arg-type]


def test_model_without_parameters() -> None:
    graph = trace_skips(nn.ReLU(), (2, 4))
    assert graph == SkipGraph("ReLU", "function", True)
    assert "no skip connections" in str(graph)


def test_wrapped_models() -> None:
    assert trace_skips(nn.DataParallel(Net()), (2, 4)).counts() == ONE
    traced = torch.fx.symbolic_trace(Net())
    assert trace_skips(traced, (2, 4)).counts() == ONE


def test_compiled_model() -> None:
    assert trace_skips(torch.compile(Net()), (2, 4)).counts() == ONE  # type: ignore[arg-type]
    model = nn.Sequential(nn.Linear(4, 4), torch.compile(Net()))  # type: ignore[arg-type]
    assert trace_skips(model, (2, 4)).counts() == ONE


def test_the_same_trace_twice_is_equal() -> None:
    model = Net()
    assert trace_skips(model, (2, 4)).to_json() == trace_skips(model, (2, 4)).to_json()


def test_shapes_alone_are_enough_for_most_models_and_values_follow_where_they_are_needed() -> None:
    class Counting(nn.Module):
        def __init__(self, rule: Any) -> None:
            super().__init__()
            self.layer, self.rule = nn.Linear(4, 4), rule

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.device.type)
            return self.rule(self, x)  # type: ignore[no-any-return]

    def writes(net: Counting, x: Tensor) -> Tensor:
        out = torch.zeros(2, 4)
        out[:, :] = net.layer(x)
        return x + out

    rules: dict[str, tuple[Any, list[str]]] = {
        "plain": (lambda net, x: x + net.layer(x), ["meta"]),
        "asks a parameter for its device": (
            lambda net, x: x + net.layer(x.to(net.layer.weight.device)) * torch.ones(4, device=net.layer.weight.device),
            ["meta"],
        ),
        "index table with values": (lambda net, x: x + net.layer(x)[:, torch.tensor([3, 2, 1, 0])], ["meta"]),
        "looks at values": (lambda net, x: x + net.layer(x) if x.sum() > -1e9 else x, ["meta", "cpu"]),
        "writes into a tensor with values": (writes, ["meta", "cpu"]),
    }
    for name, (rule, expected) in rules.items():
        seen: list[str] = []
        assert trace_skips(Counting(rule), torch.randn(2, 4)).counts() == ONE, name
        assert seen == expected, name
        seen.clear()
        assert trace_skips(Counting(rule), torch.randn(2, 4), values=True).counts() == ONE, name
        assert seen == ["cpu"], name

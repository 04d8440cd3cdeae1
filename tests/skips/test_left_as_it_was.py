"""Tracing and ablating leave a model exactly as it was, whatever its forward does, and whoever else is running."""

from __future__ import annotations

import copy
import gc
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from skipkb.skips import ablate, trace_skips

from .ways import CAPTURES, traced  # type: ignore[import-not-found]


class Busy(nn.Module):
    """A forward that touches everything a forward can touch."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(4, momentum=0.5), nn.Dropout(0.5)
        self.register_buffer("running", torch.zeros(4))
        self.register_buffer("replaced", torch.zeros(2))
        self.seen: list[Any] = []
        self.notes: dict[str, Any] = {"kept": 1}
        self.calls = 0
        self.fail = fail

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        self.running += y.mean((0, 2, 3))
        self.replaced = self.replaced + 1
        self.fresh = y
        self.calls += 1
        self.seen.append(y)
        self.notes["new"] = y
        with torch.no_grad():
            self.conv.weight.mul_(1.5)
            self.conv.bias[0] = 7.0  # type: ignore[index]
            self.conv2.weight.data.clamp_(-0.1, 0.1)
            self.conv2.bias.data = torch.ones(4)  # type: ignore[union-attr]
        self.conv.weight.requires_grad_(False)
        random.random()
        np.random.rand()
        self.eval()
        y = self.conv2(self.drop(torch.relu(y)) + torch.randn_like(y))
        if self.fail:
            torch.set_grad_enabled(False)
            raise RuntimeError("half-way")
        return x + y


def state(model: nn.Module) -> dict[str, Any]:
    """Everything a trace must not change, values and identities."""
    return {
        "parameters": {
            name: (id(p), p.detach().clone(), p.requires_grad, p.grad) for name, p in model.named_parameters()
        },
        "buffers": {name: (id(b), b.clone()) for name, b in model.named_buffers()},
        "flags": {name: m.training for name, m in model.named_modules()},
        "attributes": {
            name: {key: id(value) for key, value in m.__dict__.items()} for name, m in model.named_modules()
        },
        "contents": {
            name: {k: [id(item) for item in (v.values() if isinstance(v, dict) else v)]
                   for k, v in m.__dict__.items() if isinstance(v, (dict, list))}
            for name, m in model.named_modules()
        },
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "global hooks": len(nn_module._global_forward_hooks) + len(nn_module._global_forward_pre_hooks),
        "grad mode": torch.is_grad_enabled(),
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),  # type: ignore[index,union-attr]
        "gc": gc.isenabled(),
    }  # fmt: skip


def assert_same(before: Any, after: Any, at: str = "") -> None:
    if isinstance(before, Tensor):
        assert torch.equal(before, after), at
    elif isinstance(before, dict):
        assert before.keys() == after.keys(), at
        for key in before:
            assert_same(before[key], after[key], f"{at}/{key}")
    elif isinstance(before, (tuple, list)):
        assert len(before) == len(after), at
        for i, (one, two) in enumerate(zip(before, after, strict=True)):
            assert_same(one, two, f"{at}/{i}")
    else:
        assert before == after, at


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_everything_is_put_back(training: bool, grad: bool, capture: Any) -> None:
    model = Busy().train(training)
    x = torch.randn(2, 4, 6, 6)
    with torch.set_grad_enabled(grad):
        before = state(model)
        graph = traced(model, x, capture)
        assert_same(before, state(model))
    assert graph.counts() == {"add": 1, "identity": 1}
    assert graph.training is training


@pytest.mark.parametrize("capture", CAPTURES)
def test_also_when_the_forward_raises_half_way(capture: Any) -> None:
    model, x = Busy(fail=True), torch.randn(2, 4, 6, 6)
    before = state(model)
    with pytest.raises(RuntimeError, match="half-way") as raised:
        traced(model, x, capture)
    assert "while trace_skips watched it" in raised.value.__notes__[0]
    assert_same(before, state(model))
    model.fail = False
    assert traced(model, x, capture).counts() == {"add": 1, "identity": 1}


@pytest.mark.parametrize("capture", CAPTURES)
def test_batch_norm_statistics(capture: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    model(torch.randn(4, 3, 8, 8))
    before = copy.deepcopy(model.state_dict())
    traced(model, torch.randn(4, 3, 8, 8), capture)
    assert_same(dict(before), dict(model.state_dict()))
    assert int(model[1].num_batches_tracked) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("capture", CAPTURES)
def test_spectral_and_weight_norm(capture: Any) -> None:
    """Parametrisations that write to buffers, and name the layer through the weight they compute."""
    with_spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1))
    with_weight = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = with_spectral, with_weight

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(torch.relu(self.a(x)))

    model = Net().train()
    before = copy.deepcopy(model.state_dict())
    graph = traced(model, torch.randn(2, 4, 6, 6), capture)
    assert_same(dict(before), dict(model.state_dict()))
    assert graph.skips[0].convs == 2


@pytest.mark.parametrize("capture", CAPTURES)
def test_the_input_is_not_written_to(capture: Any) -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1))
    x = torch.randn(1, 3, 4, 4)
    kept = x.clone()
    traced(model, x, capture)
    assert torch.equal(x, kept)
    leaf = torch.randn(1, 3, 4, 4, requires_grad=True)
    traced(model, leaf, capture)
    assert leaf.requires_grad
    assert leaf.grad is None
    traced(model, (1, 3, 4, 4), capture)


def test_garbage_collection_goes_on() -> None:
    model = nn.Conv2d(3, 3, 1)
    for on in (True, False):
        gc.enable() if on else gc.disable()
        try:
            trace_skips(model, (1, 3, 4, 4))
            assert gc.isenabled() is on
        finally:
            gc.enable()


def test_a_shape_draws_no_random_numbers() -> None:
    model = nn.Conv2d(3, 3, 1)
    before = torch.get_rng_state()
    trace_skips(model, (1, 3, 4, 4))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("capture", CAPTURES)
def test_cuda(capture: Any) -> None:
    model = Busy().cuda().train()
    torch.cuda.manual_seed(3)
    before, drawn = state(model), torch.cuda.get_rng_state()
    graph = traced(model, (2, 4, 6, 6), capture)
    assert_same(before, state(model))
    assert torch.equal(drawn, torch.cuda.get_rng_state())
    assert graph.counts() == {"add": 1, "identity": 1}


@pytest.mark.parametrize("capture", CAPTURES)
def test_again_and_nested(capture: Any) -> None:
    class Introspective(nn.Module):
        """Traces a part of itself in its own forward."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = Residual(), nn.Conv2d(4, 4, 1)
            self.counts: Any = None

        def forward(self, x: Tensor) -> Tensor:
            found.append(traced(self.inner, x, capture).counts())
            return self.out(self.inner(x))

    found: list[Any] = []
    model, x = Introspective(), torch.randn(1, 4, 6, 6)
    first = traced(model, x, capture)
    assert first.counts() == {"add": 1, "identity": 1}
    assert found == [{"add": 1, "identity": 1}]
    assert traced(model, x, capture) == first


class Residual(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return x + F.dropout(self.b(torch.relu(self.a(x))), self.dropout, self.training)


def in_threads(*jobs: Callable[[], None]) -> None:
    """Run at once; an error in one is an error of the test."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        try:
            start.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_do_not_disturb_each_other() -> None:
    torch.manual_seed(0)
    shared = nn.Sequential(*(Residual() for _ in range(4))).train()
    other = nn.Sequential(nn.Conv2d(4, 4, 1), *(Residual() for _ in range(2))).eval()
    x = torch.randn(1, 4, 8, 8)
    expected, alone = trace_skips(shared, x), trace_skips(other, x)
    plain = other(x)
    with ablate(other, alone.skips):
        cut = other(x)

    def trace_shared() -> None:
        for _ in range(15):
            assert trace_skips(shared, x, capture="function") == expected

    def trace_below() -> None:
        for _ in range(15):
            assert trace_skips(shared, x, capture="dispatch").counts() == expected.counts()

    def run() -> None:
        for _ in range(60):
            assert torch.equal(other(x), plain)

    def without() -> None:
        for _ in range(30):
            with ablate(other, alone.skips):
                assert torch.equal(other(x), cut)

    in_threads(trace_shared, trace_shared, trace_below, run, without)
    assert torch.equal(other(x), plain)


def test_threads_that_trace_one_model_put_back_its_state_once() -> None:
    torch.manual_seed(0)
    model, x = Busy().train(), torch.randn(2, 4, 6, 6)
    before = state(model)

    def trace() -> None:
        for _ in range(10):
            assert len(trace_skips(model, x).skips) == 1

    in_threads(trace, trace, trace)
    assert_same(before, state(model))


def test_a_thread_that_trains_another_model_keeps_its_gradients() -> None:
    torch.manual_seed(0)
    traced, trained = Residual(), Residual()
    x = torch.randn(1, 4, 8, 8)
    trained(x).sum().backward()
    expected = [p.grad.clone() for p in trained.parameters() if p.grad is not None]

    def train() -> None:
        for _ in range(20):
            trained.zero_grad()
            trained(x).sum().backward()
            for parameter, gradient in zip(trained.parameters(), expected, strict=True):
                assert parameter.grad is not None
                assert torch.equal(parameter.grad, gradient)

    def trace() -> None:
        for _ in range(20):
            assert len(trace_skips(traced, x).skips) == 1

    in_threads(train, trace)

"""An ablation holds wherever the model runs: compiled, checkpointed, in other threads. Or it says that it cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from skipkb.skips import AblationError, ablate, trace_skips

POOL = ThreadPoolExecutor(1)
POOL.submit(int).result()
OTHER_POOL = ThreadPool(1)
OTHER_POOL.apply(int)


def teardown_module() -> None:
    OTHER_POOL.terminate()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.layer(x))


class Net(nn.Module):
    """``cut`` is the forward edited by hand: the same without the second block's shortcut."""

    def __init__(self, way: Callable[..., Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def cut(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        return self.blocks[2](torch.tanh(self.blocks[1].layer(x)))  # type: ignore[operator,no-any-return]


def ready(way: Callable[..., Tensor] = Net.run) -> tuple[Net, Any, Tensor]:
    torch.manual_seed(0)
    net, x = Net(way), torch.randn(2, 8)
    skips = [skip for skip in trace_skips(net, x).skips if "1" in skip.merge]
    assert len(skips) == 1
    return net, skips[0], x


def gradient(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    run(x).pow(2).sum().backward()
    assert x.grad is not None
    return x.grad


# -- torch.compile


def compiled_module(net: Net, x: Tensor) -> Callable[[Tensor], Tensor]:
    return torch.compile(net, backend="eager")


def compiled_and_warm(net: Net, x: Tensor) -> Callable[[Tensor], Tensor]:
    compiled = torch.compile(net, backend="eager")
    compiled(x)
    return compiled


def compiled_in_place(net: Net, x: Tensor) -> Callable[[Tensor], Tensor]:
    net.compile(backend="eager")
    return net


def compiled_part(net: Net, x: Tensor) -> Callable[[Tensor], Tensor]:
    net.blocks[1].compile(backend="eager")
    return net


def compiled_function(net: Net, x: Tensor) -> Callable[[Tensor], Tensor]:
    return torch.compile(lambda x: net(x), backend="eager")


@pytest.mark.filterwarnings("ignore:Using .torch.compile")
@pytest.mark.parametrize(
    "compiled", [compiled_module, compiled_and_warm, compiled_in_place, compiled_part, compiled_function]
)
def test_compiled(compiled: Any) -> None:
    net, skip, x = ready()
    expected, plain = net.cut(x), net(x)
    run = compiled(net, x)
    for target in (net, run) if isinstance(run, nn.Module) else (net,):
        with ablate(target, skip):
            assert torch.equal(run(x), expected)
    torch.testing.assert_close(run(x), plain)


@pytest.mark.filterwarnings("ignore:Using .torch.compile")
def test_compiled_while_the_ablation_is_entered() -> None:
    net, skip, x = ready()
    expected = net.cut(x)
    with ablate(net, skip):
        assert torch.equal(torch.compile(net, backend="eager")(x), expected)


# -- gradient checkpointing


def whole(reentrant: bool) -> Callable[[Net, Tensor], Tensor]:
    return lambda net, x: checkpoint(net.run, x, use_reentrant=reentrant)  # type: ignore[no-any-return]


def by_block(reentrant: bool) -> Callable[[Net, Tensor], Tensor]:
    def run(net: Net, x: Tensor) -> Tensor:
        for block in net.blocks:
            x = checkpoint(block, x, use_reentrant=reentrant)
        return x

    return run


def in_segments(reentrant: bool) -> Callable[[Net, Tensor], Tensor]:
    return lambda net, x: checkpoint_sequential(list(net.blocks), 2, x, use_reentrant=reentrant)  # type: ignore[no-any-return]


def nested(reentrant: bool) -> Callable[[Net, Tensor], Tensor]:
    inner = by_block(reentrant)
    return lambda net, x: checkpoint(inner, net, x, use_reentrant=reentrant)  # type: ignore[no-any-return]


@pytest.mark.parametrize("backward", ["inside", "after", "another thread"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("way", [whole, by_block, in_segments, nested])
def test_checkpointed(way: Any, reentrant: bool, backward: str) -> None:
    net, skip, x = ready(way(reentrant))
    expected = gradient(net.cut, x)
    x = x.clone().requires_grad_()
    with ablate(net, skip):
        loss = net(x).pow(2).sum()
        if backward == "inside":
            loss.backward()
        elif backward == "another thread":
            in_thread(loss.backward)
    if backward == "after":
        loss.backward()
    assert x.grad is not None
    assert torch.equal(x.grad, expected)
    assert not torch.equal(gradient(net, x.detach()), expected), "something of the ablation stayed behind"


def test_checkpointed_skip_of_the_outer_module() -> None:
    """The sum stands in a function of the model, not in a module of its own."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = x + torch.tanh(self.a(x))
            return checkpoint(lambda y: y + torch.tanh(self.b(y)), x, use_reentrant=False)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net, x = Outer(), torch.randn(2, 8)
    second = trace_skips(net, x).skips[1]
    expected = gradient(lambda x: torch.tanh(net.b(x + torch.tanh(net.a(x)))), x)
    with ablate(net, second):
        assert torch.equal(gradient(net, x), expected)


def test_libraries_are_what_they_were_afterwards() -> None:
    import torch.utils.checkpoint as library

    places: list[tuple[Any, str]] = [(library, "CheckpointFunction"), (threading.Thread, "start"), (POOL, "submit")]
    before = [getattr(owner, name) for owner, name in places]
    net, skip, _ = ready()
    with ablate(net, skip), ablate(net, skip):
        assert before != [getattr(owner, name) for owner, name in places]
    assert before == [getattr(owner, name) for owner, name in places]


class Again(torch.autograd.Function):
    """Checkpointing by hand."""

    @staticmethod
    def forward(ctx: Any, net: Net, x: Tensor) -> Tensor:
        ctx.net = net
        ctx.save_for_backward(x)
        return net.run(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.net.run(x)
        return None, torch.autograd.grad(y, x, grads[0])[0]


def test_recomputation_by_other_means_is_refused() -> None:
    net, skip, x = ready(lambda net, x: Again.apply(net, x))
    with pytest.raises(AblationError, match="run again in the backward pass"), ablate(net, skip):
        gradient(net, x)


# -- threads


def in_thread(run: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(run()))
    thread.start()
    thread.join()
    return found[0]


def in_pool(run: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(run), pool.submit(run)
        assert torch.equal(one.result(), two.result())
        return one.result()


def in_pool_from_before(run: Callable[[], Any]) -> Any:
    return POOL.submit(run).result()


def in_other_pool(run: Callable[[], Any]) -> Any:
    results = [
        *(OTHER_POOL.apply(run), OTHER_POOL.apply_async(run).get()),
        *OTHER_POOL.map(lambda _: run(), [0, 1]),
        *OTHER_POOL.starmap(lambda _: run(), [(0,)]),
        *OTHER_POOL.imap(lambda _: run(), [0]),
        *OTHER_POOL.imap_unordered(lambda _: run(), [0], chunksize=2),
    ]
    for result in results[1:]:
        assert torch.equal(results[0], result)
    return results[0]


def in_thread_of_its_forward(run: Callable[[], Any]) -> Any:
    outer = nn.Sequential(nn.Identity())
    outer.forward = lambda _: in_thread(run)  # type: ignore[method-assign,assignment]
    return outer(torch.zeros(1))


@pytest.mark.parametrize("there", [in_thread, in_pool, in_pool_from_before, in_other_pool, in_thread_of_its_forward])
def test_threads(there: Any) -> None:
    net, skip, x = ready()
    expected, plain = net.cut(x), net(x)
    with ablate(net, skip):
        assert torch.equal(there(lambda: net(x)), expected)
        assert torch.equal(net(x), expected)
        with ablate(net, skip):
            assert torch.equal(there(lambda: net(x)), expected)
    assert torch.equal(there(lambda: net(x)), plain)


def test_a_thread_that_outlasts_the_ablation_and_one_of_its_own() -> None:
    net, skip, x = ready()
    expected, plain = net.cut(x), net(x)
    entered, left, found = threading.Event(), threading.Event(), []

    def outlasting() -> None:
        found.append(net(x))
        entered.set()
        assert left.wait(10)
        found.append(net(x))

    def of_its_own() -> None:
        assert entered.wait(10)
        found.append(net(x))

    own = threading.Thread(target=of_its_own)
    own.start()
    thread = threading.Thread(target=outlasting)
    with ablate(net, skip):
        thread.start()
        own.join()
    left.set()
    thread.join()
    for result, wanted in zip(found, (expected, plain, plain), strict=True):
        assert torch.equal(result, wanted)


def test_a_skip_that_another_thread_does_not_reach() -> None:
    net, skip, x = ready()
    net.way = lambda net, x: net.blocks[0](x)  # type: ignore[operator]
    with pytest.raises(AblationError, match="not reached"), ablate(net, skip):
        in_thread(lambda: net(x))


def test_copies_for_data_parallel_are_refused() -> None:
    net, skip, x = ready()
    copy = net._replicate_for_data_parallel()
    with pytest.raises(AblationError, match="DataParallel"), ablate(net, skip):
        copy(x)


# -- use


def test_a_whole_graph() -> None:
    net, _, x = ready()
    graph = trace_skips(net, x)
    with ablate(net, graph):
        found = net(x)
    with ablate(net, graph.skips):
        assert torch.equal(found, net(x))
    assert not torch.equal(found, net(x))
    with pytest.raises(AblationError, match="Linear has no skips"):
        ablate(net, trace_skips(nn.Linear(8, 8), x))


def test_an_ablation_is_entered_once_at_a_time() -> None:
    net, skip, _ = ready()
    once = ablate(net, skip)
    with once, pytest.raises(AblationError, match="entered already"):
        once.__enter__()

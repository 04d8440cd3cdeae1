"""Small networks that hold one idea each. What is expected was written down before the first run.

Expectation: additions, concatenations, products (partial ones count here), and, where it says so, weak merges and
merges of branches of equal standing. Both captures must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skipkb.skips import SkipGraph, trace_skips

from .ways import CAPTURES, traced  # type: ignore[import-not-found]

C = 8


class Net(nn.Module):
    """Layers under short names; ``forward`` is the case."""

    def __init__(self, rule: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(C, C, 3, padding=1) for _ in range(3))
        self.p, self.q = nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 1)
        self.s1, self.s2 = nn.Conv2d(C // 2, C // 2, 3, padding=1), nn.Conv2d(C // 2, C // 2, 3, padding=1)
        self.out = nn.Conv2d(2 * C, C, 1)
        self.norm = nn.BatchNorm2d(C)
        self.ln = nn.LayerNorm(C)
        self.l1, self.l2, self.l3 = nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, C)
        self.scale = nn.Parameter(torch.ones(C, 1, 1))
        self.position = nn.Parameter(torch.zeros(1, C, 8, 8))
        self.token = nn.Parameter(torch.zeros(1, 1, C))
        self.rule = rule

    def f(self, x: Tensor) -> Tensor:
        """The residual branch: two convolutions."""
        return self.b(torch.relu(self.a(x)))

    def forward(self, *inputs: Tensor) -> Any:
        return self.rule(self, *inputs)


CASES: dict[str, tuple[Callable[..., Any], tuple[int, int, int]]] = {}
TOKENS = {"tokens"}


def case(add: int, concat: int, product: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def keep(rule: Callable[..., Any]) -> Callable[..., Any]:
        CASES[rule.__name__] = rule, (add, concat, product)
        return rule

    return keep


# -- the same skip in every way PyTorch lets one write it


@case(1, 0, 0)
def plus(m: Net, x: Tensor) -> Tensor:
    return x + m.f(x)


@case(1, 0, 0)
def plus_turned_round(m: Net, x: Tensor) -> Tensor:
    return m.f(x) + x


@case(1, 0, 0)
def in_place_plus(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    y += x
    return y


@case(1, 0, 0)
def in_place_plus_on_the_shortcut(m: Net, x: Tensor) -> Tensor:
    x = m.p(x)
    x += m.f(x)
    return torch.relu(x)


@case(1, 0, 0)
def add_method(m: Net, x: Tensor) -> Tensor:
    return m.f(x).add_(x)


@case(1, 0, 0)
def add_with_alpha(m: Net, x: Tensor) -> Tensor:
    return torch.add(x, m.f(x), alpha=0.2)


@case(1, 0, 0)
def add_by_keyword(m: Net, x: Tensor) -> Tensor:
    return torch.add(input=m.f(x), other=x)


@case(1, 0, 0)
def add_out(m: Net, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    torch.add(x, m.f(x), out=y)
    return m.c(y)


@case(1, 0, 0)
def in_place_relu_on_the_shortcut(m: Net, x: Tensor) -> Tensor:
    x = m.p(x)
    y = F.relu(x, inplace=True)
    return m.f(y) + x


@case(1, 0, 0)
def subtraction(m: Net, x: Tensor) -> Tensor:
    return x - m.f(x)


@case(1, 0, 0)
def sum_of_a_list(m: Net, x: Tensor) -> Tensor:
    return sum([x, m.f(x)])  # type: ignore[return-value]


@case(1, 0, 0)
def stack_and_sum(m: Net, x: Tensor) -> Tensor:
    return torch.stack([x, m.f(x)]).sum(0)


@case(1, 0, 0)
def stack_and_mean(m: Net, x: Tensor) -> Tensor:
    return torch.stack([x, m.f(x)], dim=1).mean(dim=1)


@case(1, 0, 0)
def addcmul(m: Net, x: Tensor) -> Tensor:
    return torch.addcmul(x, m.scale, m.f(x))


@case(1, 0, 0)
def lerp(m: Net, x: Tensor) -> Tensor:
    return torch.lerp(x, m.f(x), 0.3)


@case(1, 0, 0)
def layer_scale(m: Net, x: Tensor) -> Tensor:
    return x + m.scale * m.f(x)


@case(1, 0, 0)
def einsum_branch(m: Net, x: Tensor) -> Tensor:
    return x + torch.einsum("nchw,dc->ndhw", x, m.l1.weight)


@case(1, 0, 0)
def baddbmm_with_the_shortcut_as_bias(m: Net, x: Tensor) -> Tensor:
    flat = m.p(x).flatten(2)
    weight = m.l1.weight.expand(len(x), C, C)
    return torch.baddbmm(flat, weight, flat)


@case(1, 0, 0)
def slice_write(m: Net, x: Tensor) -> Tensor:
    x = m.p(x)
    x[:, : C // 2] += m.s1(x[:, : C // 2])
    return m.c(x)


@case(1, 1, 0)
def slice_write_beside_the_rest(m: Net, x: Tensor) -> Tensor:
    """The part that was not written over is still the branch, and so the sum is a skip."""
    y = m.a(x).clone()
    y[:, : C // 2] = x[:, : C // 2]
    return x + y


@case(1, 0, 0)
def parallel_branches_around_one_shortcut(m: Net, x: Tensor) -> Tensor:
    return x + m.a(x) + m.f(x)


@case(1, 0, 0)
def residual_in_residual_without_a_layer_between(m: Net, x: Tensor) -> Tensor:
    """One sum of three, however it is bracketed: h and x are its two shortcuts."""
    h = m.c(x)
    return (h + m.f(h)) + x


@case(3, 0, 0)
def residual_in_residual(m: Net, x: Tensor) -> Tensor:
    h = x + m.f(x)
    h = h + m.f(h)
    return x + m.c(h)


@case(1, 0, 0)
def projection(m: Net, x: Tensor) -> Tensor:
    return m.norm(m.p(x)) + m.f(x)


# -- concatenation


@case(0, 1, 0)
def cat(m: Net, x: Tensor) -> Tensor:
    return torch.cat([x, m.f(x)], dim=1)


@case(0, 2, 0)
def dense_block(m: Net, x: Tensor) -> Tensor:
    one = m.a(x)
    two = m.out(torch.cat([x, one], 1))
    return torch.cat([x, one, two], 1)


@case(0, 1, 0)
def setitem_into_a_buffer_of_zeros(m: Net, x: Tensor) -> Tensor:
    y = x.new_zeros(len(x), 2 * C, *x.shape[2:])
    y[:, :C] = x
    y[:, C:] = m.f(x)
    return m.out(y)


@case(0, 1, 0)
def split_channels(m: Net, x: Tensor) -> Tensor:
    one, two = m.p(x).chunk(2, dim=1)
    return torch.cat([one, m.s2(torch.relu(m.s1(two)))], dim=1)


@case(0, 1, 0)
def unet_level(m: Net, x: Tensor) -> Tensor:
    x = m.a(x)
    y = F.interpolate(m.b(F.max_pool2d(x, 2)), scale_factor=2)
    return m.out(torch.cat([x, y], 1))


@case(0, 1, 0)
def cropped_unet_level(m: Net, x: Tensor) -> Tensor:
    x = m.a(x)
    y = F.interpolate(m.b(F.max_pool2d(x[:, :, :4, :4], 2)), scale_factor=2)
    return m.out(torch.cat([x[:, :, 2:6, 2:6], y], 1))


# -- gates and products


@case(0, 0, 1)
def squeeze_and_excitation(m: Net, x: Tensor) -> Tensor:
    return x * torch.sigmoid(m.q(torch.relu(m.p(x.mean((2, 3), keepdim=True)))))


@case(1, 0, 1)
def highway(m: Net, x: Tensor) -> Tensor:
    t = torch.sigmoid(m.b(x))
    return torch.relu(m.a(x)) * t + x * (1 - t)


@case(1, 0, 1)
def gated_by_a_pooled_value(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    return x + y * torch.sigmoid(m.p(F.adaptive_avg_pool2d(y, 1)))


@case(0, 0, 1)
def product_without_a_squash(m: Net, x: Tensor) -> Tensor:
    return x * m.f(x)


# -- inside control flow, checkpoints, autograd functions


@case(1, 0, 0)
def data_dependent_branch(m: Net, x: Tensor) -> Tensor:
    return x + m.f(x) if x.sum() < 1e9 else m.f(x)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


@case(1, 0, 0)
def autograd_function_in_the_branch(m: Net, x: Tensor) -> Tensor:
    return x + m.b(_Double.apply(m.a(x)))


@case(1, 0, 0)
def checkpointed(m: Net, x: Tensor) -> Tensor:
    return x + checkpoint(m.f, x, use_reentrant=False)


@case(1, 0, 0)
def checkpointed_reentrant(m: Net, x: Tensor) -> Tensor:
    return x + checkpoint(m.f, x, use_reentrant=True)


@case(1, 0, 0)
def skip_inside_a_checkpoint(m: Net, x: Tensor) -> Tensor:
    return m.c(checkpoint(lambda y: y + m.f(y), x, use_reentrant=False))


@case(3, 0, 0)
def weights_tied(m: Net, x: Tensor) -> Tensor:
    for _ in range(3):
        x = x + m.f(x)
    return x


@case(1, 0, 0)
def windows_and_roll(m: Net, x: Tensor) -> Tensor:
    y = torch.roll(x, (1, 1), (2, 3))
    y = y.view(-1, C, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, C)
    y = m.l2(torch.relu(m.l1(y)))
    y = y.view(-1, 2, 2, 4, 4, C).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)
    return x + torch.roll(y, (-1, -1), (2, 3))


@case(1, 0, 0)
def drop_path(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    mask = x.new_empty(len(x), 1, 1, 1).bernoulli_(0.9)
    return x + y * mask.div_(0.9)


# -- no skip


@case(0, 0, 0)
def position_embedding(m: Net, x: Tensor) -> Tensor:
    return m.c(m.a(x) + m.position)


@case(0, 0, 0)
def bias_by_hand(m: Net, x: Tensor) -> Tensor:
    return F.conv2d(x, m.a.weight, padding=1) + m.a.bias[:, None, None]


@case(0, 0, 0)
def noise(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y + torch.randn_like(y))


@case(0, 0, 0)
def norm_by_hand(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True) + 1e-5).sqrt()
    return m.b(y * m.scale)


@case(0, 0, 0)
def swish(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y * torch.sigmoid(y))


@case(0, 0, 0)
def rotary(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    one, two = y.chunk(2, 1)
    return m.b(y * torch.ones(8).cos() + torch.cat([-two, one], 1) * torch.ones(8).sin())


@case(0, 0, 0)
def swiglu(m: Net, x: Tensor) -> Tensor:
    return m.c(F.silu(m.a(x)) * m.b(x))


@case(0, 0, 0)
def mask_from_data(m: Net, x: Tensor) -> Tensor:
    y = m.f(x)
    return m.c(y * (x > 0).to(y.dtype))


@case(0, 0, 0)
def detached(m: Net, x: Tensor) -> Tensor:
    return x.detach() + m.f(x)


@case(0, 0, 0)
def inception_concat(m: Net, x: Tensor) -> Tensor:
    return torch.cat([torch.relu(m.p(x)), torch.relu(m.f(x)), torch.relu(m.q(F.avg_pool2d(x, 3, 1, 1)))], 1)


@case(0, 0, 0)
def inception_add(m: Net, x: Tensor) -> Tensor:
    """Parallel convolutions of one depth: equal standing."""
    return m.a(x) + m.p(x)


@case(0, 0, 0)
def plain(m: Net, x: Tensor) -> Tensor:
    return m.c(m.f(x))


def trace(rule: Callable[..., Any], capture: str, x: Any = None) -> SkipGraph:
    torch.manual_seed(0)
    x = torch.randn(2, C, 8, 8) if x is None else x
    return traced(Net(rule), x, capture)


def counts(graph: SkipGraph) -> tuple[int, int, int]:
    found = graph.counts(partial=True)
    return found["add"], found["concat"], found["gate"] + found["multiply"]


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, capture: str) -> None:
    rule, expected = CASES[name]
    graph = trace(rule, capture)
    assert counts(graph) == expected, f"\n{graph}"
    assert not graph.lost


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("mode", ["no_grad", "inference", "train", "input wants grad"])
def test_modes_see_the_same(mode: str, capture: str) -> None:
    for name in (
        "in_place_plus_on_the_shortcut",
        "slice_write",
        "squeeze_and_excitation",
        "setitem_into_a_buffer_of_zeros",
    ):
        rule, expected = CASES[name]
        x = torch.randn(2, C, 8, 8, requires_grad=mode == "input wants grad")
        model = Net(rule).train(mode == "train")
        with torch.no_grad() if mode == "no_grad" else torch.inference_mode(mode == "inference"):
            assert counts(traced(model, x, capture)) == expected, name  # type: ignore[arg-type]


# -- what a merge says of itself


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize(
    ("name", "shortcut"),
    [
        ("plus", "identity"),
        ("projection", "projection"),
        ("highway", "gated"),
        ("in_place_relu_on_the_shortcut", "identity"),
    ],
)
def test_shortcut_class(name: str, shortcut: str, capture: str) -> None:
    assert trace(CASES[name][0], capture).skips[0].shortcut == shortcut


SHORTCUTS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "identity": lambda m, x: m.f(x) + x.flatten(2).view_as(x),
    "resampled": lambda m, x: m.f(x)[:, :, ::2, ::2] + x[:, :, ::2, ::2],
    "affine": lambda m, x: m.f(x) + m.norm(x),
    "activated": lambda m, x: m.f(x) + torch.relu(x),
    "projection": lambda m, x: m.f(x) + m.p(x),
    "lateral": lambda m, x: torch.relu(m.p(x)) + F.interpolate(m.c(F.avg_pool2d(m.f(x), 2)), scale_factor=2),
    "gated": lambda m, x: m.f(x) + x * torch.sigmoid(m.q(x)),
}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_shortcut_class(shortcut: str, capture: str) -> None:
    (skip,) = trace(SHORTCUTS[shortcut], capture).skips
    assert skip.shortcut == shortcut


@pytest.mark.parametrize("capture", CAPTURES)
def test_long_is_three_convolutions_and_linears_do_not_count(capture: str) -> None:
    (two,) = trace(lambda m, x: x + m.f(x), capture).skips
    (three,) = trace(lambda m, x: x + m.c(m.f(x)), capture).skips
    (linear,) = trace(lambda m, x: x + m.l3(m.l2(m.l1(x.transpose(1, 3)))).transpose(1, 3), capture).skips
    assert (two.convs, two.long) == (2, False)
    assert (three.convs, three.long) == (3, True)
    assert (linear.layers, linear.convs, linear.long) == (3, 0, False)


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (CASES["unet_level"][0], True),
        (CASES["plus"][0], False),
        (lambda m, x: m.c(x)[:, :, ::2, ::2] + F.avg_pool2d(x, 2), False),
        # up and down again counts as well (back-projection)
        (lambda m, x: x + F.avg_pool2d(m.f(F.interpolate(x, scale_factor=2)), 2), True),
        # a global context that is broadcast back never left the resolution with the picture
        (lambda m, x: x + m.c(m.a(x) + m.p(x.mean((2, 3), keepdim=True))), False),
        # attention over pooled keys: the queries keep the resolution
        (lambda m, x: x + m.p(_pooled_attention(m, x)), False),
    ],
)
def test_cross_scale(rule: Callable[..., Any], expected: bool, capture: str) -> None:
    assert trace(rule, capture).skips[-1].cross_scale is expected


def _pooled_attention(m: Net, x: Tensor) -> Tensor:
    q, k = m.q(x).flatten(2).transpose(1, 2), m.p(F.avg_pool2d(x, 2)).flatten(2)
    return ((q @ k).softmax(-1) @ k.transpose(1, 2)).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("capture", CAPTURES)
def test_partial_is_flagged_and_left_out_of_the_counts(capture: str) -> None:
    for name in ("split_channels", "slice_write"):
        graph = trace(CASES[name][0], capture)
        assert [skip.partial for skip in graph.skips] == [True], name
        assert not graph.counts()
    assert not trace(CASES["setitem_into_a_buffer_of_zeros"][0], capture).skips[0].partial
    assert not trace(CASES["cropped_unet_level"][0], capture).skips[0].partial  # a crop is the same picture


@pytest.mark.parametrize("capture", CAPTURES)
def test_class_token_is_partial(capture: str) -> None:
    def rule(m: Net, x: Tensor) -> Tensor:
        x = torch.cat([m.token.expand(len(x), -1, -1), m.l1(x)], 1)
        token, rest = x[:, :1], x[:, 1:]
        return torch.cat([token, m.l3(torch.relu(m.l2(rest)))], 1)

    graph = trace(rule, capture, torch.randn(2, 16, C))
    assert [(skip.kind, skip.partial) for skip in graph.skips] == [("concat", True)]


@pytest.mark.parametrize("capture", CAPTURES)
def test_equal_branches_are_listed_apart(capture: str) -> None:
    for name, branches in (("inception_concat", (1, 2, 1)), ("inception_add", (1, 1))):
        (merge,) = trace(CASES[name][0], capture).multi_branch
        assert merge.branches == branches
        assert merge.source == "input"


@pytest.mark.parametrize("capture", CAPTURES)
def test_convention_for_parallel_convolutions(capture: str) -> None:
    """Unequal depths, one side without a nonlinearity: the same graph as ResNet's projection, and called one."""
    graph = trace(lambda m, x: m.p(x) + m.f(x), capture)
    assert [skip.shortcut for skip in graph.skips] == ["projection"]
    graph = trace(lambda m, x: torch.relu(m.p(x)) + m.f(x), capture)
    assert not graph.skips
    assert len(graph.multi_branch) == 1


@pytest.mark.parametrize("capture", CAPTURES)
def test_weak(capture: str) -> None:
    graph = trace(lambda m, x: m.c(x + F.avg_pool2d(m.norm(x), 3, 1, 1)), capture)
    assert not graph.skips
    assert [skip.kind for skip in graph.weak] == ["add"]


@pytest.mark.parametrize("capture", CAPTURES)
def test_two_towers_share_no_source(capture: str) -> None:
    graph = trace(
        lambda m, x, y: m.a(x) + m.f(y) + y.mean(), capture, (torch.randn(1, C, 8, 8), torch.randn(1, C, 8, 8))
    )
    assert not [skip for skip in graph.skips if skip.start == 0 and skip.source == "input"]
    graph = trace(lambda m, x, y: m.a(x) + m.f(y), capture, (torch.randn(1, C, 8, 8), torch.randn(1, C, 8, 8)))
    assert not graph.skips
    assert not graph.multi_branch


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_transformer_layer(norm_first: bool, training: bool, capture: str) -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first).train(training)
    graph = traced(model, torch.randn(2, 5, 16), capture)
    assert graph.counts() == {"add": 2, "identity": 2}
    assert [(skip.layers, skip.convs) for skip in graph.skips] == [(2, 0), (2, 0)]


@pytest.mark.parametrize("capture", CAPTURES)
def test_transformer_stacks_keep_off_the_fast_path(capture: str) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 3).eval()
    graph = traced(model, torch.randn(2, 5, 16), capture)
    assert graph.counts() == {"add": 6, "identity": 6}
    decoder = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True).eval()
    graph = traced(decoder, (torch.randn(1, 4, 16), torch.randn(1, 5, 16)), capture)
    assert graph.counts() == {"add": 3, "identity": 3}


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.inner = kind(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x + (y[0] if isinstance(y, tuple) else y)


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell])
def test_recurrent_layer_is_one_layer(kind: type[nn.Module], capture: str) -> None:
    graph = traced(Recurrent(kind), torch.randn(3, 8), capture)
    assert graph.counts() == {"add": 1, "identity": 1}
    assert graph.skips[0].layers == 1


@pytest.mark.parametrize("capture", CAPTURES)
def test_token_ids_are_data(capture: str) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.place = nn.Embedding(10, 8), nn.Embedding(5, 8)
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.words(ids) + self.place(torch.arange(ids.shape[1]))
            return x + self.two(torch.relu(self.one(x)))

    graph = traced(Words(), torch.tensor([[1, 2, 3]]), capture)
    assert graph.counts() == {"add": 1, "identity": 1}
    assert [layer.kind for layer in graph.layers] == ["embedding", "linear", "linear"]


@pytest.mark.parametrize("capture", CAPTURES)
def test_views_that_do_not_overlap(capture: str) -> None:
    """Writing to one half leaves the other half what it was: the second addition bypasses both branches. The first
    one's source is the half itself, carried whole; the second's is the tensor that was halved."""

    def rule(m: Net, x: Tensor) -> Tensor:
        x = m.p(x)
        one, two = x.chunk(2, dim=1)
        one += m.s1(one)
        two += m.s2(torch.relu(one))
        return m.c(x)

    graph = trace(rule, capture, torch.randn(1, C, 8, 8))
    assert [(skip.kind, skip.layers, skip.partial) for skip in graph.skips] == [("add", 1, False), ("add", 2, True)]


@pytest.mark.parametrize("capture", CAPTURES)
def test_learned_query_is_no_layer(capture: str) -> None:
    """What layers make of parameters alone is not a weight: data times it is attention, not a linear layer."""

    def rule(m: Net, x: Tensor) -> Tensor:
        query = m.l1(m.token.expand(len(x), 4, C))
        return m.l3(torch.softmax(query @ m.l2(x).transpose(1, 2), -1) @ x)

    graph = trace(rule, capture, torch.randn(2, 16, C))
    assert [layer.name for layer in graph.layers] == ["l2", "l3"]


@pytest.mark.parametrize("capture", CAPTURES)
def test_tensors_kept_outside_parameters_and_buffers_are_known(capture: str) -> None:
    model = Net(lambda m, x: m.f(x) * m._sizes[0] + m.plain)
    model._sizes, model.plain = [torch.ones(1, C, 1, 1)], torch.ones(1, C, 1, 1)  # type: ignore[assignment]
    graph = traced(model, torch.randn(1, C, 8, 8), capture)
    assert not graph.lost


@pytest.mark.parametrize("capture", CAPTURES)
def test_projection_around_something_linear_is_one_more_branch(capture: str) -> None:
    graph = trace(lambda m, x: m.p(x) + m.b(m.a(x)), capture)
    assert not graph.skips
    assert len(graph.multi_branch) == 1


@pytest.mark.parametrize("capture", CAPTURES)
def test_projection_beside_an_identity_is_one_more_branch(capture: str) -> None:
    (skip,) = trace(lambda m, x: x + m.p(x) + m.f(x), capture).skips
    assert [edge.shortcut for edge in skip.edges] == ["identity"]
    assert len(skip.others) == 2


# -- what can hide


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_block_holds_the_skip() -> None:
    model = nn.Sequential(nn.Conv2d(C, C, 1), torch.jit.script(Block()), nn.Conv2d(C, C, 1))
    graph = trace_skips(model, torch.randn(1, C, 8, 8))
    assert graph.counts() == {"add": 1, "identity": 1}
    assert graph.capture == "dispatch"
    assert any("TorchScript" in note for note in graph.notes)
    above = trace_skips(model, torch.randn(1, C, 8, 8), capture="function")
    assert not above.skips
    assert any("TorchScript" in lost.reason for lost in above.lost)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_branch_with_the_skip_outside() -> None:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = torch.jit.script(nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.ReLU(), nn.Conv2d(C, C, 1)))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.f(x)

    graph = trace_skips(Outside(), torch.randn(1, C, 8, 8))
    assert graph.counts() == {"add": 1, "identity": 1}
    assert graph.skips[0].convs == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_whole_model_as_torchscript() -> None:
    graph = trace_skips(torch.jit.script(Block()), torch.randn(1, C, 8, 8))
    assert graph.counts() == {"add": 1, "identity": 1}


@pytest.mark.parametrize("capture", ["auto", "function", "dispatch"])
@pytest.mark.parametrize("way", ["from_numpy", "tensor", "as_tensor", "tolist"])
def test_numpy_round_trip_is_reported(way: str, capture: str) -> None:
    def rule(m: Net, x: Tensor) -> Tensor:
        y = m.f(x)
        values: Any = y.detach().tolist() if way == "tolist" else y.detach().numpy() * 2
        back = (
            torch.from_numpy(values)
            if way == "from_numpy"
            else (torch.as_tensor(values) if way == "as_tensor" else torch.tensor(values))
        )
        return x + back

    graph = trace(rule, capture)
    assert not graph.skips
    assert len(graph.lost) == 1, graph.lost
    assert "unknown origin" in graph.lost[0].reason


@pytest.mark.parametrize("capture", CAPTURES)
def test_reading_a_number_is_no_loss(capture: str) -> None:
    def rule(m: Net, x: Tensor) -> Tensor:
        return x + m.f(x) * float(x.mean()) + torch.tensor(x.shape[0]) * 0

    graph = trace(rule, capture)
    assert not graph.lost
    assert counts(graph) == (1, 0, 0)


@pytest.mark.parametrize("capture", CAPTURES)
def test_two_poolings_of_a_gated_map_are_no_skip(capture: Any) -> None:
    """CBAM's spatial gate joins the maximum and the mean of one map: both have passed the same layers."""

    def spatial(m: Net, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(m.p(x.mean((2, 3), keepdim=True)))
        joined = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * torch.sigmoid(m.a(joined.repeat(1, C // 2, 1, 1)))

    graph = traced(Net(spatial), torch.randn(1, C, 8, 8), capture)
    assert graph.counts() == {"gate": 2}


IN_PLACE: list[nn.Module] = [
    *(nn.ReLU(inplace=True), nn.LeakyReLU(inplace=True), nn.ELU(inplace=True), nn.Hardswish(inplace=True)),
    *(nn.SiLU(inplace=True), nn.Mish(inplace=True), nn.Hardsigmoid(inplace=True)),
]


@pytest.mark.parametrize("activation", IN_PLACE, ids=lambda module: type(module).__name__)
def test_an_activation_in_place_acts_on_the_shortcut_too(activation: nn.Module) -> None:
    """What looks like the unactivated x behind it is the activated one: the skip starts there, in every capture."""

    def rule(m: Net, x: Tensor) -> Tensor:
        x = m.p(x)
        return x + m.f(activation(x))

    for capture in CAPTURES:
        graph = traced(Net(rule), torch.randn(1, C, 8, 8), capture)
        assert graph.counts() == {"add": 1, "identity": 1}
        assert "conv" not in graph.skips[0].source, capture


def test_an_activation_that_writes_elsewhere() -> None:
    def rule(m: Net, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        torch.sigmoid(m.a(x), out=out)
        return x + m.b(out)

    for capture in CAPTURES:
        assert traced(Net(rule), torch.randn(1, C, 8, 8), capture).counts() == {"add": 1, "identity": 1}


@pytest.mark.parametrize("capture", CAPTURES)
def test_a_part_written_in_place_is_named_by_its_last_write(capture: str) -> None:
    def rule(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:, :1].add_(1.0)
        y[:, 1:2].add_(2.0)
        return y + m.b(y)

    (skip,) = trace(rule, capture).skips
    assert skip.edges[0].source.endswith("add[2]")

"""Switching a skip off equals a forward edited by hand, bit for bit, in the output and in every gradient."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from skipkb.skips import AblationError, SkipGraph, ablate, trace_skips

Edited = Callable[[nn.Module], nn.Module]


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of input and parameters (zeros where none arrives)."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return y.detach(), [p.grad if p.grad is not None else torch.zeros_like(p) for p in (x, *model.parameters())]


def assert_equal(model: nn.Module, skips: Any, drop: Any, edited: nn.Module, x: Tensor) -> None:
    plain, _ = gradients(model, x)
    with ablate(model, skips, drop=drop):
        found, found_gradients = gradients(model, x)
    expected, expected_gradients = gradients(edited, x)
    assert torch.equal(found, expected)
    for one, two in zip(found_gradients, expected_gradients, strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(found, plain), "the edit changes nothing, so the test shows nothing"
    assert torch.equal(gradients(model, x)[0], plain)


def with_forward(model: nn.Module, name: str, forward: Callable[..., Tensor]) -> nn.Module:
    """A copy of the model in which one module has another forward."""
    edited = copy.deepcopy(model)
    module = edited.get_submodule(name)
    module.forward = types.MethodType(forward, module)  # type: ignore[method-assign]
    return edited


DROPS = ["shortcut", "residual"]


# -- add: ResNet-18 and a vision transformer


def resnet_block(drop: str) -> Callable[..., Tensor]:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        identity = x if self.downsample is None else self.downsample(x)
        return torch.relu(y if drop == "shortcut" else identity)  # type: ignore[no-any-return]

    return forward


BLOCKS = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("chosen", [[0], [2], [7], [1, 4], list(range(8))])
def test_resnet18(chosen: list[int], drop: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    graph = trace_skips(model, x)
    edited: nn.Module = model
    for index in chosen:
        edited = with_forward(edited, BLOCKS[index], resnet_block(drop))
    assert_equal(model, [graph.skips[i] for i in chosen], drop, edited, x)


def test_resnet18_in_train_mode() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5).train()
    x = torch.randn(4, 3, 64, 64)
    graph = trace_skips(model, x)
    edited = with_forward(model, BLOCKS[3], resnet_block("shortcut"))
    with ablate(model, graph.skips[3]):
        found = gradients(model, x)
    expected = gradients(edited, x)
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(one, two) for one, two in zip(found[1], expected[1], strict=True))


def vit_block(drop: str, which: int) -> Callable[..., Tensor]:
    def forward(self: Any, x: Tensor, **kwargs: Any) -> Tensor:
        for number, (norm, branch) in enumerate(((self.norm1, self.attn), (self.norm2, self.mlp))):
            if number != which:
                x = x + branch(norm(x))
            elif drop == "shortcut":
                x = branch(norm(x))
        return x

    return forward


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("index", range(6))
def test_vision_transformer(index: int, drop: str) -> None:
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5)
    model.eval()
    x = torch.randn(2, 3, 32, 32)
    graph = trace_skips(model, x)
    edited = with_forward(model, f"blocks.{index // 2}", vit_block(drop, index % 2))
    assert_equal(model, graph.skips[index], drop, edited, x)


# -- concat: DenseNet and U-Net


def dense_layer(drop: str) -> Callable[..., Tensor]:
    def forward(self: Any, features: list[Tensor]) -> Tensor:
        kept = [
            feature if (i == len(features) - 1) == (drop == "shortcut") else torch.zeros_like(feature)
            for i, feature in enumerate(features)
        ]
        y = self.conv1(self.relu1(self.norm1(torch.cat(kept, 1))))
        return self.conv2(self.relu2(self.norm2(y)))  # type: ignore[no-any-return]

    return forward


@pytest.mark.parametrize("drop", DROPS)
def test_densenet(drop: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.DenseNet(growth_rate=4, block_config=(3, 3), num_init_features=8, num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    graph = trace_skips(model, x)
    assert graph.counts()["concat"] == 6
    (skip,) = [skip for skip in graph.skips if "denseblock2.denselayer3" in skip.merge]
    assert len(skip.edges) == 2
    edited = with_forward(model, "features.denseblock2.denselayer3", dense_layer(drop))
    assert_equal(model, skip, drop, edited, x)


def test_one_edge_of_a_dense_layer() -> None:
    torch.manual_seed(0)
    model = torchvision.models.DenseNet(growth_rate=4, block_config=(3,), num_init_features=8, num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    skip = trace_skips(model, x).skips[1]
    newest_first = sorted(skip.edges, key=lambda edge: edge.operand.position)

    def forward(self: Any, features: list[Tensor]) -> Tensor:
        y = self.conv1(self.relu1(self.norm1(torch.cat([features[0], torch.zeros_like(features[1]), features[2]], 1))))
        return self.conv2(self.relu2(self.norm2(y)))  # type: ignore[no-any-return]

    edited = with_forward(model, "features.denseblock1.denselayer3", forward)
    assert_equal(model, newest_first[1], "shortcut", edited, x)
    with pytest.raises(ValueError, match="pass its skip"):
        ablate(model, newest_first[1], drop="residual")


class UNet(nn.Module):
    def __init__(self, cut: tuple[int, str] | None = None) -> None:
        super().__init__()
        self.cut = cut
        self.one, self.two, self.three = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 4), (4, 8), (8, 16)))
        self.up2, self.up1 = nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)
        self.join2, self.join1 = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def join(self, level: int, skip: Tensor, x: Tensor) -> Tensor:
        if self.cut is not None and self.cut[0] == level:
            skip, x = (torch.zeros_like(skip), x) if self.cut[1] == "shortcut" else (skip, torch.zeros_like(x))
        return torch.cat([skip, x], 1)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.one(x))
        b = torch.relu(self.two(F.max_pool2d(a, 2)))
        c = torch.relu(self.three(F.max_pool2d(b, 2)))
        y = torch.relu(self.join2(self.join(0, b, self.up2(c))))
        return self.join1(self.join(1, a, self.up1(y)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("index", [0, 1])
def test_unet(index: int, drop: str) -> None:
    torch.manual_seed(0)
    model, edited = UNet(), UNet(cut=(index, drop))
    edited.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 16, 16)
    graph = trace_skips(model, x)
    assert len(graph.skips) == 2
    assert_equal(model, graph.skips[index], drop, edited, x)


# -- gate: Highway and squeeze-and-excitation


class Highway(nn.Module):
    def __init__(self, cut: str = "") -> None:
        super().__init__()
        self.cut = cut
        self.plain, self.gate, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        h = torch.relu(self.plain(x)) * t
        carried = x * (1.0 - t)
        return self.out({"": h + carried, "shortcut": h, "residual": carried}[self.cut] if self.cut else h + carried)  # type: ignore[no-any-return]


@pytest.mark.parametrize("drop", DROPS)
def test_highway(drop: str) -> None:
    torch.manual_seed(0)
    model, edited = Highway(), Highway(cut=drop)
    edited.load_state_dict(model.state_dict())
    x = torch.randn(3, 6)
    (skip,) = trace_skips(model, x).skips
    assert_equal(model, skip, drop, edited, x)


class Excite(nn.Module):
    def __init__(self, cut: str = "") -> None:
        super().__init__()
        self.cut = cut
        self.conv, self.down, self.up = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        if self.cut == "residual":  # the gate is one: squeeze-and-excitation is off
            return x  # type: ignore[no-any-return]
        return torch.ones_like(x) * gate if self.cut else x * gate


@pytest.mark.parametrize("drop", DROPS)
def test_squeeze_and_excitation(drop: str) -> None:
    torch.manual_seed(0)
    model, edited = Excite(), Excite(cut=drop)
    edited.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    (gate,) = trace_skips(model, x).gates
    assert_equal(model, gate, drop, edited, x)


# -- every way to write a merge


class Written(nn.Module):
    def __init__(self, rule: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.f, self.g, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.rule(self, self.a(x))))  # type: ignore[no-any-return]


def in_place(m: Any, x: Tensor) -> Tensor:
    y = m.f(x)
    y += x
    return y


def in_place_on_the_shortcut(m: Any, x: Tensor) -> Tensor:
    x = x * 1.0
    other = x.view(-1)
    x += torch.sigmoid(m.f(x.clone()))
    return other.view_as(x)


def add_out(m: Any, x: Tensor) -> Tensor:
    y = m.f(x)
    return torch.add(y, x)


def buffer(m: Any, x: Tensor) -> Tensor:
    y = x.new_zeros(len(x), 8, *x.shape[2:])
    y[:, :4] = x
    y[:, 4:] = m.f(x)
    return y[:, :4] * 2 + y[:, 4:]


WAYS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]] = {
    "plus": (lambda m, x: x + m.f(x), lambda m, x: m.f(x), lambda m, x: x),
    "minus": (lambda m, x: x - m.f(x), lambda m, x: -m.f(x), lambda m, x: x),
    "in place": (in_place, lambda m, x: m.f(x), lambda m, x: x),
    "in place on the shortcut": (in_place_on_the_shortcut, lambda m, x: torch.sigmoid(m.f(x)), lambda m, x: x),
    "sum": (lambda m, x: sum([x, m.f(x)]), lambda m, x: m.f(x), lambda m, x: x),  # type: ignore[return-value]
    "stack": (lambda m, x: torch.stack([x, m.f(x)]).sum(0), lambda m, x: m.f(x), lambda m, x: x),
    "keyword": (lambda m, x: torch.add(other=x, input=m.f(x)), lambda m, x: m.f(x), lambda m, x: x),
    "alpha": (lambda m, x: torch.add(x, m.f(x), alpha=0.5), lambda m, x: 0.5 * m.f(x), lambda m, x: x),
    "lerp": (lambda m, x: torch.lerp(x, m.f(x), 0.25), lambda m, x: 0.25 * m.f(x), lambda m, x: 0.75 * x),
    "addcmul": (
        lambda m, x: torch.addcmul(x, m.f(x), torch.full_like(x, 0.5)),
        lambda m, x: m.f(x) * 0.5,
        lambda m, x: x,
    ),
    "three": (lambda m, x: x + m.f(x) + m.g(torch.relu(m.f(x))), lambda m, x: m.f(x) + m.g(torch.relu(m.f(x))),
              lambda m, x: x),
    "product": (lambda m, x: x * m.f(x), lambda m, x: m.f(x), lambda m, x: x),
    "buffer": (buffer, lambda m, x: m.f(x), lambda m, x: x * 2),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_a_merge(way: str) -> None:
    torch.manual_seed(0)
    rule, without_shortcut, without_residual = WAYS[way]
    model = Written(rule)
    x = torch.randn(2, 4, 6, 6)
    graph = trace_skips(model, x)
    (skip,) = (*graph.skips, *graph.gates)
    for drop, edit in (("shortcut", without_shortcut), ("residual", without_residual)):
        edited = Written(edit)
        edited.load_state_dict(model.state_dict())
        with ablate(model, skip, drop=drop):  # type: ignore[arg-type]
            found = gradients(model, x)
        expected = gradients(edited, x)
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])


# -- use


class Tied(nn.Module):
    def __init__(self, times: int = 3, cut: int = -1) -> None:
        super().__init__()
        self.block, self.times, self.cut = nn.Linear(4, 4), times, cut
        self.inner = Inner(self.block)

    def forward(self, x: Tensor) -> Tensor:
        for time in range(self.times):
            x = torch.tanh(self.block(x)) if time == self.cut else self.inner(x)
        return x


class Inner(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.block(x))


def test_shared_weights_one_call_of_three() -> None:
    torch.manual_seed(0)
    model, x = Tied(), torch.randn(2, 4)
    graph = trace_skips(model, x)
    assert [skip.merge for skip in graph.skips] == ["inner:add", "inner#2:add", "inner#3:add"]
    for index in range(3):
        edited = Tied(cut=index)
        edited.load_state_dict(model.state_dict())
        assert_equal(model, graph.skips[index], "shortcut", edited, x)


def test_contexts_nest_and_are_used_again() -> None:
    torch.manual_seed(0)
    model, x = torchvision.models.resnet18(num_classes=3).eval(), torch.randn(1, 3, 64, 64)
    graph = trace_skips(model, x)
    plain = model(x)
    with ablate(model, graph.skips[:2]):
        both = model(x)
    once = ablate(model, graph.skips[0])
    for _ in range(2):
        with once:
            with ablate(model, graph.skips[1]):
                assert torch.equal(model(x), both)
            one = model(x)
    assert not torch.equal(one, both)
    assert torch.equal(model(x), plain)


def test_inside_another_model() -> None:
    model, x = Tied(), torch.randn(2, 4)
    graph = trace_skips(model, x)
    outer = nn.Sequential(nn.Identity(), model, nn.Identity())
    with ablate(model, graph.skips):
        assert torch.equal(outer(x), model(x))
        assert not torch.equal(outer(x), Tied.forward(copy.deepcopy(model), x))


def test_a_forward_that_catches_its_own_errors() -> None:
    class Careful(Tied):
        def forward(self, x: Tensor) -> Tensor:
            try:
                self.block(x[:, :3])
            except RuntimeError:
                return super().forward(x)
            raise AssertionError

    model, x = Careful(), torch.randn(2, 4)
    graph = trace_skips(model, x)
    assert [skip.merge for skip in graph.skips] == ["inner:add", "inner#2:add", "inner#3:add"]
    with ablate(model, graph.skips):
        model(x)


def test_other_batch_and_picture_sizes() -> None:
    model = torchvision.models.resnet18(num_classes=3).eval()
    graph = trace_skips(model, (1, 3, 64, 64))
    with ablate(model, graph.skips):
        assert model(torch.randn(3, 3, 96, 64)).shape == (3, 3)


def test_graph_from_a_file_serves_as_well() -> None:
    model, x = torchvision.models.resnet18(num_classes=3).eval(), torch.randn(1, 3, 64, 64)
    graph = trace_skips(model, x)
    again = SkipGraph.from_json(graph.to_json())
    with ablate(model, graph.skips[3]):
        expected = model(x)
    with ablate(model, again.skips[3]):
        assert torch.equal(model(x), expected)


def test_tracing_an_ablated_model_still_sees_its_skips() -> None:
    model, x = torchvision.models.resnet18(num_classes=3).eval(), torch.randn(1, 3, 64, 64)
    graph = trace_skips(model, x)
    with ablate(model, graph.skips):
        assert trace_skips(model, x).counts() == graph.counts()


def test_nothing_stays_behind_when_the_forward_raises() -> None:
    model = torchvision.models.resnet18(num_classes=3).eval()
    x = torch.randn(1, 3, 64, 64)
    graph, plain = trace_skips(model, x), model(x)
    with pytest.raises(RuntimeError, match="channels"), ablate(model, graph.skips):
        model(torch.randn(1, 4, 64, 64))
    assert torch.equal(model(x), plain)


def test_skip_of_another_model() -> None:
    resnet = torchvision.models.resnet18(num_classes=3).eval()
    deeper = torchvision.models.resnet34(num_classes=3).eval()
    skips = trace_skips(deeper, (1, 3, 64, 64)).skips
    with pytest.raises(AblationError, match=r"has no module 'layer1\.2'"):
        ablate(resnet, skips)
    other = torchvision.models.resnet50(num_classes=3).eval()
    with (
        pytest.raises(AblationError, match="does not do what it did"),
        ablate(resnet, trace_skips(other, (1, 3, 64, 64)).skips[0]),
    ):
        resnet(torch.randn(1, 3, 64, 64))


def test_skip_that_is_not_reached() -> None:
    model, x = Tied(3), torch.randn(2, 4)
    skips = trace_skips(model, x).skips
    model.times = 2
    with pytest.raises(AblationError, match=r"1 of the skips were not reached: inner#3:add"), ablate(model, skips):
        model(x)
    with ablate(model, skips):
        pass  # nothing ran, nothing is missing


def test_aten_skips_cannot_be_cut() -> None:
    model = Tied()
    graph = trace_skips(model, torch.randn(2, 4), capture="dispatch")
    with pytest.raises(AblationError, match="capture='function'"):
        ablate(model, graph.skips)


def test_wrong_arguments() -> None:
    model = Tied()
    skip = trace_skips(model, (2, 4)).skips[0]
    with pytest.raises(ValueError, match="'shortcut' or 'residual'"):
        ablate(model, skip, drop="both")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes skips as trace_skips finds them, not int"):
        ablate(model, [3])  # type: ignore[list-item]

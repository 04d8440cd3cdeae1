"""What UNet++ is about: rows of nodes that see all nodes before them, and a U-Net of every depth inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import unetpp as module
from skipkb.models.segmentation.unetpp import NNUNetPP, UNetPP, UNetPPBase, ensemble, objective

WIDTHS = (4, 5, 6, 7)
PICTURE = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))


def small(kind: str, **changes: Any) -> UNetPPBase:
    torch.manual_seed(0)
    if kind == "nnunet":
        return NNUNetPP(widths=WIDTHS, in_channels=3).eval()
    kwargs: dict[str, Any] = {"widths": WIDTHS, "dropout": 0.0, "deep_supervision": True}
    return UNetPP(**kwargs | changes).eval()


def outputs_of(model: UNetPPBase, **how: Any) -> tuple[Tensor, ...]:
    """The outputs of the heads, the shallowest first."""
    with torch.no_grad():
        outputs = model(PICTURE, **how)
    assert isinstance(outputs, dict)
    assert list(outputs) == sorted(outputs, reverse=isinstance(model, NNUNetPP))  # the order of the authors' code
    return tuple(outputs[name] for name in sorted(outputs))


def test_the_published_networks() -> None:
    """L4 has 15 nodes of two 3x3 convolutions, ten of them behind a transposed convolution."""
    with torch.device("meta"):
        model = module.unetpp_l4()
        assert model(torch.empty(1, 3, 96, 96)).shape == (1, 1, 96, 96)
        kinds = [(type(m), m.kernel_size) for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert kinds.count((nn.Conv2d, (3, 3))) == 30
        assert kinds.count((nn.ConvTranspose2d, (2, 2))) == 10
        assert kinds.count((nn.Conv2d, (1, 1))) == 1
        assert [len(b().state_dict()) for b in (module.unetpp_l1, module.unetpp_l2, module.unetpp_l3)] == [16, 32, 54]
        assert not any(isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d) for m in model.modules())
        outputs = module.unetpp_nnunet()(torch.empty(1, 1, 64, 64))
        assert {name: tuple(o.shape) for name, o in outputs.items()} == {f"l{i}": (1, 3, 64, 64) for i in range(1, 6)}


@pytest.mark.parametrize("kind", ["keras", "nnunet"])
def test_a_node_sees_its_whole_row_and_the_node_below(kind: str) -> None:
    """Equation 1, written out: the grid is built by hand from the parts and gives the same outputs."""
    model = small(kind)
    grid: dict[tuple[int, int], Tensor] = {}
    with torch.no_grad():
        for i in range(4):
            grid[i, 0] = model.encoder(i, grid[i - 1, 0] if i else PICTURE)
        for j in range(1, 4):
            for i in range(4 - j):
                grid[i, j] = model.node(i, j, [grid[i, k] for k in range(j)], grid[i + 1, j - 1])
        expected = [model.head(j, grid[0, j]) for j in range(1, 4)]
    assert all(torch.equal(a, b) for a, b in zip(outputs_of(model), expected, strict=True))


@pytest.mark.parametrize("kind", ["keras", "nnunet"])
@pytest.mark.parametrize(("i", "j", "k"), [(i, j, k) for i in range(3) for j in range(1, 4 - i) for k in range(j)])
def test_each_skip_carries(kind: str, i: int, j: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without x^{i,k}, the node x^{i,j} and what depends on it change: none of the ten skips is decoration."""
    model = small(kind)
    before, node = outputs_of(model), model.node

    def blind(a: int, b: int, row: Sequence[Tensor], below: Tensor) -> Tensor:
        hidden = [torch.zeros_like(x) if (a, b, c) == (i, j, k) else x for c, x in enumerate(row)]
        return node(a, b, hidden, below)

    monkeypatch.setattr(model, "node", blind)
    after = outputs_of(model)
    changed = [(a - b).abs().max().item() > 1e-4 for a, b in zip(after, before, strict=True)]
    assert changed == [depth >= i + j for depth in (1, 2, 3)]


@pytest.mark.parametrize("kind", ["keras", "nnunet"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_pruning_computes_only_what_the_output_needs(kind: str, depth: int) -> None:
    model = small(kind)
    whole, run = outputs_of(model), set()
    for name, layer in model.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda m, x, y, name=name: run.add(name))
    pruned = outputs_of(model, prune=depth)
    assert len(pruned) == depth
    assert all(torch.equal(a, b) for a, b in zip(pruned, whole[:depth], strict=True))
    if kind == "keras":  # layers are named after their nodes, so that a digit tells the depth
        nodes = {name[4:6] for name in run if name.startswith("conv")}
        assert nodes == {f"{i + 1}{j + 1}" for i in range(depth + 1) for j in range(depth + 1 - i)}


def test_a_pruned_network_is_the_smaller_network() -> None:
    """UNet++ L2 is not another network: it loads the nodes of L3 that it has, and gives what L3's second head gives."""
    model = small("keras")
    fewer = small("keras", widths=WIDTHS[:3], deep_supervision=False)
    state = {name: value for name, value in model.state_dict().items() if name in fewer.state_dict()}
    fewer.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(fewer(PICTURE), outputs_of(model)[1])


def test_each_depth_is_supervised() -> None:
    """The loss of a head reaches the nodes of its own U-Net, and no deeper one."""
    model = small("keras")
    for depth in (1, 2, 3):
        model.zero_grad()
        output = model(PICTURE)[f"l{depth}"]
        output.square().sum().backward()
        reached = {name[4:6] for name, p in model.named_parameters() if name.startswith("conv") and p.grad is not None}
        assert reached == {f"{i + 1}{j + 1}" for i in range(depth + 1) for j in range(depth + 1 - i)}


@pytest.mark.parametrize("kind", ["keras", "nnunet"])
def test_where_the_enlarged_map_stands(kind: str) -> None:
    """In front of the row in the Keras code, behind it in the other."""
    model = small(kind)
    row, below = [torch.rand(1, 4, 8, 8), torch.rand(1, 4, 8, 8)], torch.rand(1, 5, 4, 4)
    up, node = ("up13", "conv13_1") if kind == "keras" else ("up1.1", "loc1.1")
    seen: list[Tensor] = []
    model.get_submodule(node).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        model.node(0, 2, row, below)
        enlarged = model.get_submodule(up)(below)
    order = [enlarged, *row] if kind == "keras" else [*row, enlarged]
    assert torch.equal(seen[0], torch.cat(order, dim=1))


def test_dropout_follows_each_convolution() -> None:
    model = small("keras", dropout=0.5).train()
    calls: list[Tensor] = []
    model.get_submodule("dropout").register_forward_hook(lambda m, x, y: calls.append(y))
    model(PICTURE)
    assert len(calls) == 20  # ten nodes
    assert all((call == 0).double().mean() > 0.3 for call in calls)


def test_the_layers_of_the_form_inside_nnunet() -> None:
    model = small("nnunet")
    assert sum(isinstance(m, nn.InstanceNorm2d) for m in model.modules()) == 20
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
    strides = [m.stride for m in model.get_submodule("conv_blocks_context").modules() if isinstance(m, nn.Conv2d)]
    assert strides == [(1, 1), (1, 1), (2, 2), (1, 1), (2, 2), (1, 1), (2, 2), (1, 1)]
    without = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m.bias is None]
    assert len(without) == 6 + 3  # transposed convolutions and heads
    assert model(PICTURE)["l3"].shape == (2, 3, 32, 24)


def test_initial_values() -> None:
    model = small("keras", widths=(32, 64))
    weight = model.get_submodule("conv12_1").weight
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    up = model.get_submodule("up12").weight
    assert isinstance(up, Tensor)
    limit = (6 / (4 * 96)) ** 0.5
    assert 0.98 * limit < up.abs().max() <= limit
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_the_ensemble_is_the_mean_of_the_heads() -> None:
    heads = {name: torch.randn(2, 1, 4, 4) for name in ("l1", "l2", "l3")}
    torch.testing.assert_close(ensemble(heads), sum(head.sigmoid() for head in heads.values()) / 3)
    assert torch.equal(ensemble(heads["l1"]), heads["l1"].sigmoid())
    torch.testing.assert_close(ensemble(torch.randn(2, 3, 4, 4)).sum(dim=1), torch.ones(2, 4, 4))
    sigmoid, logits = small("keras", sigmoid=True), small("keras")
    assert torch.equal(outputs_of(sigmoid)[2], outputs_of(logits)[2].sigmoid())


@pytest.mark.parametrize("classes", [1, 3])
def test_the_objective(classes: int) -> None:
    heads = {name: torch.randn(2, classes, 4, 5) for name in ("l1", "l2")}
    target = torch.randint(0, max(classes, 2), (2, 4, 5))
    expected = torch.zeros(())
    for logits in heads.values():
        if classes == 1:
            p, truth = logits.sigmoid(), target[:, None].float()
            entropy = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
        else:
            p, truth = logits.softmax(1), F.one_hot(target, 3).permute(0, 3, 1, 2).float()
            entropy = -(truth * p.log()).sum(1).mean()
        expected = expected + 0.5 * entropy - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    torch.testing.assert_close(objective(heads, target), expected)
    torch.testing.assert_close(sum(objective(head, target) for head in heads.values()), expected)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="at least two resolutions, got 1"):
        UNetPP(widths=(4,))
    with pytest.raises(ValueError, match="dropout must lie"):
        UNetPP(widths=WIDTHS, dropout=1.0)
    with pytest.raises(ValueError, match="prune must be 1 to 3, got 4"):
        small("keras")(PICTURE, prune=4)
    with pytest.raises(ValueError, match="prune must be 3 alone, without deep supervision, got 1"):
        small("keras", deep_supervision=False)(PICTURE, prune=1)
    for kind in ("keras", "nnunet"):
        with pytest.raises(ValueError, match=r"multiples of 8, got \[1, 3, 16, 12\]"):
            small(kind)(torch.rand(1, 3, 16, 12))
        with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\]"):
            small(kind)(torch.rand(1, 1, 16, 16))
        small(kind)(torch.rand(1, 3, 16, 12), prune=2)  # of two poolings, four is enough

"""GoogLeNet: Table 1, what the branches see, no skip, and the two auxiliary classifiers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skipkb
from skipkb.models.classification import googlenet
from skipkb.models.classification.googlenet import Auxiliary, GoogLeNet, Inception


def test_maps_of_table_1() -> None:
    with torch.device("meta"):
        model = googlenet.googlenet(aux=False).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, __, y, name=name: shapes.update({name: tuple(y.shape[1:])}))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert shapes["conv1"] == (64, 112, 112)
    assert shapes["maxpool1"] == (64, 56, 56)
    assert shapes["conv3"] == (192, 56, 56)
    assert shapes["maxpool2"] == (192, 28, 28)
    modules = {name[9:]: shape for name, shape in shapes.items() if name.startswith("inception")}
    assert modules == {
        "3a": (256, 28, 28),
        "3b": (480, 28, 28),
        **{"4a": (512, 14, 14), "4b": (512, 14, 14), "4c": (512, 14, 14), "4d": (528, 14, 14), "4e": (832, 14, 14)},
        **{"5a": (832, 7, 7), "5b": (1024, 7, 7)},
    }


def test_twenty_two_layers_with_weights() -> None:
    """Two convolutions deep per module, three in front, and the classifier: the longest path."""
    with torch.device("meta"):
        model = googlenet.googlenet()
    deepest = {
        name: max(sum(isinstance(part, nn.Conv2d) for part in branch.modules()) for branch in module.children())
        for name, module in model.named_children()
        if isinstance(module, Inception)
    }
    assert len(deepest) == 9
    assert 3 + sum(deepest.values()) + 1 == 22


@pytest.mark.parametrize(("largest", "extents"), [(5, [1, 3, 5, 3]), (3, [1, 3, 3, 3])])
def test_branches_see_different_extents(largest: int, extents: list[int]) -> None:
    module = Inception(6, (4, 4, 4, 4, 4, 4), largest=largest)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)  # no ReLU hides a path
    for i, extent in enumerate(extents, start=1):
        seen = torch.zeros(11, 11)
        for _ in range(30):  # a pooling passes one place only, another one each time
            x = torch.rand(1, 6, 11, 11, requires_grad=True)
            module.get_submodule(f"branch{i}")(x)[0, :, 5, 5].sum().backward()
            assert x.grad is not None
            seen += x.grad[0].abs().sum(0)
        assert ((seen > 0).any(0).sum(), (seen > 0).any(1).sum()) == (extent, extent)


def test_branches_are_concatenated_in_order_and_nothing_is_added() -> None:
    module = Inception(6, (4, 3, 5, 2, 7, 3)).eval()
    x = torch.randn(2, 6, 8, 8)
    branches = [branch(x) for branch in module.children()]
    assert [y.shape[1] for y in branches] == [4, 5, 7, 3]
    assert torch.equal(module(x), torch.cat(branches, dim=1))


def test_nothing_bypasses_a_module() -> None:
    """Without its convolutions a module says nothing about its input; a residual module would still pass it on."""
    module = Inception(6, (4, 4, 4, 4, 4, 4)).eval()
    x = torch.randn(1, 6, 8, 8)
    with torch.no_grad():
        assert module(x).std(dim=(2, 3)).max() > 0
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.zeros_(part.weight)
        assert module(x).std(dim=(2, 3)).max() == 0
    for name in ("googlenet", "googlenet_bn"):
        with torch.device("meta"):
            graph = skipkb.trace_skips(getattr(googlenet, name)().eval(), (1, 3, 224, 224))
        assert not graph.skips
        assert [merge.merge for merge in graph.multi_branch] == [
            f"inception{name}:cat" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
        ]


def test_reductions_pay_for_the_width() -> None:
    """Figure 2a against 2b: the naive module 3a would cost more than twice as much, and its output is wider."""
    reduced = 192 * 64 + 192 * 96 + 96 * 128 * 9 + 192 * 16 + 16 * 32 * 25 + 192 * 32
    naive = 192 * 64 + 192 * 128 * 9 + 192 * 32 * 25
    with torch.device("meta"):
        module = Inception(192, (64, 96, 128, 16, 32, 32))
    assert sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Conv2d)) == reduced
    assert naive > 2 * reduced
    assert 64 + 128 + 32 + 192 > 256


def small(**options: Any) -> GoogLeNet:
    return GoogLeNet(num_classes=3, dropout=0.0, dropout_aux=0.0, **options)


def test_auxiliary_classifiers_are_for_training_only() -> None:
    model, x = small(batch_norm=True), torch.randn(2, 3, 64, 64)
    output = model(x)
    assert isinstance(output, dict)
    assert {name: tuple(y.shape) for name, y in output.items()} == dict.fromkeys(("logits", "aux1", "aux2"), (2, 3))
    assert isinstance(model.eval()(x), Tensor)
    assert isinstance(small(aux=False).train()(x), Tensor)


def test_where_the_auxiliary_gradients_enter() -> None:
    """The first at 4a, the second at 4d; what comes later does not feel them."""
    model = small(batch_norm=True)
    reached = {}
    for name in ("aux1", "aux2"):
        model.zero_grad(set_to_none=True)
        output = model(torch.randn(2, 3, 64, 64))
        assert isinstance(output, dict)
        output[name].sum().backward()
        reached[name] = [
            part for part, module in model.named_children()
            if part.startswith("inception") and all(p.grad is not None for p in module.parameters())
        ]  # fmt: skip
    assert reached["aux1"] == ["inception3a", "inception3b", "inception4a"]
    assert reached["aux2"] == [*reached["aux1"], "inception4b", "inception4c", "inception4d"]


def test_objective() -> None:
    """Section 5: losses of the auxiliary classifiers count 0.3 each."""
    logits, first, second = torch.randn(3, 4, 5)
    target = torch.tensor([0, 1, 2, 3])
    loss, aux1, aux2 = (F.cross_entropy(y, target) for y in (logits, first, second))
    assert googlenet.objective(logits, target) == loss
    found = googlenet.objective({"logits": logits, "aux1": first, "aux2": second}, target)
    torch.testing.assert_close(found, loss + 0.3 * aux1 + 0.3 * aux2)


def test_the_mean_of_an_auxiliary_classifier() -> None:
    """5x5 places at every third of 14 x 14; equal parts at other sizes."""
    auxiliary = Auxiliary(2, 3, dropout=0.0)
    seen: list[Tensor] = []
    auxiliary.conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(1, 2, 14, 14)
    auxiliary(x)
    torch.testing.assert_close(seen[0][0, :, 1, 2], x[0, :, 3:8, 6:11].mean(dim=(1, 2)))
    y = torch.randn(1, 2, 8, 12)
    auxiliary(y)
    torch.testing.assert_close(seen[1][0, :, 1, 2], y[0, :, 2:4, 6:9].mean(dim=(1, 2)))


@pytest.mark.parametrize(
    ("shape", "batch_norm"), [((224, 224), False), ((97, 130), True), ((31, 40), False), ((15, 15), True)]
)
def test_any_picture_size(shape: tuple[int, int], batch_norm: bool) -> None:
    with torch.device("meta"):
        model = small(in_channels=1, batch_norm=batch_norm)
        output = model(torch.empty(2, 1, *shape))
    assert isinstance(output, dict)
    assert all(y.shape == (2, 3) for y in output.values())


def test_initial_values_keep_every_unit_alive() -> None:
    """Variance 1 / fan-in, and a bias of 0.2 everywhere but in the classifiers."""
    model = small()
    weight = model.get_submodule("inception5b.branch2.1.conv").weight
    assert isinstance(weight, Tensor)
    assert weight.var().item() == pytest.approx(1 / (192 * 9), rel=0.02)
    biases = {name: p for name, p in model.named_parameters() if name.endswith("bias")}
    zero = {name for name, bias in biases.items() if (bias == 0).all()}
    assert zero == {"fc.bias", "aux1.fc2.bias", "aux2.fc2.bias"}
    assert all((bias == 0.2).all() for name, bias in biases.items() if name not in zero)


@pytest.mark.parametrize("change", [{"dropout": 1.0}, {"dropout_aux": -0.1}])
def test_mistakes(change: dict[str, Any]) -> None:
    with torch.device("meta"):
        with pytest.raises(ValueError, match=r"dropout and dropout_aux must be in \[0, 1\)"):
            GoogLeNet(**change)
        model = GoogLeNet(aux=False)
        with pytest.raises(ValueError, match=r"H and W at least 31, got \[1, 3, 30, 40\]"):
            model(torch.empty(1, 3, 30, 40))
        with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\]"):
            model(torch.empty(1, 1, 20, 20))

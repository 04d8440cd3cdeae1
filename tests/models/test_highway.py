"""Highway networks: gates that start by carrying."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import highway


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Real handwritten digits, enlarged to the 28 x 28 pixels of MNIST."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images[:count], dtype=torch.float32).unsqueeze(1) / 16
    return F.interpolate(x, size=28, mode="bilinear"), torch.tensor(data.target[:count])


def gates(model: nn.Module) -> list[highway.HighwayConv]:
    return [m for m in model.modules() if isinstance(m, highway.HighwayConv)]


# --- the published networks ---------------------------------------------------------------------------------


def test_sizes_are_those_that_the_papers_print() -> None:
    with torch.device("meta"):
        assert round(size(highway.highway19()) / 1e6, 1) == 2.3
        assert size(highway.highway10()) // 1000 == 151
        assert round(size(highway.highway10(width=16)) / 1000) == 39


def test_layers_are_counted_as_the_papers_count_them() -> None:
    with torch.device("meta"):
        cifar, mnist = highway.highway19(), highway.highway10()
    weighted = (highway.PlainConv, highway.HighwayConv, nn.Linear)
    for model, depth, skips in ((cifar, 19, 14), (mnist, 10, 8)):
        assert sum(isinstance(m, weighted) for m in model.modules()) == depth
        assert len(gates(model)) == skips


def test_map_sizes_are_those_of_the_authors_log() -> None:
    def maps(model: nn.Module, *shape: int) -> list[list[int]]:
        seen: list[list[int]] = []
        for module in model.modules():
            if isinstance(module, highway.PlainConv | highway.HighwayConv | nn.Linear):
                module.register_forward_hook(lambda _, i, o: seen.append(list(o.shape[1:])))
        model.eval()(torch.empty(shape, device="meta"))
        return seen

    with torch.device("meta"):
        mnist = maps(highway.highway10(), 1, 1, 28, 28)
        cifar = maps(highway.highway19(), 1, 3, 32, 32)
    assert mnist == [[32, 24, 24]] * 3 + [[32, 12, 12]] * 3 + [[32, 6, 6]] * 3 + [[10]]
    assert cifar == [[32, 32, 32]] * 5 + [[80, 16, 16]] * 6 + [[128, 8, 8]] * 6 + [[100, 8, 8], [10]]


def test_initial_values_are_those_of_the_authors_files() -> None:
    for model, bias, stem, classifier in (
        (highway.highway19(), -2.0, 0.05, 0.05),
        (highway.highway10(), -1.0, (2 / 25) ** 0.5, 0.1),
    ):
        for layer in gates(model):
            assert torch.equal(layer.T.bias, torch.full_like(layer.T.bias, bias))
            assert torch.count_nonzero(layer.H.bias) == 0
            for conv in (layer.H, layer.T):
                assert conv.weight.std().item() == pytest.approx((2 / conv.weight[0].numel()) ** 0.5, rel=0.05)
        first = next(m for m in model.modules() if isinstance(m, highway.PlainConv))
        assert first.H.weight.std().item() == pytest.approx(stem, rel=0.1)
        assert model.classifier.weight.std().item() == pytest.approx(classifier, rel=0.1)


# --- equation 3 ---------------------------------------------------------------------------------------------


def test_closed_gates_copy_and_open_gates_transform_exactly() -> None:
    layer = highway.HighwayConv(6, transform_bias=-1e4)
    x = torch.randn(2, 6, 7, 5)
    assert torch.equal(layer(x), x)  # T = 0
    nn.init.constant_(layer.T.bias, 1e4)
    assert torch.equal(layer(x), F.relu(layer.H(x)))  # T = 1


def test_carry_and_transform_share_one_whole() -> None:
    """C = 1 - T: the output lies between x and H(x), and where both agree no gate can change them."""
    layer = highway.HighwayConv(6, transform_bias=0.0)
    x = torch.randn(2, 6, 7, 5)
    h, t, y = F.relu(layer.H(x)), layer.gate(x), layer(x)
    assert torch.allclose(y, x + t * (h - x), atol=1e-6)
    assert (y >= torch.minimum(x, h) - 1e-6).all()
    assert (y <= torch.maximum(x, h) + 1e-6).all()
    # Hence no gate gives the residual form H(x) + x: with zero gate parameters both ends count one half.
    nn.init.zeros_(layer.T.weight)
    assert torch.allclose(layer(x), 0.5 * h + 0.5 * x, atol=1e-6)


def test_every_element_has_a_gate_of_its_own() -> None:
    layer = highway.HighwayConv(4, transform_bias=0.0)
    nn.init.zeros_(layer.T.weight)
    with torch.no_grad():
        layer.T.bias.copy_(torch.tensor([-1e4, 1e4, -1e4, 1e4]))
    x = torch.randn(1, 4, 6, 6)
    y, h = layer(x), F.relu(layer.H(x))
    assert torch.equal(y[:, ::2], x[:, ::2])
    assert torch.equal(y[:, 1::2], h[:, 1::2])
    # One gate may be open at one pixel and closed at the next: here it opens where the picture is bright.
    nn.init.zeros_(layer.T.bias)
    with torch.no_grad():
        layer.T.weight[:, :, 1, 1] = 1e4 * torch.eye(4)
    y, bright = layer(x), x > 0
    assert bright.any()
    assert torch.allclose(y[bright], h[bright], atol=1e-6)
    assert torch.equal(y[~bright], x[~bright])


# --- starting by carrying -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [-1.0, -2.0, -3.0])
def test_gates_start_carrying(bias: float) -> None:
    """Section 2.2: a negative bias, and nothing else, makes the layer copy most of its input."""
    layer = highway.HighwayConv(16, transform_bias=bias)
    x = 0.2 * torch.rand(4, 16, 12, 12)
    share = 1 / (1 + math.exp(-bias))
    assert layer.gate(x).mean().item() == pytest.approx(share, abs=0.02)
    change = ((layer(x) - x).norm() / x.norm()).item()
    wanted = ((F.relu(layer.H(x)) - x).norm() / x.norm()).item()
    assert change == pytest.approx(share * wanted, rel=0.15)


def test_the_whole_network_starts_carrying() -> None:
    torch.manual_seed(0)
    model, x = highway.highway19().eval(), torch.rand(2, 3, 32, 32)
    means: list[float] = []
    for layer in gates(model):
        layer.register_forward_hook(lambda m, i, o: means.append(m.gate(i[0]).mean().item()))
    with torch.no_grad():
        model(x)
    assert len(means) == 14
    assert all(0.1 < m < 0.2 for m in means)  # sigmoid(-2) = 0.119


@pytest.mark.parametrize("variance", [1, 2])
def test_gradient_crosses_thirty_layers_whatever_the_start_values(variance: float) -> None:
    """Section 2.2: the bias alone keeps very deep networks open; plain ones hang on the start values.

    Bias -3 is the advice for 30 layers. Variance 2 / fan-in suits ReLU layers, 1 / fan-in halves the squared
    gradient in every plain layer. If every layer only carried, (1 - sigmoid(-3))^30 = 0.23 would be left.
    """
    x, _ = digits(8)
    x = x.expand(-1, 8, -1, -1)[:, :, ::3, ::3].clone().requires_grad_()

    def transmission(layers: list[highway.HighwayConv] | list[highway.PlainConv]) -> float:
        for layer in layers:
            nn.init.normal_(layer.H.weight, std=(variance / layer.H.weight[0].numel()) ** 0.5)
        y = nn.Sequential(*layers)(x)
        arriving = torch.randn_like(y)
        (gradient,) = torch.autograd.grad(y, x, arriving)
        return (gradient.norm() / arriving.norm()).item()

    assert 0.15 < transmission([highway.HighwayConv(8, transform_bias=-3.0) for _ in range(30)]) < 0.4
    plain = transmission([highway.PlainConv(8, 8) for _ in range(30)])
    assert plain < 1e-3 if variance == 1 else plain > 1e-2


def test_a_positive_bias_gives_that_away() -> None:
    x = torch.rand(4, 8, 6, 6, requires_grad=True)
    carried = []
    for bias in (-3.0, 0.0, 3.0):
        torch.manual_seed(0)
        layers = [highway.HighwayConv(8, transform_bias=bias) for _ in range(30)]
        for layer in layers:
            nn.init.normal_(layer.H.weight, std=(1 / layer.H.weight[0].numel()) ** 0.5)
        y = nn.Sequential(*layers)(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        carried.append(gradient.norm().item())
    assert carried[0] > 10 * carried[1] > 10 * carried[2]


# --- use ----------------------------------------------------------------------------------------------------


def test_the_plain_twin_takes_the_transform_weights() -> None:
    gated, plain = highway.highway10(width=4), highway.highway10(width=4, highway=False)
    weights = {k: v for k, v in gated.state_dict().items() if ".T." not in k}
    plain.load_state_dict(weights, strict=True)
    for layer in gates(gated):
        nn.init.constant_(layer.T.bias, 1e4)
    x, _ = digits(2)
    assert torch.allclose(gated.eval()(x), plain.eval()(x), atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    x, _ = digits(2)
    model = highway.highway10(width=4)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("name", ["highway19", "highway10"])
def test_gradients_autocast_and_export(name: str) -> None:
    if name == "highway19":
        model: nn.Module = highway.highway19(widths=(4, 6), layers=(1, 2), head_maps=5, dropout=(0.1, 0.1, 0.1))
        x = torch.rand(3, 3, 12, 10)
    else:
        model, x = highway.highway10(width=4), torch.rand(3, 1, 28, 28)
    highway.objective(model.train()(x), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(model(x)).all()
    exported = torch.export.export(model, (x,)).module()
    assert torch.allclose(exported(x), model(x), atol=1e-6)


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="one entry per stage each, got widths=\\(4, 4\\) and layers=\\(1,\\)"):
        highway.highway19(widths=(4, 4), layers=(1,))
    with pytest.raises(ValueError, match="dropout needs 4 probabilities"):
        highway.highway10(dropout=(0.5,))
    with pytest.raises(ValueError, match="layers needs one entry for each of 3 stages"):
        highway.highway10(layers=(1, 2))
    with pytest.raises(ValueError, match="at least 12 pixels, got 11"):
        highway.highway10(image_size=11)
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        highway.HighwayConv(4, kernel_size=2, transform_bias=-1)
    with pytest.raises(ValueError, match=r"expected input \[N, 1, 28, 28\], got \[1, 1, 32, 32\]"):
        highway.highway10()(torch.rand(1, 1, 32, 32))
    with pytest.raises(ValueError, match=r"with H and W at least 4, got \[1, 3, 2, 8\]"):
        highway.highway19()(torch.rand(1, 3, 2, 8))
    with pytest.raises(TypeError):
        highway.highway19(transform_biases=-2)  # type: ignore[call-arg]

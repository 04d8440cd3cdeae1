"""Weights that are not parameters: quantised layers, short numbers in buffers, and what torch.func hides."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.quantization import (
    DeQuantStub,
    QuantStub,
    convert,
    get_default_qconfig,
    get_default_qconfig_mapping,
    prepare,
    quantize_dynamic,
    quantize_fx,
)

from skipkb.skips import trace_skips

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.skipif(
        "fbgemm" not in torch.backends.quantized.supported_engines, reason="no kernels for quantised layers"
    ),
]
ONE = {"add": 1, "identity": 1}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.relu(self.linear(x))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)[0]  # type: ignore[no-any-return]


class Static(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.sum = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        return self.dequant(self.sum.add(x, self.conv(x)))  # type: ignore[no-any-return]


class Buffered(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randint(-8, 8, (8, 8)).to(dtype))
        self.register_buffer("scale", torch.rand(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(F.linear(x, self.codes.to(x.dtype) * self.scale))  # type: ignore[operator]


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda row: row + torch.tanh(self.linear.weight @ row))(x)


def dynamic(model: nn.Module, layer: type[nn.Module]) -> nn.Module:
    return quantize_dynamic(model.eval(), {layer}, dtype=torch.qint8)  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_layers_quantised_as_they_run(layer: type[nn.Module]) -> None:
    graph = trace_skips(dynamic(Recurrent(layer(8, 8)), layer), torch.randn(3, 2, 8))
    assert graph.counts() == ONE


def test_linear_layers_quantised_as_they_run() -> None:
    graph = trace_skips(dynamic(Residual(), nn.Linear), torch.randn(2, 8))
    assert graph.counts() == ONE
    assert [(layer.name, layer.kind) for layer in graph.layers] == [("linear", "linear")]


def test_a_network_quantised_beforehand() -> None:
    model = Static().eval()
    model.qconfig = get_default_qconfig("fbgemm")  # type: ignore[assignment]
    prepare(model, inplace=True)
    model(torch.randn(1, 4, 8, 8))
    convert(model, inplace=True)
    graph = trace_skips(model, torch.randn(1, 4, 8, 8))
    assert graph.counts() == ONE
    assert [(layer.name, layer.kind, layer.channels) for layer in graph.layers] == [("conv", "conv", 4)]


def test_a_layer_fused_with_its_activation() -> None:
    model = quantize_fx.prepare_fx(Residual().eval(), get_default_qconfig_mapping("fbgemm"), (torch.randn(2, 8),))
    model(torch.randn(2, 8))
    graph = trace_skips(quantize_fx.convert_fx(model), torch.randn(2, 8))
    assert graph.counts() == ONE
    assert len(graph.layers) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "adds"), [("resnet18", 8), ("mobilenet_v2", 10)])
def test_quantised_networks_of_torchvision(name: str, adds: int) -> None:
    from torchvision.models import quantization

    model = getattr(quantization, name)(weights=None, quantize=True)
    assert trace_skips(model, (1, 3, 64, 64)).counts()["add"] == adds


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_short_numbers_in_a_buffer_are_weights(dtype: torch.dtype) -> None:
    graph = trace_skips(Buffered(dtype), torch.randn(2, 8))
    assert graph.counts() == ONE
    assert not graph.notes


def test_a_network_of_buffers_of_floats_is_told() -> None:
    graph = trace_skips(Buffered(torch.float32), torch.randn(2, 8))
    assert not graph.skips
    assert "No layer with parameters ran" in graph.notes[0]
    assert ":linear" in graph.notes[0]


def test_a_skip_inside_vmap() -> None:
    assert trace_skips(Mapped(), torch.randn(3, 8)).counts() == ONE
    (lost,) = trace_skips(Mapped(), torch.randn(3, 8), capture="function").lost
    assert "torch.func" in lost.reason

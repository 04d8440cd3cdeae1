"""CBAM: a gate for channels and a gate for positions, and a skip that neither touches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skipkb.models.classification import cbam, resnet


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "expansion"), [("resnet18", 1), ("resnet50", 4)])
def test_the_gates_cost_what_the_equations_say(name: str, expansion: int) -> None:
    with torch.device("meta"):
        model, plain = getattr(cbam, f"cbam_{name}")(), getattr(resnet, name)()
    gates = 0
    for layers, width in zip((2, 2, 2, 2) if expansion == 1 else (3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        c = width * expansion
        gates += layers * ((c + 1) * (c // 16) + (c // 16 + 1) * c + 2 * 49 + 2)
    assert size(model) == size(plain) + gates


def awake() -> cbam.CBAM:
    """The spatial gate starts asleep, at one half; here its normalisation lets the convolution through."""
    module = cbam.CBAM(32).eval()
    nn.init.constant_(module.SpatialGate.spatial.bn.weight, 2.0)
    return module


def test_the_channel_gate_is_one_number_per_channel_and_the_spatial_gate_one_per_position() -> None:
    module = awake()
    x = torch.randn(2, 32, 9, 7)
    channel, spatial = module.ChannelGate(x), module.SpatialGate(x)
    assert channel.shape == (2, 32, 1, 1)
    assert spatial.shape == (2, 1, 9, 7)
    for gate in (channel, spatial):
        assert gate.min() > 0
        assert gate.max() < 1
        assert gate.std() > 0.01  # and it does choose
    gated = x * channel
    assert torch.equal(module(x), gated * module.SpatialGate(gated))  # channels first


def test_the_channel_gate_sees_channels_and_not_where() -> None:
    """Shuffled positions leave it as it is; for the spatial gate they do not."""
    module = awake().double()
    x = torch.randn(1, 32, 6, 6, dtype=torch.float64)
    order = torch.randperm(36)
    other = x.flatten(2)[:, :, order].view_as(x)
    torch.testing.assert_close(module.ChannelGate(other), module.ChannelGate(x))
    moved = module.SpatialGate(x).flatten(2)[:, :, order].view(1, 1, 6, 6)
    assert (module.SpatialGate(other) - moved).abs().max() > 0.01


def test_the_spatial_gate_sees_positions_and_not_which_channel() -> None:
    module = awake().double()
    x = torch.randn(1, 32, 6, 6, dtype=torch.float64)
    order = torch.randperm(32)
    torch.testing.assert_close(module.SpatialGate(x[:, order]), module.SpatialGate(x))
    assert (module.ChannelGate(x[:, order]) - module.ChannelGate(x)[:, order]).abs().max() > 1e-3


def test_the_channel_gate_asks_maximum_and_average() -> None:
    """Two maps with one average and other maxima, and two with one maximum and other averages, are told apart."""
    gate = cbam.ChannelGate(32, 16).double()
    nn.init.normal_(gate.mlp[1].bias)  # type: ignore[arg-type]
    flat = torch.zeros(1, 32, 2, 2, dtype=torch.float64)
    spread = flat + torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
    low = flat + torch.tensor([[0.0, -1.0], [0.0, -1.0]], dtype=torch.float64)
    assert (gate(flat) - gate(spread)).abs().max() > 1e-3
    assert (gate(flat) - gate(low)).abs().max() > 1e-3


def test_the_shared_mlp() -> None:
    gate = cbam.ChannelGate(32, 16)
    x = torch.randn(1, 32, 1, 1)  # of one position, average and maximum agree
    torch.testing.assert_close(gate(x), torch.sigmoid(2 * gate.mlp(x))[:, :, None, None])


@pytest.mark.parametrize("kind", [cbam.BasicBlock, cbam.Bottleneck])
def test_the_skip_is_not_gated(kind: type[cbam.BasicBlock | cbam.Bottleneck]) -> None:
    block = kind(64, 64 // kind.expansion, stride=1, reduction_ratio=16).eval()
    for gates in (-1e4, 1e4):  # gates shut, gates open
        nn.init.constant_(block.cbam.ChannelGate.mlp[3].bias, gates)  # type: ignore[arg-type]
        nn.init.constant_(block.cbam.SpatialGate.spatial.bn.bias, gates)
        x = torch.randn(2, 64, 5, 5)
        expected = x if gates < 0 else x + block.function(x)
        torch.testing.assert_close(block(x), F.relu(expected))


def test_initial_values_are_those_of_the_authors_code() -> None:
    model = cbam.CBAMResNet(block="bottleneck", layers=(1, 1), widths=(64, 128), num_classes=100)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            deviation = (2 / fan_out) ** 0.5
            if name.endswith("downsample.0"):  # PyTorch's own: uniform up to one over the root of fan-in
                limit = module.weight[0].numel() ** -0.5
                deviation = limit / 3**0.5
                assert 0.99 * limit < module.weight.abs().max() <= limit, name
            assert module.weight.std().item() == pytest.approx(deviation, rel=0.3 if fan_out == 49 else 0.1), name
    gate = model.get_submodule("layer2.0.cbam.ChannelGate.mlp.1")
    assert isinstance(gate, nn.Linear)
    assert 0.98 / 512**0.5 < gate.weight.abs().max() <= 1 / 512**0.5
    assert model.fc.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))


def test_the_3x3_of_a_bottleneck_carries_the_stride() -> None:
    block = cbam.Bottleneck(16, 8, stride=2, reduction_ratio=4)
    assert [c.stride for c in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]


def test_gates_start_in_the_middle() -> None:
    model = cbam.CBAMResNet(block="basic", layers=(1,), widths=(16,))
    gate = model.get_submodule("layer1.0.cbam.SpatialGate")
    assert torch.equal(gate(torch.randn(2, 16, 5, 5)), torch.full((2, 1, 5, 5), 0.5))


@pytest.mark.parametrize("shape", [(32, 32), (33, 47)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = cbam.CBAMResNet(block="bottleneck", layers=(1, 1), widths=(8, 16), num_classes=5, in_channels=1)
    assert model(torch.rand(2, 1, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": "wide"}, "block must be one of basic, bottleneck, got 'wide'"),
        ({"layers": (1,)}, "one positive number per stage each"),
        ({"reduction_ratio": 17}, "must be between 1 and the 16 channels of the narrowest block, got 17"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"block": "basic", "layers": (1, 1), "widths": (16, 16)}
    with pytest.raises(ValueError, match=message):
        cbam.CBAMResNet(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        cbam.CBAMResNet(**right)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        cbam.cbam_resnet18(num_clases=10)  # type: ignore[call-arg]

"""GhostNet: what a ghost module costs, what it lets through, and where the skips are."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import skipkb
from skipkb.models.classification import ghostnet


def multiplications(model: nn.Module, *shape: int) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.to("meta").eval()(torch.empty(shape))
    return counter.get_total_flops() // 2


SMALL = (((3, 12, 8, False, 1), (3, 16, 12, True, 1)), ((5, 24, 16, True, 2), (3, 24, 16, False, 1)))


@pytest.mark.parametrize(("c", "n"), [(16, 24), (112, 672), (7, 60)])
@pytest.mark.parametrize(("k", "d"), [(1, 3), (3, 3), (3, 5)])
@pytest.mark.parametrize("s", [2, 3, 4])
def test_a_ghost_module_is_cheaper_by_equation_4(c: int, n: int, k: int, d: int, s: int) -> None:
    """As counted, in multiplications and in weights, and exactly: no rounding where s divides n."""
    module = ghostnet.GhostModule(c, n, kernel_size=k, dw_size=d, ratio=s)
    full = nn.Conv2d(c, n, k, padding=k // 2, bias=False)
    expected = c * k**2 / (Fraction(c * k**2, s) + Fraction(s - 1, s) * d**2)
    weights = sum(p.numel() for p in module.parameters() if p.dim() == 4)
    assert Fraction(full.weight.numel(), weights) == expected
    assert Fraction(multiplications(full, 1, c, 6, 5), multiplications(module, 1, c, 6, 5)) == expected
    if k == d:
        assert expected == Fraction(s * c, s + c - 1)  # so about s, for many channels


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("n", "s"), [(8, 2), (9, 2), (10, 3), (12, 4)])
def test_intrinsic_maps_go_out_unchanged(n: int, s: int, relu: bool) -> None:
    module = ghostnet.GhostModule(5, n, ratio=s, relu=relu)
    x = torch.randn(2, 5, 6, 7)
    y = module(x)
    intrinsic = module.eval().primary_conv(x)
    y = module(x)
    assert y.shape == (2, n, 6, 7)
    assert intrinsic.shape[1] == -(-n // s)
    assert torch.equal(y[:, : intrinsic.shape[1]], intrinsic)
    assert (y.min() < 0) != relu


def test_each_ghost_has_one_intrinsic_map() -> None:
    module = ghostnet.GhostModule(4, 12, ratio=3, relu=False).eval()
    for ghost in range(8):
        intrinsic = torch.randn(1, 4, 5, 5, requires_grad=True)
        module.cheap_operation(intrinsic)[0, ghost].sum().backward()
        assert intrinsic.grad is not None
        assert intrinsic.grad[0].abs().sum((1, 2)).nonzero().flatten().tolist() == [ghost // 2]


def test_skips_of_the_table() -> None:
    """16 blocks, of which 11 keep the shape; two modules each; gates where the table has them."""
    with torch.device("meta"):
        model, plain = ghostnet.ghostnet(), ghostnet.ghostnet(residual=False)
    counts = {"add": 16, "concat": 32, "gate": 7, "identity": 11 + 32, "projection": 5, "long": 16}
    assert skipkb.trace_skips(model, (1, 3, 224, 224)).counts() == counts
    assert skipkb.trace_skips(plain, (1, 3, 224, 224)).counts() == {"concat": 32, "gate": 7, "identity": 32}


def test_the_skip_is_the_identity_and_the_block_ends_linear() -> None:
    block = ghostnet.GhostBottleneck(8, 24, 8).eval()
    x = torch.randn(2, 8, 5, 5)
    y = block(x)
    assert y.min() < 0
    assert (y - x).min() < 0 < (y - x).max()
    for module in (block.ghost2.primary_conv[1], block.ghost2.cheap_operation[1]):
        nn.init.zeros_(module.weight)  # type: ignore[arg-type]
    assert torch.equal(block(x), x)
    strided = ghostnet.GhostBottleneck(8, 24, 8, kernel_size=5, stride=2).eval()
    shortcut = strided.shortcut(x)
    assert shortcut.shape == strided(x).shape == (2, 8, 3, 3)
    assert shortcut.min() < 0  # no activation there either


def test_the_gate_is_a_hard_sigmoid_of_the_whole_map() -> None:
    gate = ghostnet.ChannelGate(16)
    x = torch.rand(2, 16, 4, 4) + 1
    nn.init.constant_(gate.conv_expand.bias, 0.5)  # type: ignore[arg-type]
    nn.init.zeros_(gate.conv_expand.weight)
    torch.testing.assert_close(gate(x) / x, torch.full_like(x, 3.5 / 6))
    gate = ghostnet.ChannelGate(16)
    other = x.clone()
    other[0, 0, 0, 0] += 5
    share = (gate(other) / other)[0]
    torch.testing.assert_close(share, share[:, :1, :1].expand_as(share))  # one number for each channel
    assert not torch.allclose(share, (gate(x) / x)[0])


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (1, 1)])
@pytest.mark.parametrize("ratio", [2, 3])
def test_any_picture_size(shape: tuple[int, int], ratio: int) -> None:
    model = ghostnet.GhostNet(blocks=SMALL, width=0.9, ratio=ratio, num_classes=5).eval()
    assert model(torch.rand(2, 3, *shape)).shape == (2, 5)


@pytest.mark.parametrize("change", [{"width": 0.0}, {"blocks": ()}, {"blocks": ((),)}])
def test_mistakes(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="width must be positive and blocks be stages"):
        ghostnet.GhostNet(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"ratio": 1}, {"dw_size": 4}])
def test_mistakes_in_modules(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="ratio must be at least 2 and kernels odd"):
        ghostnet.GhostNet(blocks=SMALL, **change)  # type: ignore[arg-type]


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        ghostnet.GhostNet(blocks=SMALL)(torch.rand(1, 1, 8, 8))

"""DANet: two attentions that begin as the identity, one between positions and one between channels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import danet as module
from skipkb.models.segmentation.danet import ChannelAttention, DANet, DANetHead, PositionAttention, objective

SMALL = {"layers": (1, 1, 2, 3), "widths": (4, 4, 8, 16), "num_classes": 3}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def awake(kind: type[nn.Module]) -> nn.Module:
    """A module whose attention counts."""
    attention = (PositionAttention(16) if kind is PositionAttention else ChannelAttention()).double()
    nn.init.constant_(attention.get_parameter("gamma"), 0.7)
    return attention


@pytest.mark.parametrize("kind", [PositionAttention, ChannelAttention])
def test_the_untrained_module_is_the_identity(kind: type[nn.Module]) -> None:
    attention = awake(kind)
    gamma = attention.get_parameter("gamma")
    x = torch.randn(2, 16, 5, 4, dtype=torch.float64, requires_grad=True)
    assert (attention(x) - x).abs().max() > 0.1
    nn.init.zeros_(gamma)
    assert torch.equal(attention(x), x)
    direction = torch.randn_like(x)
    (attention(x) * direction).sum().backward()
    assert torch.equal(x.grad, direction)  # type: ignore[arg-type]  # nothing but the skip passes a gradient on
    assert gamma.grad is not None
    assert gamma.grad.abs() > 1e-3  # and gamma wakes up
    for name, parameter in attention.named_parameters():
        assert name == "gamma" or not parameter.grad.any()  # type: ignore[union-attr]


def test_every_gamma_of_the_network_starts_at_zero() -> None:
    model = DANet(**SMALL)  # type: ignore[arg-type]
    gammas = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 2
    assert not any(gamma.any() for gamma in gammas)


def test_position_attention_follows_its_equations() -> None:
    attention = awake(PositionAttention)
    assert isinstance(attention, PositionAttention)
    x = torch.randn(1, 16, 3, 4, dtype=torch.float64)
    query, key, value = (
        conv(x).flatten(2)[0] for conv in (attention.query_conv, attention.key_conv, attention.value_conv)
    )
    assert query.shape == key.shape == (2, 12)
    expected = x.flatten(2)[0].clone()
    for j in range(12):
        weights = [math.exp((query[:, j] @ key[:, i]).item()) for i in range(12)]
        for i in range(12):
            expected[:, j] += 0.7 * weights[i] / sum(weights) * value[:, i]
    torch.testing.assert_close(attention(x).flatten(2)[0], expected)


def test_channel_attention_prefers_channels_that_are_unlike() -> None:
    """Equation 3 without its sign: the authors' code subtracts the products from the largest."""
    attention = awake(ChannelAttention)
    assert isinstance(attention, ChannelAttention)
    x = torch.randn(1, 5, 3, 2, dtype=torch.float64)
    rows = x.flatten(2)[0]
    expected = rows.clone()
    for j in range(5):
        weights = [math.exp(-float(rows[j] @ rows[i])) for i in range(5)]
        for i in range(5):
            expected[j] += 0.7 * weights[i] / sum(weights) * rows[i]
    torch.testing.assert_close(attention(x).flatten(2)[0], expected)
    twins = torch.stack([rows[0], rows[0], -rows[0]])[None, :, :, None]
    found = attention.attention(twins)[0]
    assert found[0, 2] > found[0, 1]
    torch.testing.assert_close(found[0, 0], found[0, 1])


@pytest.mark.parametrize("kind", [PositionAttention, ChannelAttention])
def test_rows_sum_to_one_and_every_one_counts(kind: type[nn.Module]) -> None:
    attention = awake(kind)
    x = 0.3 * torch.randn(2, 16, 4, 5, dtype=torch.float64)
    weights = attention.attention(x)  # type: ignore[operator]
    n = 20 if kind is PositionAttention else 16
    assert weights.shape == (2, n, n)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, n, dtype=torch.float64))
    assert weights.min() > 0


def reached(attention: nn.Module, x: Tensor) -> Tensor:
    """Whether a change of each position (column) changes each other one (row)."""
    x = x.requires_grad_()
    y = attention(x).flatten(2)[0].sum(0)
    return torch.stack([torch.autograd.grad(v, x, retain_graph=True)[0][0].flatten(1).abs().sum(0) > 0 for v in y])


def test_position_attention_reaches_every_position() -> None:
    assert reached(awake(PositionAttention), torch.randn(1, 16, 3, 4, dtype=torch.float64)).all()


@pytest.mark.parametrize("kind", [PositionAttention, ChannelAttention])
def test_both_do_not_care_where(kind: type[nn.Module]) -> None:
    """Positions in another order come out in that order: only the convolutions around know neighbours."""
    attention = awake(kind)
    x = torch.randn(1, 16, 4, 5, dtype=torch.float64)
    order = torch.randperm(20)

    def shuffled(y: Tensor) -> Tensor:
        return y.flatten(2)[:, :, order].view_as(y)

    torch.testing.assert_close(attention(shuffled(x)), shuffled(attention(x)))


def test_channel_attention_treats_all_channels_alike() -> None:
    attention = awake(ChannelAttention)
    assert [name for name, _ in attention.named_parameters()] == ["gamma"]
    x = torch.randn(1, 16, 4, 5, dtype=torch.float64)
    order = torch.randperm(16)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order])


def test_the_head_sums_two_branches_with_convolutions_of_their_own() -> None:
    head = DANetHead(64, 5).eval()
    x = torch.randn(2, 64, 6, 6)
    fused, position, channel = head(x).values()
    assert fused.shape == position.shape == channel.shape == (2, 5, 6, 6)
    at, of = head.conv51(head.sa(head.conv5a(x))), head.conv52(head.sc(head.conv5c(x)))
    torch.testing.assert_close(fused, head.conv8(at + of))
    torch.testing.assert_close(position, head.conv6(at))
    torch.testing.assert_close(channel, head.conv7(of))
    assert not torch.equal(head.conv5a[0].weight, head.conv5c[0].weight)  # type: ignore[arg-type]
    dropped = [m.p for m in head.modules() if isinstance(m, nn.Dropout2d)]
    assert dropped == [0.1, 0.1, 0.1]


def test_the_published_network() -> None:
    with torch.device("meta"):
        model = module.danet_resnet50()
        outputs = model(torch.empty(1, 3, 65, 97))
    assert {k: y.shape for k, y in outputs.items()} == dict.fromkeys(("out", "position", "channel"), (1, 19, 65, 97))
    rates = {
        name: [m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        for name, stage in model.pretrained.named_children()
        if name.startswith("layer")
    }
    assert rates["layer2"] == [1] * 4
    assert rates["layer3"] == [1, 2, 2, 2, 2, 2]
    assert rates["layer4"] == [4, 8, 16]  # multi-grid
    assert model.head.sa.query_conv.out_channels == 64


def test_the_corner_pixels_of_both_maps_lie_on_each_other() -> None:
    model = DANet(**SMALL).eval()  # type: ignore[arg-type]
    x = torch.rand(1, 3, 41, 49)
    small = model.head(model.pretrained(x)[3])["out"]
    large = model(x)["out"]
    assert small.shape[2:] == (6, 7)
    torch.testing.assert_close(large[..., ::8, ::8], small)


def test_objective_is_the_sum_of_three() -> None:
    logits = {name: torch.randn(2, 3, 4, 4) for name in ("out", "position", "channel")}
    classes = torch.randint(0, 3, (2, 4, 4))
    expected = sum(F.cross_entropy(y, classes) for y in logits.values())
    torch.testing.assert_close(objective(logits, classes), expected)
    classes[:, :2] = -1
    rest = sum(F.cross_entropy(y[:, :, 2:], classes[:, 2:]) for y in logits.values())
    torch.testing.assert_close(objective(logits, classes), rest)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="DANet: layers and widths need one positive number per stage each"):
        DANet(**SMALL | {"layers": (1, 1)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the last width at least 8, got 4 stages"):
        DANet(**SMALL | {"widths": (4, 4, 4, 4)})  # type: ignore[arg-type]
    model = DANet(**SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"DANet: expected input \[N, 3, H, W\], got \[2, 1, 32, 32\]"):
        model(torch.rand(2, 1, 32, 32))
    assert model.eval()(torch.rand(1, 3, 1, 1))["out"].shape == (1, 3, 1, 1)
    with pytest.raises(TypeError):
        module.danet_resnet50(num_clases=2)

"""CCNet: attention along row and column is full attention with a mask, and two rounds of it reach everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import ccnet as module
from skipkb.models.segmentation.ccnet import CCNet, CrissCrossAttention, LeakyNorm, RCCAModule, objective

SMALL = {"layers": (1, 1, 2, 2), "widths": (4, 4, 8, 16), "num_classes": 3}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def awake(channels: int = 16, gamma: float = 0.7) -> CrissCrossAttention:
    attention = CrissCrossAttention(channels).double()
    nn.init.constant_(attention.gamma, gamma)
    return attention


def criss_cross(height: int, width: int) -> Tensor:
    """Whether two positions (row by row) share a row or a column: [HW, HW]."""
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    return (rows[:, None] == rows) | (columns[:, None] == columns)


@pytest.mark.parametrize("size", [(4, 6), (5, 5), (1, 4), (4, 1), (1, 1)])
def test_it_is_full_attention_masked_to_row_and_column(size: tuple[int, int]) -> None:
    attention = awake()
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    query, key, value = (
        conv(x).flatten(2) for conv in (attention.query_conv, attention.key_conv, attention.value_conv)
    )
    energy = query.transpose(1, 2) @ key
    weights = torch.softmax(energy.masked_fill(~criss_cross(*size), float("-inf")), dim=2)
    expected = 0.7 * (value @ weights.transpose(1, 2)).view_as(x) + x
    torch.testing.assert_close(attention(x), expected)


def test_the_weights_of_a_position_sum_to_one_and_itself_counts_once() -> None:
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64)
    column, row = awake().attention(x)
    assert column.shape == (2, 4, 6, 4)
    assert row.shape == (2, 4, 6, 6)
    torch.testing.assert_close(column.sum(3) + row.sum(3), torch.ones(2, 4, 6, dtype=torch.float64))
    assert not column.diagonal(dim1=1, dim2=3).any()
    counted = (column > 0).sum(3) + (row > 0).sum(3)
    assert (counted == 4 + 6 - 1).all()


def reached(rounds: int, size: tuple[int, int]) -> Tensor:
    """Whether each position (row) feels a change of each other one (column) after so many rounds."""
    attention = awake()
    x = torch.randn(1, 16, *size, dtype=torch.float64, requires_grad=True)
    y = x
    for _ in range(rounds):
        y = attention(y)
    outputs = y.sum(1).flatten()
    return torch.stack(
        [torch.autograd.grad(value, x, retain_graph=True)[0].abs().sum(1).flatten() > 0 for value in outputs]
    )


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_two_rounds_reach_every_position_and_one_only_row_and_column(size: tuple[int, int]) -> None:
    assert torch.equal(reached(1, size), criss_cross(*size))
    assert reached(2, size).all()


def test_rows_and_columns_are_treated_alike() -> None:
    attention = awake()
    x = torch.randn(1, 16, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(attention(x.transpose(2, 3)), attention(x).transpose(2, 3))


def test_the_untrained_round_is_the_identity_and_wakes_up_by_gamma() -> None:
    attention = CrissCrossAttention(16).double()
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64, requires_grad=True)
    y = attention(x)
    assert torch.equal(y, x)
    direction = torch.randn_like(x)
    (y * direction).sum().backward()
    assert torch.equal(x.grad, direction)  # type: ignore[arg-type]
    assert attention.gamma.grad is not None
    assert attention.gamma.grad.abs() > 1e-3


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_all_rounds_share_one_module(rounds: int) -> None:
    model, twice = CCNet(**SMALL, recurrence=rounds).eval(), CCNet(**SMALL)  # type: ignore[arg-type]
    assert model.state_dict().keys() == twice.state_dict().keys()
    assert sum(isinstance(m, CrissCrossAttention) for m in model.modules()) == 1
    calls: list[Tensor] = []
    model.head.cca.register_forward_hook(lambda _m, _x, y: calls.append(y))
    model(torch.rand(1, 3, 32, 32))
    assert len(calls) == rounds


def test_the_trunks_output_passes_the_attention_by() -> None:
    head = RCCAModule(64, 16, 3).eval()
    joined: list[Tensor] = []
    head.bottleneck.register_forward_pre_hook(lambda _m, args: joined.append(args[0]))
    x = torch.randn(1, 64, 5, 5)
    head(x, 2)
    assert torch.equal(joined[0][:, :64], x)
    assert torch.equal(joined[0][:, 64:], head.convb(head.cca(head.cca(head.conva(x)))))


def test_the_published_network() -> None:
    with torch.device("meta"):
        model = module.ccnet_resnet101()
        output = model(torch.empty(1, 3, 129, 193))
    assert {name: y.shape for name, y in output.items()} == dict.fromkeys(("out", "dsn"), (1, 19, 17, 25))
    assert model.recurrence == 2
    assert model.head.cca.query_conv.out_channels == 64


def test_the_trunk_is_that_of_the_authors_code() -> None:
    model = CCNet(**SMALL)  # type: ignore[arg-type]
    stem = [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in (model.conv1, model.conv2, model.conv3)]
    assert stem == [(4, 3, 2), (4, 3, 1), (8, 3, 1)]
    assert model.maxpool.ceil_mode
    for stage, rate in ((model.layer1, 1), (model.layer2, 1), (model.layer3, 2), (model.layer4, 4)):
        rates = [m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert rates == [rate] * len(stage)


def test_the_head_is_normalised_and_leaks() -> None:
    norm = LeakyNorm(4).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 0.5, 2.0]))
    x = torch.randn(2, 4, 3, 3)
    normal = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x), torch.where(normal > 0, normal, 0.01 * normal))
    model = CCNet(**SMALL)  # type: ignore[arg-type]
    leaky = [name for name, m in model.named_modules() if isinstance(m, LeakyNorm)]
    assert leaky == ["head.conva.1", "head.convb.1", "head.bottleneck.1", "dsn.1"]


def test_objective() -> None:
    output = {"out": torch.randn(2, 3, 3, 4), "dsn": torch.randn(2, 3, 3, 4)}
    classes = torch.randint(0, 3, (2, 17, 25))
    classes[0, :5] = 255
    large = {k: F.interpolate(y, (17, 25), mode="bilinear", align_corners=True) for k, y in output.items()}
    assert torch.equal(large["out"][..., ::8, ::8], output["out"])
    main, auxiliary = (F.cross_entropy(large[name], classes, ignore_index=255) for name in ("out", "dsn"))
    torch.testing.assert_close(objective(output, classes), main + 0.4 * auxiliary)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="CCNet: layers and widths need one positive number per stage each"):
        CCNet(**SMALL | {"layers": (1, 1)})  # type: ignore[arg-type]
    for change in ({"widths": (4, 4, 4, 4)}, {"recurrence": -1}, {"layers": (1, 1), "widths": (8, 8)}):
        with pytest.raises(ValueError, match="CCNet: there must be four stages, the last width at least 8 and recurr"):
            CCNet(**SMALL | change)  # type: ignore[arg-type]
    model = CCNet(**SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"CCNet: expected input \[N, 3, H, W\], got \[2, 1, 32, 32\]"):
        model(torch.rand(2, 1, 32, 32))
    assert model.eval()(torch.rand(1, 3, 1, 1))["out"].shape == (1, 3, 1, 1)
    with pytest.raises(TypeError):
        module.ccnet_resnet101(num_clases=2)

"""MaxViT: two partitions that invert, and a block that sees the whole map through both."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import maxvit


@pytest.mark.parametrize(("name", "blocks"), [("maxvit_tiny", 11), ("maxvit_small", 11), ("maxvit_base", 24)])
def test_number_of_blocks(name: str, blocks: int) -> None:
    with torch.device("meta"):
        model = getattr(maxvit, name)()
    assert sum(isinstance(m, maxvit.MaxViTBlock) for m in model.modules()) == blocks


PARTITIONS = [
    (maxvit.block_partition, maxvit.block_reverse),
    (maxvit.grid_partition, maxvit.grid_reverse),
]


@pytest.mark.parametrize("shape", [(1, 14, 14), (2, 14, 28), (3, 35, 7)])
@pytest.mark.parametrize(("partition", "reverse"), PARTITIONS)
def test_partitions_invert(partition, reverse, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(*shape, 5)
    sets = partition(x, 7)
    assert sets.shape == (shape[0] * (shape[1] // 7) * (shape[2] // 7), 49, 5)
    assert torch.equal(reverse(sets, 7, *shape[1:]), x)


def positions(partition, side: int, of: int) -> Tensor:  # type: ignore[no-untyped-def]
    """The set that position ``of`` belongs to."""
    sets = partition(torch.arange(side * side).view(1, side, side, 1), 7).squeeze(-1)
    return sets[(sets == of).any(1)].flatten()  # type: ignore[no-any-return]


def test_a_window_is_neighbours_and_a_grid_set_is_spread_out() -> None:
    window, spread = (positions(p, 21, of=21 * 10 + 10) for p, _ in PARTITIONS)
    assert (window // 21).unique().tolist() == list(range(7, 14))
    assert (window % 21).unique().tolist() == list(range(7, 14))
    assert (spread // 21).unique().tolist() == list(range(1, 21, 3))
    assert (spread % 21).unique().tolist() == list(range(1, 21, 3))


@pytest.mark.parametrize(("side", "whole"), [(7, True), (14, True), (49, True), (56, False)])
def test_block_then_grid_reaches_the_whole_map(side: int, whole: bool) -> None:
    """Up to 49 x 49: there, a window is as large as a cell of the grid. On 56 x 56 a second block is needed."""
    windows = maxvit.block_partition(torch.arange(side * side).view(1, side, side, 1), 7).squeeze(-1)
    sets = maxvit.grid_partition(torch.arange(side * side).view(1, side, side, 1), 7).squeeze(-1)
    window_of = torch.empty(side * side, dtype=torch.long)
    window_of[windows.flatten()] = torch.arange(len(windows)).repeat_interleave(49)
    seen = [len(window_of[members].unique()) == len(windows) for members in sets]
    # A position hears of the windows of all members of its grid set; all windows together are the whole map.
    assert all(seen) == whole == any(seen)


def reach(*parts: maxvit.PartitionAttention) -> int:
    x = torch.randn(1, 14, 14, 32, dtype=torch.float64, requires_grad=True)
    y: Tensor = x
    for part in parts:
        y = part(y)
    y[0, 3, 5].square().sum().backward()
    assert x.grad is not None
    return int((x.grad.abs().sum(-1) > 0).sum())


def test_together_they_see_everything_and_alone_49_positions() -> None:
    block, grid = (maxvit.PartitionAttention(32, dim_head=16, size=7, grid=grid).double() for grid in (False, True))
    for part in (block, grid):
        nn.init.normal_(part.attn.rel_pos.relative_position_bias_table)
    assert (reach(block), reach(grid), reach(block, block), reach(grid, grid)) == (49, 49, 49, 49)
    assert (reach(block, grid), reach(grid, block)) == (196, 196)


def test_attention_by_hand() -> None:
    attention = maxvit.Attention(8, 4, 2).double()
    nn.init.normal_(attention.rel_pos.relative_position_bias_table)
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    table = attention.rel_pos.relative_position_bias_table
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        bias = torch.stack(
            [torch.stack([table[head, b[0] - a[0] + 1, b[1] - a[1] + 1] for b in places]) for a in places]
        )
        weights = (q[..., part] @ k[..., part].mT / 2 + bias).softmax(-1)
        heads.append(weights @ v[..., part])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, -1)))


def test_silent_parts_leave_five_identities() -> None:
    block = maxvit.MaxViTBlock(32, 32, stride=1, dim_head=16, size=7).eval()
    layers: list[nn.Conv2d | nn.Linear] = [block.conv.conv3_1x1]
    for part in (block.attn_block, block.attn_grid):
        layers += [part.attn.proj, part.mlp.fc2]
    for last in layers:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 32, 14, 14)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("side", [6, 7])
def test_padding_same(side: int) -> None:
    """An even side gets its zeros behind the last row, an odd one on both sides."""
    conv = maxvit.ConvSame(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.zeros(1, 1, side, side)
    x[0, 0, 0, 0] = 1
    y = conv(x)
    assert y.shape == (1, 1, -(-side // 2), -(-side // 2))
    assert y.sum() == 1
    x = torch.ones(1, 1, side, side)
    assert conv(x)[0, 0, 0, 0] == (9 if side % 2 == 0 else 4)


def test_normalisations_are_those_of_the_release() -> None:
    model = maxvit.MaxViT(depths=(1, 1), dims=(32, 64), partition_size=2)
    batch = [(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert batch == [(1e-3, 0.01)] * 7  # one of the stem, three of each block; Keras's 0.99
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_gelu_squeeze_and_head_are_those_of_the_release() -> None:
    block = maxvit.MBConv(32, 64, stride=2)
    x = torch.randn(2, 256, 3, 3)
    squeezed = F.silu(block.se.fc1(x.mean((2, 3), keepdim=True)))
    assert squeezed.shape[1] == 64 // 4  # of the block's output channels
    torch.testing.assert_close(block.se(x), x * torch.sigmoid(block.se.fc2(squeezed)))
    for layer in (block.conv1_1x1, block.conv3_1x1, block.se.fc1, block.se.fc2):
        nn.init.normal_(layer.weight)
    block.eval()
    x = torch.randn(1, 32, 4, 4)
    tanh = partial(F.gelu, approximate="tanh")
    expected = tanh(block.norm2(block.conv2_kxk(tanh(block.norm1(block.conv1_1x1(block.pre_norm(x)))))))
    torch.testing.assert_close(block.function(x), block.conv3_1x1(block.se(expected)), rtol=1e-6, atol=1e-7)
    head = maxvit.Head(8, 5)
    y = torch.randn(2, 8, 3, 3)
    hidden = torch.tanh(head.pre_logits.fc(head.norm(y.mean((2, 3)))))
    torch.testing.assert_close(head(y), head.fc(hidden))


def test_initial_values_and_stochastic_depth() -> None:
    model = maxvit.MaxViT(depths=(1, 3), dims=(32, 64), partition_size=2, drop_path_rate=0.4)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
    rates = [getattr(m.drop_path, "drop_prob", 0.0) for m in model.modules() if isinstance(m, maxvit.MBConv)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    assert model(torch.rand(2, 3, 32, 16)).shape == (2, 1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (1,)}, "one positive number per stage each"),
        ({"dim_head": 24}, "dim_head must divide each width, got dim_head=24"),
        ({"partition_size": 0}, "partition_size must be positive, got 0"),
        ({"drop_path_rate": 1.0}, "at least 0 and below 1, got 1.0"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maxvit.MaxViT(**({"depths": (1, 1), "dims": (32, 32)} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1, 56, 56), (1, 3, 56, 57), (3, 56, 56)])
def test_wrong_pictures(shape: tuple[int, ...]) -> None:
    model = maxvit.MaxViT(depths=(1, 1), dims=(32, 32), partition_size=7)
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\] with H and W multiples of 56, got \["):
        model(torch.rand(shape))
    with pytest.raises(TypeError):
        maxvit.maxvit_tiny(num_clases=10)  # type: ignore[call-arg]

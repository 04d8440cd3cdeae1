"""ShuffleNet: what the shuffle does to the groups, and the two kinds of units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import skipkb
from skipkb.models.classification import shufflenet
from skipkb.models.classification.shufflenet import ShuffleNet, ShuffleUnit, channel_shuffle

WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Table 1: channels of the first stage for each number of groups."""


def test_parameters_are_exact() -> None:
    for variant in skipkb.get("shufflenet").variants:
        with torch.device("meta"):
            model = getattr(shufflenet, variant.name)()
        assert sum(p.numel() for p in model.parameters()) == variant.parameters


@pytest.mark.parametrize(("groups", "million"), [(1, 143), (2, 140), (3, 137), (4, 133), (8, 137)])
def test_more_groups_pay_for_more_channels(groups: int, million: int) -> None:
    """Table 1: about the same multiplications at any number of groups, not counting the classifier."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ShuffleNet(groups=groups, channels=WIDTHS[groups]).eval()(torch.empty(1, 3, 224, 224))
    assert round((counter.get_total_flops() / 2 - 4 * WIDTHS[groups] * 1000) / 1e6, 0) in (million, million - 1)


def shuffled(channels: int, rows: int) -> list[int]:
    """Which channel stands at each place."""
    numbers: list[int] = channel_shuffle(torch.arange(channels).view(1, -1, 1, 1), rows).flatten().tolist()
    return numbers


@pytest.mark.parametrize("groups", [2, 3, 4, 8])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_shuffle_is_a_permutation_that_mixes_every_group(groups: int, stage: int) -> None:
    inside = WIDTHS[groups] * 2**stage // 4
    n = inside // groups
    printed, released = shuffled(inside, groups), shuffled(inside, n)
    assert [printed[released[i]] for i in range(inside)] == list(range(inside))  # one undoes the other
    for order in (printed, released):
        assert sorted(order) == list(range(inside))  # nothing lost, nothing twice
        for group in range(groups):
            sources = {channel // n for channel in order[group * n : (group + 1) * n]}
            assert sources == set(range(groups))
    for i in range(groups):  # the formula of the docstring
        for j in range(n):
            assert printed[j * groups + i] == i * n + j


def influence(unit: ShuffleUnit, groups: int) -> Tensor:
    """Which groups of the input reach which groups of the output: [groups out, groups in]."""
    x = torch.randn(2, unit.branch_main_1[0].in_channels, 6, 6, requires_grad=True)
    reached = []
    for part in unit(x).chunk(groups, dim=1):
        (gradient,) = torch.autograd.grad(part.sum(), x, retain_graph=True)
        reached.append(torch.stack([g.abs().sum() for g in gradient.chunk(groups, dim=1)]) > 0)
    return torch.stack(reached)


@pytest.mark.parametrize("groups", [2, 3, 4, 8])
@pytest.mark.parametrize("shuffle", ["released", "printed"])
def test_groups_meet_only_through_the_shuffle(groups: int, shuffle: shufflenet.Shuffle) -> None:
    width = WIDTHS[groups]
    unit = ShuffleUnit(width, width, groups=groups, shuffle=shuffle).eval()
    assert influence(unit, groups).all()
    alone = ShuffleUnit(width, width, groups=groups, shuffle="none").eval()
    assert torch.equal(influence(alone, groups), torch.eye(groups, dtype=torch.bool))
    many = nn.Sequential(*(ShuffleUnit(width, width, groups=groups, shuffle="none").eval() for _ in range(3)))
    x = torch.randn(1, width, 5, 5)
    other = x.clone()
    other[:, : width // groups] += 1
    changed = (many(x) - many(other)).abs().amax((2, 3))[0] > 1e-6
    assert changed[: width // groups].any()
    assert not changed[width // groups :].any()  # not even through many of them


def test_printed_and_released_shuffle_are_one_network_renumbered() -> None:
    """With three groups, channels inside a group may be renumbered so that one becomes the other."""
    groups, width, inside = 3, 24, 18
    released = ShuffleUnit(width * 3, width * 3, groups=groups).eval()
    printed = ShuffleUnit(width * 3, width * 3, groups=groups, shuffle="printed").eval()
    n = inside // groups
    to, given = shuffled(inside, groups), shuffled(inside, n)
    # Place p of either table holds some channel; pair the channels that go from one group into the same group.
    kernels, columns = [-1] * inside, [-1] * inside
    free = list(range(inside))
    for p, channel in enumerate(to):
        q = next(q for q in free if q // n == p // n and given[q] // n == channel // n)
        free.remove(q)
        kernels[channel], columns[p] = given[q], q
    state = released.state_dict()
    for name, value in state.items():
        if name.startswith("branch_main_1") and value.dim():
            state[name] = value[kernels]
    weight = state["branch_main_2.0.weight"].clone()
    for group in range(groups):
        rows = slice(group * width, (group + 1) * width)
        weight[rows] = weight[rows][:, [q - group * n for q in columns[group * n : (group + 1) * n]]]
    state["branch_main_2.0.weight"] = weight
    printed.load_state_dict(state)
    x = torch.randn(2, width * 3, 5, 5)
    torch.testing.assert_close(printed(x), released(x))


def test_a_unit_adds_its_input_and_a_strided_one_joins_its_pooled_input() -> None:
    unit = ShuffleUnit(24, 24, groups=3).eval()
    x = torch.rand(2, 24, 7, 6)
    y = unit.branch_main_2(channel_shuffle(unit.branch_main_1(x), 2))
    assert y.min() < 0
    torch.testing.assert_close(unit(x), torch.relu(x + y))
    strided = ShuffleUnit(24, 60, groups=3, stride=2).eval()
    y = strided(x)
    assert y.shape == (2, 60, 4, 3)
    torch.testing.assert_close(y[:, :24], nn.functional.avg_pool2d(x, 3, 2, 1))
    assert y.min() == 0
    assert not any(isinstance(m, nn.ReLU) for m in list(strided.branch_main_1)[3:])  # none behind the depthwise one


def test_skips_of_the_table() -> None:
    with torch.device("meta"):
        model, plain = shufflenet.shufflenet_g3(), shufflenet.shufflenet_g3(residual=False)
    counts = {"add": 13, "concat": 3, "identity": 13, "resampled": 3, "long": 16}
    assert skipkb.trace_skips(model, (1, 3, 224, 224)).counts() == counts
    assert skipkb.trace_skips(plain, (1, 3, 224, 224)).counts() == {"concat": 3, "resampled": 3, "long": 3}


def test_the_very_first_convolution_has_no_groups() -> None:
    with torch.device("meta"):
        model = shufflenet.shufflenet_g8()
    found = [unit.branch_main_1[0].groups for unit in model.features]  # type: ignore[index, union-attr]
    assert found == [1] + [8] * 15


def test_initial_values_are_those_of_the_release() -> None:
    """Gaussians: of deviation 0.01 at both ends, else one over the channels that a kernel reads; offsets of 0.0001."""
    model = shufflenet.shufflenet_g1()
    first = model.get_parameter("first_conv.0.weight")
    assert first.std().item() == pytest.approx(0.01, rel=0.15)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.bias, torch.full_like(module.bias, 0.0001)), name
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.01)
        elif isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            sure = 4 / (2 * module.weight.numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(1 / module.weight.shape[1], rel=sure), name


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (1, 1)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = ShuffleNet(channels=24, stem=12, blocks=(2, 1), num_classes=5).eval()
    assert model(torch.rand(2, 3, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": ()}, "must be positive"),
        ({"groups": 0}, "must be positive"),
        ({"shuffle": "twice"}, "shuffle must be 'released', 'printed' or 'none', got 'twice'"),
        ({"groups": 7}, "7 groups need multiples of 7 channels"),
        ({"channels": 24, "stem": 24}, "3 groups need multiples of 3 channels, got 24 in front, 6 inside and 0 made"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShuffleNet(**change)  # type: ignore[arg-type]


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="stride 1 keeps the channels, got 12 and 24"):
        ShuffleUnit(12, 24, groups=3)
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        ShuffleNet(channels=24, stem=12, blocks=(1,))(torch.rand(1, 1, 8, 8))

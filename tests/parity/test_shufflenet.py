"""ShuffleNet against pytorchcv: every unit at any number of groups, and the whole network without groups.

Theirs concatenates the other way round, which at more than one group is another network: the groups of the next
convolution are cut elsewhere. A unit is still the same but for the order of what comes out.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from skipkb.models.classification import shufflenet
from tests.parity.compare import difference, of_any_size, same_runs, scramble


def load(ours: shufflenet.ShuffleUnit, theirs: nn.Module, taken: Tensor, given: Tensor) -> None:
    """Their weights, with the channels of the input taken, and those of the output given, in another order.

    They shuffle in front of the depthwise convolution and we behind it: its kernels are renumbered.
    """
    state = theirs.state_dict()
    inside = len(state["dw_bn2.weight"])
    kernels = shufflenet.channel_shuffle(torch.arange(inside).view(1, -1, 1, 1), ours.rows).flatten().argsort()
    columns = state["compress_conv1.weight"].shape[1]
    state["compress_conv1.weight"] = state["compress_conv1.weight"][:, taken if len(taken) == columns else slice(None)]
    for name in state:
        if name.startswith("dw_") and state[name].dim():
            state[name] = state[name][kernels]
        if name.startswith("expand_") and state[name].dim():
            state[name] = state[name][given]
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)), strict=True)


@pytest.mark.parametrize(("groups", "channels"), [(1, 144), (2, 200), (3, 240), (4, 272), (8, 384)])
def test_units(groups: int, channels: int) -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    theirs = provider.get_model(f"shufflenet_g{groups}_w1", pretrained=False)
    scramble(theirs)
    ours = shufflenet.ShuffleNet(groups=groups, channels=channels, shuffle="printed")
    names = [f"stage{stage + 1}.unit{unit + 1}" for stage, units in enumerate((4, 8, 4)) for unit in range(units)]
    for mine, other in zip(ours.features, (theirs.features.get_submodule(name) for name in names), strict=True):
        assert isinstance(mine, shufflenet.ShuffleUnit)
        load(
            mine,
            other,
            torch.arange(mine.branch_main_1[0].in_channels),
            torch.arange(mine.branch_main_2[0].out_channels),
        )
        x = torch.rand(2, mine.branch_main_1[0].in_channels, 6, 6)
        x.requires_grad_()
        for training, limit in ((False, 1e-5), (True, 1e-4)):
            found, wanted = mine.train(training)(x), other.train(training)(x)
            if mine.stride == 2:
                wanted = wanted.roll(x.shape[1], dims=1)
            assert difference(found, wanted) < limit
            weight = torch.randn_like(found)
            gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, wanted)]
            assert difference(*gradients) < 1e-4


def test_network_without_groups() -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    theirs = provider.get_model("shufflenet_g1_w1", pretrained=False)
    of_any_size(theirs)
    scramble(theirs)
    nn.init.zeros_(theirs.output.bias)  # ours, like the release, has none
    ours = shufflenet.shufflenet_g1()
    stem = theirs.features.init_block.state_dict()
    ours.first_conv.load_state_dict(dict(zip(ours.first_conv.state_dict(), stem.values(), strict=True)))
    order, number = torch.arange(24), 0
    for stage, units in enumerate((4, 8, 4)):
        for unit in range(units):
            mine, other = ours.features[number], theirs.features.get_submodule(f"stage{stage + 1}.unit{unit + 1}")
            assert isinstance(mine, shufflenet.ShuffleUnit)
            if unit == 0:
                made = mine.branch_main_2[0].out_channels
                load(mine, other, order, torch.arange(made))
                order = torch.cat([made + order, torch.arange(made)])
            else:
                load(mine, other, order, order)
            number += 1
    ours.classifier[0].load_state_dict({"weight": theirs.output.weight[:, order]})
    same_runs(ours, theirs, torch.randn(4, 3, 64, 64))

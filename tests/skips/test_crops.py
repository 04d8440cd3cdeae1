"""A crop of the picture or of a signal keeps what it is; some of the channels or tokens are a part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipkb.skips import trace_skips

from .cases import Net  # type: ignore[import-not-found]
from .ways import CAPTURES, traced  # type: ignore[import-not-found]

ONE = {"add": 1, "identity": 1}
Rule = Callable[[Any, Tensor], Tensor]


def by_hand(m: Any, x: Tensor) -> Tensor:
    return x[:, :, 1:-1] + F.relu(m.c(x))


def one_side(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.c(x))
    return y + x[..., : y.shape[-1]]


def narrowed(m: Any, x: Tensor) -> Tensor:
    return F.relu(m.c(x)) + x.narrow(2, 1, x.shape[2] - 2)


def padded_by_less_than_nothing(m: Any, x: Tensor) -> Tensor:
    return F.pad(x, (-1, -1)) + F.relu(m.c(x))


def selected(m: Any, x: Tensor) -> Tensor:
    return torch.index_select(x, 2, torch.arange(1, x.shape[2] - 1, device=x.device)) + F.relu(m.c(x))


def middle_of_a_split(m: Any, x: Tensor) -> Tensor:
    return x.split([1, x.shape[2] - 2, 1], dim=2)[1] + F.relu(m.c(x))


def time_first(m: Any, x: Tensor) -> Tensor:
    x = x.transpose(1, 2)
    return x[:, 1:-1] + F.relu(m.c(x.transpose(1, 2))).transpose(1, 2)


SIGNALS: list[Rule] = [
    *(by_hand, one_side, narrowed, padded_by_less_than_nothing, selected, middle_of_a_split, time_first),
]


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("rule", SIGNALS)
def test_signal(rule: Rule, capture: str) -> None:
    graph = traced(Net(rule, c=nn.Conv1d(8, 8, 3)), (1, 8, 16), capture)
    assert graph.counts() == ONE


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("axis", [2, 3])
def test_one_axis_of_a_picture(axis: int, capture: str) -> None:
    kernel = (3, 1) if axis == 2 else (1, 3)
    graph = traced(
        Net(lambda m, x: x.narrow(axis, 2, 14) + F.relu(m.c(x)), c=nn.Conv2d(8, 8, kernel)), (1, 8, 16, 16), capture
    )
    assert graph.counts() == ONE


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("size", [(32, 32), (33, 33), (32, 33), (33, 32)])
def test_unet_on_odd_sizes(size: tuple[int, int], capture: str) -> None:
    def unet(m: Any, x: Tensor) -> Tensor:
        a = F.relu(m.c(x))
        up = F.interpolate(F.relu(m.d(F.max_pool2d(a, 2))), scale_factor=2)
        return torch.cat([a[:, :, : up.shape[2], : up.shape[3]], up], 1)

    model = Net(unet, c=nn.Conv2d(1, 8, 3, padding=1), d=nn.Conv2d(8, 8, 3, padding=1))
    assert traced(model, (1, 1, *size), capture).counts() == {"concat": 1, "identity": 1, "cross_scale": 1}


@pytest.mark.parametrize("capture", CAPTURES)
def test_frames_of_a_video(capture: str) -> None:
    model = Net(lambda m, x: x[:, :, 1:-1] + F.relu(m.c(x)), c=nn.Conv3d(4, 4, (3, 1, 1)))
    assert traced(model, (1, 4, 6, 8, 8), capture).counts() == ONE


@pytest.mark.parametrize("capture", CAPTURES)
def test_channels_last(capture: str) -> None:
    model = Net(lambda m, x: x[:, 1:] + m.b(F.relu(m.a(x)))[:, 1:], a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    assert traced(model, (1, 6, 6, 8), capture).counts() == ONE


def half_the_channels(m: Any, x: Tensor) -> Tensor:
    x = m.p(x)
    return torch.cat([x[:, :4], F.relu(m.h(x[:, 4:]))], 1)


def half_by_split(m: Any, x: Tensor) -> Tensor:
    one, two = m.p(x).chunk(2, 1)
    return torch.cat([one, F.relu(m.h(two))], 1)


def half_by_negative_padding(m: Any, x: Tensor) -> Tensor:
    x = m.p(x)
    return torch.cat([F.pad(x, (0, 0, 0, -4)), F.relu(m.h(x[:, 4:]))], 1)


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("rule", [half_the_channels, half_by_split, half_by_negative_padding])
def test_channels_of_a_signal_are_a_part(rule: Rule, capture: str) -> None:
    model = Net(rule, p=nn.Conv1d(8, 8, 1), h=nn.Conv1d(4, 4, 3, padding=1))
    graph = traced(model, (1, 8, 16), capture)
    assert not graph.counts()
    assert graph.counts(partial=True)["concat"] == 1


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("shape", [(2, 6, 8), (2, 6, 6, 8)])
def test_tokens_and_their_channels_are_a_part(shape: tuple[int, ...], capture: str) -> None:
    def rule(m: Any, x: Tensor) -> Tensor:
        x = m.p(x)
        return torch.cat([x[..., :4], F.relu(m.h(x[..., 4:]))], -1)

    graph = traced(Net(rule, p=nn.Linear(8, 8), h=nn.Linear(4, 4)), shape, capture)
    assert (graph.counts(), graph.counts(partial=True)["concat"]) == ({}, 1)


def taken_out_again(m: Any, x: Tensor) -> Tensor:
    one, other = F.relu(m.a(x)), F.relu(m.b(x))
    joined = torch.cat([one, other], 1)
    return joined[:, 4:] + F.relu(m.c(joined))


def split_again(m: Any, x: Tensor) -> Tensor:
    joined = torch.cat([F.relu(m.a(x)), F.relu(m.b(x))], 1)
    return joined.chunk(2, 1)[1] + F.relu(m.c(joined))


def two_of_three(m: Any, x: Tensor) -> Tensor:
    joined = torch.cat([m.a(x), m.a(F.relu(x)), F.relu(m.b(x))], 1)
    return F.relu(m.d(joined)) + joined[:, 4:]


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("rule", [taken_out_again, split_again, two_of_three])
def test_what_is_joined_and_taken_out_again_is_whole(rule: Rule, capture: str) -> None:
    layers = {"a": nn.Conv2d(8, 4, 1), "b": nn.Conv2d(8, 4, 1), "c": nn.Conv2d(8, 4, 1), "d": nn.Conv2d(12, 8, 1)}
    skips = traced(Net(rule, **layers), (1, 8, 16, 16), capture).skips
    assert [(skip.kind, skip.shortcut, skip.partial) for skip in skips] == [("add", "identity", False)]


@pytest.mark.parametrize("capture", CAPTURES)
def test_what_crosses_the_seam_is_a_part(capture: str) -> None:
    def rule(m: Any, x: Tensor) -> Tensor:
        joined = torch.cat([F.relu(m.a(x)), F.relu(m.b(x))], 1)
        return joined[:, 2:6] + F.relu(m.c(joined))  # type: ignore[no-any-return]

    layers = {name: nn.Conv2d(8, 4, 1) for name in "abc"}
    graph = traced(Net(rule, **layers), (1, 8, 16, 16), capture)
    assert graph.counts() == {}
    assert graph.counts(partial=True)["add"] == 1


def test_both_spellings_of_dual_paths() -> None:
    """One library joins the two paths between blocks and cuts them apart again, ours hands on a pair."""
    timm = pytest.importorskip("timm")
    from skipkb.models.classification.dpn import dpn92

    with torch.device("meta"):
        models = [timm.create_model("dpn92").eval(), dpn92().eval()]
    one, other = (trace_skips(model, (1, 3, 224, 224)).counts() for model in models)
    assert one == other

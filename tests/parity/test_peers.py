"""Every peer that can be built here has the declared size, and one that is compared the outputs and gradients of ours.

The entry says which model of ours it equals and how its tensors are called (``peers``); what needs code is in
``tests/parity/KEY.py``. Tests that belong to one entry are in ``test_KEY.py``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import skipkb
from skipkb.catalog.entry import Peer
from skipkb.catalog.imports import resolve
from skipkb.catalog.loading import load as load_catalogue
from tests.parity.compare import load, of_any_size, on_meta, renamed, same_runs, scramble


class Pair(NamedTuple):
    """A peer and the key of its entry."""

    key: str
    peer: Peer

    def __str__(self) -> str:
        words = [self.key, self.peer.variant, self.peer.package, (self.peer.build or "").rpartition(":")[2]]
        words += [str(value) for value in self.peer.kwargs.values() if isinstance(value, str | float)]
        return "-".join(word for word in words if word)


PAIRS = [Pair(key, peer) for key, work in load_catalogue().entries.items() for peer in work.peers if peer.build]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_peer(pair: Pair) -> None:
    peer, build = pair.peer, pair.peer.build
    assert build
    package = build.partition(":")[0].partition(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")

    theirs = on_meta(lambda: resolve(build)(**peer.kwargs))
    assert sum(p.numel() for p in theirs.parameters()) == peer.parameters
    if peer.compared is None:  # only counted
        return
    if package == "pytorchcv":
        of_any_size(theirs)
    if peer.compared == "difference undone":
        code(pair.key).undo(theirs)
    ours = on_meta(lambda: skipkb.create_model(peer.variant or "", **peer.variant_kwargs))
    if peer.names == "by code":
        names = {name: code(pair.key).our_name(name) for name in theirs.state_dict()}
    else:
        names = renamed(theirs.state_dict(), peer.names, ours.state_dict())
    if peer.compared == "names and shapes":
        wanted = {names[name]: (value.shape, value.dtype) for name, value in theirs.state_dict().items()}
        assert {name: (value.shape, value.dtype) for name, value in ours.state_dict().items()} == wanted
        return
    scramble(theirs)
    load(ours, theirs.double(), names)
    same_runs(ours, theirs, torch.randn(peer.input or (2, 3, 48, 48)), names)


def code(key: str) -> Any:
    """The file of an entry that says in code what words cannot."""
    return import_module(f"tests.parity.{key}")


def test_a_weight_of_theirs_that_ours_lacks_is_refused() -> None:
    ours, theirs = nn.Sequential(nn.Linear(2, 2, bias=False)), nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="Unexpected"):
        load(ours, theirs, renamed(theirs.state_dict(), [], ours.state_dict()))


def test_in_order_takes_the_projection_last() -> None:
    theirs = ["stem.conv", "unit1.identity_conv.conv", "unit1.body.conv", "output"]
    ours = ["conv1", "layer1.0.conv1", "layer1.0.downsample.0", "fc"]
    assert renamed(theirs, "in order", ours) == {
        "stem.conv": "conv1",
        "unit1.body.conv": "layer1.0.conv1",
        "unit1.identity_conv.conv": "layer1.0.downsample.0",
        "output": "fc",
    }

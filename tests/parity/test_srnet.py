"""SRNET has no other build; without its links it is pytorchcv's WRN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification.srnet import SRNet
from tests.parity.compare import difference, load, of_any_size, renamed, same_runs, scramble


def test_without_links_it_is_pytorchcvs_wrn() -> None:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    with torch.device("meta"):
        theirs: nn.Module = provider.get_model("wrn16_10_cifar10", pretrained=False)
        ours = SRNet(depth=16, widen_factor=10, levels=0)
    of_any_size(theirs)
    scramble(theirs)
    names = renamed(theirs.state_dict(), "in order", ours.state_dict())
    load(ours, theirs.double(), names)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    linked = SRNet(depth=16, widen_factor=10, levels=3).double()
    linked.load_state_dict({k: v.clone() for k, v in ours.state_dict().items()}, strict=False)
    with torch.no_grad():
        for link in linked.links.values():
            nn.init.zeros_(link.weight)  # type: ignore[arg-type]
        assert difference(linked.eval()(x), theirs.eval()(x)) < 1e-8
    same_runs(ours, theirs, x, names)

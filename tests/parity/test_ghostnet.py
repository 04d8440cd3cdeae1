"""GhostNet against timm, which has the names of the authors' code: outputs and gradients."""

from __future__ import annotations

import pytest
import torch

from skipkb.models.classification import ghostnet
from tests.parity.compare import same_runs, scramble


@pytest.mark.parametrize(("name", "peer"), [("ghostnet", "100"), ("ghostnet_050", "050"), ("ghostnet_130", "130")])
def test_timm(name: str, peer: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"ghostnet_{peer}", pretrained=False, drop_rate=0.2)
    scramble(theirs)
    ours = getattr(ghostnet, name)()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    same_runs(ours, theirs, torch.randn(4, 3, 64, 64), double=True)

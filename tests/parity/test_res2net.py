"""Res2Net against timm: the same weights, the same outputs and gradients."""

from __future__ import annotations

import pytest
import torch

from skipkb.models.classification import res2net
from tests.parity.compare import same_runs, scramble


def test_outputs_and_gradients() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("res2net50_26w_4s", zero_init_last=False)
    scramble(model)
    with torch.device("meta"):
        ours = res2net.res2net50_26w_4s()
    ours.load_state_dict(model.state_dict(), strict=True, assign=True)
    same_runs(ours, model, torch.randn(2, 3, 64, 64))

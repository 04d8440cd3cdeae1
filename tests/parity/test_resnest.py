"""ResNeSt against timm, which carries the authors' names and weights: the same outputs and gradients."""

from __future__ import annotations

import pytest
import torch

from skipkb.models.classification import resnest
from tests.parity.compare import same_runs, scramble


def test_outputs_and_gradients() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnest50d", zero_init_last=False)
    scramble(model)
    with torch.device("meta"):
        ours = resnest.resnest50()
    ours.load_state_dict(model.state_dict(), strict=True, assign=True)
    # float64: the attention normalises over pictures only
    same_runs(ours, model, torch.randn(4, 3, 64, 64), double=True)

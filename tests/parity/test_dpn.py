"""DPN against timm: the same weights, the same outputs and gradients."""

from __future__ import annotations

import pytest
import torch

from skipkb.models.classification import dpn
from tests.parity.compare import same_runs, scramble


@pytest.mark.parametrize("name", ["dpn92", "dpn98"])
def test_outputs_and_gradients(name: str) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, pretrained=False)
    scramble(model)
    with torch.device("meta"):
        ours = getattr(dpn, name)()
    ours.load_state_dict(model.state_dict(), strict=True, assign=True)
    same_runs(ours, model, torch.randn(4, 3, 32, 32))

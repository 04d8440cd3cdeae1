"""Inception-v4 against timm and pytorchcv: the same weights, the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import inception_v4
from tests.parity.compare import in_order, same_runs, scramble


def theirs(library: str) -> nn.Module:
    if library == "pytorchcv":
        provider: Any = pytest.importorskip("pytorchcv.model_provider")
        model: nn.Module = provider.get_model("inceptionv4", pretrained=False, dropout_rate=0.2)
    else:
        model = pytest.importorskip("timm").create_model("inception_v4", pretrained=False, drop_rate=0.2)
    scramble(model)
    return model


@pytest.mark.parametrize("library", ["timm", "pytorchcv"])
def test_outputs_and_gradients(library: str) -> None:
    model = theirs(library)
    with torch.device("meta"):
        ours = inception_v4.inception_v4(dropout=0.2)
    state = in_order(ours, model.state_dict()) if library == "pytorchcv" else model.state_dict()
    ours.load_state_dict(state, strict=True, assign=True)
    # pytorchcv averages 8 x 8 places, no less
    x = torch.randn(2, 3, 107, 107) if library == "timm" else torch.randn(1, 3, 299, 299)
    same_runs(ours, model, x)

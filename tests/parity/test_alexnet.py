"""AlexNet on one GPU against pytorchcv, whose normalisation has PyTorch's alpha: a fifth of the paper's."""

from __future__ import annotations

import pytest
import torch

from skipkb.models.classification import alexnet
from tests.parity.compare import in_order, same_runs


def test_outputs_and_gradients() -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    model = provider.get_model("alexnet", pretrained=False)
    with torch.device("meta"):
        ours = alexnet.AlexNet(groups=1, alpha=1e-4 / 5)
    ours.load_state_dict(in_order(ours, model.state_dict()), strict=True, assign=True)
    same_runs(ours, model, torch.rand(2, 3, 227, 227), gradient=1e-5)

"""The 1-bit wide residual network against pytorchcv: the same weights, the same outputs and gradients.

pytorchcv follows a third-party port and differs in three details, which are undone here: the picture is not normalised,
the average of the shortcut counts zeros outside the picture, and the last normalisation has a learned scale and offset
(they start at one and zero).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import mcdonnell_wrn_1bit
from tests.parity.compare import in_order, same_runs, scramble


@pytest.mark.parametrize("bits", [1, 32])
def test_outputs_and_gradients(bits: int) -> None:
    provider: Any = pytest.importorskip("pytorchcv.model_provider")
    model: Any = provider.get_model(f"wrn20_10_{bits}bit_cifar10", pretrained=False)
    last = model.output.final_conv.bn
    model.output.final_conv.bn = nn.BatchNorm2d(last.num_features, eps=last.eps, affine=False)
    for module in model.modules():
        if isinstance(module, nn.AvgPool2d) and module.stride == 2:
            module.count_include_pad = False
    scramble(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[parameter == 0] = 1e-9  # a few of 26 million weights start at zero, whose sign is a third value
    with torch.device("meta"):
        ours = getattr(mcdonnell_wrn_1bit, f"wrn20_10_{bits}bit")()
    ours.bn_input = nn.Identity()
    ours.load_state_dict(in_order(ours, model.state_dict()), strict=True, assign=True)
    same_runs(ours, model, torch.randn(2, 3, 32, 32))

"""pytorchcv's DANet has another stem and other rates; its head is ours, under other names."""

from __future__ import annotations

import pytest
import torch

from skipkb.models.segmentation.danet import DANetHead
from tests.parity.compare import difference, renamed, scramble

NAMES = [
    (r"branch_pa\.conv1\.conv", "conv5a.0"), (r"branch_pa\.conv1\.bn", "conv5a.1"),
    (r"branch_ca\.conv1\.conv", "conv5c.0"), (r"branch_ca\.conv1\.bn", "conv5c.1"),
    (r"branch_pa\.conv2\.conv", "conv51.0"), (r"branch_pa\.conv2\.bn", "conv51.1"),
    (r"branch_ca\.conv2\.conv", "conv52.0"), (r"branch_ca\.conv2\.bn", "conv52.1"),
    (r"branch_pa\.conv3", "conv6.1"), (r"branch_ca\.conv3", "conv7.1"), (r"^conv\.", "conv8.1."),
    (r"branch_pa\.att", "sa"), (r"branch_ca\.att", "sc"), (r"scale\.alpha", "gamma"),
]  # fmt: skip


def test_the_head_of_pytorchcv() -> None:
    pytorchcv = pytest.importorskip("pytorchcv.models.danet")
    torch.manual_seed(0)
    theirs, ours = pytorchcv.DANetHead(in_channels=64, out_channels=5), DANetHead(64, 5)
    scramble(theirs)
    names = renamed(theirs.state_dict(), NAMES, ours.state_dict())
    ours.load_state_dict({names[name]: value.clone() for name, value in theirs.state_dict().items()}, strict=True)
    x = 0.3 * torch.randn(2, 64, 7, 9, dtype=torch.float64)
    with torch.no_grad():
        outputs = zip(ours.double().eval()(x).values(), theirs.double().eval()(x), strict=True)
        assert all(difference(mine, other) < 1e-8 for mine, other in outputs)

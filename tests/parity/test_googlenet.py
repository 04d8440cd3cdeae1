"""The paper's GoogLeNet, into which torchvision's is rebuilt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skipkb.models.classification.googlenet import googlenet
from tests.parity.compare import load, renamed, same_runs, scramble
from tests.parity.googlenet import undo


def test_the_network_of_the_paper() -> None:
    """torchvision's wiring, with biases, response normalisation, 5x5 kernels and poolings as Table 1 has them."""
    models: Any = pytest.importorskip("torchvision.models")
    theirs = models.googlenet(weights=None, init_weights=False, dropout=0.0, dropout_aux=0.0)
    for module in list(theirs.modules()):
        if type(module).__name__ == "BasicConv2d":
            old = module.conv
            module.conv = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
            module.bn = nn.Identity()
        elif type(module).__name__ == "InceptionAux":
            module.register_forward_pre_hook(lambda _, args: F.avg_pool2d(args[0], 5, stride=3))
    for module in theirs.modules():
        if type(module).__name__ == "Inception":
            old = module.branch3[1].conv
            module.branch3[1].conv = nn.Conv2d(old.in_channels, old.out_channels, 5, padding=2)
    theirs.maxpool1 = nn.Sequential(theirs.maxpool1, nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75))
    theirs.maxpool2 = nn.Sequential(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75), theirs.maxpool2)
    theirs.maxpool4 = theirs.maxpool3
    undo(theirs)
    scramble(theirs)
    with torch.device("meta"):
        ours = googlenet(dropout=0.0, dropout_aux=0.0)
    names = renamed(theirs.state_dict(), [], ours.state_dict())
    load(ours, theirs.double(), names)
    same_runs(ours, theirs, torch.randn(2, 3, 224, 224), names)

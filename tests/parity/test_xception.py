"""Xception against timm (same names) and pytorchcv (same order): outputs and gradients of the network of the ports."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.classification import xception
from tests.parity.compare import in_order, same_runs, scramble


@pytest.mark.parametrize("library", ["timm", "pytorchcv"])
def test_outputs_and_gradients(library: str) -> None:
    if library == "timm":
        theirs: nn.Module = pytest.importorskip("timm").create_model("legacy_xception", pretrained=False)
    else:
        provider: Any = pytest.importorskip("pytorchcv.model_provider")
        theirs = provider.get_model("xception", pretrained=False)
    scramble(theirs)
    with torch.device("meta"):
        ours = xception.xception(port=True, dropout=0.0)
    state = theirs.state_dict()
    ours.load_state_dict(state if library == "timm" else in_order(ours, state), strict=True, assign=True)
    # pytorchcv averages 10 x 10 places, no less
    x = torch.randn(2, 3, 107, 91) if library == "timm" else torch.randn(2, 3, 299, 299)
    same_runs(ours, theirs, x, double=library == "timm")


def test_the_authors_network_differs() -> None:
    """Same weights, other epsilon and other padding: this is why ``port`` exists."""
    theirs = pytest.importorskip("timm").create_model("legacy_xception", pretrained=False).eval()
    scramble(theirs)
    with torch.device("meta"):
        ours = xception.xception()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = torch.randn(1, 3, 75, 75)
    with torch.inference_mode():
        assert not torch.allclose(ours.eval()(x), theirs(x), rtol=1e-3)

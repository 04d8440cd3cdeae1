"""Why ``port`` exists: with the same weights the authors' network and that of the ports differ."""

from __future__ import annotations

import pytest
import torch

from skipkb.models.classification import xception
from tests.parity.compare import scramble


def test_the_authors_network_differs() -> None:
    """Another epsilon and another padding."""
    theirs = pytest.importorskip("timm").create_model("legacy_xception", pretrained=False).eval()
    scramble(theirs)
    with torch.device("meta"):
        ours = xception.xception()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = torch.randn(1, 3, 75, 75)
    with torch.inference_mode():
        assert not torch.allclose(ours.eval()(x), theirs(x), rtol=1e-3)

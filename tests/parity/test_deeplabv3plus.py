"""The trunk of DeepLabv3+ is timm's Xception-65 without its classifier, and loads its weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from skipkb.models.segmentation.deeplabv3plus import AlignedXception
from tests.parity.compare import difference, scramble


@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_trunk_of_timm(output_stride: int) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("xception65", output_stride=output_stride)
    scramble(theirs)
    widths = (32, 64, 128, 256, 728, 1024, 1536, 2048)
    ours = AlignedXception(middle=16, widths=widths, output_stride=output_stride, in_channels=3)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("head.")}, strict=True)
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        early, last = ours.eval()(x)
        wanted, taps = theirs.eval().forward_intermediates(x)
    assert difference(last, wanted) < 1e-4
    assert difference(F.relu(early), taps[1]) < 1e-4  # timm's is the one behind the next ReLU

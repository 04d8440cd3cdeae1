"""Swin has the authors' names: timm takes its state dict for one of their checkpoints, and larger ones fit theirs."""

from __future__ import annotations

import pytest
import torch

from skipkb.models.segmentation import swin
from tests.parity.swin import our_name


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_timm_takes_our_state_dict_for_an_official_checkpoint(size: str) -> None:
    """timm renames the authors' checkpoints to its own names; a name that is not theirs would be refused there."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours = getattr(swin, f"swin_{size}")()
        theirs = timm.create_model(f"swin_{size}_patch4_window7_224")
    state = timm.models.swin_transformer.checkpoint_filter_fn({"model": ours.state_dict()}, theirs)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("name", ["swin_s", "swin_b"])
def test_the_larger_ones_of_torchvision_have_our_tensors(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        ours = {"swin_s": swin.swin_small, "swin_b": swin.swin_base}[name]()
        theirs = getattr(models, name)()
    wanted = {n: p.shape for n, p in ours.named_parameters()}
    assert {our_name(n): p.shape for n, p in theirs.named_parameters()} == wanted

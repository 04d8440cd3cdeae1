"""ConvNeXt has the authors' names: timm takes its state dict for one of their checkpoints."""

from __future__ import annotations

import pytest
import torch

from skipkb.models.classification import convnext


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_small", "convnext_base"])
def test_timm_takes_our_state_dict_for_an_official_checkpoint(name: str) -> None:
    """timm renames the authors' checkpoints to its own names; a name that is not theirs would be refused there."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, model = getattr(convnext, name)(), timm.create_model(name)
    state = timm.models.convnext.checkpoint_filter_fn({"model": ours.state_dict()}, model)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in model.state_dict().items()}

"""Every model of timm on the meta device: ``make test-zoo-all``. Nothing is lost, little memory is needed."""

from __future__ import annotations

import resource
import sys

import pytest
import timm
import torch

from skipkb.skips import trace_skips

from . import models  # type: ignore[import-not-found]

pytestmark = [pytest.mark.zoo_all, pytest.mark.filterwarnings("ignore")]

WITHOUT = ("vgg", "mobilenetv1_100", "mobilenetv1_100h", "mobilenetv1_125", "lcnet_", "test_efficientnet")
"""Networks that add and join nothing; two of them have gates."""
MEMORY = 2.0
"""GB that a process may have needed at most, with all that it imports."""


@pytest.mark.parametrize("name", timm.list_models())
def test_every_model_of_timm(name: str) -> None:
    torch.set_num_threads(1)
    model = models.build(f"timm:{name}", "meta")
    graph = trace_skips(model, models.inputs(f"timm:{name}", model, "meta"))
    assert graph.capture == "function"
    assert not graph.lost
    assert not graph.notes
    assert graph.layers
    counted = graph.counts(partial=True)
    assert (counted["add"] + counted["concat"] == 0) == name.startswith(WITHOUT), counted
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    assert peak < MEMORY, f"{peak:.2f} GB"

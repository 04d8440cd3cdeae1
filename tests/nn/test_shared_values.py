"""The shared losses and initial values are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from skipkb.nn.initial_values import he_fan_in, he_fan_out
from skipkb.nn.objectives import cross_entropy


def test_cross_entropy_is_the_mean_of_the_negative_log_probabilities() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(5, 7), torch.randint(7, (5,))
    by_hand = -logits.softmax(dim=1)[torch.arange(5), classes].log().mean()
    torch.testing.assert_close(cross_entropy(logits, classes), by_hand)
    shares = torch.randn(5, 7).softmax(dim=1)
    torch.testing.assert_close(cross_entropy(logits, shares), -(shares * logits.log_softmax(dim=1)).sum(1).mean())


@pytest.mark.parametrize(("rule", "fan"), [(he_fan_in, 16 * 9), (he_fan_out, 128 * 9)])
def test_he_values(rule: object, fan: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 128, 3), nn.Linear(16, 16), nn.BatchNorm2d(4))
    before = [p.clone() for p in model[1:].parameters()]
    model.apply(rule)  # type: ignore[arg-type]
    weight = model[0].weight
    assert isinstance(weight, nn.Parameter)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.03)
    assert weight.abs().max().item() > 2.9 * math.sqrt(2 / fan), "Gaussian, not uniform"
    for a, b in zip(before, model[1:].parameters(), strict=True):
        assert torch.equal(a, b), "only convolutions change"

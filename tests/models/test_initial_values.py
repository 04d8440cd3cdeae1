"""Initial values of weights, and epsilon and momentum of normalisations: those of the code that each model follows.

Where the entry lists a deviation from the authors' code, the values here are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import skipkb

Rule = tuple[Callable[[Tensor], float], str]
"""Standard deviation of a tensor by its shape, and the form of its distribution."""


def fan_in(weight: Tensor) -> int:
    return weight[0].numel()


def fan_out(weight: Tensor) -> int:
    """As PyTorch counts it: groups are not considered."""
    return weight.shape[0] * weight[0, 0].numel()


HE_IN: Rule = (lambda w: math.sqrt(2 / fan_in(w)), "gaussian")
HE_OUT: Rule = (lambda w: math.sqrt(2 / fan_out(w)), "gaussian")
CUT = 0.87962566
"""What the deviation of a Gaussian is multiplied with by a cut at two deviations."""

HE_IN_CUT: Rule = (lambda w: CUT * math.sqrt(1.3 * 2 / fan_in(w)), "cut")  # 1.3: TF-Slim makes up for the cut
GLOROT: Rule = (lambda w: math.sqrt(2 / (fan_in(w) + fan_out(w))), "uniform")
PYTORCH: Rule = (lambda w: math.sqrt(1 / 3 / fan_in(w)), "uniform")
SMALL: Rule = (lambda w: 0.01, "gaussian")
INVERSE: Rule = (lambda w: 1 / w.shape[1], "gaussian")
MOBILE: Rule = (lambda w: CUT * 0.09, "cut")

CASES: dict[str, tuple[Rule, Rule, bool, tuple[float, float]]] = {
    # model: convolutions, linear layers, whether these have a bias of zero, epsilon and momentum of normalisations
    "densenet100_k12_bc": (HE_OUT, PYTORCH, True, (1e-5, 0.1)),
    "dpn92": (HE_IN, PYTORCH, True, (1e-3, 0.1)),
    "ghostnet_050": (PYTORCH, PYTORCH, False, (1e-5, 0.1)),
    "inception_resnet_v2": (GLOROT, GLOROT, True, (1e-3, 0.1)),
    "inception_v4": (HE_IN_CUT, HE_IN_CUT, True, (1e-3, 0.1)),
    "mobilenet_v1_025": (MOBILE, MOBILE, True, (1e-5, 0.1)),
    "mobilenet_v2_050": (HE_OUT, SMALL, True, (1e-5, 0.1)),
    "mobilenet_v3_small_075": (HE_OUT, SMALL, True, (1e-3, 0.01)),
    "mobilenext_050": (HE_OUT, SMALL, True, (1e-5, 0.1)),
    "preact_resnet164": (HE_OUT, PYTORCH, True, (1e-5, 0.1)),
    "pyramidnet110_a48": (HE_OUT, PYTORCH, True, (1e-5, 0.1)),
    "res2net50_26w_4s": (HE_OUT, PYTORCH, False, (1e-5, 0.1)),
    "resnest50": (HE_OUT, PYTORCH, False, (1e-5, 0.1)),
    "resnet50": (HE_IN, HE_IN, True, (1e-5, 0.1)),
    "resnext29_8x64d": (HE_OUT, PYTORCH, True, (1e-5, 0.1)),
    "se_resnet50": (HE_OUT, PYTORCH, False, (1e-5, 0.1)),
    "shake_shake26_2x32d": (HE_OUT, PYTORCH, True, (1e-5, 0.1)),
    "shufflenet_g3": (INVERSE, SMALL, True, (1e-5, 0.1)),
    "stochastic_depth110": (HE_IN, PYTORCH, True, (1e-5, 0.1)),
    "wider_resnet38": (HE_IN, PYTORCH, False, (1e-5, 0.1)),
    "wrn16_8": (HE_OUT, PYTORCH, True, (1e-5, 0.1)),
    "xception": (GLOROT, GLOROT, True, (1e-3, 0.01)),
}


def check(name: str, weight: Tensor, rule: Rule) -> None:
    """Deviation within four standard errors, and as large values as the distribution has."""
    deviation, form = rule
    found = weight.detach().double()
    wanted, sure = deviation(weight), 4 / math.sqrt(2 * weight.numel())
    assert found.std().item() == pytest.approx(wanted, rel=sure), name
    assert abs(found.mean().item()) < 5 * wanted / math.sqrt(weight.numel()), name
    largest = found.abs().max().item() / wanted
    low, high = {"uniform": (1.6, 1.7321), "cut": (2.0, 2.2738), "gaussian": (2.9, 8.0)}[form]
    assert low < largest < high, f"{name} is not {form}"


@pytest.mark.parametrize("variant", CASES)
def test_weights_start_and_normalisations_work_as_in_the_code_followed(variant: str) -> None:
    convolutions, linears, zero, norms = CASES[variant]
    model, seen = skipkb.create_model(variant), 0
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == norms, name
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        rule = convolutions if isinstance(module, nn.Conv2d) else linears
        if module.weight.numel() > 2000:
            check(name, module.weight, rule)
            seen += 1
        if isinstance(module, nn.Linear) and module.bias is not None:
            assert torch.any(module.bias != 0).item() is not zero, name
    assert seen > 3

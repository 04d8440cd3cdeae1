"""Initial values of weights that many papers share, for ``model.apply``."""

from __future__ import annotations

from torch import nn

__all__ = ["he_fan_in", "he_fan_out"]


def he_fan_in(module: nn.Module) -> None:
    """Convolutions start as zero-mean Gaussians of variance 2 / fan-in: values keep their size on the way forward.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 10.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def he_fan_out(module: nn.Module) -> None:
    """Convolutions start as zero-mean Gaussians of variance 2 / fan-out: gradients keep their size on the way back.

    Source: the same, equation 14.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

"""Losses that many papers share. A model's file imports the one that its paper trains with as ``objective``."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["cross_entropy"]


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy, averaged over the batch: a scalar.

    Args:
        output: logits [N, K].
        target: classes [N], long; or probabilities [N, K], which mixing of pictures gives.
    """
    return F.cross_entropy(output, target)

"""The loss of most segmentation networks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["pixel_cross_entropy"]


def pixel_cross_entropy(logits: Tensor, classes: Tensor, *, ignore: int = 255, align_corners: bool = False) -> Tensor:
    """Softmax cross-entropy, averaged over the pixels that have a label: a scalar.

    Args:
        logits: [N, K, h, w]; brought to the labels' size by bilinear interpolation.
        classes: LongTensor [N, H, W].
        ignore: class of the pixels that do not count.
        align_corners: whether the corner pixels of both maps lie on each other.
    """
    if logits.shape[-2:] != classes.shape[-2:]:
        logits = F.interpolate(logits, classes.shape[-2:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(logits, classes, ignore_index=ignore)

"""Rows of handwritten digits as sequences of whole numbers, to be repeated or said backwards.

The pixels of scikit-learn's digits have 17 shades, which are the words 1 to 17; 0 stands for the beginning. A sequence
starts in the fourth row of its digit and is read line by line, so eight words are one row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipkb.evidence.data.sources import all_digits

VOCABULARY = 18
"""The beginning and 17 shades of grey."""
BEGINNING = 0
FIRST_ROW = 3
"""The rows above it are often alike."""


def batch(shape: Sequence[int], *, reverse: bool = False) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Source and target so far, and target: LongTensors [N, L]. ``reverse`` asks for the source backwards.

    The target so far is the target one place later, behind the beginning: at each place what was said before it.
    """
    source = _shades(shape)
    target = source.flip(1) if reverse else source.clone()
    return (source, _so_far(target)), target


def inputs(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Source and target so far of a copy."""
    return batch(shape)[0]


def blank(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Shapes and types only."""
    return torch.empty(tuple(shape), dtype=torch.long), torch.empty(tuple(shape), dtype=torch.long)


def misfit(output: Tensor, target: Tensor) -> str | None:
    """What was wanted, if the output is not logits for each place of the target [N, L]."""
    fits = output.dim() == 3 and output.shape[:2] == target.shape
    return None if fits else f"[{target.shape[0]}, {target.shape[1]}, vocabulary]"


def _shades(shape: Sequence[int]) -> Tensor:
    """Words of N digits; a sequence longer than the rest of its digit goes on in the next one."""
    if len(shape) != 2 or any(size < 1 for size in shape):
        raise ValueError(f"shape is {list(shape)}; sequences have the shape [N, L]")
    count, length = shape
    words = (all_digits()[0].flatten() * 16).round().long() + 1
    digits = -(-(8 * FIRST_ROW + length) // 64)  # that a sequence reaches into
    starts = 64 * digits * torch.arange(count) + 8 * FIRST_ROW
    return words[(starts[:, None] + torch.arange(length)) % len(words)]


def _so_far(target: Tensor) -> Tensor:
    return torch.cat([torch.full_like(target[:, :1], BEGINNING), target[:, :-1]], dim=1)

"""Views: which part of its storage a tensor is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Geometry = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Offset, shape and strides."""


def storage_of(tensor: Tensor) -> int:
    """Address of the storage; tensors of one storage share their elements."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, functorch
        return -id(tensor)


def geometry_of(tensor: Tensor) -> Geometry:
    """Where in its storage the tensor lies."""
    return int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()


def covers(tensor: Tensor) -> bool:
    """Whether the tensor is all of its storage."""
    if storage_of(tensor) < 0:
        return True
    return tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()


def region_of(target: Tensor, index: Any) -> Tensor | None:
    """The view that basic indexing gives; None for an index by tensors."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, (Tensor, list)) for part in parts):
        return None
    with torch._C.DisableTorchFunction():
        return target[index]


def disjoint(one: Geometry, two: Geometry) -> bool:
    """Whether two views of one storage certainly share no element."""
    (start, shape, strides), (other, shape2, strides2) = sorted((one, two), key=lambda region: region[0])
    if start + sum((side - 1) * step for side, step in zip(shape, strides, strict=True)) < other:
        return True
    if strides != strides2 or len(shape) != len(shape2):
        return False
    gap = other - start
    for side, step in zip(shape, strides, strict=True):
        if step and gap % step == 0 and gap // step >= side:
            larger = [s for s in strides if s > step]
            if not larger or gap < min(larger):
                return True
    return False

"""RetinaNet of torchvision takes a list of pictures and returns detections, or losses in training mode."""

from __future__ import annotations

from typing import Any


def undo(theirs: Any) -> None:
    """Raw outputs for a batch of pictures, as ours."""
    theirs.forward = lambda x: theirs.head(list(theirs.backbone(x).values()))

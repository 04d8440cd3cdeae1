"""GoogLeNet of torchvision returns a tuple in training mode and draws its dropout in another order."""

from __future__ import annotations

from typing import Any

from torch import nn


def undo(theirs: nn.Module) -> None:
    """No dropout, and the outputs by name."""
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    theirs.register_forward_hook(lambda _module, _x, y: _by_name(y))


def _by_name(output: Any) -> Any:
    return dict(zip(("logits", "aux2", "aux1"), output, strict=True)) if isinstance(output, tuple) else output

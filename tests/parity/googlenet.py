"""GoogLeNet of torchvision returns a tuple in training mode, ours a dict."""

from __future__ import annotations

from typing import Any

from torch import nn


def undo(theirs: nn.Module) -> None:
    """The outputs by name."""
    theirs.register_forward_hook(lambda _module, _x, output: _by_name(output))


def _by_name(output: Any) -> Any:
    return dict(zip(("logits", "aux2", "aux1"), output, strict=True)) if isinstance(output, tuple) else output

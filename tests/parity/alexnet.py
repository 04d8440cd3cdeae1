"""AlexNet of pytorchcv normalises with PyTorch's alpha, a fifth of the paper's."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F


def undo(theirs: nn.Module) -> None:
    """The paper's alpha: PyTorch divides it by the number of channels it looks at."""
    for module in theirs.modules():
        if getattr(module, "use_lrn", False):
            module.use_lrn = False  # type: ignore[assignment]
            module.register_forward_hook(lambda _module, _x, y: F.local_response_norm(y, 5, alpha=5e-4, k=2.0))

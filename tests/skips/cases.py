"""Small networks for the tests of one kind of situation each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Net(nn.Module):
    """Holds what it is given under the names it is given; ``rule`` is its forward."""

    def __init__(self, rule: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.rule = rule

    def forward(self, *inputs: Any) -> Any:
        return self.rule(self, *inputs)

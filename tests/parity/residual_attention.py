"""Residual attention networks of pytorchcv differ from the authors' definitions in places without parameters.

They pad their poolings, add the skips within the mask twice, and the trunk to what the mask is computed from.
"""

from __future__ import annotations

import re

from torch import nn

RULES = (
    (r"^features\.|(res_blocks\.blocks|skip1\.body|body)\.", ""), (r"init_block\.conv\.(conv|bn)", r"\g<1>1"),
    (r"post_activ\.bn", "bn"), ("^output", "fc"), (r"init_blocks\.blocks", "first"), ("final_block", "last.0"),
    (r"hg\.skip_seq\.skip1\.blocks", "trunk"), ("middle_block", "mask"), ("identity_conv", "projection"),
    (r"conv(\d)\.(conv|bn)\b", r"\2\1"),
)  # fmt: skip


def our_name(name: str) -> str:
    """Our name for one of theirs; they count from one, and the skips within the mask from two."""
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    name = re.sub(r"(?:unit|block)(\d+)", lambda found: str(int(found[1]) - 1), name)
    name = re.sub(r"hg\.(down|up)_seq\.(?:down|up)(\d)", lambda found: f"mask.{found[1]}.{int(found[2]) - 1}", name)
    return re.sub(r"hg\.skip_seq\.skip(\d)", lambda found: f"mask.skip.{int(found[1]) - 2}", name)


def undo(theirs: nn.Module) -> None:
    """The authors' poolings, each skip once, and the mask from its own branch."""
    for module in theirs.modules():
        if isinstance(module, nn.MaxPool2d):
            module.padding, module.ceil_mode = 0, True
        elif type(module).__name__ == "DoubleSkipBlock":
            module.forward = module.skip1.forward  # type: ignore[method-assign,union-attr]
        elif type(module).__name__ == "Hourglass":
            module.register_forward_hook(lambda _module, _x, y: (y[0] - y[1], y[1]))

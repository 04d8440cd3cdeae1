"""The check of its input that a model makes before it computes anything."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["check_pictures"]


def check_pictures(
    model: str, x: Tensor, in_channels: int, *, size: Sequence[int] | None = None, least: int = 1, multiple: int = 1
) -> None:
    """Refuse what is not a batch of pictures [N, in_channels, H, W].

    Args:
        model: name of the model, for the message.
        x: the input.
        in_channels: channels that a picture must have.
        size: H and W, where the model takes only one size.
        least: the smallest H and W.
        multiple: what H and W must be multiples of.

    Raises:
        ValueError: with the name of the model, what it expects, and the shape that it got.
    """
    if x.dim() == 4 and x.shape[1] == in_channels:
        height, width = x.shape[2:]
        fits = size is None or (height, width) == tuple(size)
        fits = fits and height >= least and width >= least
        if fits and (multiple == 1 or (height % multiple == 0 and width % multiple == 0)):
            return
    sides = "H, W" if size is None else f"{size[0]}, {size[1]}"
    wanted = [f"at least {least}"] * (least > 1) + [f"multiples of {multiple}"] * (multiple > 1)
    rule = f" with H and W {' and '.join(wanted)}" if wanted else ""
    raise ValueError(f"{model}: expected input [N, {in_channels}, {sides}]{rule}, got {list(x.shape)}")

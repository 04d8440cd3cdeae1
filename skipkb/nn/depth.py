"""How many blocks a network has whose depth is given."""

from __future__ import annotations

__all__ = ["blocks_of_depth"]


def blocks_of_depth(model: str, depth: int, step: int, rest: int) -> int:
    """The n for which a network has ``depth`` = ``step`` n + ``rest`` layers.

    Args:
        model: name of the model, for the message.
        depth: layers of the network.
        step: layers that one more block in each stage adds.
        rest: layers outside the blocks.

    Raises:
        ValueError: there is no such n of at least 1; with the nearest depths.
    """
    n, left = divmod(depth - rest, step)
    if n < 1 or left:
        near = step * max(n, 1) + rest
        raise ValueError(
            f"{model}: depth must be {step}n+{rest}, got {depth}; the nearest are {near} and {near + step}"
        )
    return n

"""Builders of published configurations that differ in nothing but numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

__all__ = ["published"]

Model = TypeVar("Model")


def published(network: Callable[..., Model], /, *, free: Collection[str] = (), **numbers: Any) -> Callable[..., Model]:
    """A builder of ``network`` whose numbers are fixed, so that its name stands for one configuration.

    Args:
        network: a class, or a function, with keyword-only arguments.
        free: arguments that the builder takes, beside ``num_classes`` and ``in_channels``.
        numbers: what is given to ``network``; of a free argument, the default.

    Returns:
        The builder. It raises a TypeError for any other argument.
    """
    whole = inspect.signature(network)
    taken = [
        parameter.replace(default=numbers.get(name, parameter.default))
        for name, parameter in whole.parameters.items()
        if name in ("num_classes", "in_channels", *free)
    ]
    signature = whole.replace(parameters=taken)

    def build(**options: Any) -> Model:
        signature.bind(**options)
        return network(**numbers | options)

    build.__signature__ = signature  # type: ignore[attr-defined]  # for help() and editors
    return build

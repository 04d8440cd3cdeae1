"""Build any model of the catalogue by name."""

from __future__ import annotations

import fnmatch
import json
import re
from typing import TYPE_CHECKING, Any

from skipkb.catalog.imports import resolve
from skipkb.catalog.index import folded, query
from skipkb.catalog.problems import UnknownNameError
from skipkb.catalog.search import BY_NAME, spelt_like

if TYPE_CHECKING:
    from torch import nn


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that can be built, in natural order (resnet18 before resnet101).

    Args:
        pattern: shell-style wildcards, such as ``*resnet*``; upper and lower case are the same.
    """
    names = [name for (name,) in query("SELECT name FROM variant")]
    matched = [name for name in names if fnmatch.fnmatchcase(name, pattern.lower())]
    return sorted(
        matched, key=lambda name: [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
    )


def create_model(name: str, *, weights: str | None = None, **kwargs: Any) -> nn.Module:
    """Build the model ``name``, freshly initialised or with published weights.

    Args:
        name: one of :func:`list_models`.
        weights: published weights, such as ``timm/resnet50.a1_in1k`` (see :func:`skipkb.weights.load_weights`).
        kwargs: arguments of the method's builder, such as ``num_classes=10``.

    Raises:
        UnknownNameError: when there is no such model, with the nearest names.
        TypeError: for an argument the builder does not have.
        WeightsError: when the weights cannot be had or do not fit.
        ImportError: when torch is not installed.
    """
    rows = query("SELECT build, kwargs FROM variant WHERE name = ?", [name])
    if not rows:
        models = list_models()
        own = {model for (model,) in query(f"SELECT name FROM variant WHERE entry IN ({BY_NAME})", [folded(name)])}
        near = [model for model, _ in spelt_like(name) if model in models]
        alike = [model for model in models if model in own and model.startswith(folded(name))]
        suggestions = (alike or [model for model in models if model in own] or near)[:3]
        raise UnknownNameError("model", name, suggestions)
    build, defaults = rows[0]
    try:
        import torch

        with torch.device("cpu"):  # torch 2.6 cannot import parts of itself where the meta device is the default
            builder = resolve(build)
    except ModuleNotFoundError as error:
        message = f"model {name!r} needs {error.name}, which is not installed: pip install 'skipkb[models]'"
        raise ImportError(message, name=error.name) from error
    model: nn.Module = builder(**{**json.loads(defaults), **kwargs})
    if weights is not None:
        from skipkb.weights import load_weights

        load_weights(model, weights)
    return model


def declared_input(name: str) -> tuple[str, tuple[int, ...]] | None:
    """Kind of data and input shape for which the catalogue gives the figures of a model; None for one it lacks."""
    rows = query("SELECT entry.json FROM variant JOIN entry ON entry.id = variant.entry WHERE variant.name = ?", [name])
    for entry in (json.loads(text) for (text,) in rows):
        for variant in entry["variants"]:
            if variant["name"] == name:
                return variant.get("data") or entry["smoke"]["data"], tuple(variant["input"])
    return None

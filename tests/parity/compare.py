"""What parity tests share: give two builds of one network the same weights, and compare what they compute."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
LIMIT = 1e-8
"""Largest relative difference of outputs; of gradients a hundred times this."""
PROJECTION = re.compile(r"(downsample|shortcut|identity_conv|skip|skipbn)\b")


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network without numbers, if all that it holds comes with a state dict; else with them."""
    try:
        with torch.device("meta"):
            model = build()
    except (NotImplementedError, RuntimeError):  # a constructor that looks at numbers
        return build()
    made = {name.rpartition(".")[2] for name, _ in model.named_buffers()} - set(STATISTICS)
    return build() if made else model


def of_any_size(model: Any) -> None:
    """Exchange the last pooling of a network of pytorchcv, which has a fixed size, for the mean over all places."""
    for part, name in (
        ("features", "final_pool"),
        ("features.final_block", "pool"),
        ("output", "final_pool"),
        ("output", "avg_pool"),
    ):
        with suppress(AttributeError):
            module = model.get_submodule(part)
            if isinstance(getattr(module, name), nn.AvgPool2d):
                setattr(module, name, nn.AdaptiveAvgPool2d(1))


def scramble(model: nn.Module) -> None:
    """Random weights and statistics of about unit gain, so that no two layers are alike and none is without effect."""
    norms = {id(m.weight) for m in model.modules() if hasattr(m, "eps") and isinstance(m.weight, Tensor)}
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        kind = name.rpartition(".")[2]
        if kind == "running_var" or id(value) in norms:
            state[name] = torch.empty(value.shape).uniform_(0.5, 1.5)
        elif kind == "num_batches_tracked":
            state[name] = torch.zeros(value.shape, dtype=value.dtype)
        elif kind == "running_mean" or kind.endswith("bias"):
            state[name] = torch.randn(value.shape) * 0.1
        elif not isinstance(value, nn.Parameter):
            state[name] = value
        elif value.squeeze().dim() < 2:  # a scale
            state[name] = torch.empty(value.shape).uniform_(0.2, 0.5)
        else:
            gain = 2 if value.dim() > 2 else 1
            state[name] = torch.randn(value.shape) * math.sqrt(gain / value[0].numel())
    model.load_state_dict(state, strict=True, assign=True)


def renamed(names: Iterable[str], rules: str | Sequence[Sequence[str]], ours: Iterable[str]) -> dict[str, str]:
    """Our name for each of their names.

    Args:
        names: Theirs, in their order.
        rules: ``in order``, or pairs of a regular expression and its replacement; none where the names are the same.
        ours: Ours, in our order.
    """
    if rules == "in order":
        return dict(zip(in_blocks(names), in_blocks(ours), strict=True))
    found = {}
    for name in names:
        found[name] = name
        for pattern, replacement in rules:
            found[name] = re.sub(pattern, replacement, found[name])
    return found


def in_blocks(names: Iterable[str]) -> list[str]:
    """The names in their order, but with the projection of a shortcut last in its block, wherever it is listed."""
    names = list(names)
    places: list[float] = []
    for place, name in enumerate(names):
        if found := PROJECTION.search(name):
            block = name[: found.start()]
            places.append(max(i for i, other in enumerate(names) if other.startswith(block)) + 0.5)
        else:
            places.append(place)
    return [names[i] for i in sorted(range(len(names)), key=places.__getitem__)]


def load(ours: nn.Module, theirs: nn.Module, names: Mapping[str, str]) -> None:
    """Give ours the very tensors of theirs, strictly; a shape may differ by ones, as of a linear layer and a 1x1.

    Statistics are copied: each network goes on with its own.
    """
    wanted = ours.state_dict()
    state = {}
    for name, value in theirs.state_dict().items():
        like = wanted.get(names[name])
        fits = like is not None and [n for n in like.shape if n > 1] == [n for n in value.shape if n > 1]
        given = value.view(like.shape) if like is not None and fits else value
        state[names[name]] = given.clone() if name.endswith(STATISTICS) else given
    ours.load_state_dict(state, strict=True, assign=True)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference, relative to the largest value of theirs."""
    return largest(ours - theirs) / largest(theirs)


def largest(values: Tensor) -> float:
    """Largest absolute value."""
    low, high = values.detach().aminmax()
    return max(-low.item(), high.item())


def same_runs(ours: nn.Module, theirs: nn.Module, x: Tensor, names: Mapping[str, str] | None = None) -> None:
    """Assert equal outputs and, of one batch in training mode, equal gradients and running statistics.

    In float64, where the order of additions does not show. Where theirs returns a dict, ours does, with its keys.

    Args:
        ours, theirs: The networks, with the same weights.
        x: Pictures, ``(N, C, H, W)``.
        names: Our name for each of their tensors; without it only the gradient of the picture is compared.
    """
    names = names or {}
    mine, others = ours.double(), theirs.double()
    with torch.no_grad():
        for found, wanted in pairs(mine.eval()(x.double()), others.eval()(x.double())):
            assert found.shape == wanted.shape
            assert difference(found, wanted) < LIMIT
    outputs, pictures = [], []
    for net in (mine, others):
        torch.manual_seed(2)  # the same dropout
        pictures.append(x.double().detach().requires_grad_())
        outputs.append(net.train()(pictures[-1]))
    losses: list[Any] = [0.0, 0.0]
    for both in pairs(*outputs):
        assert difference(*both) < LIMIT, "outputs in training mode"
        direction = torch.randn_like(both[0])
        losses = [loss + (y * direction).sum() for loss, y in zip(losses, both, strict=True)]
    for loss in losses:
        loss.backward()
    of_ours, of_theirs = dict(mine.named_parameters()), dict(others.named_parameters())
    gradients = {name: (of_ours[names[name]].grad, p.grad) for name, p in of_theirs.items() if name in names}
    gradients["the picture"] = (pictures[0].grad, pictures[1].grad)
    sizes = {name: largest(grad) for name, (_, grad) in gradients.items() if grad is not None}
    floor = 1e-6 * max(sizes.values())  # a bias before a normalisation gets rounding only
    for name, (grad, other) in gradients.items():
        if grad is None or other is None:
            assert grad is other, f"only one has a gradient of {name}"
        else:
            error = largest(grad.view_as(other) - other) / max(sizes[name], floor)
            assert error < 100 * LIMIT, f"gradient of {name} differs by {error:.2g}"
    of_ours, of_theirs = dict(mine.named_buffers()), dict(others.named_buffers())
    for name, value in of_theirs.items():
        if name in names and name.endswith(STATISTICS[:2]):
            assert difference(of_ours[names[name]], value) < LIMIT, f"{name} after a step in training mode"


def pairs(ours: Any, theirs: Any) -> list[tuple[Tensor, Tensor]]:
    """Outputs that belong together, of networks that return one or a dict of them."""
    if isinstance(theirs, dict):
        return [(ours[name], value) for name, value in theirs.items()]
    return [(ours, theirs)]

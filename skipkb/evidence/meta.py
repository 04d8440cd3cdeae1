"""Full-size networks on the meta device: shapes and counts of the variants, without their weights."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skipkb.catalog.entry import Variant
from skipkb.catalog.imports import resolve
from skipkb.skips import SkipGraph, trace_skips

TOOL = "torch.utils.flop_counter.FlopCounterMode, halved"


def build(variant: Variant) -> nn.Module:
    """The variant in eval mode on the meta device.

    Raises:
        RuntimeError: the builder gave some parameter real memory.
    """
    builder = resolve(variant.build)  # before: torch 2.6 cannot import parts of itself on the meta device
    with torch.device("meta"):
        model = builder(**variant.kwargs)
    if not isinstance(model, nn.Module):
        raise TypeError(f"{variant.build} returned {type(model).__name__} instead of an nn.Module")
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:
            raise RuntimeError(f"{variant.build} puts {name!r} on {parameter.device} by itself")
    return model.to("meta").eval()


def parameters(model: nn.Module) -> int:
    """Number of parameters, a shared one counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def run(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, int]:
    """Output (on the meta device) and multiply-accumulates for ``inputs`` there."""
    known = {}
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # torchvision was imported, perhaps by the model
        known[torch.ops.torchvision.deform_conv2d] = _deformable_convolution
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:  # the counter fails where a module returns a view of a parameter that asks for a gradient
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=known) as counter:
            output = model(*inputs)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return output, counter.get_total_flops() // 2


def _deformable_convolution(x: Any, weight: Any, *rest: Any, out_shape: Any, **options: Any) -> int:
    """As many operations as a plain convolution, which the counter knows; the interpolation is not counted."""
    operations: int = 2 * math.prod(weight) * out_shape[0] * math.prod(out_shape[2:])
    return operations


def shapes(output: Any) -> list[int] | list[Any] | dict[str, Any]:
    """Shapes of a tensor, or of the tensors inside a tuple, list or dict."""
    if isinstance(output, Tensor):
        return list(output.shape)
    if isinstance(output, dict):
        return {name: shapes(value) for name, value in output.items()}
    if isinstance(output, tuple | list):
        return [shapes(value) for value in output]
    raise TypeError(f"a network returns a Tensor, a tuple or a dict of them, not {type(output).__name__}")


def trace(
    model: nn.Module, inputs: tuple[Tensor, ...], capture: Literal["function", "dispatch"] = "function"
) -> SkipGraph:
    """The skip connections of one network for ``inputs`` on the meta device."""
    return trace_skips(model, inputs, capture=capture)


def figures(model: nn.Module, shape: list[int], inputs: tuple[Tensor, ...], graph: SkipGraph) -> dict[str, Any]:
    """All counted figures of one network for ``inputs``, the first of which has ``shape``; ``graph`` is its trace."""
    output, macs = run(model, inputs)
    leaves = Counter(type(part).__name__ for part in model.modules() if not any(part.children()))
    return {
        "parameters": parameters(model),
        "buffers": sum(buffer.numel() for buffer in model.buffers()),
        "macs": macs,
        "input": list(shape),
        "output": shapes(output),
        "modules": dict(sorted(leaves.items())),
        "skips": dict(graph.counts()),
    }

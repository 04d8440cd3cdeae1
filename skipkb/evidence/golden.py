"""Run a network the way the recorded ones were run, and compare.

Two implementations of one architecture that use the same names get the same weights here, without any file of weights:
the values of a tensor depend only on its name (or its place) and its shape. So numbers recorded from the authors' own
code are enough to show that ours computes the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from skipkb.evidence.records import Input, Output, Record

SAMPLES = 16
"""Values kept of each output."""


@dataclass(frozen=True)
class Comparison:
    """How our network stands to a record."""

    names_equal: bool
    """Whether the state dict has the same names with the same shapes."""
    parameters_equal: bool
    """Whether the number of parameters is the same."""
    difference: float
    """Largest relative difference of an output; infinite for other shapes and for what is not a number."""
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether all three hold."""
        return self.names_equal and self.parameters_equal and self.difference <= self.tolerance


def compare(record: Record, model: nn.Module) -> Comparison:
    """Fill ``model``, run it on the record's input, and compare with the record's outputs.

    The state of the caller's random numbers is left alone; weights and mode of ``model`` are not.

    Args:
        record: What the released network gave.
        model: Ours of the same configuration, freshly built, on the CPU in float32.
    """
    state = {name: t for name, t in model.state_dict().items() if not name.endswith(record.names_without)}
    names_equal = len(state) == record.names.n and names_sha256(state) == record.names.sha256
    count = sum(parameter.numel() for parameter in model.parameters())
    count += sum(b.numel() for name, b in model.named_buffers() if name.endswith(record.buffers_counted))
    fill(model, by=record.fill, restore=record.restore, gain=record.gain)
    model.train(record.mode == "train")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = summary(_call(record.key)(model, inputs(record.input)))
    return Comparison(names_equal, count == record.params, difference(found, record.outputs), record.tolerance)


def names_sha256(state: dict[str, Tensor]) -> str:
    """Hash of the names and shapes of a state dict; their order does not matter."""
    entries = sorted([name, list(tensor.shape)] for name, tensor in state.items())
    return hashlib.sha256(json.dumps(entries, separators=(",", ":")).encode()).hexdigest()


@torch.no_grad()
def fill(model: nn.Module, *, by: str = "name", restore: Sequence[str] = (), gain: float = 1.0) -> None:
    """Overwrite every floating-point tensor of the state dict, buffers included.

    Args:
        model: The network.
        by: "name" draws the values of a tensor with the CRC-32 of its name as the seed, "order" with its place.
        restore: Endings of names that keep their values.
        gain: Factor of tensors of two or more dimensions.
    """
    for place, (name, tensor) in enumerate(model.state_dict().items()):
        if tensor.is_floating_point() and not name.endswith(tuple(restore)):
            seed = place if by == "order" else zlib.crc32(name.encode())
            tensor.copy_(_values(name.rpartition(".")[2], tensor.shape, seed, gain))


def inputs(spec: Input) -> list[Tensor]:
    """The input tensors that ``spec`` describes."""
    return [spec.scale * _normal(shape, spec.seed + i) for i, shape in enumerate(spec.shapes)]


def summary(output: Any) -> list[Output]:
    """The floating-point tensors inside an output, each by its shape, samples and moments.

    Args:
        output: A tensor, or tensors in tuples, lists, dicts or data classes. Anything else is passed over.
    """
    return [_sampled(tensor) for tensor in _tensors(output)]


def difference(found: Sequence[Output], wanted: Sequence[Output]) -> float:
    """Largest difference of a sample or moment, relative to the largest value of the recorded output."""
    if [output.shape for output in found] != [output.shape for output in wanted]:
        return math.inf
    largest = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        for a, b in zip(_numbers(ours), _numbers(theirs), strict=True):
            relative = abs(a - b) / max(theirs.absmax, 1e-12)
            if math.isnan(relative):
                return math.inf
            largest = max(largest, relative)
    return largest


# --------------------------------------------------------------------------------------- small parts


def _call(key: str) -> Callable[[nn.Module, list[Tensor]], Any]:
    """How the network of an entry was called: in its own way, or with all inputs."""
    name = f"skipkb.evidence.calls.{key}"
    if find_spec(name) is None:
        return lambda model, given: model(*given)
    call: Callable[[nn.Module, list[Tensor]], Any] = import_module(name).call
    return call


def _normal(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def _values(leaf: str, shape: Sequence[int], seed: int, gain: float) -> Tensor:
    """Values of one tensor by what it is: ``leaf`` is the last part of its name.

    Statistics and scales stay near one and offsets near zero, so that no layer is idle; matrices and kernels keep the
    size of what goes through them.
    """
    noise = _normal(shape, seed)
    if leaf == "running_var":
        return 1 + 0.1 * noise.abs()
    if leaf != "running_mean" and len(shape) >= 2:
        return noise / math.sqrt(max(math.prod(shape[1:]), 1)) * gain
    is_scale = leaf != "running_mean" and any(word in leaf for word in ("weight", "gamma", "scale"))
    return 1 + 0.1 * noise if is_scale else 0.1 * noise


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        parts = list(output.values())
    elif dataclasses.is_dataclass(output):
        parts = [getattr(output, field.name) for field in dataclasses.fields(output)]
    elif isinstance(output, tuple | list):
        parts = list(output)
    else:
        parts = []
    return [tensor for part in parts for tensor in _tensors(part)]


def _sampled(tensor: Tensor) -> Output:
    values = tensor.detach().double().flatten()
    if not values.numel():
        raise ValueError(f"an output of shape {list(tensor.shape)} has no values to compare")
    places = torch.linspace(0, values.numel() - 1, SAMPLES).long()
    return Output(
        shape=list(tensor.shape),
        first=values[places].tolist(),
        mean=values.mean().item(),
        std=values.std(unbiased=False).item(),
        absmax=values.abs().max().item(),
    )


def _numbers(output: Output) -> list[float]:
    return [*output.first, output.mean, output.std, output.absmax]

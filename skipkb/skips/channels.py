"""Which channels of a network are one, because it adds or multiplies them.

A filter can be taken out of a network only together with everything that belongs to its channel: the scale and the mean
behind it, the slice of each later filter that reads it, and, where a skip adds two maps, the filter of the same
number on the other side. :class:`Channels` finds these by watching one forward pass on shapes.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Channel", "Channels"]

PASS = {
    "relu", "relu_", "relu6", "hardtanh", "silu", "gelu", "elu", "leaky_relu", "hardswish", "tanh", "dropout",
    "dropout2d", "clone", "contiguous", "neg", "__neg__", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "interpolate", "mean", "sum", "amax", "flatten", "reshape", "view", "__getitem__",
}  # fmt: skip
"""Operations whose output channels are those of their input, and zero where it is zero."""
ADD = {"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__"}
MULTIPLY = {"mul", "mul_", "__mul__", "__rmul__", "__imul__"}
GATE = {"sigmoid", "hardsigmoid"}


def layer_of(parameter: str) -> str:
    """``layer1.0.conv1.weight`` belongs to ``layer1.0.conv1``."""
    return parameter.rpartition(".")[0]


class Channel:
    """One channel of a network: the filters, biases and scales that make it, all of which go when it goes.

    Attributes:
        made: (name of a parameter or buffer, index along its first axis).
        makers: the convolutions and linear layers among them, by name.
        stays: whether something reads it that needs all of its channels.
    """

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.makers: tuple[str, ...] = ()
        self.stays = False


class Channels(TorchFunctionMode):
    """Which outputs of which layers are one channel, seen in a forward pass over shapes.

    Args:
        model: takes pictures; it is copied and stays as it is.
        shape: of a batch of them, [N, C, H, W].
        leave: layers that keep their channels; by default the first convolution, and what the last
            linear layer reads.

    Attributes:
        layers: channels that may go, by the layers that make them together.
        along: for each parameter and buffer, the channels along each of its axes that has any.

    Raises:
        ValueError: ``leave`` names something that makes no channels.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int], leave: Collection[str] | None = None) -> None:
        super().__init__()
        self.along: dict[str, dict[int, list[Channel]]] = {}
        self.seen: dict[int, list[Channel]] = {}
        self.alive: list[Tensor] = []
        self.gates: set[int] = set()
        self.joined: dict[Channel, Channel] = {}
        ghost = copy.deepcopy(model).to("meta").eval()
        self.names = {
            id(tensor): f"{name}.{part}"
            for name, layer in ghost.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
            for part, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        }
        with torch.no_grad(), self:
            output = ghost(torch.empty(tuple(shape), device="meta"))
        self.stay(self.of(output))
        weights = [name for name, axes in self.along.items() if 1 in axes]
        if leave is None:
            linear = [name for name in weights if isinstance(ghost.get_submodule(layer_of(name)), nn.Linear)]
            self.stay(self.along[weights[0]][0] if weights else [])
            self.stay(self.along[linear[-1]][1] if linear else [])
        for name in leave or ():
            if f"{name}.weight" not in weights:
                raise ValueError(
                    f"Channels: {name} makes no channels; those that do: {', '.join(map(layer_of, weights))}"
                )
            self.stay(self.along[f"{name}.weight"][0])
        self.along = {
            name: {axis: [self.one(channel) for channel in along] for axis, along in axes.items()}
            for name, axes in self.along.items()
        }
        for name, axes in self.along.items():
            for index, channel in enumerate(axes.get(0, [])):
                channel.made.append((name, index))
                channel.makers += (layer_of(name),) if name in weights else ()
        layers: dict[tuple[str, ...], dict[Channel, None]] = {}
        for name in weights:
            for channel in self.along[name].get(0, []):
                if not channel.stays:
                    layers.setdefault(channel.makers, {})[channel] = None
        self.layers = [list(layer) for layer in layers.values()]

    def one(self, channel: Channel) -> Channel:
        while channel in self.joined:
            channel = self.joined[channel]
        return channel

    def stay(self, channels: Iterable[Channel]) -> None:
        for channel in channels:
            self.one(channel).stays = True

    def tie(self, some: Sequence[Channel], others: Sequence[Channel]) -> list[Channel]:
        for a, b in zip(some, others, strict=True):
            a, b = self.one(a), self.one(b)
            if a is not b:
                self.joined[b] = a
                a.stays |= b.stays
        return list(some)

    def of(self, tensor: Tensor) -> list[Channel]:
        """The channels of a feature map or vector; new ones, which stay, where nothing is known of it."""
        if id(tensor) not in self.seen:
            self.note(tensor, [Channel() for _ in range(tensor.shape[1] if tensor.dim() > 1 else 0)])
            self.stay(self.seen[id(tensor)])
        return self.seen[id(tensor)]

    def note(self, tensor: Tensor, channels: list[Channel]) -> None:
        self.seen[id(tensor)] = channels
        self.alive.append(tensor)  # or its id would be given to another

    def axis(self, tensor: Tensor, axis: int, channels: list[Channel]) -> None:
        """These channels lie along an axis of this tensor. They stay if it is not a parameter."""
        name = self.names.get(id(tensor))
        if name is None:
            self.stay(channels)
        else:
            self.tie(self.along.setdefault(name, {}).setdefault(axis, channels), channels)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("__get__", "size", "dim", "numel"):
            return result
        flat = [
            part
            for value in [*args, *kwargs.values()]
            for part in (value if isinstance(value, list | tuple) else [value])
        ]
        tensors = [value for value in flat if isinstance(value, Tensor)]
        found = self.follow(name, tensors, result, args, kwargs) if isinstance(result, Tensor) else None
        if found is None:
            for tensor in tensors:
                self.stay(self.of(tensor))
        if isinstance(result, Tensor):
            self.seen.pop(id(result), None)
            self.of(result) if found is None else self.note(result, found)
        return result

    def follow(
        self, name: str, tensors: list[Tensor], result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[Channel] | None:
        """The channels of a result, or None where they cannot be told from those of the tensors it is made of."""
        if not tensors or (name not in MULTIPLY and any(id(tensor) in self.gates for tensor in tensors)):
            return None  # a gate of zero is a half, which goes only when it is multiplied with a zero
        first, *others = (self.of(tensor) if id(tensor) not in self.names else [] for tensor in tensors)
        if name in GATE:
            self.gates.add(id(result))
            return first
        if name == "conv2d":
            groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
            return self.weighted(first, tensors[1:], depthwise=groups > 1) if groups in (1, len(first)) else None
        if name == "linear" and result.dim() == 2:
            return self.weighted(first, tensors[1:], depthwise=False)
        if name == "batch_norm" and len(tensors) == 5:
            for tensor in tensors[1:]:
                self.axis(tensor, 0, first)
            return first
        if name == "cat":
            side_by_side = kwargs.get("dim", args[1] if len(args) > 1 else 0) == 1
            return [*first, *(channel for other in others for channel in other)] if side_by_side else None
        if name in ADD | MULTIPLY and len(tensors) == 2:
            if len(first) == len(others[0]):
                return self.tie(first, others[0])
            one_gate = name in MULTIPLY and 1 in (len(first), len(others[0]))
            return max(first, others[0], key=len) if one_gate else None
        if name in MULTIPLY:
            return first
        if name == "pad":
            return self.padded(first, args[1])
        return passed(name, first, tensors[0], result, args, kwargs) if name in PASS and len(tensors) == 1 else None

    def weighted(self, inputs: list[Channel], parameters: list[Tensor], *, depthwise: bool) -> list[Channel] | None:
        weight = parameters[0]
        if id(weight) not in self.names or (depthwise and len(weight) != len(inputs)):
            return None
        outputs = inputs if depthwise else [Channel() for _ in range(len(weight))]
        if not depthwise:
            self.axis(weight, 1, inputs)
        for parameter in parameters:
            self.axis(parameter, 0, outputs)
        return self.along[self.names[id(weight)]][0]

    def padded(self, inputs: list[Channel], amounts: Sequence[int]) -> list[Channel] | None:
        """Zeros around the map, or new channels of them, which stay."""
        if len(amounts) < 5:
            return inputs
        before, after = ([Channel() for _ in range(amount)] for amount in amounts[4:6])
        self.stay([*before, *after])
        return [*before, *inputs, *after]


def passed(
    name: str, channels: list[Channel], x: Tensor, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Channel] | None:
    """The channels behind an operation that leaves them alone, unless it works along them."""
    if name in ("mean", "sum", "amax"):
        over = kwargs.get("dim", args[1] if len(args) > 1 else tuple(range(x.dim())))
        if any(axis % x.dim() < 2 for axis in (over if isinstance(over, tuple | list) else (over,))):
            return None
    if name == "__getitem__" and not (isinstance(args[1], tuple) and args[1][1:2] == (slice(None),)):
        return None
    if name in ("flatten", "reshape", "view") and result.dim() == 2 and x.dim() == 4:
        return [channel for channel in channels for _ in range(result.shape[1] // len(channels))]
    return channels if result.dim() > 1 and result.shape[:2] == x.shape[:2] else None

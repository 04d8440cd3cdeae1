"""Linear operations are not activations, and a norm written by hand is a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cases import Net  # type: ignore[import-not-found]
from .ways import CAPTURES, traced  # type: ignore[import-not-found]

Way = Callable[[Tensor], Tensor]

LINEAR: dict[str, Way] = {
    "cumsum": lambda x: x.cumsum(-1),
    "fft": lambda x: torch.fft.fft(x).real,
    "rfft": lambda x: torch.fft.irfft(torch.fft.rfft(x), n=8),
    "fft2": lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real,
    "shift": lambda x: torch.fft.fftshift(x),
    "negative": lambda x: -x,
    "triangle": lambda x: torch.tril(x),
    "difference": lambda x: torch.diff(x, dim=-1, prepend=torch.zeros_like(x[..., :1])),
    "imaginary": lambda x: torch.fft.fft(x).imag,
}


def layers() -> dict[str, nn.Module]:
    return {name: nn.Linear(8, 8) for name in "pab"}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("way", LINEAR)
def test_linear(way: str, capture: str) -> None:
    """On the shortcut it is not an activation; beside a projection nothing nonlinear is bypassed."""
    apply = LINEAR[way]
    graph = traced(Net(lambda m, x: apply(x) + m.b(F.relu(m.a(x))), **layers()), (2, 8), capture)
    assert (graph.counts()["add"], graph.counts()["activated"]) == (1, 0), graph
    graph = traced(Net(lambda m, x: m.p(x) + m.b(m.a(apply(x))), **layers()), (2, 8), capture)
    assert not graph.skips
    assert len(graph.multi_branch) == 1


@pytest.mark.parametrize("capture", CAPTURES)
def test_an_activation_is_still_one(capture: str) -> None:
    graph = traced(Net(lambda m, x: torch.abs(x) + m.b(F.relu(m.a(x))), **layers()), (2, 8), capture)
    assert graph.counts() == {"add": 1, "activated": 1}


def in_steps(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    x = x - mean
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def by_moments(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return (x - mean) * torch.rsqrt(variance.abs() + 1e-5)


NORMS: dict[str, Way] = {
    "standardised": lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True),
    "in steps": in_steps,
    "by moments": by_moments,
    "root mean square": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
    "length": lambda x: x / x.norm(dim=-1, keepdim=True),
    "expanded": lambda x: x - x.mean(-1, keepdim=True).expand_as(x),
    "largest": lambda x: x / x.abs().amax(-1, keepdim=True),
    "the library's": lambda x: F.layer_norm(x, (8,)),
}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("way", NORMS)
def test_norm_by_hand(way: str, capture: str) -> None:
    apply = NORMS[way]
    graph = traced(Net(lambda m, x: apply(x) + m.b(F.relu(m.a(x))), **layers()), (2, 8), capture)
    assert graph.counts() == {"add": 1, "affine": 1}, graph


@pytest.mark.parametrize("capture", CAPTURES)
def test_what_has_a_layer_in_it_is_no_norm(capture: str) -> None:
    def excite(m: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(m.a(x.mean(1, keepdim=True)))

    assert traced(Net(excite, **layers()), (2, 4, 8), capture).counts() == {"gate": 1}

    def context(m: Any, x: Tensor) -> Tensor:
        return x + m.a(x.mean(1, keepdim=True))

    assert traced(Net(context, **layers()), (2, 4, 8), capture).counts() == {"add": 1, "identity": 1}

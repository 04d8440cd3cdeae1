"""One entry on one device: what several checks of the contract share, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skipkb.catalog.entry import Entry, Smoke, Variant
from skipkb.catalog.imports import resolve
from skipkb.evidence import data, meta
from skipkb.evidence.counts import Counts
from skipkb.evidence.results import Equal
from skipkb.evidence.training import Training, everywhere, train
from skipkb.skips import SkipGraph

SEEDS = (0, 1, 2)
"""Of the weights that the small configuration starts from, in the checks that train."""


class Subject:
    """One entry on one device: what several checks share, made once.

    Args:
        evidence: directory of the committed counts (default: the catalogue's).
        record: the found counts are about to replace the committed ones, so they are not compared.
        everywhere: train in every setting of the processor, not only in this process.
    """

    def __init__(
        self,
        entry: Entry,
        device: str = "cpu",
        *,
        evidence: Path | None = None,
        record: bool = False,
        everywhere: bool = False,
    ) -> None:
        if not entry.variants or entry.smoke is None:
            raise ValueError(f"entry {entry.key!r} has no implementation to check")
        self.entry = entry
        self.smoke: Smoke = entry.smoke
        self.device = torch.device(device)
        self.evidence = evidence
        self.record = record
        self.everywhere = everywhere and self.device.type == "cpu"
        self.equal: list[Equal] = []
        """Records of released code that the outputs agree with; the check on them fills it."""

    @cached_property
    def variants(self) -> dict[str, nn.Module]:
        """The published variants on the meta device."""
        return {variant.name: meta.build(variant) for variant in self.entry.variants}

    @cached_property
    def graphs(self) -> dict[str, SkipGraph]:
        """The skip connections found in each variant at full size."""
        return {v.name: meta.trace(self.variants[v.name], self.blank(v)) for v in self.entry.variants}

    def drawn(self) -> dict[str, str]:
        """The graphs worth a picture, as JSON: the first variant of each different set of skips."""
        different: dict[str, str] = {}
        for name, graph in self.graphs.items():
            different.setdefault(str(graph.counts()), name)
        return {name: self.graphs[name].to_json() for name in different.values()}

    @cached_property
    def counts(self) -> Counts:
        """The counted figures of all variants, in the form of the committed file."""
        variants = {
            v.name: meta.figures(self.variants[v.name], v.input, self.blank(v), self.graphs[v.name])
            for v in self.entry.variants
        }
        return {
            "key": self.entry.key,
            "tool": meta.TOOL,
            "torch": torch.__version__.partition("+")[0],
            "variants": variants,
        }

    def build(self, seed: int = 0) -> nn.Module:
        """The smoke configuration with the weights of ``seed``, in eval mode on the device."""
        torch.manual_seed(seed)
        model = resolve(self.smoke.build)(**self.smoke.kwargs)
        if not isinstance(model, nn.Module):
            raise TypeError(f"{self.smoke.build} returned {type(model).__name__} instead of an nn.Module")
        return model.to(self.device).eval()

    @cached_property
    def objective(self) -> Callable[[Any, Any], Tensor]:
        """The method's own loss."""
        objective: Callable[[Any, Any], Tensor] = resolve(self.smoke.objective)
        return objective

    def blank(self, variant: Variant) -> tuple[Tensor, ...]:
        """What a variant takes, on the meta device."""
        return data.blank(variant.data or self.smoke.data, variant.input)

    def inputs(self, count: int | None = None) -> tuple[Tensor, ...]:
        """What the smoke configuration takes, real: photographs, where nothing else is needed."""
        shape = [count or self.smoke.input[0], *self.smoke.input[1:]]
        return tuple(x.to(self.device) for x in data.inputs(self.smoke.data, shape))

    @cached_property
    def batch(self) -> tuple[tuple[Tensor, ...], Any]:
        """The fixed training batch and its target."""
        inputs, target = data.batch(self.smoke.data, self.smoke.input, **self.smoke.data_kwargs)
        return tuple(x.to(self.device) for x in inputs), to_device(target, self.device)

    @cached_property
    def trainings(self) -> list[Training]:
        """The small configuration trained from each seed; in every setting of the processor if asked for."""
        here = [train(self, seed) for seed in SEEDS]
        return here + everywhere(self, SEEDS) if self.everywhere else here


def to_device(thing: Any, device: torch.device) -> Any:
    """The same nested tensors on ``device``."""
    if isinstance(thing, Tensor):
        return thing.to(device)
    if isinstance(thing, dict):
        return {key: to_device(value, device) for key, value in thing.items()}
    return type(thing)(to_device(value, device) for value in thing)

"""Training of the small configuration on its fixed real batch, as the checks "gradient" and "loss falls" see it.

``python -m skipkb.evidence.training`` reads an entry as JSON from standard input and prints its trainings, one JSON
object a line. It is a program because PyTorch chooses its kernels by ``ATEN_CPU_CAPABILITY`` as it starts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from skipkb.evidence.subject import Subject

CAPABILITIES = ("default", "avx2")
"""Kernels of PyTorch that every x86-64 processor of the last ten years has."""
THREADS = (1, 2)


@dataclass(frozen=True)
class Training:
    """One training of ``smoke.steps`` steps."""

    where: str
    """Seed, and the setting where it is not the usual one."""
    first: float
    """Loss before the first step."""
    last: float
    """Loss after the last one."""
    unreached: list[str]
    """Parameters that no gradient has reached in any step."""
    parameters: int
    """Parameter tensors that are trained."""

    @property
    def ratio(self) -> float:
        """The last loss over the first. Where that says nothing, for a first loss of zero or less, one minus the
        fall over its size."""
        if not self.first:
            return float("inf")
        return 1 - (self.first - self.last) / abs(self.first)


def train(subject: Subject, seed: int, where: str | None = None) -> Training:
    """AdamW on the fixed batch, from the weights of ``seed``.

    A branch whose last layer starts at zero passes no gradient until that layer has moved, and a dropped branch none
    at all; so a parameter counts as reached once a gradient that is not zero has come.

    Raises:
        ValueError: the objective does not return a scalar.
    """
    model = subject.build(seed).train()
    inputs, target = subject.batch
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    waiting = dict(trained)
    optimiser = torch.optim.AdamW(trained.values(), lr=subject.smoke.learning_rate)
    losses = []
    for _ in range(subject.smoke.steps):
        optimiser.zero_grad()
        loss = subject.objective(model(*inputs), target)
        if loss.dim():
            raise ValueError(f"the objective returned shape {list(loss.shape)}; a loss is a scalar")
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        losses.append(loss.item())
        waiting = {name: p for name, p in waiting.items() if not _reached(p)}
        optimiser.step()
    with torch.no_grad():
        losses.append(subject.objective(model(*inputs), target).item())
    return Training(where or f"seed {seed}", losses[0], losses[-1], list(waiting), len(trained))


def _reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def everywhere(subject: Subject, seeds: tuple[int, ...]) -> list[Training]:
    """The trainings in every setting: each capability in a process of its own, each number of threads, each seed.

    Raises:
        RuntimeError: a process failed; the message is the last line that it wrote.
    """
    entry = subject.entry.model_dump_json(include=set(type(subject.entry).model_fields))
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_WAIT_POLICY": "PASSIVE"}  # two threads may share a processor
    trainings = []
    for capability in CAPABILITIES:
        done = subprocess.run(
            [sys.executable, "-m", "skipkb.evidence.training", *map(str, seeds)],
            input=entry,
            env={**os.environ, "ATEN_CPU_CAPABILITY": capability, **paths},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise RuntimeError(f"training with {capability} kernels failed: {last[0]}")
        trainings += [Training(**json.loads(line)) for line in done.stdout.splitlines()]
    return trainings


def main() -> None:
    """Train the entry on standard input for each seed given, with each number of threads."""
    from skipkb.catalog.entry import Entry
    from skipkb.evidence.subject import Subject

    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")  # a pipe of our own: models may print
    os.dup2(2, 1)
    subject = Subject(Entry.model_validate_json(sys.stdin.read()))
    capability = torch.backends.cpu.get_cpu_capability().lower()
    for threads in THREADS:
        torch.set_num_threads(threads)
        for seed in map(int, sys.argv[1:]):
            where = f"seed {seed}, {capability} kernels, {threads} thread{'s' if threads > 1 else ''}"
            print(json.dumps(dataclasses.asdict(train(subject, seed, where))), file=lines, flush=True)


if __name__ == "__main__":
    main()

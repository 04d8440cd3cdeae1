"""Forward, and forward with backward, of each model beside its fastest peer.

    python benchmarks/models.py [NAME ...]

Runs are paired: ours and each peer take turns in one process, on one thread, eager, float32, random weights, train mode
for the backward pass. A figure is the median CPU time; the ratio is ours over the fastest peer's. Writes
build/bench/models.json.
"""

from __future__ import annotations

import datetime
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from peers import timed  # noqa: E402

ASKED_MEAN, ASKED_EACH = 1.0, 1.1
"""Largest geometric mean of the ratios, and largest single one."""


def forward(model: nn.Module, x: Tensor) -> None:
    """One inference."""
    with torch.no_grad():
        model(x)


def training(model: nn.Module, x: Tensor) -> None:
    """One forward and backward pass."""
    output = model(x)
    if not isinstance(output, Tensor):  # of several, the first
        output = next(iter(output.values() if isinstance(output, dict) else output))
    output.sum().backward()
    model.zero_grad(set_to_none=True)


def paired(
    models: dict[str, nn.Module], x: Tensor, run: Callable[[nn.Module, Tensor], Any], rounds: int
) -> dict[str, float]:
    """Median CPU seconds of each model, taking turns; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            start = time.process_time()
            run(model, x)
            if number:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> int:
    torch.set_num_threads(1)
    console = Console(width=max(Console().width, 110))
    rows = timed()
    wanted = sys.argv[1:] or list(rows)
    table = Table(
        title=f"Ours over the fastest peer, CPU time (geometric mean at most {ASKED_MEAN:g}, none above {ASKED_EACH:g})"
    )
    for column in ("model", "pass", "ours (s)", "fastest peer", "peer (s)", "ratio"):
        table.add_column(column, justify="left" if column in ("model", "pass", "fastest peer") else "right")
    results: list[dict[str, Any]] = []
    for number, name in enumerate(wanted, start=1):
        console.print(f"[{number}/{len(wanted)}] {name}", highlight=False, markup=False)
        row = rows[name]
        torch.manual_seed(0)
        models = {"ours": row.ours(), **{peer: build() for peer, build in row.peers.items()}}
        x = torch.randn(row.input)
        for kind, run, training_mode in (("forward", forward, False), ("forward + backward", training, True)):
            for model in models.values():
                model.train(training_mode)
            seconds = paired(models, x, run, rounds=7)
            fastest = min(row.peers, key=lambda peer: seconds[peer])
            ratio = seconds["ours"] / seconds[fastest]
            results.append(
                {"model": name, "options": row.options, "pass": kind, "input": row.input}
                | {"seconds": seconds, "fastest": fastest, "ratio": ratio}
            )
            colour = "green" if ratio <= ASKED_EACH else "red"
            table.add_row(
                name, kind, f"{seconds['ours']:.3f}", fastest, f"{seconds[fastest]:.3f}", f"[{colour}]{ratio:.2f}[/]"
            )
    console.print(table)
    mean = math.exp(statistics.fmean(math.log(result["ratio"]) for result in results))
    console.print(f"geometric mean {mean:.3f}")
    record = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "timm", "torchvision", "pytorchcv")},
        "asked": {"mean": ASKED_MEAN, "each": ASKED_EACH},
        "mean": mean,
        "results": results,
    }
    file = ROOT / "build" / "bench" / "models.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

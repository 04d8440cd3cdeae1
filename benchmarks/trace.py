"""What tracing skips costs, beside a forward pass, torchinfo and torchlens on the same model in the same process.

    python benchmarks/trace.py

Figures are medians of CPU time on one thread, batch 1, real weights on the CPU. torchinfo summarises and torchlens
records everything, with their defaults; neither looks for skips, so they are yardsticks, not rivals. Our trace runs on
shapes alone, as it does by default; ``on values`` is what it costs where a model needs them.
Writes build/bench/trace.json.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
import torchinfo
import torchlens
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import skipkb  # noqa: E402

MODELS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "resnet50": (lambda: timm.create_model("resnet50"), (1, 3, 224, 224)),
    "densenet121": (lambda: timm.create_model("densenet121"), (1, 3, 224, 224)),
    "swin_tiny": (lambda: timm.create_model("swin_tiny_patch4_window7_224"), (1, 3, 224, 224)),
    "vit_small": (lambda: timm.create_model("vit_small_patch16_224"), (1, 3, 224, 224)),
    "convnext_tiny": (lambda: timm.create_model("convnext_tiny"), (1, 3, 224, 224)),
    "unet": (lambda: skipkb.create_model("unet"), (1, 1, 252, 252)),
}
ASKED = {"forward": 2.0, "torchinfo": 1.0, "torchlens": 0.1}
"""Largest ratio of our trace to each."""


def cpu_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median CPU time of ``run`` after one warm-up."""
    times = []
    for number in range(repeats + 1):
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            run()
        if number or repeats == 1:
            times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console(width=max(Console().width, 110))
    table = Table(title="Median CPU seconds, and our trace as a multiple (asked for at most)")
    for column in (
        "model",
        "trace",
        "on values",
        "forward",
        "torchinfo",
        "torchlens",
        *(f"/ {n} (≤ {a:g})" for n, a in ASKED.items()),
    ):
        table.add_column(column, justify="right")
    results = []
    for number, (name, (build, shape)) in enumerate(MODELS.items(), start=1):
        console.print(f"[{number}/{len(MODELS)}] {name}", highlight=False, markup=False)
        model, x = build().eval(), torch.randn(shape)
        with torch.no_grad():
            seconds = {
                "trace": cpu_seconds(lambda m=model, x=x: skipkb.trace_skips(m, x), 5),
                "on values": cpu_seconds(lambda m=model, x=x: skipkb.trace_skips(m, x, values=True), 5),
                "forward": cpu_seconds(lambda m=model, x=x: m(x), 5),
                "torchinfo": cpu_seconds(lambda m=model, x=x: torchinfo.summary(m, input_data=x, verbose=0), 5),
                "torchlens": cpu_seconds(lambda m=model, x=x: torchlens.trace(m, x), 1),
            }
        ratios = {peer: seconds["trace"] / seconds[peer] for peer in ASKED}
        results.append({"model": name, "input": shape, "seconds": seconds, "ratios": ratios})
        marks = (f"[{'green' if ratios[p] <= ASKED[p] else 'red'}]{ratios[p]:.2f}[/]" for p in ASKED)
        table.add_row(name, *(f"{value:.3f}" for value in seconds.values()), *marks)
    console.print(table)
    record = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "timm", "torchinfo", "torchlens")},
        "asked": ASKED,
        "results": results,
    }
    file = ROOT / "build" / "bench" / "trace.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

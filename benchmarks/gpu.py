"""One run on a machine with a GPU: the contract of all entries there, and the speed of our models beside their peers.

    python benchmarks/gpu.py --device cuda --minutes 10 --output DIR

Speed is that of compiled models under bfloat16 autocast, batch 32, channels last, inference and training step, ours
beside timm's and torchvision's in turns; a figure is the median of the rounds. Each worker process compiles the
networks of one name, several at a time; then one after the other measures alone. What does not fit into the minutes is
left out and named. Results stand under catalog/evidence, to be committed, and packed in DIR/evidence.tar.gz; with
--device cpu, which tries the script where there is no GPU, nothing is recorded.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from peers import timed  # noqa: E402
from torch import Tensor, nn  # noqa: E402

LIBRARIES = ("torchvision", "timm")
ROUNDS, WARM = 20, 3


def compiled(build: Callable[[], nn.Module], x: Tensor, *, train: bool) -> Callable[[], None]:
    """One pass of a compiled network as a function without arguments; it has run already."""
    torch.manual_seed(0)
    model = build().to(x.device, memory_format=torch.channels_last).train(train)
    run = torch.compile(model)

    def once() -> None:
        with torch.set_grad_enabled(train), torch.autocast(x.device.type, dtype=torch.bfloat16):
            output = run(x)
            while not isinstance(output, Tensor):  # of several, the first
                output = next(iter(output.values() if isinstance(output, dict) else output))
        if train:
            output.float().sum().backward()
            model.zero_grad(set_to_none=True)

    for _ in range(WARM):
        once()
    return once


def seconds(once: Callable[[], None], device: torch.device) -> float:
    """Wall time of one pass, from an idle device to an idle device."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    once()
    wait()
    return time.perf_counter() - start


def worker(name: str, device: str, batch: int, compiling: Any, talk: Connection) -> None:
    """Compile the networks of one name, say so, wait for the word, and measure."""
    try:
        row = timed()[name]
        x = torch.randn(batch, *row.input[1:], device=device).contiguous(memory_format=torch.channels_last)
        builders = {"ours": row.ours} | {p: row.peers[p] for p in LIBRARIES if p in row.peers}
        with compiling:
            passes = {
                kind: {who: compiled(build, x, train=kind == "training") for who, build in builders.items()}
                for kind in ("inference", "training")
            }
        talk.send("ready")
        talk.recv()
        result: dict[str, Any] = {}
        for kind, each in passes.items():
            times: dict[str, list[float]] = {who: [] for who in each}
            for _ in range(ROUNDS):
                for who, once in each.items():
                    times[who].append(seconds(once, x.device))
            medians = {who: statistics.median(values) for who, values in times.items()}
            fastest = min(medians[who] for who in medians if who != "ours")
            result[kind] = {"seconds": medians, "ratio": medians["ours"] / fastest}
        talk.send(result)
    except Exception as error:  # one network that fails costs the others nothing
        talk.send(f"{type(error).__name__}: {error}".splitlines()[0])


def speed(names: list[str], device: str, batch: int, jobs: int, deadline: float) -> dict[str, Any]:
    """Result by name; a text where there is none says why."""
    context = multiprocessing.get_context("spawn")
    compiling = context.Semaphore(jobs)
    running = {}
    for name in names:
        ours, theirs = context.Pipe()
        process = context.Process(target=worker, args=(name, device, batch, compiling, theirs), daemon=True)
        process.start()
        theirs.close()
        running[name] = (process, ours)
    results: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for name, (_, talk) in running.items():  # all compile before the first measures
        states[name] = _hear(talk, deadline)
    for name, (process, talk) in running.items():
        if states[name] == "ready":
            talk.send("go")
            results[name] = _hear(talk, deadline)
        else:
            results[name] = states[name]
        process.kill()
        print(f"speed {name}: {_words(results[name])}", flush=True)
    return results


def _hear(talk: Connection, deadline: float) -> Any:
    try:
        return talk.recv() if talk.poll(max(0.0, deadline - time.monotonic())) else "no time was left"
    except EOFError:
        return "its process died"


def _words(result: Any) -> str:
    if isinstance(result, str):
        return result
    return ", ".join(f"{kind} {figures['ratio']:.2f}" for kind, figures in result.items())


def contract(entries: list[str], device: str, jobs: int, seconds_left: float) -> None:
    """Run and record the contract of the entries (none: of all); what has ended in time is recorded."""
    command = [sys.executable, "-m", "skipkb.cli", "smoke", *entries, "--device", device, "--jobs", str(jobs)]
    command += ["--record"] if device == "cuda" else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        subprocess.run(command, cwd=ROOT, env=environment, timeout=seconds_left, check=False)
    except subprocess.TimeoutExpired:
        print(f"the contract was stopped after {seconds_left:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) * 3 // 4), help="processes at a time")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--entries", nargs="*", default=[], help="entries whose contract runs (all)")
    parser.add_argument("--models", nargs="*", help="models whose speed is measured (all with a peer)")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here; --device cpu tries the script without one")
    began = time.monotonic()
    deadline = began + 60 * options.minutes

    contract(options.entries, options.device, options.jobs, 0.5 * 60 * options.minutes)
    names = options.models
    if names is None:
        names = [name for name, row in timed().items() if any(library in row.peers for library in LIBRARIES)]
    results = speed(names, options.device, options.batch, options.jobs, deadline - 15)

    from skipkb.evidence.results import Device

    cuda = options.device == "cuda"
    machine = torch.cuda.get_device_name() if cuda else platform.machine().lower()
    slug = Device(kind=options.device, name=machine).slug
    record = {
        "date": datetime.date.today().isoformat(),
        "device": machine,
        "versions": {name: metadata.version(name) for name in ("torch", "timm", "torchvision")},
        "batch": options.batch,
        "results": results,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    evidence = ROOT / "catalog" / "evidence"
    file = evidence / "speed" / f"{slug}.json" if cuda else options.output / "speed.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    with tarfile.open(options.output / "evidence.tar.gz", "w:gz") as archive:
        for path in (file, evidence / slug):
            if path.exists():
                archive.add(path, f"speed/{path.name}" if path == file else slug)
    left_out = [name for name, result in results.items() if isinstance(result, str)]
    print(
        f"{time.monotonic() - began:.0f} s; not measured: {', '.join(left_out) or 'none'}; packed in {options.output}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

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

import timm
import torch
import torchvision
from pytorchcv.model_provider import get_model
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import skipkb  # noqa: E402

ASKED_MEAN, ASKED_EACH = 1.0, 1.1
"""Largest geometric mean of the ratios, and largest single one."""

IMAGENET, CIFAR = (1, 3, 224, 224), (8, 3, 32, 32)
PEERS: dict[str, tuple[tuple[int, ...], dict[str, Callable[[], nn.Module]]]] = {
    "resnet50": (
        IMAGENET,
        {
            "torchvision": lambda: torchvision.models.resnet50(),
            "timm": lambda: timm.create_model("resnet50"),
            "pytorchcv": lambda: get_model("resnet50b"),
        },
    ),
    "resnet110": (CIFAR, {"pytorchcv": lambda: get_model("resnet110_cifar10")}),
    "resnext50_32x4d": (
        IMAGENET,
        {
            "torchvision": lambda: torchvision.models.resnext50_32x4d(),
            "timm": lambda: timm.create_model("resnext50_32x4d"),
        },
    ),
    "densenet121": (
        IMAGENET,
        {
            "torchvision": lambda: torchvision.models.densenet121(),
            "timm": lambda: timm.create_model("densenet121"),
            "pytorchcv": lambda: get_model("densenet121"),
        },
    ),
    "densenet100_k12_bc": (CIFAR, {"pytorchcv": lambda: get_model("densenet100_k12_bc_cifar10")}),
    "wrn28_10": ((1, 3, 32, 32), {"pytorchcv": lambda: get_model("wrn28_10_cifar10")}),
    "wide_resnet50_2": (
        IMAGENET,
        {
            "torchvision": lambda: torchvision.models.wide_resnet50_2(),
            "timm": lambda: timm.create_model("wide_resnet50_2"),
        },
    ),
    "convnext_tiny": (
        IMAGENET,
        {
            "torchvision": lambda: torchvision.models.convnext_tiny(stochastic_depth_prob=0.0),
            "timm": lambda: timm.create_model("convnext_tiny"),
        },
    ),
    "pyramidnet110_a48": ((1, 3, 32, 32), {"pytorchcv": lambda: get_model("pyramidnet110_a48_cifar10")}),
    "pyramidnet272_a200": ((1, 3, 32, 32), {"pytorchcv": lambda: get_model("pyramidnet272_a200_bn_cifar10")}),
    "mixer_b16": (
        IMAGENET,
        {
            "timm": lambda: timm.create_model("mixer_b16_224"),
        },
    ),
    "dpn92": (IMAGENET, {"timm": lambda: timm.create_model("dpn92")}),
    "dpn98": (
        IMAGENET,
        {"timm": lambda: timm.create_model("dpn98"), "pytorchcv": lambda: get_model("dpn98")},
    ),
    "cbam_resnet18": (
        IMAGENET,
        {
            "pytorchcv": lambda: get_model("cbam_resnet18"),
        },
    ),
    "cbam_resnet50": (
        IMAGENET,
        {
            "pytorchcv": lambda: get_model("cbam_resnet50"),
        },
    ),
    "preact_resnet164": (CIFAR, {"pytorchcv": lambda: get_model("preresnet164bn_cifar10")}),
    "inception_v4": (
        (1, 3, 299, 299),
        {"timm": lambda: timm.create_model("inception_v4"), "pytorchcv": lambda: get_model("inceptionv4")},
    ),
    "se_resnet50": (
        IMAGENET,
        {
            "timm": lambda: timm.create_model("legacy_seresnet50"),
            "pytorchcv": lambda: get_model("seresnet50"),
        },
    ),
    "senet154": (
        IMAGENET,
        {
            "timm": lambda: timm.create_model("legacy_senet154"),
            "pytorchcv": lambda: get_model("senet154"),
        },
    ),
    "drn_d_22": (IMAGENET, {"pytorchcv": lambda: get_model("drnd22")}),
    "res2net50_26w_4s": (
        IMAGENET,
        {
            "timm": lambda: timm.create_model("res2net50_26w_4s"),
        },
    ),
    "inception_resnet_v2": (
        (1, 3, 299, 299),
        {
            "timm": lambda: timm.create_model("inception_resnet_v2"),
            "pytorchcv": lambda: get_model("inceptionresnetv2"),
        },
    ),
    "maxvit_tiny": (
        IMAGENET,
        {
            "timm": lambda: timm.create_model("maxvit_tiny_tf_224"),
        },
    ),
    "shake_shake26_2x32d": (CIFAR, {"pytorchcv": lambda: get_model("shakeshakeresnet26_2x32d_cifar10")}),
    "shakedrop_pyramidnet110_a270": (  # the peer is not shaken: numbers are drawn on top of its work
        (1, 3, 32, 32),
        {"pytorchcv": lambda: get_model("pyramidnet110_a270_cifar10")},
    ),
    "wrn20_10_1bit": ((1, 3, 32, 32), {"pytorchcv": lambda: get_model("wrn20_10_1bit_cifar10")}),
    "sknet50": (
        (2, *IMAGENET[1:]),  # its selection normalises over pictures: one alone cannot be trained
        {
            "timm": lambda: timm.create_model("skresnext50_32x4d"),
            "pytorchcv": lambda: get_model("sknet50"),
        },
    ),
    "mobilenet_v2": (
        IMAGENET,
        {
            "torchvision": lambda: torchvision.models.mobilenet_v2(),
            "timm": lambda: timm.create_model("mobilenetv2_100"),
        },
    ),
    "mobilenet_v1": (
        IMAGENET,
        {
            "timm": lambda: timm.create_model("mobilenetv1_100"),
            "pytorchcv": lambda: get_model("mobilenet_w1"),
        },
    ),
    "ghostnet": (IMAGENET, {"timm": lambda: timm.create_model("ghostnet_100")}),
    "shufflenet_g3": (IMAGENET, {"pytorchcv": lambda: get_model("shufflenet_g3_w1")}),
    "shufflenet_g8": (IMAGENET, {"pytorchcv": lambda: get_model("shufflenet_g8_w1")}),
    "xception": (
        (1, 3, 299, 299),
        {"timm": lambda: timm.create_model("legacy_xception"), "pytorchcv": lambda: get_model("xception")},
    ),
    "mobilenet_v3_large": (
        IMAGENET,
        {
            "torchvision": lambda: torchvision.models.mobilenet_v3_large(),
            "timm": lambda: timm.create_model("mobilenetv3_large_100"),
        },
    ),
    "mobilenet_v3_small": (
        IMAGENET,
        {
            "torchvision": lambda: torchvision.models.mobilenet_v3_small(),
            "timm": lambda: timm.create_model("mobilenetv3_small_100"),
        },
    ),
    "googlenet_bn": (IMAGENET, {"torchvision": lambda: torchvision.models.googlenet(init_weights=False)}),
    "nin_cifar10": (CIFAR, {"pytorchcv": lambda: get_model("nin_cifar10")}),
    "attention56": (IMAGENET, {"pytorchcv": lambda: get_model("resattnet56")}),
    "attention92": (IMAGENET, {"pytorchcv": lambda: get_model("resattnet92")}),
    "resnest50": (
        (2, *IMAGENET[1:]),  # as for sknet50
        {"timm": lambda: timm.create_model("resnest50d")},
    ),
}
"""Model -> input, and who else builds the same network."""


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
    wanted = sys.argv[1:] or list(PEERS)
    table = Table(
        title=f"Ours over the fastest peer, CPU time (geometric mean at most {ASKED_MEAN:g}, none above {ASKED_EACH:g})"
    )
    for column in ("model", "pass", "ours (s)", "fastest peer", "peer (s)", "ratio"):
        table.add_column(column, justify="left" if column in ("model", "pass", "fastest peer") else "right")
    results = []
    for number, name in enumerate(wanted, start=1):
        console.print(f"[{number}/{len(wanted)}] {name}", highlight=False, markup=False)
        shape, peers = PEERS[name]
        torch.manual_seed(0)
        models = {"ours": skipkb.create_model(name), **{peer: build() for peer, build in peers.items()}}
        x = torch.randn(shape)
        for kind, run, training_mode in (("forward", forward, False), ("forward + backward", training, True)):
            for model in models.values():
                model.train(training_mode)
            seconds = paired(models, x, run, rounds=7)
            fastest = min(peers, key=lambda peer: seconds[peer])
            ratio = seconds["ours"] / seconds[fastest]
            results.append(
                {"model": name, "pass": kind, "input": shape, "seconds": seconds, "fastest": fastest, "ratio": ratio}
            )
            colour = "green" if ratio <= ASKED_EACH else "red"
            table.add_row(
                name, kind, f"{seconds['ours']:.3f}", fastest, f"{seconds[fastest]:.3f}", f"[{colour}]{ratio:.2f}[/]"
            )
    console.print(table)
    mean = math.exp(statistics.fmean(math.log(float(result["ratio"])) for result in results))  # type: ignore[arg-type]
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

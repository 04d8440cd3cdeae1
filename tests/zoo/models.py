"""The models of the sweep: one of each timm family, and torchvision's classification, segmentation, detection, video
and
optical-flow models. Built on the meta device where a model can be, with real weights drawn at random where not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import nn

SMALL = (
    *("pico", "atto", "femto", "zepto", "nano", "xxtiny", "xxs", "tiny"),
    *("_ti", "_xs", "x_small", "xsmall", "small", "_s_", "_s"),
)
SMALL += ("_b0", "_a0", "_t0", "_0", "18", "26", "34", "50", "base", "_b")

EXCLUDED: dict[str, str] = {}
"""Name -> reason. Empty is the aim."""


def timm_families() -> list[str]:
    """One small variant of each of timm's model files."""
    chosen = []
    for family in timm.list_modules():
        names = [name for name in timm.list_models(module=family) if not name.startswith("test_")]
        names = names or timm.list_models(module=family)
        if names:
            chosen.append("timm:" + min(names, key=lambda name: (_rank(name), len(name), name)))
    return chosen


def _rank(name: str) -> int:
    return next((i for i, word in enumerate(SMALL) if word in name), len(SMALL))


def torchvision_models() -> list[str]:
    """Every builder of the kinds above; quantised copies have the graph of their originals."""
    return ["tv:" + name for name in torchvision.models.list_models() if not name.startswith("quantized_")]


def names() -> list[str]:
    """Every model of the sweep."""
    return [name for name in (*timm_families(), *torchvision_models()) if name not in EXCLUDED]


def build(name: str, device: str) -> nn.Module:
    """The model in eval mode, without pretrained weights."""
    library, _, model = name.partition(":")
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        if library == "timm":
            built: nn.Module = timm.create_model(model)
        else:
            extra: dict[str, Any] = {"weights": None}
            if _is_dense(model):
                extra["weights_backbone"] = None
            built = torchvision.models.get_model(model, **extra)
    return built.eval()


def _is_dense(model: str) -> bool:
    return any(word in model for word in ("rcnn", "retinanet", "fcos", "ssd", "fcn_", "deeplab", "lraspp"))


def inputs(name: str, model: nn.Module, device: str) -> Any:
    """An input of the size the model is made for, kept small where it takes any size."""
    library, _, short = name.partition(":")
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta") if device == "meta" else torch.rand(shape, generator=generator)

    if library == "timm":
        return noise(1, *model.pretrained_cfg.get("test_input_size", model.pretrained_cfg["input_size"]))  # type: ignore[operator,union-attr,index]
    if any(word in short for word in ("rcnn", "retinanet", "fcos", "ssd")):
        return ([noise(3, 160, 160)],)
    if short.startswith("raft"):
        return noise(1, 3, 128, 128), noise(1, 3, 128, 128)
    if short.startswith("mvit"):
        return noise(1, 3, 16, 224, 224)
    if short.startswith("swin3d"):
        return noise(1, 3, 8, 64, 64)
    if short == "s3d":
        return noise(1, 3, 16, 224, 224)
    if short in ("r3d_18", "mc3_18", "r2plus1d_18"):
        return noise(1, 3, 8, 64, 64)
    if short == "vit_h_14":
        return noise(1, 3, 224, 224)
    return noise(1, 3, 299, 299) if short == "inception_v3" else noise(1, 3, 224, 224)


def ready(name: str) -> tuple[nn.Module, Any, str]:
    """Model, input and device: meta if its forward runs there."""
    run: Callable[[nn.Module, Any], Any] = lambda model, x: model(*x) if isinstance(x, tuple) else model(x)  # noqa: E731
    try:
        model = build(name, "meta")
        x = inputs(name, model, "meta")
        with torch.no_grad():
            run(model, x)
        return model, x, "meta"
    except (NotImplementedError, RuntimeError, ValueError, TypeError, AssertionError):
        model = build(name, "cpu")
        return model, inputs(name, model, "cpu"), "cpu"

"""SwinIR against spandrel, which carries the authors' network: same names, same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.reconstruction.swinir import (
    SwinIR,
    swinir_classical,
    swinir_denoise,
    swinir_jpeg,
    swinir_lightweight,
    swinir_real_world,
)
from tests.parity.compare import difference

pytest.importorskip("spandrel")

from spandrel.architectures.SwinIR import SwinIR as PeerSwinIR

SMALL: dict[str, Any] = {
    "img_size": 16,
    "embed_dim": 12,
    "depths": (2, 3),
    "num_heads": (2, 3),
    "window_size": 4,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "classical-x2": {"upscale": 2, "upsampler": "pixelshuffle"},
    "classical-x3": {"upscale": 3, "upsampler": "pixelshuffle"},
    "classical-x4": {"upscale": 4, "upsampler": "pixelshuffle"},
    "classical-x8": {"upscale": 8, "upsampler": "pixelshuffle"},
    "lightweight-x2": {"upscale": 2, "upsampler": "pixelshuffledirect"},
    "lightweight-x3": {"upscale": 3, "upsampler": "pixelshuffledirect"},
    "real-world": {"upscale": 4, "upsampler": "nearest+conv"},
    "real-world-large": {"upscale": 4, "upsampler": "nearest+conv", "resi_connection": "3conv"},
    "colour-denoise": {"upscale": 1, "upsampler": ""},
    "grey-denoise": {"upscale": 1, "upsampler": "", "in_chans": 1},
    "jpeg": {
        "upscale": 1,
        "upsampler": "",
        "in_chans": 1,
        "window_size": 7,
        "img_size": 21,
        "img_range": 255.0,
    },
}


def scramble(model: nn.Module) -> None:
    """Random values everywhere, so that no parameter hides behind its initial zero or one."""
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        with torch.no_grad():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_random_weights_load_and_give_equal_images(name: str) -> None:
    kwargs = {**SMALL, "mlp_ratio": 2.0, **CONFIGURATIONS[name]}
    peer = PeerSwinIR(**kwargs).eval()
    ours = SwinIR(**kwargs).eval()
    scramble(peer)
    ours.load_state_dict(peer.state_dict(), strict=True)
    edge = kwargs["img_size"]
    for size in ((edge, edge), (2 * edge, edge), (edge - 3, edge + 2)):
        image = torch.rand(2, kwargs.get("in_chans", 3), *size, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected, got = peer(image), ours(image)
        assert got.shape == expected.shape
        assert difference(got, expected) < 1e-5

    # and back again
    scramble(ours)
    peer.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize(
    ("build", "kwargs", "peer_kwargs"),
    [
        (swinir_classical, {}, {"upscale": 2, "upsampler": "pixelshuffle"}),
        (
            swinir_classical,
            {"upscale": 4, "img_size": 48},
            {"upscale": 4, "img_size": 48, "upsampler": "pixelshuffle"},
        ),
        (
            swinir_lightweight,
            {},
            {
                "upscale": 2,
                "embed_dim": 60,
                "depths": [6] * 4,
                "num_heads": [6] * 4,
                "upsampler": "pixelshuffledirect",
            },
        ),
        (swinir_classical, {"upscale": 3}, {"upscale": 3, "upsampler": "pixelshuffle"}),
        (swinir_classical, {"upscale": 8}, {"upscale": 8, "upsampler": "pixelshuffle"}),
        (swinir_real_world, {}, {"upscale": 4, "upsampler": "nearest+conv"}),
        (swinir_denoise, {"in_chans": 1}, {"upscale": 1, "img_size": 128, "in_chans": 1}),
        (swinir_denoise, {}, {"upscale": 1, "img_size": 128}),
        (
            swinir_jpeg,
            {},
            {"upscale": 1, "img_size": 126, "window_size": 7, "in_chans": 1, "img_range": 255.0},
        ),
        (
            swinir_real_world,
            {"large": True},
            {
                "upscale": 4,
                "embed_dim": 240,
                "depths": [6] * 9,
                "num_heads": [8] * 9,
                "upsampler": "nearest+conv",
                "resi_connection": "3conv",
            },
        ),
    ],
)
def test_published_sizes_have_the_names_and_shapes_of_the_release(
    build: Any, kwargs: dict[str, Any], peer_kwargs: dict[str, Any]
) -> None:
    """At full size: every key, shape and type of the official network's parameters and buffers."""
    defaults = {
        "img_size": 64,
        "embed_dim": 180,
        "depths": [6] * 6,
        "num_heads": [6] * 6,
        "window_size": 8,
        "mlp_ratio": 2,
    }
    with torch.device("meta"):
        ours = build(**kwargs)
    peer = PeerSwinIR(**{**defaults, **peer_kwargs})  # calls .item() while built, which meta cannot
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in peer.state_dict().items()}
    assert {k: v.dtype for k, v in ours.state_dict().items()} == {k: v.dtype for k, v in peer.state_dict().items()}

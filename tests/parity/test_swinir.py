"""SwinIR against spandrel, which carries the authors' network: same names, same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipkb.models.reconstruction.swinir import SwinIR
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

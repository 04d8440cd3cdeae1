"""Models whose speed is compared, and who else builds them: the peers that entries declare as timed.

Nothing is built, and no library imported, before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

import skipkb
from skipkb.catalog.entry import Peer
from skipkb.catalog.imports import resolve
from skipkb.catalog.loading import load


@dataclass(frozen=True)
class Timed:
    """One model of ours beside its peers."""

    name: str
    """The variant."""
    options: dict[str, Any]
    """With which ours is the network of the peers."""
    input: tuple[int, ...]
    peers: dict[str, Callable[[], nn.Module]]
    """Builder by library."""

    def ours(self) -> nn.Module:
        """Our network."""
        return skipkb.create_model(self.name, **self.options)


def timed() -> dict[str, Timed]:
    """By the name of the variant, in the order of the catalogue.

    Raises:
        ValueError: where two peers of one variant ask for other options or another number of pictures.
    """
    found: dict[str, Timed] = {}
    for work in load().entries.values():
        inputs = {variant.name: variant.input for variant in work.variants}
        for peer in work.peers:
            if peer.timed and peer.variant:
                shape = (peer.timed, *inputs[peer.variant][1:])
                row = Timed(peer.variant, peer.variant_kwargs, shape, {})
                known = found.setdefault(peer.variant, row)
                if (known.options, known.input) != (row.options, row.input) or peer.package in known.peers:
                    raise ValueError(f"{work.key}: the timed peers of {peer.variant} do not agree")
                known.peers[peer.package] = _builder(peer)
    return found


def _builder(peer: Peer) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model: nn.Module = resolve(peer.build or "")(**peer.kwargs)
        return model

    return build

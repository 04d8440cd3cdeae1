"""The contract as a list of names: what every implemented entry must show. Loads no torch.

What each check does stands in :mod:`skipkb.evidence.contract`, under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass

EQUAL = "equals the authors' code"


@dataclass(frozen=True)
class Item:
    """One check of the contract: its name, and the check without which it makes no sense."""

    name: str
    needs: str | None = None
    only_on: str | None = None
    """The kind of device on which it is made; None: on all."""


CONTRACT = (
    Item("builds"),
    Item("parameters", needs="builds"),
    Item("macs", needs="builds"),
    Item("output shape", needs="builds"),
    Item("skips", needs="builds"),
    Item("captures agree", needs="builds"),
    Item("counted evidence", needs="builds"),
    Item(EQUAL, needs="builds", only_on="cpu"),
    Item("forward"),
    Item("deterministic", needs="forward"),
    Item("batch independent", needs="forward"),
    Item("state dict", needs="forward"),
    Item("bf16 autocast", needs="forward"),
    Item("gradient", needs="forward"),
    Item("loss falls", needs="forward"),
    Item("export", needs="forward"),
    Item("agrees with CPU", needs="forward", only_on="cuda"),
)


def contract(device: str) -> tuple[Item, ...]:
    """The checks for a device such as cpu or cuda:0, in the order in which they run."""
    kind = device.partition(":")[0]
    return tuple(item for item in CONTRACT if item.only_on in (None, kind))

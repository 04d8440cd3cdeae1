"""What a run of the contract says: typed, and the same in memory, in build/ and in the committed evidence."""

from __future__ import annotations

import datetime
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from skipkb.evidence.checks import contract
from skipkb.evidence.key import Key
from skipkb.evidence.records import Whose


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Check(_Record):
    """One finished check: a number, the limit it is held against, and whether it holds."""

    value: int | float | None
    """What was measured; None when nothing could be (then ``ok`` is false)."""
    relation: Literal["==", "<=", "<", ">="] = "=="
    """How value must stand to limit."""
    limit: int | float | None
    unit: str
    ok: bool
    detail: str = ""
    """The figures behind the number, or why there is none."""
    seconds: float = 0.0

    @property
    def statement(self) -> str:
        """Value, limit and unit, such as ``0.31 < 0.9 of the first loss``; empty without a number."""
        if self.value is None or self.limit is None:
            return ""
        opposite = {"==": "!=", "<=": ">", "<": ">=", ">=": "<"}
        relation = self.relation if self.ok else opposite[self.relation]
        return f"{short(self.value)} {relation} {short(self.limit)} {self.unit}"


class Equal(_Record):
    """A variant whose outputs were compared with a record of released code."""

    variant: str
    repository: str
    """owner/name."""
    commit: str
    whose: Whose
    difference: float
    """Largest relative difference of the sampled outputs."""


class Device(_Record):
    """What the checks ran on, such as cpu x86_64 or cuda NVIDIA H200."""

    kind: str
    name: str

    @property
    def slug(self) -> str:
        """Name of the device's directory: ``cpu-x86_64``, ``nvidia-h200``."""
        name = f"cpu-{self.name}" if self.kind == "cpu" else self.name
        return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")


class Report(_Record):
    """The result of one entry on one device."""

    entry: str
    date: datetime.datetime
    """End of the run, UTC, whole seconds."""
    device: Device
    versions: dict[str, str]
    """Of python, torch, torchvision, timm and skipkb, where known."""
    key: Key
    """All that the result depends on."""
    checks: dict[str, Check]
    """In the order in which they ran."""
    equal: tuple[Equal, ...] = ()
    """Records of released code that the outputs agree with."""
    complete: bool = True
    """Whether the worker came to its end: false after a crash, a time-out or a full memory."""
    seconds: float = 0.0
    peak_mib: int = 0
    """Largest memory seen of the worker and its children."""

    @property
    def missing(self) -> list[str]:
        """Checks of today's contract that this report does not have."""
        return [item.name for item in contract(self.device.kind) if item.name not in self.checks]

    @property
    def ok(self) -> bool:
        """Whether every check of today's contract is there, and every check that is there holds."""
        return self.complete and not self.missing and all(check.ok for check in self.checks.values())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return self.model_dump(mode="json")


def short(value: float) -> str:
    """An integer in full, a float with two significant digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.2g}"

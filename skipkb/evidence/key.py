"""The key: all that a result depends on, in parts, so that a stale one can say what has changed. Loads no torch.

Evidence, resumed runs, notebooks and the choice of what CI repeats use this one key.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from importlib import metadata
from typing import Any

from pydantic import BaseModel, ConfigDict

from skipkb.catalog.entry import Entry
from skipkb.catalog.paths import PACKAGE
from skipkb.evidence.records import records_of
from skipkb.evidence.sources import digest, model_modules, source_files

CHANGED = {
    "model": "the model changed",
    "smoke": "its small configuration or its data changed",
    "declared": "a declared figure changed",
    "records": "the records of the authors' code changed",
    "contract": "the contract changed",
    "tracer": "the search for skips changed",
}
"""What a part that differs means, in words; the version of torch speaks for itself."""

MEASURING = ("checks", "contract", "golden", "meta", "subject", "training")
"""Modules of skipkb.evidence that decide what a check measures; the others keep, send and show it."""
DATA = "skipkb.evidence.data"
"""Its modules are the kinds of data; an entry depends on those that it uses."""


class Key(BaseModel):
    """Hashes of the parts, and the version of torch."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: str
    """Syntax of the model and of what it imports of skipkb, and how the variants are built."""
    smoke: str
    """The small configuration that really runs, and the data it runs on."""
    declared: str
    """Figures that the contract compares: parameters, MACs, output shapes, skips."""
    records: str
    """Records of the authors' code that the models are compared with, and how those were called."""
    contract: str
    """Syntax of the checks and what they use: data, limits, the rule of the records."""
    tracer: str
    """Syntax of what finds the skips."""
    torch: str | None
    """Version; None where torch is not installed or not pinned."""

    @property
    def digest(self) -> str:
        """One hash of all parts."""
        return _sha256(self.model_dump())

    def changes(self, then: Key) -> list[str]:
        """What differs from an earlier key, in words; a version that is not known is not compared."""
        words = [words for part, words in CHANGED.items() if getattr(self, part) != getattr(then, part)]
        if self.torch and then.torch and self.torch != then.torch:
            words.append(f"measured with torch {then.torch}, now {self.torch}")
        return words


def key_of(entry: Entry, torch: str | None) -> Key:
    """The key of an entry today, for a version of torch (:func:`installed_torch` or :func:`pinned_torch`)."""
    builds = [[v.name, v.build, v.kwargs, v.input, v.data] for v in entry.variants]
    declared = [[v.name, v.parameters, v.macs, v.output, dict(sorted(v.skips.items()))] for v in entry.variants]
    smoke = entry.smoke.model_dump(mode="json") if entry.smoke else None
    kinds = [v.data for v in entry.variants] + [entry.smoke.data if entry.smoke else None]
    data = source_files((f"{DATA}.{kind.replace('-', '_')}" for kind in kinds if kind), within=DATA)
    call = source_files([f"skipkb.evidence.calls.{entry.key}"], within="skipkb.evidence.calls")
    return Key(
        model=_sha256([digest(source_files(model_modules(entry))), builds]),
        smoke=_sha256([smoke, digest(data)]),
        declared=_sha256(declared),
        records=_sha256([[record.model_dump_json() for record in records_of(entry.key)], digest(call)]),
        contract=contract_version(),
        tracer=tracer(),
        torch=torch,
    )


def tracer() -> str:
    """Hash of what finds skips. What draws them is imported by it inside functions only, and is not part of it."""
    return digest(source_files(["skipkb.skips.trace"], within="skipkb.skips", lazy=False))


def contract_version() -> str:
    """Hash of the checks, their limits, and all that they measure with."""
    return digest({name: PACKAGE / "evidence" / f"{name}.py" for name in (*MEASURING, "data/__init__")})


def installed_torch() -> str | None:
    """The version of torch in this environment."""
    try:
        return metadata.version("torch").partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def pinned_torch(device_kind: str) -> str | None:
    """The version of torch with which committed results are to be measured: what the constraints file pins."""
    name = "constraints-gpu.txt" if device_kind == "cuda" else "constraints.txt"
    file = PACKAGE.parent / name
    found = re.search(r"^torch==([\w.]+)", file.read_text(encoding="utf-8"), re.MULTILINE) if file.is_file() else None
    return found[1] if found else None


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

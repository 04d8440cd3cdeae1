"""Records of released networks, as tests/golden keeps them: typed, and read without torch.

A record says what one run of a published network gave: its weights were filled by a rule, its input was random
numbers of a fixed seed, and its outputs were sampled. :mod:`skipkb.evidence.golden` holds the rule and the comparison;
``tests/golden/README.md`` describes the format.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from skipkb.catalog.entry import Key, Line, Model, Shape, Text
from skipkb.catalog.paths import PACKAGE

TOLERANCE = 1e-5
"""Relative difference allowed where nothing asks for more: float32, and kernels that differ between processors."""
TOLERANCE_ELSEWHERE = 1e-3
"""The same where another framework computed the outputs."""

Whose = Literal["authors", "port", "definition"]


class Names(Model):
    """The names and shapes of a state dict, as a hash."""

    n: Annotated[int, Field(ge=1)]
    """How many entries it has."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of ``[[name, shape], ...]``, sorted, as JSON without blanks."""


class Input(Model):
    """Normally distributed input tensors; number i has the seed ``seed + i``."""

    shapes: Annotated[list[Shape], Field(min_length=1)]
    seed: int
    scale: float
    """What the numbers are multiplied with."""


class Output(Model):
    """One output tensor, sampled."""

    shape: list[int]
    first: list[float]
    """Sixteen values at even distances, first and last included."""
    mean: float
    std: float
    absmax: float


class Record(Model):
    """One run of one released network."""

    key: Key
    """Entry of the catalogue."""
    variant: Key | None
    """Our model of the same configuration (a name for ``create_model``); null while there is none."""
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of our builder that make it this configuration, where the variant's own are others."""
    configuration: Line
    """What was built, in a name or in words."""
    whose: Whose
    """``authors``: their code, run as it is. ``definition``: their network in another framework, interpreted with
    PyTorch or run there. ``port``: the code of somebody else."""
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """owner/name on GitHub."""
    commit: Line
    """Commit of the repository, or the release where that is what was installed."""
    file: Line
    build: Text
    """How it was called, what was replaced, and which outputs were taken."""
    params: Annotated[int, Field(ge=0)]
    """Number of parameters."""
    buffers_counted: tuple[Line, ...] = ()
    """Endings of names of buffers of ours that are counted in ``params``: where a framework counts what is fixed."""
    names: Names
    names_without: tuple[Line, ...] = ()
    """Endings of names that a state dict of ours has, and that of the released code, functions only, has not."""
    input: Input
    mode: Literal["eval", "train"]
    fill: Literal["name", "order"]
    """Whether the values of a tensor follow from its name or from its place in the state dict."""
    restore: tuple[Line, ...] = ()
    """Endings of names whose tensors keep the values that they are built with."""
    gain: float = 1.0
    """Factor of every filled tensor of two or more dimensions."""
    sensitivity: Annotated[float, Field(ge=0)] | None = None
    """Relative change of the output that a change of the input by 1e-6 causes."""
    recorded_with: Literal["PyTorch", "TensorFlow", "Flax"] = "PyTorch"
    note: Text | None = None
    outputs: Annotated[list[Output], Field(min_length=1)]

    @property
    def tolerance(self) -> float:
        """Relative difference of the outputs that is still agreement."""
        if self.recorded_with != "PyTorch":
            return TOLERANCE_ELSEWHERE
        return max(TOLERANCE, 10 * (self.sensitivity or 0.0))

    @property
    def title(self) -> str:
        """Key and configuration, for messages and for the names of tests."""
        return f"{self.key}: {self.configuration}"

    @model_validator(mode="after")
    def _overrides_need_a_variant(self) -> Record:
        if self.overrides and self.variant is None:
            raise ValueError("overrides change a variant, and there is none")
        return self


def records_dir() -> Path:
    """Where the records lie in a checkout; an installed package has none."""
    return PACKAGE.parent / "tests" / "golden"


def read_records(directory: Path | None = None) -> list[Record]:
    """All records under ``directory`` (default: the checkout's), in the order of files and lines.

    Raises:
        ValueError: a line is not a record; the message has file and line.
    """
    records = []
    for file in sorted((directory or records_dir()).glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                records.append(Record.model_validate_json(line))
            except ValidationError as error:
                raise ValueError(f"{file}:{number}: {error}") from error
    return records


def records_of(key: str) -> list[Record]:
    """The records of entry ``key`` that one of our variants answers to."""
    return [record for record in _all() if record.key == key and record.variant is not None]


def line(record: Record) -> str:
    """The record as a line of its file, without what it leaves at the default."""
    return json.dumps(record.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)


@functools.cache
def _all() -> tuple[Record, ...]:
    return tuple(read_records())

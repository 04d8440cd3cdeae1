"""The ledgers: one JSON Lines file per device, append-only, committed. Loads no torch.

A line is one :class:`~skipkb.evidence.results.Report`; of the lines with the same entry and device
the last one counts. A broken line is reported with its place and hides no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from skipkb.catalog.entry import Entry
from skipkb.catalog.problems import Problem
from skipkb.evidence.files import append_line, evidence_dir
from skipkb.evidence.results import Report
from skipkb.evidence.sources import source_sha256


@dataclass(frozen=True)
class Ledgers:
    """What the ledgers say, and what in them could not be read."""

    latest: dict[tuple[str, str], Report] = field(default_factory=dict)
    """The newest report by (entry key, device slug), sorted."""
    problems: list[Problem] = field(default_factory=list)

    def of(self, key: str) -> list[Report]:
        """The newest report of an entry on each device, by device slug."""
        return [report for (entry, _), report in self.latest.items() if entry == key]


def read_ledgers(directory: Path | None = None) -> Ledgers:
    """Read every ``*.jsonl`` under ``directory`` (default: the catalogue's evidence)."""
    directory = directory or evidence_dir()
    latest: dict[tuple[str, str], Report] = {}
    problems: list[Problem] = []
    for file in sorted(directory.glob("*.jsonl")):
        for report in read_lines(file, problems, name=f"evidence/{file.name}"):
            latest[report.entry, report.device.slug] = report
    return Ledgers(dict(sorted(latest.items())), problems)


def read_lines(file: Path, problems: list[Problem], *, name: str | None = None) -> list[Report]:
    """The reports in one file; each line that is none adds a problem."""
    reports = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            reports.append(Report.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key_path = ".".join(map(str, first["loc"]))
            problems.append(Problem(name or str(file), number, 1, key_path, f"no report: {first['msg']}"))
    return reports


def append(report: Report, directory: Path | None = None) -> Path:
    """Append a report to the ledger of its device and return the file."""
    file = (directory or evidence_dir()) / f"{report.device.slug}.jsonl"
    append_line(file, report.model_dump_json())
    return file


def is_stale(report: Report, entry: Entry) -> bool:
    """Whether the entry's source is no longer the one that was measured."""
    return report.source_sha256 != source_sha256(entry)


def stale_entries(ledgers: Ledgers, entries: Mapping[str, Entry]) -> list[tuple[str, str]]:
    """(entry key, device slug) of every stale newest report; an entry that is gone is stale too."""
    now = {key: source_sha256(entries[key]) for key, _ in ledgers.latest if key in entries}
    return [place for place, report in ledgers.latest.items() if report.source_sha256 != now.get(place[0])]

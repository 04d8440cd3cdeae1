"""Committed results: one JSON file per entry and device, the newest result only. Loads no torch.

``<evidence>/<device>/<key>.json`` holds one :class:`~skipkb.evidence.results.Report`; what came before is in the
history of the repository. A broken file is reported with its place and hides no other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from skipkb.catalog.entry import Entry
from skipkb.catalog.problems import Problem
from skipkb.catalog.writing import write_text
from skipkb.evidence.folders import evidence_dir
from skipkb.evidence.key import key_of, pinned_torch
from skipkb.evidence.results import Equal, Report

State = Literal["holds", "fails", "stale"]


@dataclass(frozen=True)
class Recorded:
    """The reports, and the files that could not be read."""

    reports: dict[tuple[str, str], Report] = field(default_factory=dict)
    """By (entry key, device slug), sorted."""
    problems: list[Problem] = field(default_factory=list)

    def of(self, key: str) -> list[Report]:
        """The report of an entry on each device, by device slug."""
        return [report for (entry, _), report in self.reports.items() if entry == key]


def read_recorded(directory: Path | None = None) -> Recorded:
    """Read every report under ``directory`` (default: the catalogue's evidence)."""
    directory = directory or evidence_dir()
    reports: dict[tuple[str, str], Report] = {}
    problems: list[Problem] = []
    for file in sorted(directory.glob("*/*.json")):
        slug = file.parent.name
        if slug in ("counts", "speed"):
            continue
        name = f"evidence/{slug}/{file.name}"
        report = read_report(file, problems, name=name)
        if report and (report.entry, report.device.slug) != (file.stem, slug):
            place = f"evidence/{report.device.slug}/{report.entry}.json"
            problems.append(Problem(name, 1, 1, "entry", f"a report that belongs into {place}"))
        elif report:
            reports[report.entry, slug] = report
    return Recorded(dict(sorted(reports.items())), problems)


def read_report(file: Path, problems: list[Problem], *, name: str | None = None) -> Report | None:
    """The report in ``file``; None, and one more problem, if there is none in it."""
    try:
        return Report.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key_path = ".".join(map(str, first["loc"]))
        problems.append(Problem(name or str(file), 1, 1, key_path, f"not a report: {first['msg']}"))
        return None


def write_report(report: Report, directory: Path | None = None) -> Path:
    """Replace the report of this entry on this device and return the file."""
    file = (directory or evidence_dir()) / report.device.slug / f"{report.entry}.json"
    write_text(file, report.model_dump_json(indent=1) + "\n")
    return file


def why_stale(report: Report, entry: Entry) -> list[str]:
    """What has changed since a committed report was made, in words; nothing if it is current.

    A check that the report does not have is named, since a changed contract says less.
    """
    words = key_of(entry, pinned_torch(report.device.kind)).changes(report.key)
    return words + [f"the contract has a new check: {name}" for name in report.missing if report.complete]


def state(report: Report, entry: Entry) -> State:
    """What a committed report is worth today: a stale one neither holds nor fails."""
    if why_stale(report, entry):
        return "stale"
    return "holds" if report.ok else "fails"


def equal_now(entry: Entry, recorded: Recorded) -> list[Equal]:
    """The released code that an entry's models equal, by a report that is current."""
    return [equal for report in recorded.of(entry.key) if not why_stale(report, entry) for equal in report.equal]


def why_not_counted(entry: Entry, recorded: Recorded) -> list[str]:
    """Why the committed counts may not be those of today's model, in words; nothing where a current report has
    compared or written them."""
    reports = [report for report in recorded.of(entry.key) if _counts_hold(report)]
    reasons = [why_stale(report, entry) for report in reports]
    return min(reasons, key=len) if reasons else ["no recorded run has compared them"]


def _counts_hold(report: Report) -> bool:
    check = report.checks.get("counted evidence")
    return check is not None and check.ok

"""What was measured of the small catalogue, with keys of today: two entries hold, one is stale, one fails."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from skipkb.catalog.entry import Work
from skipkb.evidence.checks import contract
from skipkb.evidence.key import Key, key_of, pinned_torch
from skipkb.evidence.recorded import write_report
from skipkb.evidence.results import Check, Device, Equal, Report

CPU, GPU = Device(kind="cpu", name="x86_64"), Device(kind="cuda", name="NVIDIA H200")
ALPHA_COMMIT, BETA_COMMIT = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"
WRONG = Check(value=1, limit=0, unit="parameters off", ok=False, detail="zeta: counted 910, declared 909")


def report(
    work: Work,
    device: Device = CPU,
    *,
    checks: Mapping[str, Check | None] | None = None,
    key: Mapping[str, str | None] | None = None,
    equal: tuple[Equal, ...] = (),
    day: int = 1,
    complete: bool = True,
) -> Report:
    """A report of today in which every check of the contract holds.

    Args:
        checks: what came out otherwise; None leaves a check out.
        key: parts of the key that were others then.
    """
    found: dict[str, Check | None] = {
        item.name: Check(value=number, limit=number, unit=f"of {item.name}", ok=True, detail=f"detail {number}")
        for number, item in enumerate(contract(device.kind), start=1)
    }
    now = key_of(work, pinned_torch(device.kind))
    return Report(
        entry=work.key,
        date=datetime.datetime(2026, 3, day, 12, 30, tzinfo=datetime.UTC),
        device=device,
        versions={"python": "3.11.7", "torch": "2.0.1"},
        key=Key(**(now.model_dump() | dict(key or {}))),
        checks={name: check for name, check in (found | dict(checks or {})).items() if check is not None},
        equal=equal,
        complete=complete,
        seconds=10.0 * day + 0.4,
        peak_mib=1000 + day,
    )


def write_evidence(entries: Mapping[str, Work], evidence: Path) -> None:
    """The reports of the small catalogue."""
    alpha, beta, epsilon, zeta = (entries[key] for key in ("alpha", "beta", "epsilon", "zeta"))
    authors = Equal(
        variant="alpha20", repository="doe/alpha", commit=ALPHA_COMMIT, whose="authors", difference=0.00000023
    )
    ports = [
        Equal(variant=variant, repository="other/ports", commit=BETA_COMMIT, whose="port", difference=difference)
        for variant, difference in (("beta_wide", 0.000004), ("beta_thin", 0.000051))
    ]
    release = Equal(variant="beta_thin", repository="doe/beta", commit="1.2.0", whose="definition", difference=0.0)
    port = Equal(variant="zeta", repository="other/ports", commit=BETA_COMMIT, whose="port", difference=0.0012)
    former = Equal(variant="epsilon", repository="doe/epsilon", commit=BETA_COMMIT, whose="authors", difference=0.0)
    for one in (
        report(alpha, day=2, equal=(authors,)),
        report(alpha, GPU, day=3),
        report(beta, day=4, equal=(*ports, release)),
        report(epsilon, day=5, key={"model": "another"}, equal=(former,)),
        report(zeta, day=6, checks={"parameters": WRONG}, equal=(port,)),
    ):
        write_report(one, evidence)

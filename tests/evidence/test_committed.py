"""What is committed under catalog/evidence: every method that runs, measured today, with a margin everywhere."""

from __future__ import annotations

import re

import pytest

from skipkb.catalog.entry import Work
from skipkb.catalog.loading import load
from skipkb.evidence.counts import read_counts
from skipkb.evidence.recorded import read_recorded, state, why_stale
from skipkb.evidence.records import records_of
from skipkb.evidence.subject import SEEDS
from skipkb.evidence.training import CAPABILITIES, THREADS

RECORDED = read_recorded()
WORKS = [work for work in load().entries.values() if work.runs]
MARGIN = 0.7
"""Largest recorded last loss over the first, where the contract allows 0.9."""


def test_every_file_can_be_read() -> None:
    assert RECORDED.problems == []


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.key)
def test_the_contract_holds_and_is_current(work: Work) -> None:
    reports = [report for report in RECORDED.of(work.key) if report.device.kind == "cpu"]
    assert reports, f"nothing is recorded; `skipkb smoke {work.key} --record` does it"
    for report in reports:
        reasons = "; ".join(why_stale(report, work))
        assert state(report, work) == "holds", f"{reasons}: `skipkb smoke {work.key} --record` measures it anew"


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.key)
def test_training_has_a_margin_in_every_setting(work: Work) -> None:
    for report in RECORDED.of(work.key):
        if report.device.kind == "cpu":
            check = report.checks["loss falls"]
            assert check.value is not None
            assert check.value <= MARGIN, check.detail
            trainings = len(SEEDS) * (1 + len(CAPABILITIES) * len(THREADS))
            assert f"the worst of {trainings} trainings" in check.detail


@pytest.mark.parametrize("work", [work for work in WORKS if records_of(work.key)], ids=lambda work: work.key)
def test_every_record_has_its_mark(work: Work) -> None:
    (report, *_) = (report for report in RECORDED.of(work.key) if report.device.kind == "cpu")
    assert {equal.variant for equal in report.equal} == {record.variant for record in records_of(work.key)}
    assert all(equal.difference <= 1e-3 for equal in report.equal)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.key)
def test_committed_counts_are_the_declared_figures(work: Work) -> None:
    counts = read_counts(work.key)
    assert counts is not None
    declared = {v.name: (v.parameters, v.macs, v.output, dict(v.skips)) for v in work.variants}
    counted = {
        name: (found["parameters"], found["macs"], found["output"], {k: n for k, n in found["skips"].items() if n})
        for name, found in counts["variants"].items()
    }
    assert counted == declared


def test_nothing_is_recorded_of_works_that_are_gone() -> None:
    assert {key for key, _ in RECORDED.reports} <= {work.key for work in WORKS}


def test_devices_are_named_as_their_directories() -> None:
    assert all(re.fullmatch(r"[a-z0-9_-]+", slug) for _, slug in RECORDED.reports)

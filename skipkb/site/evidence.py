"""The page that shows what was measured, where and when, for all entries."""

from __future__ import annotations

from skipkb.catalog.loading import Catalogue
from skipkb.evidence.recorded import Recorded, state, why_stale
from skipkb.site.rows import Facets, Row, rows_script
from skipkb.site.text import escape, table, verdict


def evidence_page(catalogue: Catalogue, recorded: Recorded) -> str:
    """The Markdown page with one row per entry and device."""
    rows, data = [], []
    for (key, _), report in recorded.reports.items():
        if key not in catalogue.entries:
            continue
        work = catalogue.entries[key]
        holding = sum(check.ok for check in report.checks.values())
        wanted = len(report.checks) + len(report.missing)
        found = state(report, work)
        reasons = "; ".join(why_stale(report, work))
        rows.append(
            [
                f'<a href="methods/{key}.html#evidence">{escape(work.name)}</a>',
                escape(report.device.name),
                escape(report.device.kind),
                f"{verdict(found, good=found == 'holds')} {escape(reasons)}",
                f"{holding} of {wanted}",
                f"{report.date:%Y-%m-%d}",
                escape(report.versions.get("torch", "")),
                f'<td class="skb-number" data-order="{report.seconds}">{report.seconds:.0f} s</td>',
            ]
        )
        facets: Facets = {"State": [found], "Kind": [report.device.kind], "Device": [report.device.name]}
        data.append(Row(key, facets))
    measured = {key for key, _ in recorded.reports}
    missing = [work.name for work in catalogue.entries.values() if work.runs and work.key not in measured]
    note = f"<p>Not recorded yet: {escape(', '.join(missing))}.</p>" if missing else ""
    gpu = any(report.device.kind == "cuda" for report in recorded.reports.values())
    headers = ("Entry", "Device", "Kind", "State", "Checks that hold", "Date", "torch", "Time")
    body = table(headers, rows, caption="Recorded runs", interactive="evidence")
    body += rows_script(data, choices=("State", "Kind", "Device"), ranges=(), downloads=("CSV",))
    unseen = "" if gpu else " Nothing has been run on a GPU yet."
    return f"""---
title: Evidence
hide: [toc]
---

# Evidence

<p>Every entry with code must pass one contract: its models are built and counted at full size without
allocating them, a small configuration runs on real pictures, trains, is saved, loaded and exported. Each check
leaves a number. A result is shown as stale, with the reason, when something that it depends on has changed since: the
model, its small configuration, a declared figure, the contract, the search for skips, torch.{unseen}</p>

{body}

{note}
"""

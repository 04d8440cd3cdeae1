"""The page that shows what was measured, where and when, for all entries."""

from __future__ import annotations

from skipkb.catalog.loading import Catalogue
from skipkb.evidence.ledger import Ledgers, is_stale
from skipkb.site.rows import Row, rows_script
from skipkb.site.text import escape, table, verdict


def evidence_page(catalogue: Catalogue, ledgers: Ledgers) -> str:
    """The Markdown page with one row per entry and device."""
    rows, data = [], []
    for (key, _), report in ledgers.latest.items():
        if key not in catalogue.entries:
            continue
        work = catalogue.entries[key]
        holding = sum(check.ok for check in report.checks.values())
        state = "stale" if is_stale(report, work) else "holds" if report.ok else "fails"
        rows.append(
            [
                f'<a href="methods/{key}.html#evidence">{escape(work.name)}</a>',
                escape(report.device.name),
                escape(report.device.kind),
                verdict(state, good=state == "holds"),
                f"{holding} of {len(report.checks)}",
                f"{report.date:%Y-%m-%d}",
                escape(report.versions.get("torch", "")),
                f'<td class="skb-number" data-order="{report.seconds}">{report.seconds:.0f} s</td>',
            ]
        )
        facets = {"State": [state], "Kind": [report.device.kind], "Device": [report.device.name]}
        data.append(Row(key, facets))
    recorded = {key for key, _ in ledgers.latest}
    missing = [work.name for work in catalogue.entries.values() if work.runs and work.key not in recorded]
    note = f"<p>Not recorded yet: {escape(', '.join(missing))}.</p>" if missing else ""
    gpu = any(report.device.kind == "cuda" for report in ledgers.latest.values())
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
leaves a number. A result whose model has changed since is shown as stale.{unseen}</p>

{body}

{note}
"""

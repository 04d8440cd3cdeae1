"""How a run looks in a terminal: progress while it runs, a table of numbers after it. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from skipkb.evidence.results import Check, Report
from skipkb.evidence.runner import Progress


@contextmanager
def progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Yields an ``on_progress`` for ``run``: a bar on a terminal, one line per ended entry elsewhere."""
    columns = (
        TextColumn("smoke"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("smoke", total=None, now="")
        running: dict[str, str] = {}

        def show(event: Progress) -> None:
            if event.kind == "check":
                running[event.key] = event.check or ""
            else:
                running.pop(event.key, None)
                bar.console.print(ended(event), highlight=False)
            now = ", ".join(f"{key}: {check}" for key, check in sorted(running.items()))
            bar.update(task, total=event.total, completed=event.done, now=escape(now))

        yield show


def ended(event: Progress) -> str:
    """One line about an entry that has ended, and one for each of its failed checks."""
    report = event.report
    if report is None:
        return ""
    passed = sum(check.ok for check in report.checks.values())
    mark = "[green]ok  [/]" if report.ok else "[red]FAIL[/]"
    how = "taken over from an earlier run" if event.resumed else f"{report.seconds:.1f} s, {report.peak_mib} MiB"
    lines = [f"[{event.done}/{event.total}] {mark} {event.key}: {passed}/{len(report.checks)} checks, {how}"]
    lines[0] = lines[0].replace(f"[{event.done}/", f"\\[{event.done}/", 1)
    lines += [
        f"        {name}: {escape(number(check))} {escape(check.detail)}"
        for name, check in report.checks.items()
        if not check.ok
    ]
    return "\n".join(lines)


def table(reports: Sequence[Report]) -> Table:
    """Entries by checks, each cell with its number; a failed one is red and marked with a cross."""
    names = list(dict.fromkeys(name for report in reports for name in report.checks))
    result = Table(title=f"{sum(report.ok for report in reports)} of {len(reports)} entries hold the contract")
    result.add_column("entry", no_wrap=True)
    for name in names:
        result.add_column(name, justify="right")
    result.add_column("s", justify="right")
    for report in reports:
        cells = [cell(report.checks.get(name)) for name in names]
        entry = report.entry if report.ok else f"[red]{report.entry}[/]"
        result.add_row(entry, *cells, f"{report.seconds:.1f}")
    return result


def cell(check: Check | None) -> str:
    """The number of one check as the table shows it."""
    if check is None:
        return "·"
    value = "–" if check.value is None else short(check.value)
    return value if check.ok else f"[red]✗ {value}[/]"


def number(check: Check) -> str:
    """Value, limit and unit, such as ``0.31 < 0.9 of the first loss``."""
    if check.value is None or check.limit is None:
        return "no number:"
    negated = {"==": "!=", "<=": ">", "<": ">=", ">=": "<"}
    relation = check.relation if check.ok else negated[check.relation]
    return f"{short(check.value)} {relation} {short(check.limit)} {check.unit};"


def short(value: float) -> str:
    """An integer in full, a float with two significant digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.2g}"

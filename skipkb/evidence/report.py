"""How a run looks in a terminal: progress while it runs, a table of numbers after it. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from skipkb.evidence.results import Check, Report, short
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
    wanted = len(report.checks) + len(report.missing)
    lines = [f"[{event.done}/{event.total}] {mark} {event.key}: {passed}/{wanted} checks, {how}"]
    lines[0] = lines[0].replace(f"[{event.done}/", f"\\[{event.done}/", 1)
    lines += [
        f"        {name}: {escape('; '.join(filter(None, [check.statement, check.detail])))}"
        for name, check in report.checks.items()
        if not check.ok
    ]
    lines += [f"        not made: {', '.join(report.missing)}"] if report.missing else []
    return "\n".join(lines)


def summary(reports: Sequence[Report], console: Console) -> None:
    """Print the table of numbers, in as many parts below each other as the console is narrow."""
    parts: list[list[str]] = [[]]
    for name in dict.fromkeys(name for report in reports for name in report.checks):
        if parts[-1] and _width(reports, [*parts[-1], name]) > console.width:
            parts.append([])
        parts[-1].append(name)
    for part in parts:
        console.print(table(reports, part))
    passed = sum(report.ok for report in reports)
    console.print(f"{passed} of {len(reports)} entries hold the contract", highlight=False)


def table(reports: Sequence[Report], names: Sequence[str]) -> Table:
    """Entries by checks, each cell with its number; a failed one is red and marked with a cross."""
    result = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    result.add_column("entry", no_wrap=True)
    for name in names:
        result.add_column(name, justify="right", width=_column_width(reports, name))
    for report in reports:
        entry = Text(report.entry, "" if report.ok else "red")
        result.add_row(entry, *(cell(report.checks.get(name)) for name in names))
    return result


def _column_width(reports: Sequence[Report], name: str) -> int:
    """What the widest number needs, or the longest word of the name above it."""
    return max([*map(len, name.split()), *(cell(report.checks.get(name)).cell_len for report in reports)])


def _width(reports: Sequence[Report], names: Sequence[str]) -> int:
    """Characters that a table needs if no number may wrap."""
    first = max([len("entry"), *(len(report.entry) for report in reports)])
    return first + sum(_column_width(reports, name) + 3 for name in names) + 3


def cell(check: Check | None) -> Text:
    """The number of one check as the table shows it."""
    if check is None:
        return Text("·")
    value = "–" if check.value is None else short(check.value)
    return Text(value) if check.ok else Text(f"✗ {value}", "red")

"""Counted figures of an entry as committed evidence: catalog/evidence/counts/<key>.json. Loads no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skipkb.catalog.writing import write_text
from skipkb.evidence.folders import evidence_dir

Counts = dict[str, Any]
"""{key, tool, torch, variants: {name: {parameters, buffers, macs, input, output, modules}}}"""


def counts_file(key: str, directory: Path | None = None) -> Path:
    """Where the counts of ``key`` lie under the evidence ``directory`` (default: the catalogue's)."""
    return (directory or evidence_dir()) / "counts" / f"{key}.json"


def read_counts(key: str, directory: Path | None = None) -> Counts | None:
    """The committed counts of an entry; None if there are none.

    Raises:
        ValueError: the file is not what :func:`write_counts` writes.
    """
    file = counts_file(key, directory)
    try:
        counts = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:  # bad JSON or bad UTF-8
        raise ValueError(f"{file}: no JSON: {error}; `{refresh_command(key)}` writes it anew") from error
    if not isinstance(counts, dict) or not isinstance(counts.get("variants"), dict):
        raise ValueError(f"{file}: no counted figures; `{refresh_command(key)}` writes it anew")
    return counts


def write_counts(counts: Counts, directory: Path | None = None) -> Path:
    """Write the counts, the same bytes for the same figures, and return the file."""
    file = counts_file(counts["key"], directory)
    write_text(file, json.dumps(counts, indent=1, sort_keys=True) + "\n")
    return file


def graphs_file(key: str, directory: Path | None = None) -> Path:
    """Where the skip graphs of ``key`` lie: one line of JSON per variant, its name first."""
    return (directory or evidence_dir()) / "skips" / f"{key}.jsonl"


def read_graphs(key: str, directory: Path | None = None) -> dict[str, str]:
    """The committed skip graphs of an entry, by variant, each as the JSON of ``SkipGraph.to_json``."""
    file = graphs_file(key, directory)
    if not file.is_file():
        return {}
    lines = (line.partition("\t") for line in file.read_text(encoding="utf-8").splitlines())
    return {name: text for name, _, text in lines}


def write_graphs(key: str, graphs: dict[str, str], directory: Path | None = None) -> Path:
    """Write the skip graphs of an entry and return the file."""
    file = graphs_file(key, directory)
    write_text(file, "".join(f"{name}\t{text}\n" for name, text in graphs.items()))
    return file


def differences(found: Counts, committed: Counts) -> list[str]:
    """What is no longer true in the committed counts; another torch version is no difference."""
    wrong = []
    for name in sorted({*found["variants"], *committed["variants"]}):
        now, then = found["variants"].get(name), committed["variants"].get(name)
        if now is None or then is None:
            wrong.append(f"variant {name} is {'gone' if now is None else 'missing'}")
            continue
        for figure in sorted({*now, *then}):
            if now.get(figure) != then.get(figure):
                wrong.append(f"{name} {figure}: {then.get(figure)} is now {now.get(figure)}")
    return wrong


def refresh_command(key: str) -> str:
    """The command that measures an entry anew and records it."""
    return f"skipkb smoke {key} --record"

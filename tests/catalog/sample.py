"""A small valid catalogue on disk, for tests that break it in one place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

ENTRY: dict[str, Any] = {
    "key": "alpha",
    "name": "AlphaNet",
    "kind": "method",
    "contribution": "Adds the input of each block to its output.",
    "description": "A network for the tests. It segments nothing.",
    "paper": {"bibtex": "doe2015alpha", "arxiv": "1501.00001"},  # the record's fields: `write` puts them into the bib
    "survey": {
        "reference": 1,
        "sections": ["IV.A"],
        "rows": [
            {
                "table": "classification",
                "name": "Alpha",
                "datasets": {
                    "survey": "CIFAR10/100",
                    "verified": ["CIFAR-10"],
                    "source": {"checked": "unverified"},
                },
                "code": {"survey": "PyTorch", "source": {"checked": "unverified"}},
            }
        ],
    },
    "tasks": ["classification"],
    "themes": ["IV.A"],
    "datasets": ["CIFAR-10"],
    "skips": [
        {
            "start": "block input",
            "end": "block output",
            "merge": "add",
            "span": "short",
            "shortcut": "identity",
        }
    ],
    "implementation": {"status": "planned", "reason": "A sample has no code."},
}

REFERENCE = """@inproceedings{{{key},
  author = {{Doe, Jane and M{{\\"u}}ller, Max}},
  title = {{{title}}},
  booktitle = {{Proceedings of the Sample Conference}},
  year = {{{year}}},
  eprint = {{{arxiv}}},
  archivePrefix = {{arXiv}},{more}
}}
"""


def work(key: str = "alpha", **changes: Any) -> dict[str, Any]:
    """The sample entry under another key, with top-level changes."""
    entry = copy.deepcopy(ENTRY)
    number = sum(map(ord, key)) % 90000 + 10000
    entry |= {"key": key, "name": f"{key.capitalize()}Net"}
    entry["paper"] = {"bibtex": f"doe2015{key}", "arxiv": f"1501.{number:05d}"}
    del entry["survey"]["reference"]  # follows from the order in which works are written
    return entry | changes


def write(
    directory: Path,
    *works: dict[str, Any],
    folders: dict[str, str] | None = None,
    rows: dict[str, list[str]] | None = None,
) -> Path:
    """Write a catalogue with these entries into ``directory`` and return it."""
    works = works or (work(),)
    references, listed = [], {"classification": [], "detection": [], "segmentation": [], "reconstruction": []}
    for entry in works:
        folder = (folders or {}).get(entry["key"], "classification")
        path = directory / folder / f"{entry['key']}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        paper = entry["paper"]
        written = entry | {"paper": paper["bibtex"]}
        path.write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=10_000), encoding="utf-8")
        for row in entry.get("survey", {}).get("rows", []):
            listed[row["table"]].append(entry["key"])
        references.append(
            REFERENCE.format(
                key=entry["paper"]["bibtex"],
                title=f"{entry['name']}: a sample of residual learning",
                year=2015,
                arxiv=entry["paper"].get("arxiv", "1501.00009"),
                more="".join(f"\n  {name} = {{{value}}}," for name, value in paper.items() if name in ("doi", "url")),
            )
        )
    (directory / "references.bib").write_text("\n".join(references), encoding="utf-8")
    cited = [entry["paper"]["bibtex"] for entry in works]
    listed |= rows or {}
    survey = {
        "title": "A survey",
        "arxiv": "2405.01725",
        "references": cited,
        "hosts": ["arxiv.org", "doi.org", "example.com", "sub.example.com"],
        "sections": ["I", "II", "III", "IV.B", "IV.C", "IV.D", "IV.E", "V.B"],
        "themes": {"IV.A": "From short to long"},
        "explanations": {"V.A": "Information flow"},
        "tables": [
            {"key": key, "number": number, "title": key, "survey_rows": len(listed[key]), "rows": listed[key]}
            for key, number in zip(listed, ("I", "II", "III", "IV"), strict=True)
        ],
    }
    (directory / "survey.yaml").write_text(yaml.safe_dump(survey, sort_keys=False), encoding="utf-8")
    return directory


def running(*parameters: int, key: str = "alpha", **changes: Any) -> dict[str, Any]:
    """A sample entry with a model of each of these sizes; all name the same function, which nothing here calls."""
    model = "skipkb.models.classification.highway"
    variants = [
        {
            "name": f"{key}{number}",
            "title": f"{key.capitalize()}Net {number}",
            "build": f"{model}:highway10",
            "input": [1, 1, 28, 28],
            "output": [1, 10],
            "parameters": size,
            "macs": 1000 * size,
        }
        for number, size in enumerate(parameters, start=1)
    ]
    smoke = {
        "build": f"{model}:highway10",
        "input": [2, 1, 28, 28],
        "data": "classification",
        "objective": f"{model}:objective",
    }
    entry = work(key, variants=variants, smoke=smoke)
    del entry["implementation"]
    return entry | changes


def repository(name: str, role: str = "official", **changes: Any) -> dict[str, Any]:
    """A repository of a sample entry."""
    entry = {"url": f"https://example.com/{name}", "role": role, "framework": "PyTorch", "holds": "Models."}
    return entry | {"source": {"checked": "unverified"}} | changes

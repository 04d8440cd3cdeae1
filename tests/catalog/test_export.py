"""The four files of an export."""

from __future__ import annotations

import contextlib
import csv
import datetime
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import bibtexparser
import pytest
import sample

from skipkb.catalog.export import export
from skipkb.catalog.loading import load
from skipkb.catalog.writing import write_bytes

Install = Callable[..., Path]
NAMES = ["catalog.json", "catalog.csv", "references.bib", "catalog.sqlite"]


def test_four_files_that_other_tools_read(install: Install, tmp_path: Path) -> None:
    install(
        sample.work("alpha", description='Größe, "quoted"\nin lines', tasks=["classification", "denoising"]),
        sample.work("beta"),
    )
    out = tmp_path / "out" / "deep"
    assert export(load(), out) == [out / name for name in NAMES]
    assert sorted(path.name for path in out.iterdir()) == sorted([*NAMES, ".skipkb-export"])

    data = json.loads((out / "catalog.json").read_text("utf-8"))
    assert [entry["key"] for entry in data["entries"]] == ["alpha", "beta"]
    assert data["entries"][0]["description"] == 'Größe, "quoted"\nin lines'
    assert data["entries"][0]["folder"] == "classification"
    assert data["survey"]["references"] == ["doe2015alpha", "doe2015beta"]

    with (out / "catalog.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == ["alpha", "beta"]
    assert (rows[0]["task"], rows[0]["author"]) == ("classification; denoising", "Jane Doe; Max Müller")
    assert (rows[0]["year"], rows[0]["merge"], rows[0]["runs"]) == ("2015", "add", "no")

    library = bibtexparser.parse_file(str(out / "references.bib"))
    assert not library.failed_blocks
    assert [entry.key for entry in library.entries] == ["doe2015alpha", "doe2015beta"]

    with contextlib.closing(sqlite3.connect(out / "catalog.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = connection.execute(
            "SELECT key FROM entry JOIN entry_text ON entry_text.rowid = id WHERE entry_text MATCH 'grosse OR große'"
        ).fetchall()
        assert found == [("alpha",)]
        (text,) = connection.execute("SELECT json FROM entry WHERE key = 'alpha'").fetchone()
        assert json.loads(text)["tasks"] == ["classification", "denoising"]


def csv_row(catalogue_file: Path) -> dict[str, str]:
    with catalogue_file.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    return row


def test_code_of_others_is_not_exported_as_official(install: Install, tmp_path: Path) -> None:
    port = sample.repository("port", "third-party", framework="MXNet", licence="GPL-3.0-only")
    install(sample.work(code=[port]))
    export(load(), tmp_path / "without")
    row = csv_row(tmp_path / "without" / "catalog.csv")
    assert (row["official"], row["framework"], row["licence"]) == ("", "", "")

    own = sample.repository("own", framework="Caffe", licence="MIT")
    second = sample.repository("second", framework="JAX")
    install(sample.work(code=[port, own, second]))
    export(load(), tmp_path / "with")
    row = csv_row(tmp_path / "with" / "catalog.csv")
    assert row["official"] == "https://example.com/own; https://example.com/second"
    assert (row["framework"], row["licence"]) == ("Caffe; JAX", "MIT; unknown")
    (entry,) = json.loads((tmp_path / "with" / "catalog.json").read_text("utf-8"))["entries"]
    assert [(one["url"], one["role"]) for one in entry["code"]] == [
        ("https://example.com/port", "third-party"),
        ("https://example.com/own", "official"),
        ("https://example.com/second", "official"),
    ]


def test_every_column_of_the_csv(install: Install, tmp_path: Path) -> None:
    entry = sample.running(
        2000, 1000, kind="regulariser", tasks=["detection", "denoising"], datasets=["CIFAR-10", "SVHN"]
    )
    entry["paper"] |= {"doi": "10.1000/alpha", "arxiv": "1501.00001"}
    entry["skips"] = [
        {"start": "a", "end": "b", "merge": "concat", "span": "long", "shortcut": "crop"},
        {"start": "c", "end": "d", "merge": "add", "span": "long", "shortcut": "identity"},
        {"start": "e", "end": "f", "merge": "concat", "span": "short", "shortcut": "identity"},
    ]

    def evidence(read: bool) -> dict[str, object]:
        return {"checked": "survey", "date": datetime.date(2026, 1, 2)} if read else {"checked": "unverified"}

    entry["errata"] = [
        {
            **{"type": "typo", "where": "Table I", "says": "x", "truth": "y", "status": status},
            "evidence": evidence(status == "confirmed"),
        }
        for status in ("confirmed", "unverified")
    ]
    entry["notes"] = [{"where": "Table I", "adds": "z", "evidence": evidence(read)} for read in (True, True, False)]
    install(entry)
    export(load(), tmp_path)
    assert csv_row(tmp_path / "catalog.csv") == {
        "key": "alpha",
        "name": "AlphaNet",
        "folder": "classification",
        "kind": "regulariser",
        "year": "2015",
        "title": "AlphaNet: a sample of residual learning",
        "author": "Jane Doe; Max Müller",
        "venue": "Proceedings of the Sample Conference",
        "doi": "10.1000/alpha",
        "arxiv": "1501.00001",
        "task": "detection; denoising",
        "theme": "IV.A",
        "merge": "concat; add",
        "span": "long; short",
        "dataset": "CIFAR-10; SVHN",
        "official": "",
        "framework": "",
        "licence": "",
        "runs": "yes",
        "variant": "alpha1; alpha2",
        "errata": "1",
        "notes": "2",
        "contribution": "Adds the input of each block to its output.",
    }


def test_two_exports_are_byte_identical(tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(load(), tmp_path / name)
    for name in NAMES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_second_export_replaces_the_first(install: Install, tmp_path: Path) -> None:
    install()
    export(load(), tmp_path / "out")
    install(sample.work("alpha"), sample.work("beta"))
    export(load(), tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "catalog.json").read_text())["entries"]) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*NAMES, ".skipkb-export"])


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_bytes(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]

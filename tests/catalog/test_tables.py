"""The survey's tables in six formats, citations, and one work as text."""

from __future__ import annotations

import copy
import csv
import datetime
import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import bibtexparser
import pytest
import sample

from skipkb.catalog.citations import cite
from skipkb.catalog.problems import UnknownNameError
from skipkb.catalog.search import get
from skipkb.catalog.show import show
from skipkb.catalog.tables import FORMATS, find_table, survey_tables, table, table_rows

Install = Callable[..., Path]

NASTY = '<script>alert("1")</script> & 100% of $x_1^2$ | {a}\\b ~ #1 `code` *bold*, comma\ttab'
DAY = datetime.date(2026, 1, 2)
HEADER = [
    "Method",
    "Ref.",
    "Year",
    "Data set",
    "Code",
    "Merge",
    "Span",
    "Runs here",
    "Parameters",
    "Licence",
    "Errata",
    "Notes",
]


@pytest.fixture
def two_rows(install: Install) -> None:
    nasty = sample.work("beta", name=NASTY.replace("\t", " "))
    nasty["survey"]["rows"][0]["datasets"] = {"survey": NASTY, "source": {"checked": "unverified"}}
    install(sample.work("alpha"), nasty, rows={"classification": ["beta", "alpha"]})


def plain(cell: str) -> str:
    return " ".join(cell.split())


def test_csv_and_tsv_parse_back(two_rows: None) -> None:
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        rows = list(csv.reader(io.StringIO(table("classification", format)), delimiter=delimiter))
        assert rows[0] == HEADER
        assert [row[0] for row in rows[1:]] == [plain(NASTY), "AlphaNet"]  # the survey's order
        assert rows[1][3] == f"{plain(NASTY)} (as in the survey, unverified)"
        assert rows[2][1:5] == ["", "2015", "CIFAR-10 (unverified)", "PyTorch (as in the survey, unverified)"]
        assert rows[2][5:] == ["add", "short", "no", "", "", "0", "0"]


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells and data.strip():
            self.cells[-1] += data


def test_html_parses_and_escapes(two_rows: None) -> None:
    parser = _Cells()
    parser.feed(table("classification", "html"))
    assert set(parser.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert parser.cells[: len(HEADER)] == HEADER
    assert parser.cells[len(HEADER)] == plain(NASTY)
    assert len(parser.cells) == 3 * len(HEADER)


def test_latex_escapes(two_rows: None) -> None:
    text = table("classification", "latex")
    lines = text.splitlines()
    assert lines[0] == "\\begin{tabular}{llllllllllll}"
    assert lines[-1] == "\\end{tabular}"
    assert lines[4].split(" & ")[0] == (
        r"\textless{}script\textgreater{}alert("
        r'"1")\textless{}/script\textgreater{} \& 100\% of \$x\_1\textasciicircum{}2\$ | '
        r"\{a\}\textbackslash{}b \textasciitilde{} \#1 `code` *bold*, comma tab"
    )
    for line in lines[2:6]:
        if " & " in line:
            assert line.replace("\\&", "").count("&") == len(HEADER) - 1
            assert line.endswith(r"\\")


def test_markdown_is_one_table_without_live_markup(two_rows: None) -> None:
    lines = table("classification", "md").splitlines()
    assert len(lines) == 4
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
    for line in lines:
        assert line.replace(r"\|", "").count("|") == len(HEADER) + 1
    assert r"\<script\>" in lines[2]
    assert r"\*bold\*" in lines[2]
    assert "<" not in lines[2].replace(r"\<", "")


def test_json_loads(two_rows: None) -> None:
    rows = json.loads(table("classification", "json"))
    assert [row["name"] for row in rows] == [plain(NASTY), "AlphaNet"]
    assert rows[1]["group"] == ""


def test_the_group_column_shows_where_there_are_groups(install: Install) -> None:
    entry = sample.work("alpha")
    entry["survey"]["rows"][0] |= {"table": "reconstruction", "group": "Denoising"}
    install(entry, folders={"alpha": "reconstruction"})
    assert table("reconstruction", "tsv").splitlines()[0].split("\t")[3] == "Group"
    assert "Denoising" in table("IV")
    assert table("detection", "csv").splitlines() == [",".join(HEADER)]  # an empty table is still one


@pytest.mark.parametrize("key", ["classification", "Classification", "I", "i"])
def test_a_table_by_key_or_number(two_rows: None, key: str) -> None:
    assert "AlphaNet" in table(key)


def test_an_unknown_table_or_format(two_rows: None) -> None:
    with pytest.raises(UnknownNameError, match="no table is named 'V'; did you mean 'classification' or 'detection'"):
        table("V")
    with pytest.raises(ValueError, match="there is no format 'pdf'; formats: md, csv, tsv, html, latex, json"):
        table("I", "pdf")


@pytest.mark.parametrize("format", FORMATS)
def test_the_real_tables(format: str) -> None:
    for one in survey_tables():
        text = table(one.key, format)
        assert text.endswith("\n")
        assert all(get(key).name.split()[0] in text for key in one.rows)


def rows(key: str = "classification") -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(table(key, "json"))
    return found


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((1234,), "1,234"),
        ((2000, 1000), "1,000 to 2,000"),
        ((3000, 1000, 2000), "1,000 to 3,000"),
        ((1000, 1000), "1,000"),
    ],
)
def test_sizes_of_the_models_of_a_row(install: Install, sizes: tuple[int, ...], text: str) -> None:
    install(sample.running(*sizes))
    (row,) = rows()
    assert (row["params"], row["runs"]) == (text, "yes")
    assert table("classification", "csv").splitlines()[1].endswith(f',"{text}",,0,0')


def test_a_row_without_models_has_no_size(install: Install) -> None:
    install()
    (row,) = rows()
    assert (row["params"], row["runs"]) == ("", "no")


def test_the_licences_of_a_row_are_those_of_official_code(install: Install) -> None:
    port = sample.repository("port", "third-party", licence="GPL-3.0-only")
    own = [
        sample.repository(name, licence=licence)
        for name, licence in (("a", "MIT"), ("b", "BSD-3-Clause"), ("c", "MIT"))
    ]
    install(
        sample.work("alpha", code=[port, sample.repository("nobody-looked")]), sample.work("beta", code=[port, *own])
    )
    assert [row["licence"] for row in rows()] == ["unknown", "MIT, BSD-3-Clause"]


def test_every_cell_of_a_row(install: Install) -> None:
    entry = sample.running(1000, code=[sample.repository("own", licence="MIT")])
    entry["survey"]["rows"] = [
        {
            "table": "reconstruction",
            "name": "Alpha",
            "group": "Denoise",
            "datasets": {"survey": "a", "verified": ["b", "c"], "source": {"checked": "survey", "date": DAY}},
            "code": {"survey": "d", "verified": ["e"], "source": {"checked": "unverified"}},
        }
    ]
    entry["survey"]["reference"] = 1
    entry["skips"][0] |= {"merge": "gate", "span": "long"}
    entry["variants"][0]["data"] = "denoising"
    install(entry)
    assert rows("reconstruction") == [
        {
            **{"name": "AlphaNet", "reference": "[1]", "year": "2015", "group": "Denoise"},
            **{"dataset": "b, c", "code": "e (unverified)", "merge": "gate", "span": "long"},
            **{"runs": "yes", "params": "1,000", "licence": "MIT", "errata": "0", "notes": "0"},
        }
    ]
    assert table("IV", "tsv").splitlines() == [
        "Method\tRef.\tYear\tGroup\tData set\tCode\tMerge\tSpan\tRuns here\tParameters\tLicence\tErrata\tNotes",
        "AlphaNet\t[1]\t2015\tDenoise\tb, c\te (unverified)\tgate\tlong\tyes\t1,000\tMIT\t0\t0",
    ]


def test_a_work_in_two_tables_has_in_each_what_that_one_says(install: Install) -> None:
    first, second = (sample.work()["survey"]["rows"][0] for _ in range(2))
    second |= {"table": "detection", "datasets": {"survey": "VOC", "source": {"checked": "unverified"}}}
    entry = sample.work()
    entry["survey"]["rows"] = [second, first]
    install(entry)
    assert [rows(key)[0]["dataset"] for key in ("classification", "detection")] == [
        "CIFAR-10 (unverified)",
        "VOC (as in the survey, unverified)",
    ]


def test_figures_of_a_real_row() -> None:
    (row,) = (row for row in json.loads(table("segmentation", "json")) if row["name"] == "U-Net")
    assert (row["name"], row["runs"], row["merge"], row["span"]) == ("U-Net", "yes", "concat", "long")
    assert "31,030,658" in row["params"]


def test_cited_records_parse_back(install: Install) -> None:
    install(sample.work("alpha", aliases=["The First"]), sample.work("beta"))
    text = cite("ALPHA", "BetaNet", "the first")  # the first one only once
    library = bibtexparser.parse_string(text)
    assert not library.failed_blocks
    assert [entry.key for entry in library.entries] == ["doe2015alpha", "doe2015beta"]
    assert library.entries[0].fields_dict["year"].value == "2015"
    assert cite() == text
    assert text.endswith("}\n")
    with pytest.raises(UnknownNameError, match="did you mean 'BetaNet'"):
        cite("alpha", "BettaNet")


def test_every_real_record_parses_back() -> None:
    library = bibtexparser.parse_string(cite())
    assert not library.failed_blocks
    assert {"he2016deep", "srivastava2015highway"} <= {entry.key for entry in library.entries}


def test_show_tells_what_there_is() -> None:
    text = show(get("unet"))
    assert text.startswith("U-Net (2015)\n")
    assert "31,030,658 parameters" in text
    assert "skip     concat, long: " in text
    assert text.endswith("\n")


def test_show_of_a_work_without_code(install: Install) -> None:
    install()
    text = show(get("alpha"))
    assert "no code  planned: A sample has no code." in text
    assert "Jane Doe, Max Müller. AlphaNet: a sample of residual learning." in text


def test_a_row_runs_only_by_a_model_for_its_task(install: Install) -> None:
    backbone = sample.running(2000, key="alpha")
    row = backbone["survey"]["rows"][0]
    backbone["survey"]["rows"] = [copy.deepcopy(row) | {"table": key} for key in ("classification", "detection")]
    install(backbone)
    classified, detected = (table_rows(find_table(key))[0] for key in ("classification", "detection"))
    assert (classified["runs"], classified["params"]) == ("yes", "2,000")
    assert (detected["runs"], detected["params"]) == ("no", "")
    backbone["variants"][0]["data"] = "detection"
    install(backbone)
    assert table_rows(find_table("classification"))[0]["runs"] == "no"
    (detected,) = table_rows(find_table("detection"))
    assert (detected["runs"], detected["params"]) == ("yes", "2,000")

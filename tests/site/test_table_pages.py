"""The survey's four tables and the list of errata, cell by cell, and what the browser filters them by."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from skipkb.evidence.recorded import Recorded
from skipkb.site.table_pages import table_page

from .reading import row_data, shown, tables  # type: ignore[import-not-found]
from .real import load  # type: ignore[import-not-found]

HEADER = [
    *("Method", "Year", "Data set", "Code", "Merge", "Span", "Runs here"),
    *("Outputs", "Parameters", "Official code", "Licence"),
]
PAPER, REPOSITORY = "(+paper)<https://example.com/delta.pdf>", "(+repository)<https://github.com/roe/delta>"
ALPHA = "https://github.com/doe/alpha/tree/0123456789abcdef0123456789abcdef01234567"
PORTS = "https://github.com/other/ports/tree/fedcba9876543210fedcba9876543210fedcba98"


def erratum(number: int) -> str:
    return f"erratum {number} of DeltaNet<../methods/delta.html#erratum-{number}>"


@pytest.fixture(scope="session")
def page(small_pages: Path) -> dict[str, str]:
    """The pages of the tables, by key."""
    return {path.stem: path.read_text("utf-8") for path in (small_pages / "tables").glob("*.md")}


def test_table_i_marks_its_own_errata_only(page: dict[str, str]) -> None:
    assert tables(page["classification"]) == {
        "Table I of the survey: Classification": [
            HEADER,
            [
                f"DeltaNet<../methods/delta.html> [4] {erratum(5)}",
                "2014",
                f"MNIST {PAPER} / ~SVHN~ {erratum(1)}",
                f"Theano {REPOSITORY} / ~Keras~ {erratum(2)}",
                *("", "", "no", "", "", "roe/delta<https://github.com/roe/delta>", "unknown"),
            ],
            [
                "AlphaNet<../methods/alpha.html> [1]",
                "2015",
                "CIFAR-10, CIFAR-100 (+paper)<https://arxiv.org/abs/1501.00001>",
                "PyTorch, TensorFlow (+repository)<https://github.com/doe/alpha>",
                *("add", "short", "yes", f"(+equal to doe/alpha@0123456<{ALPHA}>, 2e-07)", "1,234,567"),
                *("doe/alpha<https://github.com/doe/alpha>", "MIT"),
            ],
            [
                "EpsilonNet<../methods/epsilon.html> [6]",
                "2018",
                "ImageNet-1K (+documentation)<https://example.com/data>",
                "JAX (+survey)",
                *("multiply", "short", "yes", "not compared", "5,005", "none", ""),
            ],
        ]
    }


def test_table_ii_marks_its_own_errata_only(page: dict[str, str]) -> None:
    assert tables(page["detection"]) == {
        "Table II of the survey: Detection": [
            HEADER,
            [
                *("GammaNet<../methods/gamma.html> [3]", "2016", "COCO (-unverified)"),
                "none (+paper)<https://arxiv.org/abs/1602.00002>",
                *("attention", "long", "no", "", "", "none", ""),
            ],
            [
                *("EpsilonNet<../methods/epsilon.html> [6]", "2018", "MS COCO 2014 (+survey)", "JAX (+survey)"),
                *("multiply", "short", "no", "", "", "none", ""),  # its model runs for Table I only
            ],
            [
                f"DeltaNet<../methods/delta.html> [4] {erratum(4)}",
                "2014",
                f"KITTI {PAPER} / ~VOC~ {erratum(3)}",
                f"Theano {REPOSITORY} note 1 of DeltaNet<../methods/delta.html#note-1>",
                *("", "", "no", "", "", "roe/delta<https://github.com/roe/delta>", "unknown"),
            ],
        ]
    }


def test_table_iii_gives_the_range_of_several_models(page: dict[str, str]) -> None:
    assert tables(page["segmentation"]) == {
        "Table III of the survey: Segmentation": [
            HEADER,
            [
                *("BetaNet<../methods/beta.html> [2]", "2017", "ISBI 2012 (-unverified)", "Caffe (-unverified)"),
                *("concat, add", "long, short", "yes"),
                f"(+equal to the port other/ports@fedcba9<{PORTS}>, 5e-05) / "
                "(+equal to the authors' definition in doe/beta@1.2.0<https://github.com/doe/beta>, exactly)",
                "7,700,001 to 31,000,002",
                *("example.com/beta<https://example.com/beta>", "unknown"),
            ],
        ]
    }
    assert '<td class="skb-number" data-order="7700001">7,700,001 to 31,000,002</td>' in page["segmentation"]


def test_table_iv_has_groups_and_says_which_link_is_dead(page: dict[str, str]) -> None:
    assert tables(page["reconstruction"]) == {
        "Table IV of the survey: Reconstruction": [
            ["Group", *HEADER],
            [
                *("Deblur", "ZetaNet<../methods/zeta.html> [7]", "2019"),
                "GoPro (+paper)<https://arxiv.org/abs/1904.00004>",
                "PyTorch (+repository)<https://github.com/roe/zeta>",
                *("gate", "short", "yes", f"(+equal to the port other/ports@fedcba9<{PORTS}>, 1e-03)", "909"),
                "roe/zeta<https://github.com/roe/zeta> / "
                "roe/zeta-old<https://github.com/roe/zeta-old> (-dead since 2026-02-03)",
                "BSD-3-Clause, MIT",
            ],
            [
                *("Denoise", "GammaNet<../methods/gamma.html> [3]", "2016"),
                "BSD68 (+paper)<https://arxiv.org/abs/1602.00002>",
                "none (-unverified)",
                *("attention", "long", "no", "", "", "none", ""),
            ],
        ]
    }


def test_the_head_of_a_table_counts_its_rows_and_those_that_run(page: dict[str, str]) -> None:
    heads = {key: re.findall(r"(?m)^# (.*)\n\n<p>(.*?);? of them can be run here", text) for key, text in page.items()}
    assert heads == {
        "classification": [("Table I: Classification", "3 of the survey's 3 rows are in the catalogue; 2")],
        "detection": [("Table II: Detection", "3 of the survey's 3 rows are in the catalogue; 0")],
        "segmentation": [("Table III: Segmentation", "1 of the survey's 1 rows are in the catalogue; 1")],
        "reconstruction": [("Table IV: Reconstruction", "2 of the survey's 2 rows are in the catalogue; 1")],
    }
    for key, text in page.items():
        assert f'data-skb-table="{key}"' in text


def test_a_flag_tells_the_truth_when_pointed_at(page: dict[str, str]) -> None:
    flags = re.findall(r'#erratum-(\d)" title="(.*?)"', page["classification"])
    assert flags == [
        ("5", "It is a regulariser."),
        ("1", "The paper evaluates on MNIST."),
        ("2", "The repository is written in Theano."),
    ]


def facets(page: str) -> dict[str, dict[str, list[str]]]:
    """What each row can be chosen by, by the key of its entry."""
    return {row["key"]: row["facets"] for row in row_data(page)["rows"]}


def test_rows_are_chosen_by_official_code_only(page: dict[str, str]) -> None:
    alpha, zeta, gamma = (
        facets(page[table])[key]
        for table, key in (("classification", "alpha"), ("reconstruction", "zeta"), ("detection", "gamma"))
    )
    assert alpha == {
        "Task": ["classification"],
        "Theme": ["IV.A"],
        "Merge": ["add"],
        "Span": ["short"],
        "Framework": ["PyTorch"],
        "Official code": ["yes"],
        "Licence": ["MIT"],
        "Runs here": ["yes"],
        "Errata": ["no"],
        "Notes": ["no"],
    }
    assert zeta == {
        "Group": ["Deblur"],
        "Task": ["deblurring"],
        "Theme": [],
        "Merge": ["gate"],
        "Span": ["short"],
        "Framework": ["PyTorch", "Caffe"],
        "Official code": ["yes"],
        "Licence": ["BSD-3-Clause", "MIT"],
        "Runs here": ["yes"],
        "Errata": ["no"],
        "Notes": ["no"],
    }
    assert gamma == {
        "Task": ["detection", "denoising"],
        "Theme": [],
        "Merge": ["attention"],
        "Span": ["long"],
        "Framework": [],
        "Official code": ["no"],
        "Licence": [],
        "Runs here": ["no"],
        "Errata": ["no"],
        "Notes": ["no"],
    }
    assert facets(page["classification"])["delta"]["Errata"] == ["yes"]
    assert facets(page["reconstruction"])["gamma"]["Group"] == ["Denoise"]


def test_a_row_runs_where_a_model_does_what_its_table_is_about(page: dict[str, str]) -> None:
    runs = {key: {work: row["Runs here"] for work, row in facets(text).items()} for key, text in page.items()}
    assert runs == {
        "classification": {"delta": ["no"], "alpha": ["yes"], "epsilon": ["yes"]},
        "detection": {"gamma": ["no"], "epsilon": ["no"], "delta": ["no"]},
        "segmentation": {"beta": ["yes"]},
        "reconstruction": {"zeta": ["yes"], "gamma": ["no"]},
    }


def test_years_and_themes_of_the_filters(page: dict[str, str]) -> None:
    data = row_data(page["classification"])
    assert [row["numbers"] for row in data["rows"]] == [{"Year": 2014}, {"Year": 2015}, {"Year": 2018}]
    assert data["labels"] == {"Theme": {"IV.A": "IV.A From short to long", "IV.B": "IV.B Wider units"}}


DOWNLOADED = {
    "classification": [
        ["DeltaNet", "[4]", "2014", "MNIST", "Theano", "", "", "no", "", "unknown", "6", "1"],
        [
            *("AlphaNet", "[1]", "2015", "CIFAR-10, CIFAR-100", "PyTorch, TensorFlow", "add", "short"),
            *("yes", "1,234,567", "MIT", "0", "0"),
        ],
        ["EpsilonNet", "[6]", "2018", "ImageNet-1K", "JAX", "multiply", "short", "yes", "5,005", "", "0", "0"],
    ],
    "detection": [
        [
            *("GammaNet", "[3]", "2016", "COCO (as in the survey, unverified)", "none", "attention", "long"),
            *("no", "", "", "0", "0"),
        ],
        ["EpsilonNet", "[6]", "2018", "MS COCO 2014", "JAX", "multiply", "short", "no", "", "", "0", "0"],
        ["DeltaNet", "[4]", "2014", "KITTI", "Theano", "", "", "no", "", "unknown", "6", "1"],
    ],
    "segmentation": [
        [
            *("BetaNet", "[2]", "2017", "ISBI 2012 (unverified)", "Caffe (as in the survey, unverified)"),
            *("concat, add", "long, short", "yes", "7,700,001 to 31,000,002", "unknown", "0", "0"),
        ],
    ],
    "reconstruction": [
        [
            *("ZetaNet", "[7]", "2019", "Deblur", "GoPro", "PyTorch", "gate", "short"),
            *("yes", "909", "BSD-3-Clause, MIT", "0", "0"),
        ],
        [
            *("GammaNet", "[3]", "2016", "Denoise", "BSD68", "none (unverified)", "attention", "long"),
            *("no", "", "", "0", "0"),
        ],
    ],
}


@pytest.mark.parametrize("key", DOWNLOADED)
def test_downloaded_tables(page: dict[str, str], small_pages: Path, key: str) -> None:
    columns = [
        *("Method", "Ref.", "Year", *(["Group"] if key == "reconstruction" else []), "Data set", "Code"),
        *("Merge", "Span", "Runs here", "Parameters", "Licence", "Errata", "Notes"),
    ]
    folder = small_pages / "tables"
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        with (folder / f"{key}.{suffix}").open(encoding="utf-8", newline="") as file:
            assert list(csv.reader(file, delimiter=delimiter)) == [columns, *DOWNLOADED[key]]
    assert [row["cells"] for row in row_data(page[key])["rows"]] == DOWNLOADED[key]
    assert row_data(page[key])["columns"] == columns
    rows = json.loads((folder / f"{key}.json").read_text("utf-8"))
    assert [[cell for name, cell in row.items() if name != "group" or cell] for row in rows] == DOWNLOADED[key]


def test_records_of_a_table_are_those_of_its_rows(small_pages: Path) -> None:
    records = (small_pages / "tables" / "classification.bib").read_text("utf-8")
    assert re.findall(r"(?m)^@\w+\{(\w+),", records) == ["roe2014delta", "doe2015alpha", "doe2018epsilon"]


ERRATA: list[tuple[str, ...]] = [
    ("1", "Table I", "Table I", "datasets", "dataset", "SVHN", "The paper evaluates on MNIST.", "confirmed"),
    ("2", "Table I", "Table I", "code", "framework", "Keras", "The repository is written in Theano.", "disputed"),
    ("3", "Table II", "Table II", "datasets", "dataset", "VOC", "The paper evaluates on KITTI.", "confirmed"),
    (
        *("4", "Table II", "Table II, row of Delta", "reference", "citation", "[5]"),
        *("The first number of this work is 4.", "confirmed"),
    ),
    ("5", "Table I", "Table I", "description", "category", "A network.", "It is a regulariser.", "disputed"),
    (
        *("6", "Project page", "project page, Part I, section 1, item 4", "", "link", "https://github.com/roe/gone"),
        *("The code is at another address.", "confirmed"),
    ),
]
"""Number, place, where, column, type, what the survey says, the truth, status."""
SOURCES = [
    ("paper", "Section 2", "https://example.com/delta.pdf", "2026-01-06"),
    ("repository", "README", "https://github.com/roe/delta", "2026-01-07"),
    ("paper", "Section 3", "https://example.com/delta.pdf", "2026-01-06"),
    ("survey", "References", "https://arxiv.org/abs/2405.01725", "2026-01-08"),
    ("paper", "Abstract", "https://example.com/delta.pdf", "2026-01-06"),
    ("repository", "", "https://github.com/roe/delta", "2026-01-07"),
]


def test_errata_as_files_and_as_rows(small_pages: Path) -> None:
    expected = [("delta", "DeltaNet", *line, *source) for line, source in zip(ERRATA, SOURCES, strict=True)]
    expected.append(
        (
            *("", "", "1", "Reference list", "References, [3]", "", "citation"),
            *("The year is 2006.", "The year is 2016.", "confirmed"),
            *("documentation", "Record", "https://example.com/record", "2026-01-09"),
        )
    )
    columns = [
        *("key", "work", "number", "place", "where", "column", "type", "says", "truth", "status"),
        *("checked", "source_where", "source_url", "source_date"),
    ]
    header, *lines = csv.reader(io.StringIO((small_pages / "errata.csv").read_text("utf-8")))
    assert header == columns
    assert [tuple(line) for line in lines] == expected
    objects: list[dict[str, Any]] = json.loads((small_pages / "errata.json").read_text("utf-8"))
    assert [tuple(str(one[column]) for column in columns) for one in objects] == expected
    data = row_data((small_pages / "errata.md").read_text("utf-8"))
    assert data["columns"] == columns
    assert [tuple(row["cells"]) for row in data["rows"]] == expected
    assert [row["key"] for row in data["rows"]] == [*["delta"] * 6, ""]
    assert [row["facets"] for row in data["rows"]] == [
        {"Place": [line[3]], "Type": [line[6]], "Status": [line[9]]} for line in expected
    ]


def test_the_page_of_all_errata(small_pages: Path) -> None:
    text = (small_pages / "errata.md").read_text("utf-8")
    survey = "(+survey)<https://arxiv.org/abs/2405.01725>"
    marks = [PAPER, REPOSITORY, PAPER, survey, PAPER, REPOSITORY]
    assert tables(text)["Errata"] == [
        ["Work", "Where", "Type", "The survey says", "What we found", "Status"],
        *(
            [f"DeltaNet<methods/delta.html#erratum-{number}>", where, kind, says, truth, f"{status} {mark}"]
            for (number, _, where, _, kind, says, truth, status), mark in zip(ERRATA, marks, strict=True)
        ),
        [
            *("", "References, [3]", "citation", "The year is 2006.", "The year is 2016."),
            "confirmed (+documentation)<https://example.com/record>",
        ],
    ]
    assert shown(text.partition("<p>")[2]).startswith("7 places where the survey")
    assert "there are\n2 of them" in text


def test_notes_stand_apart_from_errata(page: dict[str, str], small_pages: Path) -> None:
    text = (small_pages / "errata.md").read_text("utf-8")
    assert tables(text)["Notes"] == [
        ["Work", "Where", "Note", "Source"],
        [
            *("DeltaNet<methods/delta.html#note-1>", "Table II", "Theano / A Lasagne version came later."),
            REPOSITORY,
        ],
        ["", "References, [3]", "The printed issue is of 2017.", "(+documentation)<https://example.com/record>"],
    ]
    assert re.findall(r'#note-(\d)" title="(.*?)"', page["detection"]) == [("1", "A Lasagne version came later.")]
    assert "#note-" not in page["classification"]
    header, *lines = csv.reader(io.StringIO((small_pages / "notes.csv").read_text("utf-8")))
    objects: list[dict[str, Any]] = json.loads((small_pages / "notes.json").read_text("utf-8"))
    assert [[str(one[column]) for column in header] for one in objects] == lines
    assert [(one["key"], one["number"], one["column"], one["adds"]) for one in objects] == [
        ("delta", 1, "code", "A Lasagne version came later."),
        ("", 1, "", "The printed issue is of 2017."),
    ]


def test_what_nobody_has_read_is_on_no_page(small_pages: Path) -> None:
    for path in small_pages.rglob("*"):
        if path.suffix in (".md", ".csv", ".json", ".js", ".txt", ".tsv", ".tex"):
            text = path.read_text("utf-8")
            assert "Nobody has read this" not in text, path
            assert "Fashion-MNIST is unread" not in text, path


def test_every_erratum_with_a_column_marks_a_cell_of_the_real_tables() -> None:
    catalogue, recorded = load(), Recorded()
    found: set[tuple[str, int]] = set()
    for table in catalogue.survey.tables:
        marks = re.findall(r"methods/(\w+)\.html#erratum-(\d+)", table_page(table, catalogue, recorded))
        found |= {(key, int(number)) for key, number in marks}
    wanted = {
        (work.key, number)
        for work in catalogue.entries.values()
        for number, erratum in enumerate(work.errata, start=1)
        if erratum.column and work.survey.rows
    }
    assert wanted
    assert wanted <= found

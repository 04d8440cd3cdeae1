"""What the explorer and the tables hand to the browser says what the catalogue says."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import bibtexparser
import pytest

from skipkb.catalog.columns import printed_size
from skipkb.catalog.loading import Catalogue
from skipkb.evidence.counts import read_graphs
from skipkb.evidence.recorded import Recorded
from skipkb.site.errata import errata_files, errata_page, place
from skipkb.site.explorer import (
    CHOICES,
    NUMBERS_ABOUT,
    bibtex_data,
    explorer_data,
    fingerprint_data,
)
from skipkb.site.rows import Row, rows_script, safe_json
from skipkb.site.table_pages import table_files, table_page

from .reading import row_data, script_data  # type: ignore[import-not-found]
from .real import load  # type: ignore[import-not-found]

NASTY = '</script><!-- <b> & "q" \u2028 \\'


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


def test_every_entry_is_in_the_explorer_once_with_its_own_numbers(catalogue: Catalogue) -> None:
    rows = script_data(explorer_data(catalogue))["rows"]
    assert [row["key"] for row in rows] == list(catalogue.entries)
    for row in rows:
        work, numbers = catalogue.entries[row["key"]], row["numbers"]
        assert set(numbers) <= set(NUMBERS_ABOUT)
        assert set(row["facets"]) == set(CHOICES)
        assert numbers["Year"] == work.year
        assert numbers["Errata"] == len(work.errata)
        assert numbers["Reported results"] == len(work.results)
        assert row["facets"]["Runs here"] == ["yes" if work.variants else "no"]
        assert row["facets"]["Table"] == [r.table for r in work.survey.rows]
        if work.variants:
            first = work.variants[0]
            assert (numbers["Parameters"], numbers["MACs"]) == (first.parameters, first.macs)
            assert numbers["Skips found"] == first.skips.get("add", 0) + first.skips.get("concat", 0)
            assert row["printed"] == []
        elif "Parameters" in numbers:
            assert row["printed"][0] == "Parameters"
            assert any(f"as printed: {c.parameters}" in row["notes"]["Parameters"] for c in work.configurations)


@pytest.fixture(scope="session")
def small_explorer(small_pages: Path) -> dict[str, Any]:
    """What the explorer gets of the small catalogue: the records by key."""
    data = script_data((small_pages / "assets" / "explorer-data.js").read_text("utf-8"))
    return {row["key"]: row for row in data["rows"]}


def test_the_record_of_a_work_with_two_models(small_explorer: dict[str, Any]) -> None:
    assert small_explorer["beta"] == {
        "key": "beta",
        "name": "BetaNet",
        "venue": "IEEE Transactions on Medical Imaging",
        "contribution": "Concatenates early features to late ones.",
        "also": "Handing on detail Jane Doe",
        "facets": {
            "Task": ["segmentation", "rescaling"],
            "Theme": ["IV.A", "IV.B"],
            "Explanation": [],
            "Merge": ["concat", "add"],
            "Span": ["long", "short"],
            "Kind": ["method"],
            "Table": ["segmentation"],
            "Data set": ["ISBI 2012"],
            "Framework": ["Caffe"],
            "Official code": ["yes"],
            "Licence": ["unknown"],
            "Runs here": ["yes"],
            "Errata": ["no"],
            "Notes": ["no"],
        },
        "numbers": {
            "Year": 2017,
            "Parameters": 31000002,
            "MACs": 150000000003,
            "Skips found": 3,  # two concatenations and an addition, declared for the first model
            "Long skips found": 2,
            "Longest skip": 4,  # of six layers: of the trace of the first model, which stands second in its file
            "Weighted layers": 6,
            "Models built here": 2,
            "Related works": 2,
            "Data sets": 1,
            "Reported results": 0,
            "Repositories": 1,
            "Authors": 1,
            "Errata": 0,
            "Notes": 0,
        },
        "notes": {
            **dict.fromkeys(("Parameters", "MACs", "Skips found", "Long skips found"), "BetaNet, wide, exact"),
            **dict.fromkeys(("Longest skip", "Weighted layers"), "BetaNet, wide"),
        },
        "printed": [],
        "sizes": {
            "Parameters": ["BetaNet, wide: 31,000,002", "BetaNet, thin: 7,700,001"],
            "MACs": ["BetaNet, wide: 150,000,000,003", "BetaNet, thin: 9,000,000,001"],
        },
        "code": ["https://example.com/beta"],
    }


def test_the_record_of_a_work_without_code_has_printed_sizes(small_explorer: dict[str, Any]) -> None:
    gamma = small_explorer["gamma"]
    assert gamma["numbers"] == {
        **{"Year": 2016, "Parameters": 44.5e6, "MACs": 3.5e9, "Models built here": 0, "Related works": 1},
        **{"Data sets": 2, "Reported results": 1, "Repositories": 1, "Authors": 3, "Errata": 0, "Notes": 0},
    }
    assert gamma["notes"] == {
        "Parameters": "GammaNet-B, as printed: 44.5M",
        "MACs": "GammaNet-A, as printed: 3.5 GFLOPs",
    }
    assert gamma["printed"] == ["Parameters", "MACs"]
    assert gamma["sizes"] == {
        "Parameters": ["GammaNet-B: 44.5M (as printed)", "GammaNet-C: 90.1M (as printed)"],
        "MACs": ["GammaNet-A: 3.5 GFLOPs (as printed)", "GammaNet-C: 7.5 GFLOPs (as printed)"],
    }
    assert gamma["facets"]["Data set"] == ["MS COCO", "BSD68"]
    assert gamma["facets"]["Table"] == ["detection", "reconstruction"]
    assert gamma["facets"]["Explanation"] == ["V.B"]
    assert gamma["code"] == []  # the code of others is not official
    assert (gamma["facets"]["Framework"], gamma["facets"]["Official code"]) == ([], ["no"])


def test_the_records_of_the_others(small_explorer: dict[str, Any]) -> None:
    alpha, delta, zeta = (small_explorer[key] for key in ("alpha", "delta", "zeta"))
    assert alpha["also"] == "The First Adding the input Jane Doe Max Low"
    assert (alpha["numbers"]["Repositories"], alpha["code"]) == (2, ["https://github.com/doe/alpha"])
    assert alpha["numbers"]["Related works"] == 3  # three works are about it
    assert alpha["sizes"] == {
        "Parameters": ["AlphaNet-20: 1,234,567", "AlphaNet-200: 64.5M (as printed)"],
        "MACs": ["AlphaNet-20: 45,678,901", "AlphaNet-200: 15.0 GFLOPs (as printed)"],
    }
    assert (delta["numbers"]["Errata"], delta["facets"]["Errata"]) == (6, ["yes"])
    assert (delta["numbers"]["Notes"], delta["facets"]["Notes"]) == (1, ["yes"])
    assert delta["facets"]["Kind"] == ["regulariser"]
    assert delta["printed"] == []
    assert zeta["code"] == ["https://github.com/roe/zeta", "https://github.com/roe/zeta-old"]
    assert zeta["facets"]["Licence"] == ["BSD-3-Clause", "MIT"]


def test_the_words_for_the_choices(small_pages: Path) -> None:
    data = script_data((small_pages / "assets" / "explorer-data.js").read_text("utf-8"))
    assert data["labels"] == {
        "Theme": {"IV.A": "IV.A From short to long", "IV.B": "IV.B Wider units"},
        "Explanation": {"V.A": "V.A Information flow", "V.B": "V.B Ensembles"},
        "Table": {
            "classification": "I Classification",
            "detection": "II Detection",
            "segmentation": "III Segmentation",
            "reconstruction": "IV Reconstruction",
        },
    }


def test_the_picture_and_the_record_of_a_work(small_pages: Path) -> None:
    pictures = script_data((small_pages / "assets" / "fingerprint-data.js").read_text("utf-8"))
    assert {key: one["text"] for key, one in pictures.items()} == {
        "beta": "BetaNet, wide: 1 add, 2 concat; 1 identity, 1 resampled, 1 projection; 2 long, 1 cross-scale"
    }
    records = script_data((small_pages / "assets" / "bibtex-data.js").read_text("utf-8"))
    assert {key: record.partition(",")[0] for key, record in records.items()} == {
        "alpha": "@inproceedings{doe2015alpha",
        "beta": "@article{doe2017beta",
        "gamma": "@inproceedings{doe2016gamma",
        "delta": "@book{roe2014delta",
        "epsilon": "@inproceedings{doe2018epsilon",
        "zeta": "@inproceedings{roe2019zeta",
    }


def test_relations_count_on_both_sides(catalogue: Catalogue) -> None:
    rows = script_data(explorer_data(catalogue))["rows"]
    relations = sum(len(work.relations) for work in catalogue.entries.values())
    assert relations
    assert sum(row["numbers"]["Related works"] for row in rows) == 2 * relations


def test_every_recorded_trace_has_its_picture_and_numbers(catalogue: Catalogue) -> None:
    pictures = script_data(fingerprint_data(catalogue))
    recorded = [key for key in catalogue.entries if read_graphs(key)]
    assert list(pictures) == sorted(recorded)
    assert all(picture["svg"].startswith("<svg") for picture in pictures.values())
    unet = next(row for row in script_data(explorer_data(catalogue))["rows"] if row["key"] == "unet")
    assert unet["numbers"]["Weighted layers"] == 23  # as the paper says: 23 convolutional layers
    assert unet["numbers"]["Longest skip"] > unet["numbers"]["Skips found"] == 4


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("25.6M", 25.6e6),
        ("~26 million", 26e6),
        ("4,131K", 4.131e6),
        ("175 billion", 175e9),
        ("7B (LLaMA-7B, fine-tuned)", 7e9),
        ("47,851,075", 47851075),
        ("100M, in the name of the checkpoint", 100e6),
        ("+10.0M (ResNet-101: 42.6M)", None),
        ("about thirty", None),
        ("3.5Mb", None),
        (None, None),
    ],
)
def test_a_printed_size_is_read_as_its_number_or_not_at_all(text: str | None, number: float | None) -> None:
    assert printed_size("parameters", text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3.864G FLOPs", 3.864e9),
        ("2.5 GFLOPs", 2.5e9),
        ("1.5 billion multiply-adds", 1.5e9),
        ("569M MACs", 569e6),
        ("54.17B Multiply-Adds", 54.17e9),
        ("56.8G", 56.8e9),
        ("65.86G FLOPs (2 per multiply-add)", None),
        ("286G FLOPs (as printed, multiply+add counted separately)", None),
    ],
)
def test_printed_macs_are_read_unless_they_count_two_for_each(text: str, number: float | None) -> None:
    assert printed_size("macs", text) == number


def test_no_printed_figure_of_the_catalogue_is_read_as_something_tiny(catalogue: Catalogue) -> None:
    read_sizes = 0
    for work in catalogue.entries.values():
        for configuration in work.configurations:
            for value in (printed_size(field, getattr(configuration, field)) for field in ("parameters", "macs")):
                assert value is None or value >= 1000, (work.key, configuration)
                read_sizes += value is not None
    assert read_sizes > 100


def test_text_cannot_leave_its_script() -> None:
    text = safe_json({"name": NASTY})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"name": NASTY}
    page = rows_script([Row("x", {"Type": [NASTY]}, cells=[NASTY])], choices=["Type"], ranges=(), columns=["a"])
    assert page.count("</script>") == 1
    assert row_data(page)["rows"][0]["cells"] == [NASTY]


def test_the_rows_of_a_table_are_those_of_its_files(catalogue: Catalogue) -> None:
    for table in catalogue.survey.tables:
        data = row_data(table_page(table, catalogue, Recorded()))
        assert [row["key"] for row in data["rows"]] == table.rows
        written = csv.reader(io.StringIO(table_files(table, catalogue)[f"{table.key}.csv"]))
        assert [data["columns"], *(row["cells"] for row in data["rows"])] == list(written)
        for row in data["rows"]:
            assert set(row["facets"]) == set(data["choices"])
            assert row["numbers"] == {"Year": catalogue.entries[row["key"]].year}
    assert "Group" in data["choices"]  # Table IV has groups


def test_every_erratum_of_a_cell_is_marked_even_when_there_are_two(catalogue: Catalogue) -> None:
    table = catalogue.survey.tables[1]
    work = catalogue.entries["cpd"]
    assert [e.column for e in work.errata if e.where == "Table II"].count("datasets") == 2
    page = table_page(table, catalogue, Recorded())
    for number, erratum in enumerate(work.errata, start=1):
        if erratum.where == "Table II" and erratum.column:
            assert f"methods/cpd.html#erratum-{number}" in page
        elif not erratum.column:
            assert f"methods/cpd.html#erratum-{number}" not in page


def test_bibtex_records_are_whole(catalogue: Catalogue) -> None:
    records = script_data(bibtex_data(catalogue))
    assert set(records) == set(catalogue.entries)
    library = bibtexparser.parse_string("\n\n".join(dict.fromkeys(records.values())))
    assert not library.failed_blocks
    assert {entry.key for entry in library.entries} == {work.paper for work in catalogue.entries.values()}


def test_the_errata_files_hold_every_erratum(catalogue: Catalogue) -> None:
    files = errata_files(catalogue)
    lines = json.loads(files["errata.json"])
    assert [{k: str(v) for k, v in line.items()} for line in lines] == list(
        csv.DictReader(io.StringIO(files["errata.csv"]))
    )
    own = [line for line in lines if line["key"]]
    assert [(line["key"], line["truth"]) for line in own] == [
        (work.key, erratum.truth) for work in catalogue.entries.values() for erratum in work.errata
    ]
    assert len(lines) - len(own) == len(catalogue.survey.errata)
    data = row_data(errata_page(catalogue))
    assert [dict(zip(data["columns"], row["cells"], strict=True)) for row in data["rows"]] == [
        {k: str(v) for k, v in line.items()} for line in lines
    ]


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ("Table IV", "Table IV"),
        ("project page, Part II, section 1, item 14", "Project page"),
        ("References, [172]", "Reference list"),
        ("Reference 81", "Reference list"),
        ("Fig. 8", "Figures"),
        ("Figure 4", "Figures"),
        ("IV.A and Fig. 6", "Section IV"),
        ("V.A", "Section V"),
        ("II", "Section II"),
    ],
)
def test_the_place_of_an_erratum(where: str, part: str) -> None:
    assert place(where) == part


def test_every_place_of_the_catalogue_is_known(catalogue: Catalogue) -> None:
    sources = [*catalogue.entries.values(), catalogue.survey]
    places = {place(remark.where) for source in sources for remark in [*source.errata, *source.notes]}
    assert places.isdisjoint({"Elsewhere"})

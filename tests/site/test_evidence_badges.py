"""What a page says of measured results: each badge is shown where it is true, and fails here where it lies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from skipkb.catalog.loading import Catalogue
from skipkb.evidence.key import pinned_torch
from skipkb.evidence.recorded import Recorded
from skipkb.evidence.results import Check, Equal, Report
from skipkb.site.equal import equal_marks
from skipkb.site.evidence import evidence_page
from skipkb.site.home import home_page
from skipkb.site.methods import method_page

from .reading import row_data, shown, tables  # type: ignore[import-not-found]
from .small_evidence import CPU, GPU, WRONG, report  # type: ignore[import-not-found]

SIZES = "Declared, counted and published size"


def recorded(*reports: Report) -> Recorded:
    return Recorded({(one.entry, one.device.slug): one for one in reports})


def page_of(small: Catalogue, key: str, *reports: Report) -> str:
    """The page of an entry when these are the recorded results."""
    return method_page(small.entries[key], small, recorded(*reports), "")


def contract_words(page: str) -> list[str]:
    """What the page says of each recorded run in one line."""
    return [shown(line) for line in re.findall(r"(?m)^### On .*\n\n<p>(.*?)</p>$", page)]


def sizes(page: str) -> list[tuple[str, str]]:
    """Parameters and MACs of each model, as shown."""
    return [(row[3], row[5]) for row in tables(page)[SIZES][1:]]


# ------------------------------------------------------------------------------------------------------ counted


def test_counted_is_good_where_the_counts_are_the_declared_ones(small: Catalogue) -> None:
    page = page_of(small, "alpha", report(small.entries["alpha"]))
    assert sizes(page) == [("1,234,567 / (+counted)", "45.68 M / (+counted)")]
    assert "<p>Counted with a counter, torch 2.0.1.</p>" in page


def test_another_count_is_shown_as_bad_beside_the_figure_it_is_of(small: Catalogue) -> None:
    page = page_of(small, "zeta", report(small.entries["zeta"]))
    assert sizes(page) == [("909 / (-counted 910)", "80.80 k / (+counted)")]


def test_a_model_without_a_count_is_not_called_counted(small: Catalogue) -> None:
    page = page_of(small, "beta", report(small.entries["beta"]))
    assert sizes(page) == [
        ("31,000,002 / (+counted)", "150.00 G / (+counted)"),
        ("7,700,001 / (-not counted)", "9.00 G / (-not counted)"),
    ]


def test_old_counts_are_not_shown_and_the_page_says_why(small: Catalogue) -> None:
    alpha = small.entries["alpha"]
    off = Check(value=1, limit=0, unit="differences", ok=False)
    for reports, why in (
        ([report(alpha, key={"model": "another"})], "the model changed"),
        ([], "no recorded run has compared them"),
        ([report(alpha, checks={"counted evidence": off})], "no recorded run has compared them"),
    ):
        page = page_of(small, "alpha", *reports)
        assert sizes(page) == [("1,234,567 / (-not counted)", "45.68 M / (-not counted)")]
        assert f"<p>The recorded counts are not shown: {why}.</p>" in page


# ---------------------------------------------------------------------------------------- holds, fails and stale


def test_holds(small: Catalogue) -> None:
    alpha = small.entries["alpha"]
    page = page_of(small, "alpha", report(alpha))
    assert contract_words(page) == ["(+holds) The contract holds."]
    rows = tables(page)["Contract on x86_64"]
    assert rows[0] == ["Check", "Result", "Measured", "Detail"]
    assert rows[1] == ["builds", "(+holds)", "1 == 1 of builds", "detail 1"]
    assert {row[1] for row in rows[1:]} == {"(+holds)"}
    assert "<p>2026-03-01; python 3.11.7, torch 2.0.1; 10 s, 1,001 MiB at most.</p>" in page


def test_one_failed_check_is_enough_to_fail(small: Catalogue) -> None:
    page = page_of(small, "zeta", report(small.entries["zeta"], checks={"parameters": WRONG}))
    assert contract_words(page) == ["(-fails) The contract does not hold."]
    results = {row[0]: row[1:] for row in tables(page)["Contract on x86_64"]}
    assert results["parameters"] == ["(-fails)", "1 != 0 parameters off", "zeta: counted 910, declared 909"]
    assert results["builds"][0] == results["export"][0] == "(+holds)"


def test_a_run_that_broke_off_does_not_hold(small: Catalogue) -> None:
    page = page_of(small, "alpha", report(small.entries["alpha"], complete=False))
    assert contract_words(page) == ["(-fails) The contract does not hold."]


STALE = {
    "model": "the model changed",
    "smoke": "its small configuration or its data changed",
    "declared": "a declared figure changed",
    "records": "the records of the authors' code changed",
    "contract": "the contract changed",
    "tracer": "the search for skips changed",
}


@pytest.mark.parametrize("part", STALE)
def test_a_stale_result_is_marked_on_both_pages_with_the_reason(small: Catalogue, part: str) -> None:
    old = report(small.entries["alpha"], key={part: "another"})
    assert contract_words(page_of(small, "alpha", old)) == [f"(-stale) Stale: {STALE[part]}."]
    (_, row) = tables(evidence_page(small, recorded(old)))["Recorded runs"]
    assert row[3] == f"(-stale) {STALE[part]}"


def test_another_torch_makes_a_result_stale(small: Catalogue) -> None:
    old = report(small.entries["alpha"], key={"torch": "1.0"})
    words = f"measured with torch 1.0, now {pinned_torch('cpu')}"
    assert contract_words(page_of(small, "alpha", old)) == [f"(-stale) Stale: {words}."]


def test_a_result_without_a_check_of_today_is_stale(small: Catalogue) -> None:
    old = report(small.entries["alpha"], checks={"export": None})
    words = "the contract has a new check: export"
    assert contract_words(page_of(small, "alpha", old)) == [f"(-stale) Stale: {words}."]
    (_, row) = tables(evidence_page(small, recorded(old)))["Recorded runs"]
    assert (row[3], row[4]) == (f"(-stale) {words}", "15 of 16")


def test_a_stale_failure_is_stale(small: Catalogue) -> None:
    old = report(small.entries["zeta"], checks={"parameters": WRONG}, key={"model": "another"})
    assert contract_words(page_of(small, "zeta", old)) == ["(-stale) Stale: the model changed."]


def test_each_device_has_its_own_result(small: Catalogue) -> None:
    zeta = small.entries["zeta"]
    page = page_of(small, "zeta", report(zeta), report(zeta, GPU, checks={"parameters": WRONG}))
    assert re.findall("(?m)^### On (.*)$", page) == ["x86&#95;64 (cpu)", "NVIDIA H200 (cuda)"]
    assert contract_words(page) == ["(+holds) The contract holds.", "(-fails) The contract does not hold."]
    assert "agrees with CPU" in [row[0] for row in tables(page)["Contract on NVIDIA H200"]]


def test_the_page_says_where_nothing_has_run(small: Catalogue) -> None:
    alpha = small.entries["alpha"]
    neither, no_gpu, both = (
        page_of(small, "alpha", *reports) for reports in ([], [report(alpha)], [report(alpha), report(alpha, GPU)])
    )
    assert "has not been recorded yet; <code>skipkb smoke alpha --record</code>" in neither
    assert ["Not yet run on a GPU" in page for page in (neither, no_gpu, both)] == [True, True, False]
    assert "has not been recorded yet" not in no_gpu + both


# ------------------------------------------------------------------------------------------- the evidence page


def test_the_evidence_page(small_pages: Path) -> None:
    text = (small_pages / "evidence.md").read_text("utf-8")
    assert tables(text) == {
        "Recorded runs": [
            ["Entry", "Device", "Kind", "State", "Checks that hold", "Date", "torch", "Time"],
            [
                *("AlphaNet<methods/alpha.html#evidence>", "x86_64", "cpu", "(+holds)"),
                *("16 of 16", "2026-03-02", "2.0.1", "20 s"),
            ],
            [
                *("AlphaNet<methods/alpha.html#evidence>", "NVIDIA H200", "cuda", "(+holds)"),
                *("16 of 16", "2026-03-03", "2.0.1", "30 s"),
            ],
            [
                *("BetaNet<methods/beta.html#evidence>", "x86_64", "cpu", "(+holds)"),
                *("16 of 16", "2026-03-04", "2.0.1", "40 s"),
            ],
            [
                *("EpsilonNet<methods/epsilon.html#evidence>", "x86_64", "cpu", "(-stale) the model changed"),
                *("16 of 16", "2026-03-05", "2.0.1", "50 s"),
            ],
            [
                *("ZetaNet<methods/zeta.html#evidence>", "x86_64", "cpu", "(-fails)"),
                *("15 of 16", "2026-03-06", "2.0.1", "60 s"),
            ],
        ]
    }
    assert [(row["key"], row["facets"]) for row in row_data(text)["rows"]] == [
        ("alpha", {"State": ["holds"], "Kind": ["cpu"], "Device": ["x86_64"]}),
        ("alpha", {"State": ["holds"], "Kind": ["cuda"], "Device": ["NVIDIA H200"]}),
        ("beta", {"State": ["holds"], "Kind": ["cpu"], "Device": ["x86_64"]}),
        ("epsilon", {"State": ["stale"], "Kind": ["cpu"], "Device": ["x86_64"]}),
        ("zeta", {"State": ["fails"], "Kind": ["cpu"], "Device": ["x86_64"]}),
    ]


def test_the_evidence_page_names_what_is_missing(small: Catalogue) -> None:
    alpha, beta = small.entries["alpha"], small.entries["beta"]
    some = evidence_page(small, recorded(report(alpha), report(beta)))
    assert "<p>Not recorded yet: ZetaNet, EpsilonNet.</p>" in some
    assert "Nothing has been run on a GPU yet." in some
    works = [small.entries[key] for key in ("alpha", "beta", "epsilon", "zeta")]
    all_of_them = evidence_page(small, recorded(*(report(work) for work in works), report(alpha, GPU)))
    assert "Not recorded yet" not in all_of_them
    assert "Nothing has been run on a GPU yet." not in all_of_them


def test_a_result_of_an_entry_that_is_gone_is_not_shown(small: Catalogue) -> None:
    gone = report(small.entries["alpha"].model_copy(update={"key": "gone"}))
    assert len(tables(evidence_page(small, recorded(gone)))["Recorded runs"]) == 1


# -------------------------------------------------------------------------------------------------------- equal


def equal(variant: str = "alpha20", **changes: Any) -> Equal:
    facts: dict[str, Any] = {"repository": "doe/alpha", "commit": "0123456789abcdef", "whose": "authors"}
    return Equal(variant=variant, **(facts | {"difference": 0.00000023} | changes))


def test_equal_to_names_the_commit_and_the_difference() -> None:
    tree = "https://github.com/doe/alpha/tree/0123456789abcdef"
    assert shown(equal_marks([equal()])) == f"(+equal to doe/alpha@0123456<{tree}>, 2e-07)"
    port, definition = equal(whose="port"), equal(whose="definition", commit="v1.2")
    assert shown(equal_marks([port])) == f"(+equal to the port doe/alpha@0123456<{tree}>, 2e-07)"
    assert shown(equal_marks([definition])) == (
        "(+equal to the authors' definition in doe/alpha@v1.2<https://github.com/doe/alpha>, 2e-07)"
    )
    assert equal_marks([]) == ""


def test_equal_to_gives_the_largest_difference_of_a_commit() -> None:
    marks = equal_marks([equal("a", difference=2e-6), equal("b", difference=3e-4), equal("c", difference=1e-5)])
    assert marks.count("equal to") == 1
    assert shown(marks).endswith(", 3e-04)")
    assert 'title="a: 2.0e-06; b: 3.0e-04; c: 1.0e-05"' in marks
    two = equal_marks([equal(difference=2e-6), equal(commit="fedcba9876543210", difference=3e-4)])
    assert [shown(mark)[-6:-1] for mark in two.split("<br>")] == ["2e-06", "3e-04"]


def outputs(page: str) -> list[str]:
    return [row[-1].partition("<")[0] for row in tables(page)[SIZES][1:]]


def test_equal_to_stands_at_the_model_that_was_compared(small: Catalogue) -> None:
    beta = small.entries["beta"]
    page = page_of(small, "beta", report(beta, equal=(equal("beta_thin"),)))
    assert outputs(page) == ["not compared", "(+equal to doe/alpha@0123456"]


def test_equal_to_is_not_claimed_for_a_model_that_has_changed(small: Catalogue) -> None:
    alpha = small.entries["alpha"]
    assert outputs(page_of(small, "alpha", report(alpha, equal=(equal(),)))) == ["(+equal to doe/alpha@0123456"]
    old = report(alpha, equal=(equal(),), key={"model": "another"})
    assert outputs(page_of(small, "alpha", old)) == ["not compared"]


# ---------------------------------------------------------------------------------------------- the home page


def tile(small: Catalogue, words: str, *reports: Report) -> str:
    (number,) = re.findall(
        rf"<strong>([^<]*)</strong> {words}", home_page("<!-- skipkb: coverage -->", small, recorded(*reports))
    )
    return number


def test_the_tile_counts_entries_that_hold_today(small: Catalogue) -> None:
    alpha, beta, zeta = (small.entries[key] for key in ("alpha", "beta", "zeta"))
    words = "hold the contract today"
    assert tile(small, words) == "0 of 4"
    assert tile(small, words, report(alpha), report(beta)) == "2 of 4"
    assert tile(small, words, report(alpha), report(alpha, GPU)) == "1 of 4"  # entries, not results
    assert tile(small, words, report(alpha), report(beta, key={"smoke": "another"})) == "1 of 4"
    assert tile(small, words, report(alpha), report(zeta, checks={"parameters": WRONG})) == "1 of 4"
    assert tile(small, words, report(alpha), report(beta, CPU, complete=False)) == "1 of 4"


def test_the_tile_counts_what_equals_the_authors_code(small: Catalogue) -> None:
    alpha, beta = small.entries["alpha"], small.entries["beta"]
    words = "methods give the outputs of their authors&#x27; code"
    port, definition = equal("beta_thin", whose="port"), equal("beta_wide", whose="definition")
    assert tile(small, words, report(alpha), report(beta)) == "0"
    assert tile(small, words, report(alpha, equal=(equal(),)), report(beta, equal=(port,))) == "1"
    assert tile(small, words, report(alpha, equal=(equal(),)), report(beta, equal=(port, definition))) == "2"
    assert tile(small, words, report(alpha, equal=(equal(),), key={"tracer": "another"})) == "0"

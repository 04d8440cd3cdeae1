"""Facets and numbers: each defined once, spans read the same everywhere, and pages and filters that agree."""

from __future__ import annotations

import json

import pytest
import sample

from skipkb.catalog.columns import printed_size
from skipkb.catalog.entry import Work
from skipkb.catalog.facets import FACETS, NUMBERS, span
from skipkb.catalog.loading import load
from skipkb.catalog.search import entries, search


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2015", 2015, 2015),
        ("2015..2018", 2015, 2018),
        ("2015..", 2015, float("inf")),
        ("..2018", 0, 2018),
        ("<5M", 0, 4999999.999),
        ("<=5M", 0, 5e6),
        (">1.5G", 1.5e9 + 0.001, float("inf")),
        (">= 1.5 G", 1.5e9, float("inf")),
        ("100k..5M", 1e5, 5e6),
        (".5M", 5e5, 5e5),
    ],
)
def test_spans(text: str, first: float, last: float) -> None:
    assert span(text) == (first, last)


@pytest.mark.parametrize("text", ["", "..", "<", "five", "5X", "1...2", "-3", "5M5", "<1..2", "nan", "٣"])
def test_what_is_not_a_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a number nor a span"):
        span(text)


def test_filters_for_numbers_name_themselves_in_errors() -> None:
    with pytest.raises(ValueError, match="params: 'many' is neither a number nor a span"):
        search("params:many")


@pytest.mark.parametrize("facet", sorted(FACETS))
def test_pages_and_filters_count_the_same_works(facet: str) -> None:
    works = list(load().entries.values())
    found: dict[str, list[str]] = {}
    for work in works:
        for value in FACETS[facet].values(work):
            found.setdefault(value, []).append(work.key)
    assert found
    for value, keys in found.items():
        filtered = [work.key for work in entries(**{facet: value})]
        if FACETS[facet].part:
            assert set(keys) <= set(filtered), value
        else:
            assert filtered == keys, value


def test_a_data_set_has_one_spelling_in_both() -> None:
    assert len(entries(dataset="imagenet-1k")) == sum(
        "ImageNet-1K" in FACETS["dataset"].values(work) for work in load().entries.values()
    )


def test_numbers_are_those_of_any_model() -> None:
    assert "resnet" in {work.key for work in entries(params="25557032")}
    small = {work.key for work in entries(params="<1M")}
    assert {"espnet", "resnet"} <= small
    assert "sam" not in small
    assert "sam" in {work.key for work in entries(params=">80M")}
    assert {work.year for work in entries(year="<1990")} == {1948, 1949, 1982, 1983, 1986, 1989}
    assert {work.year for work in entries(year="<=1948")} == {1948}


def test_authors_are_found_by_a_part_of_their_name() -> None:
    keys = {work.key for work in entries(author="kaiming he")}
    assert {"resnet", "preact_resnet"} <= keys
    assert all(any("Kaiming He" in author for author in work.authors) for work in entries(author="Kaiming He"))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("25.6M", 25.6e6),
        ("~26 million", 26e6),
        ("1,234", 1234),
        ("+10.0M", None),
        ("", None),
        (None, None),
        ("0.5 G", 5e8),
    ],
)
def test_printed_numbers(text: str | None, number: float | None) -> None:
    assert printed_size("parameters", text) == number


def test_printed_macs_that_count_two_are_left_out() -> None:
    assert printed_size("macs", "4.1 GFLOPs") == 4.1e9
    assert printed_size("macs", "8.2 GFLOPs (2 per multiply-accumulate)") is None


def test_labels_are_different() -> None:
    labels = [facet.head for facet in (*FACETS.values(), *NUMBERS.values())]
    assert len(set(labels)) == len(labels)


def test_framework_and_licence_are_those_of_official_code() -> None:
    port = sample.repository("port", "third-party", framework="MXNet", licence="GPL-3.0-only")
    own = sample.repository("own", framework="Caffe, PyTorch (mmdetection)")
    work = Work.model_construct(code=[_repository(port), _repository(own)])
    assert FACETS["framework"].values(work) == ["Caffe", "PyTorch"]
    assert FACETS["licence"].values(work) == ["unknown"]
    assert FACETS["official"].values(work) == ["yes"]
    assert FACETS["official"].values(Work.model_construct(code=[_repository(port)])) == ["no"]


def _repository(data: dict[str, object]) -> object:
    from skipkb.catalog.entry import Repository

    return Repository.model_validate_json(json.dumps(data, default=str))

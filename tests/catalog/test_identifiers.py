"""DOIs and arXiv numbers: from the bibliography alone, and exact."""

from __future__ import annotations

import pytest

from skipkb.catalog.search import Hits, entries, get, search


def keys(hits: Hits) -> list[str]:
    return [hit.key for hit in hits]


@pytest.mark.parametrize(
    "query",
    ["10.1109/CVPR.2016.90", "doi:10.1109/cvpr.2016.90", "https://doi.org/10.1109/CVPR.2016.90", "1512.03385",
     "arXiv:1512.03385v2", "https://arxiv.org/abs/1512.03385", " https://arxiv.org/pdf/1512.03385.pdf "],
)  # fmt: skip
def test_an_identifier_finds_its_own_work_first(query: str) -> None:
    assert keys(search(query)) == ["resnet", "degradation"]


@pytest.mark.parametrize("query", ["10.9999/nothing.here", "2999.12345", "doi:10.1109/CVPR.2016.9", "arXiv:1512.0338"])
def test_an_identifier_that_nobody_has_finds_nothing(query: str) -> None:
    assert (len(search(query)), search(query).suggestions) == (0, ())


def test_every_identifier_finds_its_work() -> None:
    for work in entries():
        for identifier in filter(None, (work.doi, work.arxiv)):
            found = keys(search(identifier))
            assert work.key in found
            assert found[0] == work.key or get(found[0]).paper == work.paper


def test_an_identifier_may_be_filtered() -> None:
    assert keys(search("1512.03385", kind="theory")) == ["degradation"]

"""Search, look-up by name, filters, and the nearest names for a misspelt one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkb.catalog import index, paths
from skipkb.catalog.problems import UnknownNameError
from skipkb.catalog.search import FILTERS, Hits, entries, get, nearest, search

NUMBERS = " ".join(f"n{number}" for number in range(400))
YEARS = {"dense": 2017, "resnet": 2016, "retina": 2017, "shape": 2018, "unet": 2015, "mueller": 2019}


def _works() -> list[dict[str, Any]]:
    skip = sample.ENTRY["skips"][0]
    return [
        sample.work(
            "dense", name="DenseNet", contribution="Concatenates the features of all earlier layers.",
            skips=[skip | {"merge": "concat"}], datasets=["ImageNet"], description=NUMBERS,
        ),
        sample.work(
            "resnet", name="ResNet", aliases=["Residual Network", "Réseau"], datasets=["ImageNet", "COCO"],
            contribution="A shortcut adds the input of each block to its output.",
            code=[{"url": "https://example.com/x", "role": "official", "framework": "Caffe", "licence": "MIT",
                   "holds": "models", "source": {"checked": "unverified"}}],
        ),
        sample.work(
            "retina", name="RetinaNet", kind="application", tasks=["detection"], survey={"sections": ["IV.B"]},
            contribution="A pyramid over a ResNet, and a loss that looks at hard examples.", explanations=["V.A"],
        ),
        sample.work(
            "shape", name="ShapeNet", aliases=["Lattice Model"], survey={"sections": ["III"]},
            contribution="Mentions resnet in its text only.", description="Nothing else.",
        ),
        sample.work(
            "unet", name="U-Net", aliases=["UNet"], tasks=["segmentation", "mri"], survey={"sections": ["III"]},
            contribution="Four long skips carry detail across to the expanding path.",
            description="Cells in microscope images are segmented by a network whose long skips carry detail. " * 8,
            skips=[skip | {"merge": "concat", "span": "long"}],
        ),
        sample.work(
            "mueller", name="MüllerNet", contribution="Named after somebody.",
            description="A network on a lattice, and another lattice.", survey={"sections": ["III"]},
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One small catalogue for all tests here."""
    directory = tmp_path_factory.mktemp("search") / "catalog"
    sample.write(directory, *_works(), folders={"unet": "segmentation", "retina": "detection"})
    bib = (directory / "references.bib").read_text()
    records = bib.split("\n\n")
    for number, record in enumerate(records):
        key = record.split("{doe2015")[1].split(",")[0]
        records[number] = record.replace("year = {2015}", f"year = {{{YEARS[key]}}}")
    (directory / "references.bib").write_text("\n\n".join(records))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "source_dir", lambda: directory)
        patch.setattr(paths, "index_candidates", lambda: [directory.parent / "index.sqlite"])
        index.forget()
        yield
        index.forget()


def keys(hits: Hits) -> list[str]:
    return [hit.key for hit in hits]


def test_a_hit() -> None:
    (hit,) = search("microscope")
    assert (hit.key, hit.name, hit.year) == ("unet", "U-Net", 2015)
    assert hit.title == "U-Net: a sample of residual learning"
    assert "**microscope**" in hit.snippet
    assert hit.score > 0


@pytest.mark.parametrize("query", ["resnet", "ResNet", "RESNET", " resnet ", '"ResNet"', "Residual Network", "réseau"])
def test_the_work_of_that_name_comes_first(query: str) -> None:
    assert keys(search(query))[0] == "resnet"


def test_a_word_of_a_name_counts_more_than_a_mention() -> None:
    assert keys(search("lattice")) == ["shape", "mueller"]


def test_both_words_count_more_than_one_of_them_in_a_name() -> None:
    found = search("lattice network")
    assert keys(found)[:2] == ["mueller", "shape"]
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True)


def test_a_name_counts_more_than_a_mention() -> None:
    found = search("resnet")
    assert keys(found)[0] == "resnet"
    assert set(keys(found)) == {"resnet", "retina", "shape"}
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True)


def test_a_name_beside_a_filter_still_comes_first() -> None:
    assert search("resnet year:2010..2020")[0] == search("resnet")[0]
    assert search('"ResNet" year:2016')[0] == search("resnet")[0]
    assert keys(search("resnet year:2018")) == ["shape"]


@pytest.mark.parametrize("query", ["Muller", "müller", "MULLER", "mu\u0308ller", "Max Muller"])
def test_accents_do_not_matter(query: str) -> None:
    assert "mueller" in keys(search(query))


def test_word_forms_do_not_matter() -> None:
    assert "unet" in keys(search("segment microscopes"))


def test_all_words_rank_before_some_words() -> None:
    found = keys(search("long cells"))
    assert found == ["unet"]
    found = keys(search("concatenates pyramid detail"))
    assert set(found) == {"dense", "retina", "unet"}


@pytest.mark.parametrize("query", ["conc*", "concat", "concatenat*", "concatenati*"])
def test_prefixes_with_and_without_a_star(query: str) -> None:
    assert "dense" in keys(search(query))


def test_a_prefix_that_nothing_starts_with() -> None:
    assert keys(search("zzz*")) == []


def test_phrases() -> None:
    assert keys(search('"long skips"')) == ["unet"]
    assert keys(search('"skips long"')) == []
    assert keys(search('"expanding path" pyramid'))[:2] != []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("merge:concat", ["dense", "unet"]),
        ("MERGE:Concat", ["dense", "unet"]),
        ("merge:concat span:long", ["unet"]),
        ("task:segmentation", ["unet"]),
        ('dataset:"imagenet"', ["dense", "resnet"]),
        ("dataset:coco", ["resnet"]),
        ("framework:caffe licence:mit", ["resnet"]),
        ("year:2017", ["dense", "retina"]),
        ("year:2015..2016", ["resnet", "unet"]),
        ("year:2018..", ["mueller", "shape"]),
        ("year:..2015", ["unet"]),
        ("year:2018..2015", []),
        ("kind:application", ["retina"]),
        ("kind:theory", []),
        ("folder:detection", ["retina"]),
        ("table:classification", ["dense", "resnet"]),
        ("theme:iv.a merge:concat", ["dense", "unet"]),
        ("explanation:V.A", ["retina"]),
        ("runs:yes", []),
        ("venue:sample year:2015", ["unet"]),
        ("detail merge:concat", ["unet"]),
        ("detail merge:gate", []),
    ],
)
def test_filters_in_the_query_and_as_keywords(query: str, expected: list[str]) -> None:
    assert sorted(keys(search(query))) == expected
    words = [part for part in query.split() if ":" not in part]
    filters = {f.split(":")[0].lower(): f.split(":")[1].strip('"') for f in query.split() if ":" in f}
    assert sorted(keys(search(" ".join(words), **filters))) == expected
    if not words:
        assert sorted(work.key for work in entries(**filters)) == expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"year": 2015}, ["unet"]),
        ({"year": range(2015, 2017)}, ["resnet", "unet"]),
        ({"year": range(2017, 2017)}, []),
        ({"merge": ["concat", "gate"]}, ["dense", "unet"]),
        ({"merge": ("concat",), "task": {"mri"}}, ["unet"]),
        ({"runs": True}, []),
        ({"runs": False, "kind": "application"}, ["retina"]),
        ({}, ["dense", "mueller", "resnet", "retina", "shape", "unet"]),
    ],
)
def test_filters_as_python_values(filters: dict[str, Any], expected: list[str]) -> None:
    assert sorted(work.key for work in entries(**filters)) == expected


def test_entries_are_whole_works_in_the_order_of_the_catalogue() -> None:
    assert [work.key for work in entries()] == ["dense", "mueller", "resnet", "shape", "retina", "unet"]
    assert entries(task="mri")[0].skips[0].span == "long"


def test_works_are_a_sequence_and_stay_the_same_objects() -> None:
    works = entries()
    assert len(works) == 6
    assert works[-1].key == "unet"
    assert works[-1] is works[5]
    assert [work.key for work in works[1:3]] == ["mueller", "resnet"]
    assert list(works) == list(works)
    assert all(one is two for one, two in zip(works, works, strict=True))
    assert not entries(task="mri", merge="gate")
    with pytest.raises(IndexError):
        works[6]


def test_a_misspelt_filter_value() -> None:
    with pytest.raises(UnknownNameError, match="no task is named 'segmentaton'; did you mean 'segmentation'") as caught:
        search("task:segmentaton")
    assert caught.value.suggestions[0] == "segmentation"
    for value in ("", "detektion", "\ud800", "x" * 100_000):
        with pytest.raises(UnknownNameError):
            entries(task=value)
    with pytest.raises(UnknownNameError):
        entries(dataset="")


@pytest.mark.parametrize("ask", [lambda: search("tusk:x"), lambda: search("x", tusk="x"), lambda: entries(tusk="x")])
def test_a_filter_that_does_not_exist(ask: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="there is no filter 'tusk'; did you mean 'task'") as caught:
        ask()
    assert all(facet in str(caught.value) for facet in FILTERS)


@pytest.mark.parametrize(
    "year",
    ["x", "", "2015.", "2015...2017", "201x", "-2015", "²⁰¹⁵", "9" * 5000, True, [2015], range(1, 9, 2)],
)
def test_a_year_that_is_none(year: Any) -> None:
    with pytest.raises(ValueError, match="is neither a number nor a span such as"):
        entries(year=year)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("retinanett", "RetinaNet"),
        ("RETNANET", "RetinaNet"),
        ("densnet", "DenseNet"),
        ("residual-netwrok", "Residual Network"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(word: str, name: str) -> None:
    assert search(word).suggestions[0] == name
    assert nearest(word)[0] == name
    with pytest.raises(UnknownNameError) as caught:
        get(word)
    assert caught.value.suggestions[0] == name
    assert name in str(caught.value)


def test_a_misspelt_word_beside_right_ones() -> None:
    found = search("detail retinanett")
    assert keys(found) == ["retina", "unet"]
    assert found.suggestions == ("RetinaNet",)


@pytest.mark.parametrize("word", ["qqqq", "x", "zz", "", "\0", "\ud800\ud800\ud800", "日本語"])
def test_nothing_is_near(word: str) -> None:
    assert nearest(word) == []
    with pytest.raises(UnknownNameError):
        get(word)


@pytest.mark.parametrize("query", ["", "   ", '"', '""', "*", "***", "()", "-", "¿?", "\0", "\ud800"])
def test_a_query_without_a_word(query: str) -> None:
    assert keys(search(query)) == []
    assert keys(search(query, task="segmentation")) == ["unet"]


@pytest.mark.parametrize(
    "query",
    [
        "AND", "OR", "NOT", "long AND", "NOT long", "(long", "long)", "NEAR(long skips)", "^long", "long + skips",
        'long "skips', '"long" "', "{name} : long", "-long", "long*skips", "lo*ng*", "'; DROP TABLE entry; --",
        "a\0b", "\ud800x", "C++", "50%", "x_y", "name", "rowid", "https://example.com/x", "x:", ":x", "a" * 100_000,
        '"' + "long " * 20_000 + '"', " ".join(f"long{i}" for i in range(2000)), "long skips detail network " * 500,
    ],
)  # fmt: skip
def test_no_character_has_a_special_meaning(query: str) -> None:
    assert isinstance(search(query), Hits)
    assert keys(search("microscope")) == ["unet"]


def test_a_query_of_hundreds_of_words_that_all_occur() -> None:
    assert set(keys(search("detail " + NUMBERS))) == {"unet", "dense"}
    assert set(keys(search(NUMBERS + " detail"))) == {"dense"}  # words after the 64th are ignored


def test_an_endless_name() -> None:
    endless = "".join(random.Random(0).choices([chr(0x4E00 + i) for i in range(20_000)], k=300_000))
    assert nearest(endless) == []
    with pytest.raises(UnknownNameError):
        get(endless)


@given(st.text(max_size=60) | st.text(st.sampled_from("\"*():^-+{}\\\0 .,:;'ANDORT longskips\ud800é"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_query_raises_but_for_a_wrong_filter(query: str) -> None:
    try:
        assert len(search(query, limit=3)) <= 3
    except (UnknownNameError, ValueError) as error:
        assert "no filter" in str(error) or "neither a year" in str(error) or " is named " in str(error)  # noqa: PT017


@given(st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_no_name_raises_but_as_unknown(name: str) -> None:
    try:
        get(name)
    except UnknownNameError as error:
        assert error.name == name  # noqa: PT017


@given(st.sampled_from(FILTERS), st.text(max_size=20))
@settings(max_examples=150, deadline=None)
def test_no_filter_value_raises_but_as_wrong(facet: str, value: str) -> None:
    try:
        entries(**{facet: value})
    except (UnknownNameError, ValueError) as error:
        assert str(error)  # noqa: PT017


def test_questions_in_plain_words() -> None:
    assert keys(search("which network has a pyramid?"))[0] == "retina"
    assert keys(search("to"))  # a query of nothing but such words is still one


def test_limit() -> None:
    assert len(search("sample", limit=99)) == 6
    assert len(search("sample", limit=2)) == 2
    assert len(search("year:2000..2030", limit=4)) == 4
    assert keys(search("resnet", limit=1)) == ["resnet"]
    for limit in (0, -1):
        with pytest.raises(ValueError, match="limit must be at least 1"):
            search("x", limit=limit)


def test_hits_behave_as_a_sequence() -> None:
    found = search("resnet")
    assert found[0] is next(iter(found))
    assert list(found[1:]) == list(found)[1:]
    assert not search("qqqq")


@pytest.mark.parametrize("name", ["unet", "UNET", "U-Net", "u-net", " unet\n", "UNet"])
def test_get_by_key_name_and_alias(name: str) -> None:
    assert get(name).key == "unet"


def test_get_folds_more_than_ascii() -> None:
    assert get("MÜLLERNET").key == get("müllernet").key == "mueller"
    assert get("RÉSEAU").key == get("residual  network").key == "resnet"


def test_a_work_comes_back_as_it_was_written() -> None:
    work = get("unet")
    written = next(entry for entry in _works() if entry["key"] == "unet")
    assert work.description == written["description"].strip()
    assert work.model_dump(mode="json", exclude_defaults=True).items() >= {"name": "U-Net", "year": 2015}.items()
    assert [skip.model_dump() for skip in work.skips] == written["skips"]
    assert work.bibtex.startswith("@inproceedings{doe2015unet,")


def test_the_real_catalogue_answers_as_the_guide_says() -> None:
    root = Path(__file__).resolve().parents[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "source_dir", lambda: root / "catalog")
        patch.setattr(paths, "index_candidates", lambda: [root / "build" / "index.sqlite"])
        index.forget()
        assert "unet" in keys(search("long skip medical", task="segmentation", limit=5))
        assert search("retinanett").suggestions[0] == "RetinaNet"
        for name in ("unet", "resnet", "highway", "retinanet", "swinir"):
            assert keys(search(name))[0] == name
        assert "unet" in [w.key for w in entries(task="segmentation", merge="concat", year=range(2015, 2019))]
    index.forget()

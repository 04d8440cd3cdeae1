"""What a query means: other wordings, joined and split words, spellings, identifiers, corrections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sample

from skipkb.catalog import index
from skipkb.catalog.loading import load, read
from skipkb.catalog.search import Hits, search
from skipkb.catalog.synonyms import Lexicon, Synonyms
from skipkb.catalog.words import joined, words

SYNONYMS = """groups:
  - [SE, squeeze and excitation, squeeze excitation]
  - [initialisation, init]
spelling: {tumour: tumor, colour: color}
endings: {isation: ization, ise: ize}
"""


@pytest.fixture
def ask(install: Callable[..., Path]) -> Callable[[str], list[str]]:
    """Asks a catalogue of four works."""
    works = [
        sample.work(
            "mazepp", name="MazeNet++", aliases=["Nested Maze-Net"], contribution="Nests paths, one in another.",
        ),
        sample.work(
            "unet", name="U-Net", aliases=["Small Maze"],
            contribution="Finds a tumour in grey pictures by super-resolution.",
        ),
        sample.work(
            "senet", name="SENet", contribution="Uses squeeze-and-excitation after a normalisation.",
            description="One of 4 and 1 of 4: 4 in all, and 1 more than 4.",
        ),
        sample.work(
            "yolov3", name="YOLOv3", aliases=["Initialization of YOLO"], description="Two words apart.",
            paper={"bibtex": "doe2015yolov3", "arxiv": "1512.03385", "doi": "10.1109/CVPR.2016.90"},
        ),
    ]  # fmt: skip
    for number, work in enumerate(works, start=1):
        work["survey"]["reference"] = number
    directory = install(*works)
    (directory / "synonyms.yaml").write_text(SYNONYMS)
    index.forget()
    return lambda query: [hit.key for hit in search(query)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("u net", "unet"),
        ("U-Nets", "unet"),
        ("maze net ++", "mazepp"),
        ("Maze-net++ paths", "mazepp"),
        ("MazeNet plus plus", "mazepp"),
        ("nested mazenet", "mazepp"),
        ("se net", "senet"),
        ("SE block", "senet"),
        ("yolo", "yolov3"),
        ("yolo v3", "yolov3"),
        ("superresolution", "unet"),
        ("super resolution", "unet"),
        ("tumor", "unet"),
        ("tumors", "unet"),
        ("normalization", "senet"),
        ("initialisation", "yolov3"),
        ("init", "yolov3"),
        ("words-apart", "yolov3"),
        ("apart-words", "yolov3"),
        ("arXiv:1512.03385", "yolov3"),
        ("1512.03385v2", "yolov3"),
        ("https://arxiv.org/abs/1512.03385", "yolov3"),
        ("doi:10.1109/CVPR.2016.90", "yolov3"),
        ("doe2015senet", "senet"),
        ("[1]", "mazepp"),
        ("MazeNet++ [1]", "mazepp"),
        ("[4]", "yolov3"),
        ("sqeeze", "senet"),
        ("sqeeze excittion", "senet"),
    ],
)
def test_what_is_meant_comes_first(ask: Callable[[str], list[str]], query: str, first: str) -> None:
    assert ask(query)[:1] == [first]


def test_a_word_that_occurs_is_not_corrected(ask: Callable[[str], list[str]]) -> None:
    assert ask("paths") == ["mazepp"]
    assert search("paths").suggestions == ()


def test_a_correction_is_suggested_as_well(ask: Callable[[str], list[str]]) -> None:
    assert search("excitatoin").suggestions == ("excitation",)
    found = search("unett normalisatoin")
    assert "unet" in [name.lower().replace("-", "") for name in found.suggestions]
    assert {"unet", "senet"} <= {hit.key for hit in found}
    assert search("qqqqq") == Hits(())


def test_works_with_all_words_but_one_come_before_those_with_one(ask: Callable[[str], list[str]]) -> None:
    assert ask("tumour grey mazenet")[:2] == ["unet", "mazepp"]


def test_a_quoted_phrase_has_no_other_wording(ask: Callable[[str], list[str]]) -> None:
    assert ask('"squeeze excitation"') == []
    assert ask('"squeeze and excitation"') == ["senet"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("U-Net", ["u", "net"]),
        ("UNet++ (2020)", ["unet", "plus", "plus", "2020"]),
        ("long + skips", ["long", "skips"]),
        ("Jégou, Dollár", ["jegou", "dollar"]),
        ("U²-Net", ["u2", "net"]),
        ("a_b", ["a", "b"]),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [(["u", "nets"], "unet"), (["loss"], "loss"), (["bias"], "bia"), (["its"], "its"), (["analysis"], "analysis")],
)
def test_joined(parts: list[str], expected: str) -> None:
    assert joined(parts) == expected


def test_both_sides_of_the_atlantic() -> None:
    synonyms = Synonyms(spelling={"colour": "color"}, endings={"ise": "ize"})
    assert synonyms.respelt("colourful") == ["colorful"]
    assert synonyms.respelt("colorful") == ["colourful"]
    assert synonyms.respelt("realize") == ["realise"]
    lexicon = Lexicon()
    lexicon.add(["ABC-2"], ["colours realise encoder-decoder"])
    assert lexicon.alternatives(synonyms) == {
        "abc2": ["abc 2"],
        "color": ["colours"],
        "encoderdecoder": ["encoder decoder"],
        "realize": ["realise"],
    }


def test_mistakes_in_the_file_are_problems_with_a_place(directory: Path) -> None:
    sample.write(directory)
    (directory / "synonyms.yaml").write_text("groups:\n  - [alone]\nspeling: {}\n")
    messages = [str(problem) for problem in read(directory)[1]]
    assert any("synonyms.yaml:2" in message and "at least 2" in message for message in messages), messages
    assert any("synonyms.yaml:3" in message and "did you mean 'spelling'" in message for message in messages), messages


def test_the_real_file_is_sound() -> None:
    synonyms = load(Path(__file__).resolve().parents[2] / "catalog").synonyms
    members = [form for group in synonyms.groups for form in {joined(words(member)) for member in group}]
    assert len(members) == len(set(members)), "a wording stands in two groups"
    assert all(british != american for british, american in (synonyms.spelling | synonyms.endings).items())

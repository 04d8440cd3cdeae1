"""references.bib: what is read from it, and what is reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sample

from skipkb.catalog import loading
from skipkb.catalog.problems import Problem
from skipkb.catalog.references import MAX_BYTES, Reference, read_references

Read = Callable[[str | bytes], tuple[dict[str, Reference], list[str]]]

GOOD = "@article{good2015, author={Doe, Jane}, title={Good}, year={2015}, journal={J}}\n"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def run(content: str | bytes) -> tuple[dict[str, Reference], list[str]]:
        (tmp_path / "references.bib").write_bytes(content.encode() if isinstance(content, str) else content)
        problems: list[Problem] = []
        found = read_references(tmp_path, problems)
        return found, [str(problem) for problem in problems]

    return run


def test_a_record(read: Read) -> None:
    found, problems = read(
        "% a comment\n\n@inproceedings{doe2015,\n  author = {M{\\\"u}ller, Max and van der Berg, Jan and {The Team}},\n"
        "  title = {Deep {CNN}s\n    for All},\n  booktitle = {Proc. of X},\n  year = 2015,\n  doi = {10.1000/X},\n"
        "  eprint = {1501.00001},\n  archivePrefix = {arXiv}\n}\n"
    )  # fmt: skip
    assert problems == []
    record = found["doe2015"]
    assert record.authors == ("Max Müller", "Jan van der Berg", "The Team")
    assert (record.title, record.venue, record.year) == ("Deep CNNs for All", "Proc. of X", 2015)
    assert (record.doi, record.arxiv, record.line) == ("10.1000/X", "1501.00001", 3)
    assert record.bibtex.startswith("@inproceedings{doe2015,\n  author")
    assert record.bibtex.endswith("}")


def test_a_preprint_has_arxiv_for_its_venue(read: Read) -> None:
    found, _ = read("@misc{x, author={Doe, J}, title={T}, year={2015}, eprint={1501.00001}, archivePrefix={arXiv}}")
    assert found["x"].venue == "arXiv"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("@article{b, author={X Y}, title={U, year={2015}}\n", 1, "broken BibTeX record: "),
        ("@article{b author={X}, title={U}}\n", 1, "broken BibTeX record: Expected comma after entry key"),
        (GOOD.replace("Good", "Other"), 1, "broken BibTeX record: Duplicate entry key 'good2015'"),
        ("@article{b, author={Doe}, title={T}, title={U}, year={2015}}", 1, "Duplicate field keys on entry: 'title'"),
        ("@article{b, author={Doe, Jane, Jr, X}, title={T}, year={2015}}", 1, "Too many commas"),
        ("@article{b, title={T}}", 1, "b: the record lacks author, year"),
        ("@article{b, author={D}, title={T}, year={in press}}", 1, "b: year 'in press' is not a year"),
        ("@article{b, author={D}, title={T}, year={²⁰¹⁵}}", 1, "b: year '²⁰¹⁵' is not a year"),
        ("@article{b, author={D}, title={T}, year={20155}}", 1, "b: year '20155' is not a year"),
        ("\narticle{b, author={D}, title={T}, year={2015}}", 2, "text outside any record: 'article{b, author="),
    ],
)
def test_a_broken_record_is_located_and_hides_no_other(read: Read, content: str, line: int, message: str) -> None:
    _, before = read(content)
    found, problems = read(GOOD + content + "\n" + GOOD.replace("good", "last"))
    assert {"good2015", "last2015"} <= set(found)
    assert any(p.startswith(f"references.bib:{line + 1}:1: ") and message in p for p in problems), (problems, before)


def test_not_utf8_missing_and_huge(read: Read, tmp_path: Path) -> None:
    assert read(GOOD.encode() + b"caf\xe9")[1] == ["references.bib: not UTF-8; save the file as UTF-8"]
    with (tmp_path / "references.bib").open("wb") as file:
        file.truncate(50_000_000)
    problems: list[Problem] = []
    assert read_references(tmp_path, problems) == {}
    assert [p.message for p in problems] == [f"the file has 50,000,000 bytes; at most {MAX_BYTES:,} are read"]
    (tmp_path / "references.bib").unlink()
    assert read_references(tmp_path, problems) == {}
    assert problems[-1].message == "cannot be read: No such file or directory"


@pytest.mark.parametrize("content", ["", "@", "{" * 3000, "@a{" * 3000, "\0" * 100, "@article{x, title={" + "{" * 3000])
def test_garbage_never_raises(read: Read, content: str) -> None:
    assert read(content)[0] == {}


def test_one_work_one_record(directory: Path) -> None:
    sample.write(directory, sample.work("alpha"))
    with (directory / "references.bib").open("a") as file:
        arxiv = sample.work("alpha")["paper"]["arxiv"]
        file.write("\n@article{twin1, author={D}, title={Another title}, year={2015},")
        file.write(f" eprint={{{arxiv}}}, archivePrefix={{arXiv}}}}")
        file.write("\n@article{twin2, author={D}, title={{alphanet}: A Sample of {Residual} Learning}, year={2016}}")
        file.write("\n@article{doi1, author={D}, title={One}, year={2015}, doi={10.1234/AbC}}")
        file.write("\n@article{doi2, author={D}, title={Two}, year={2015}, doi={10.1234/aBc}}\n")
    lines = [str(problem) for problem in loading.read(directory)[1]]
    assert [line.split(": ", 1)[1] for line in lines if "same" in line] == [
        "twin1: same arXiv number as 'doe2015alpha' in line 1: one work, one record",
        "twin2: same title as 'doe2015alpha' in line 1: one work, one record",
        "doi2: same DOI as 'doi1' in line 12: one work, one record",
    ]
    assert sum("neither the survey nor an entry cites this record" in line for line in lines) == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("doi", "doi.org/1"),
        ("doi", "https://doi.org/10.1000/x"),
        ("url", "javascript:alert(1)"),
        ("url", "ftp://x.org"),
    ],
)
def test_an_identifier_that_is_none(directory: Path, field: str, value: str) -> None:
    sample.write(directory, sample.work("alpha", paper={"bibtex": "doe2015alpha", field: value}))
    (problem,) = loading.read(directory)[1]
    assert (problem.file, problem.key_path) == ("references.bib", "doe2015alpha")
    assert problem.message.startswith(f"{field} {value!r} does not have the form")


def test_an_entry_has_the_identifiers_of_its_record(directory: Path) -> None:
    paper = {
        "bibtex": "doe2015alpha",
        "arxiv": "1501.00002",
        "doi": "10.1000/Alpha",
        "url": "https://example.com/a.pdf",
    }
    sample.write(directory, sample.work("alpha", paper=paper))
    work = loading.load(directory).entries["alpha"]
    assert (work.paper, work.arxiv, work.doi, work.url) == tuple(paper.values())

"""The whole catalogue: every mistake is found, located, and reported together with all others."""

from __future__ import annotations

import copy
import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sample
import yaml

from skipkb.catalog import loading, paths, rules
from skipkb.catalog.problems import CatalogueError

Problems = Callable[..., list[str]]

VARIANT: dict[str, Any] = {
    "name": "alpha-1", "title": "Alpha 1", "build": "skipkb.models.segmentation.unet:unet",
    "input": [1, 1, 8, 8], "output": [1, 2], "parameters": 3, "macs": 4,
}  # fmt: skip
SMOKE: dict[str, Any] = {
    "build": "skipkb.models.segmentation.unet:unet", "input": [2, 1, 8, 8], "data": "classification",
    "objective": "skipkb.models.segmentation.unet:objective",
}  # fmt: skip
UNVERIFIED = {"checked": "unverified"}


def running(key: str = "alpha", *, variant: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The sample as an entry with one variant."""
    entry = sample.work(key) | {"variants": [VARIANT | {"name": f"{key}-1"} | (variant or {})], "smoke": SMOKE}
    del entry["implementation"]
    return entry | changes


def row(table: str = "classification", **changes: Any) -> dict[str, Any]:
    claim = {"survey": "none", "source": UNVERIFIED}
    return {"table": table, "name": "Alpha", "datasets": claim, "code": claim} | changes


def place(directory: Path, text: str, file: str = "classification/alpha.yaml") -> str:
    """``file:line:column`` of the first occurrence of ``text``."""
    before, found, _ = (directory / file).read_text("utf-8").partition(text)
    assert found, text
    return f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def test_the_sample_is_valid(directory: Path) -> None:
    catalogue = loading.load(sample.write(directory, sample.work(), running("beta")))
    assert list(catalogue.entries) == ["alpha", "beta"]
    work = catalogue.entries["alpha"]
    assert (work.title, work.year, work.folder) == ("AlphaNet: a sample of residual learning", 2015, "classification")
    assert work.authors == ["Jane Doe", "Max Müller"]
    assert work.merges == ["add"]
    assert not work.runs
    assert catalogue.entries["beta"].runs
    with pytest.raises(TypeError):
        catalogue.entries["gamma"] = work  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "at", "message"),
    [
        ({"descripton": "x"}, "descripton", "descripton: unknown key; did you mean 'description'? allowed: key, name,"),
        ({"survey": {"sectoins": ["IV.A"]}}, "sectoins",
         "survey.sectoins: unknown key; did you mean 'sections'? allowed: reference, repeated, sections, figures,"),
        ({"zzzz": 1}, "zzzz", "zzzz: unknown key; allowed: key, name,"),
        ({"name": 5}, "5", "name: Input should be a valid string (found 5)"),
        ({"aliases": "x"}, "x\n", "aliases: Input should be a valid list (found 'x')"),
        ({"aliases": ["ok", True]}, "true", "aliases[1]: Input should be a valid string (found True)"),
        ({"contribution": None}, "null", "contribution: Input should be a valid string (found None)"),
        ({"contribution": "   "}, "'   '", "contribution: String should have at least 1 character"),
        ({"contribution": "two\nlines"}, "'two", "contribution: "),
        ({"contribution": "a" * 300}, "a" * 300, "contribution: String should have at most 200 characters"),
        ({"contribution": "TODO one line"}, "TODO", "contribution: 'TODO one line': still to be filled in"),
        ({"description": "bell\x07"}, '"bell', "description: 'bell\\x07': control characters are not allowed"),
        ({"kind": "methd"}, "methd", "kind: 'methd' is not allowed; allowed: 'method', 'regulariser', 'theory',"),
        ({"tasks": ["Big Task"]}, "Big Task", "tasks[0]: 'Big Task': not a task of skipkb/vocabulary.py"),
        ({"tasks": ["detektion"]}, "detektion", "tasks[0]: 'detektion': not a task of skipkb/vocabulary.py;"),
        ({"themes": ["IV.Z"]}, "IV.Z", "themes[0]: 'IV.Z' is not allowed; allowed: 'IV.A', 'IV.B'"),
        ({"survey": {"reference": "1", "sections": ["III"]}}, "'1'", "survey.reference: Input should be a valid"),
        ({"survey": {"reference": 203, "sections": ["III"]}}, "203", "survey.reference: Input should be less than"),
        ({"survey": {"reference": True, "sections": ["III"]}}, "true", "survey.reference: Input should be a valid"),
        ({"paper": {"bibtex": "doe 2015"}}, "doe 2015", "paper: 'doe 2015' does not have the form"),
        ({"implementation": {"status": "planned"}}, "status: planned", "implementation.reason: this key is required"),
    ],
)  # fmt: skip
def test_a_wrong_value_or_key_is_located(
    problems_of: Problems, directory: Path, change: dict[str, Any], at: str, message: str
) -> None:
    found = problems_of(sample.work(**change))
    assert found[0].startswith(f"{place(directory, at)}: {message}"), found


def test_a_required_key_is_missing(problems_of: Problems) -> None:
    entry = sample.work()
    del entry["tasks"]
    assert problems_of(entry)[0] == "classification/alpha.yaml:1:1: tasks: this key is required and missing"


def test_wrong_types_inside_a_variant(problems_of: Problems, directory: Path) -> None:
    entry = running(
        variant={
            "parameters": "12", "macs": 12.5, "output": {"logits": [1, 0], "two words": "x"},
            "kwargs": {"day": datetime.date(2020, 1, 1), "deep": {"dict": [1, datetime.date(2020, 1, 1)]}},
        }
    )  # fmt: skip
    assert [line.split(" (found")[0].split(": ", 1)[1] for line in problems_of(entry)[:6]] == [
        "variants[0].output.logits[1]: Input should be greater than or equal to 1",
        "variants[0].output.two words: Input should be a valid list",
        "variants[0].parameters: Input should be a valid integer",
        "variants[0].macs: Input should be a valid integer",
        "variants[0].kwargs.day: input was not a valid JSON value",
        "variants[0].kwargs.deep.dict[1]: input was not a valid JSON value",
    ]


def test_a_long_value_is_shortened_in_the_message(problems_of: Problems) -> None:
    found = problems_of(sample.work(kind="x" * 5000, tasks=["Y" * 5000]))
    assert all(len(line) < 400 for line in found)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt://example.com/%0aalert(1)",
        "ftp://example.com/x",
        "data:text/html,x",
        "//example.com/x",
        "file:///etc/passwd",
        "example.com",
        "http://",
        "https://localhost",
        'https://example.com/"onmouseover="x',
        "https://example.com/a b",
        "https://example.com/<script>",
        "https://exa'mple.com/",
        "https://example.com/\n",
        " https://example.com/",
        "https://example.com/`x`",
    ],
)
def test_links_that_are_no_http_address(problems_of: Problems, url: str) -> None:
    repository = {"url": url, "role": "official", "framework": "PyTorch", "holds": "code", "source": UNVERIFIED}
    found = problems_of(sample.work(code=[repository]))
    assert "code[0].url" in found[0]
    assert "a link must be an http:// or https:// address" in found[0]


@pytest.mark.parametrize(
    "url", ["https://example.com", "http://example.com/a_(b)?c=d&e=%20#f", "https://sub.example.com:8080/~x/é"]
)
def test_ordinary_links_are_fine(problems_of: Problems, url: str) -> None:
    repository = {"url": url, "role": "official", "framework": "PyTorch", "holds": "code", "source": UNVERIFIED}
    assert problems_of(sample.work(code=[repository])) == []


@pytest.mark.parametrize(
    "source",
    [{"checked": "paper"}, {"checked": "unverified", "date": datetime.date(2026, 1, 1)}],
    ids=["a check without a date", "a date without a check"],
)
def test_a_date_goes_with_every_check(problems_of: Problems, source: dict[str, Any]) -> None:
    result = {"dataset": "d", "metric": "m", "value": "1", "variant": "v", "source": source}
    assert "results[0].source: a date goes with every check, and only with a check" in problems_of(
        sample.work(results=[result])
    )[0]  # fmt: skip


def test_html_in_text_is_just_text(problems_of: Problems, directory: Path) -> None:
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    assert problems_of(sample.work(description=script, contribution=script, name=script)) == []
    assert loading.load(directory).entries["alpha"].contribution == script


def test_all_problems_of_all_files_in_one_go(directory: Path) -> None:
    sample.write(directory, sample.work("alpha"), sample.work("beta"), sample.work("gamma"))
    (directory / "classification" / "alpha.yaml").write_bytes(b"key: alpha\nname: caf\xe9\n")
    (directory / "classification" / "beta.yaml").write_text(
        "key: beta\n"
        "name: BetaNet\n"
        "kind: method\n"
        "contribution: One line.\n"
        "contributoin: Again.\n"
        "description: Text.\n"
        "paper:\n"
        "  bibtex: doe2015beta\n"
        "survey:\n"
        "  sections: [IV.A, nowhere]\n"
        "tasks: classification\n"
        "kind: theory\n"
    )
    (directory / "detection").mkdir()
    (directory / "detection" / "delta.yaml").write_text("key: [delta\n")
    with (directory / "references.bib").open("a") as file:
        file.write("\n@article{broken, title = {No end\n")
    (directory / "survey.yaml").write_text((directory / "survey.yaml").read_text() + "extra: 1\n")
    lines = [str(problem) for problem in loading.read(directory)[1]]
    assert [line for line in lines if line.startswith("classification")] == [
        "classification/alpha.yaml:2:10: not UTF-8 (byte 0xe9); save the file as UTF-8",
        "classification/beta.yaml:5:1: contributoin: unknown key; did you mean 'contribution'? allowed: "
        + ", ".join(loading.Entry.model_fields),
        "classification/beta.yaml:8:3: paper: Input should be a valid string (found {'bibtex': 'doe2015beta'})",
        "classification/beta.yaml:10:20: survey.sections[1]: 'nowhere' does not have the form ^[IVX]+(\\.[A-Z0-9])?$",
        "classification/beta.yaml:11:8: tasks: Input should be a valid list (found 'classification')",
        "classification/beta.yaml:12:1: kind: the key stands twice in this mapping",
    ]
    assert any(line.startswith("detection/delta.yaml:2:1: not valid YAML") for line in lines)
    assert any(line.startswith("references.bib:") and "broken BibTeX record" in line for line in lines)
    assert any(
        line.startswith("survey.yaml:") and "extra: unknown key; allowed: title, arxiv" in line for line in lines
    )
    with pytest.raises(CatalogueError) as caught:
        loading.load(directory)
    assert str(caught.value).splitlines() == [f"the catalogue has {len(lines)} problems:", *lines]


@pytest.mark.parametrize("content", ["", "# nothing\n", "- a list\n", "key: [\n"])
def test_a_broken_entry_hides_no_other(directory: Path, content: str) -> None:
    sample.write(directory, sample.work("alpha"), sample.work("beta", kind="wrong"))
    (directory / "classification" / "alpha.yaml").write_text(content)
    lines = [str(problem) for problem in loading.read(directory)[1]]
    assert any(line.startswith("classification/alpha.yaml") for line in lines)
    assert any("kind: 'wrong' is not allowed" in line for line in lines)


def test_without_survey_or_references(directory: Path) -> None:
    sample.write(directory)
    (directory / "survey.yaml").unlink()
    (directory / "references.bib").unlink()
    catalogue, problems = loading.read(directory)
    assert catalogue is None
    assert {problem.file for problem in problems} == {"survey.yaml", "references.bib", "classification/alpha.yaml"}


def test_key_and_file_name_agree(problems_of: Problems, directory: Path) -> None:
    sample.write(directory)
    (directory / "classification" / "alpha.yaml").rename(directory / "classification" / "beta.yaml")
    lines = [str(problem) for problem in loading.read(directory)[1]]
    assert lines[0] == "classification/beta.yaml:1:6: key: key 'alpha' must be the file's stem, 'beta'"


def test_a_key_used_in_two_folders(directory: Path) -> None:
    sample.write(directory)
    (directory / "theory").mkdir()
    shutil.copy(directory / "classification" / "alpha.yaml", directory / "theory")
    lines = [str(problem) for problem in loading.read(directory)[1]]
    assert lines == ["theory/alpha.yaml:1:6: key: key 'alpha' is taken by classification/alpha.yaml"]


@pytest.mark.parametrize(
    "name", ["segmentaton/alpha.yaml", "alpha.yaml", "classification/deeper/x.yaml", "theory/x.yml"]
)
def test_a_file_that_nobody_would_read(directory: Path, name: str) -> None:
    sample.write(directory)
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text("key: x\n")
    lines = [str(problem) for problem in loading.read(directory)[1]]
    assert len(lines) == 1
    assert lines[0].startswith(
        f"{name}: would be ignored here; an entry is a file KEY.yaml in one of the folders classif"
    )


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"name": "alphanet"}, "alphanet"),
        ({"aliases": ["x", "ALPHANET"]}, "ALPHANET"),
        ({"aliases": ["ALPHA"]}, "ALPHA"),
    ],
    ids=["name", "alias", "key"],
)
def test_a_name_belongs_to_one_entry(problems_of: Problems, directory: Path, change: dict[str, Any], at: str) -> None:
    found = problems_of(sample.work("alpha"), sample.work("beta", **change))
    assert [line.split(":")[0] for line in found if "references.bib" not in line] == ["classification/beta.yaml"]
    assert found[0].startswith(place(directory, at, "classification/beta.yaml"))
    assert found[0].endswith("is already a name of classification/alpha.yaml")


def test_a_model_name_belongs_to_one_entry(problems_of: Problems, directory: Path) -> None:
    found = problems_of(
        running("alpha"), running("beta", variant={"name": "alpha-1"}), running("gamma", variant={"name": "beta"})
    )
    assert found == [
        f"{place(directory, 'alpha-1', 'classification/beta.yaml')}: variants[0].name: "
        "variant 'alpha-1' is already built by classification/alpha.yaml",
        f"{place(directory, 'beta', 'classification/gamma.yaml')}: variants[0].name: "
        "variant 'beta' has the key of another entry",
    ]  # fmt: skip


def test_a_dangling_bibtex_key(problems_of: Problems, directory: Path) -> None:
    sample.write(directory, sample.work("alpha"), sample.work("beta"))
    path = directory / "classification" / "alpha.yaml"
    path.write_text(path.read_text().replace("doe2015alpha", "doe2015alhpa"))
    lines = [str(problem) for problem in loading.read(directory)[1]]
    assert lines[0] == (
        f"{place(directory, 'doe2015alhpa')}: paper: references.bib has no record 'doe2015alhpa'; "
        "did you mean 'doe2015alpha'?"
    )


def test_a_table_row_without_an_entry(problems_of: Problems, directory: Path) -> None:
    found = problems_of(sample.work(), rows={"detection": ["nobody"]})
    at = place(directory, "nobody", "survey.yaml")
    assert found == [f"{at}: tables[1].rows[0]: there is no valid entry 'nobody' for this row"]


def test_an_entry_in_a_row_that_survey_yaml_lacks(problems_of: Problems, directory: Path) -> None:
    found = problems_of(sample.work(), rows={"classification": []})
    assert found == [
        f"{place(directory, 'classification')}: survey.rows[0].table: survey.yaml lists no row 'alpha' in table "
        "'classification'; add it in the survey's order"
    ]


def test_a_row_that_the_entry_does_not_describe(problems_of: Problems, directory: Path) -> None:
    found = problems_of(sample.work(), rows={"segmentation": ["alpha"]})
    at = "survey.yaml:" + place(directory, "segmentation\n", "survey.yaml").split(":")[1]
    assert len(found) == 1
    assert "tables[2].rows[0]: entry 'alpha' describes no row of table 'segmentation' under survey.rows" in found[0]
    assert int(found[0].split(":")[1]) > int(at.split(":")[1])


def test_a_row_listed_twice_and_too_many_rows(problems_of: Problems, directory: Path) -> None:
    problems_of(sample.work())
    text = (directory / "survey.yaml").read_text()
    text = text.replace("  rows:\n  - alpha\n", "  rows:\n  - alpha\n  - alpha\n")
    (directory / "survey.yaml").write_text(text)
    messages = [problem.message for problem in loading.read(directory)[1]]
    assert messages == ["2 rows listed, but the survey prints 1", "'alpha' stands twice in this table"]


def test_an_entry_in_no_row_and_no_section(problems_of: Problems, directory: Path) -> None:
    found = problems_of(sample.work(survey={"reference": 1}))
    at = place(directory, "reference: 1")
    assert found == [
        f"{at}: survey: neither a table row nor a section; a work that the survey does not name has no `survey` key"
    ]


def test_reference_numbers(problems_of: Problems, directory: Path) -> None:
    def numbered(key: str, **survey: Any) -> dict[str, Any]:
        return sample.work(key, survey={"sections": ["III"], **survey})

    right = [numbered("alpha", reference=1), numbered("beta", reference=2)]
    assert problems_of(*right) == []
    (found,) = problems_of(numbered("alpha", reference=2), right[1])
    assert found.split(": ", 1)[1] == (
        "survey.reference: reference [2] is 'doe2015beta' in survey.yaml and 'doe2015alpha' here; "
        "where the survey cites something else, a citation erratum says so"
    )
    assert "the survey lists 2 references" in problems_of(numbered("alpha", reference=1, repeated=[3]), right[1])[0]
    erratum = {
        "type": "citation", "where": "References, [2]", "says": "Another work.", "truth": "This one.",
        "evidence": {"checked": "unverified"}, "status": "unverified",
    }  # fmt: skip
    assert problems_of(numbered("alpha", reference=2) | {"errata": [erratum]}, right[1]) == []


@pytest.mark.parametrize(
    ("type", "checked", "status", "complaint"),
    [
        ("statement", "unverified", "confirmed", "status `unverified` goes with unverified evidence"),
        ("statement", "unverified", "disputed", "status `unverified` goes with unverified evidence"),
        ("statement", "survey", "unverified", "status `unverified` goes with unverified evidence"),
        ("dataset", "survey", "confirmed", "does not follow from the survey's text"),
        ("framework", "survey", "confirmed", "does not follow from the survey's text"),
        ("typo", "survey", "confirmed", ""),
        ("dataset", "paper", "confirmed", ""),
    ],
)
def test_an_erratum_is_confirmed_by_what_somebody_read(
    problems_of: Problems, type: str, checked: str, status: str, complaint: str
) -> None:
    evidence: dict[str, object] = {"checked": checked}
    if checked != "unverified":
        evidence["date"] = datetime.date(2026, 1, 2)
    erratum = {"type": type, "where": "I", "says": "This.", "truth": "That.", "evidence": evidence, "status": status}
    found = problems_of(sample.work("alpha", errata=[erratum]))
    assert (complaint in found[0]) if complaint else not found


def test_what_nobody_has_read_is_left_out_and_counted(directory: Path) -> None:
    def remarks(unread: bool) -> dict[str, object]:
        return {"checked": "unverified"} if unread else {"checked": "paper", "date": datetime.date(2026, 1, 2)}

    erratum = {"type": "typo", "where": "I", "says": "This.", "truth": "That."}
    errata = [erratum | {"evidence": remarks(True), "status": "unverified"}]
    errata.append(erratum | {"evidence": remarks(False), "status": "confirmed"})
    notes = [{"where": "I", "adds": "More.", "evidence": remarks(unread)} for unread in (True, True, False)]
    sample.write(directory, sample.work("alpha", errata=errata, notes=notes))
    catalogue = loading.load(directory)
    assert [one.status for one in catalogue.entries["alpha"].errata] == ["confirmed"]
    assert [one.evidence.checked for one in catalogue.entries["alpha"].notes] == ["paper"]
    assert catalogue.waiting == 3


def test_relations_lead_to_other_entries_and_not_in_circles(problems_of: Problems, directory: Path) -> None:
    def relation(to: str, type: str = "extends") -> dict[str, str]:
        return {"type": type, "to": to, "how": "Somehow."}

    def found(*relations: dict[str, str], beta: str = "uses") -> list[str]:
        works = (
            sample.work("alpha", relations=list(relations)),
            sample.work("beta", relations=[relation("alpha", beta)]),
        )
        return [line.split(": ", 2)[2] for line in problems_of(*works)]

    assert found(relation("beta"), relation("beta", "uses")) == []
    assert found(relation("alpha")) == ["a work has no relation to itself"]
    assert found(relation("betta")) == ["there is no entry 'betta'; did you mean 'beta'?"]
    assert found(relation("beta"), relation("beta")) == ["extends 'beta' stands here twice"]
    assert found(relation("beta"), beta="extends") == [
        "'beta' in turn extends 'alpha': one of the two came first",
        "'alpha' in turn extends 'beta': one of the two came first",
    ]


def test_links_lead_to_known_hosts(problems_of: Problems, directory: Path) -> None:
    source = {"checked": "repository", "date": "2026-01-02", "url": "https://exampel.com/x"}
    code = {"url": "https://example.com/x", "role": "official", "framework": "Caffe", "holds": "h", "source": source}
    problems_of(sample.work())
    path = directory / "classification" / "alpha.yaml"
    entry = yaml.safe_load(path.read_text()) | {"code": [code]}
    path.write_text(yaml.safe_dump(entry).replace("'2026-01-02'", "2026-01-02"))
    (problem,) = loading.read(directory)[1]
    assert problem.key_path == "code[0].source.url"
    assert "'exampel.com' is not a known host; did you mean 'example.com'?" in problem.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Normalizes the colors of tumors.", ["Normalizes", "colors", "tumors"]),
        ("Normalises the colours of tumours, whatever the size or prize.", []),
        ('The name "Color Transformer", `normalize` and BatchNormalization stay.', []),
        ("Called Color Net by its authors.", []),
    ],
)
def test_own_words_are_spelt_the_british_way(problems_of: Problems, text: str, words: list[str]) -> None:
    found = problems_of(sample.work(description=text))
    assert sorted(line.split("description: ")[1].split(" is American")[0] for line in found) == sorted(map(repr, words))


def test_implementation_variants_and_smoke_go_together(problems_of: Problems, directory: Path) -> None:
    entry = sample.work("alpha")
    del entry["implementation"]
    both = running("beta") | {"implementation": {"status": "planned", "reason": "r"}}
    no_smoke = running("gamma")
    del no_smoke["smoke"]
    found = problems_of(entry, both, no_smoke)
    assert len(found) == 3
    assert "alpha.yaml:1:1: no variants: say under implementation whether code is planned" in found[0]
    assert "implementation: an entry with variants has an implementation; delete this key" in found[1]
    assert "smoke: variants and smoke go together" in found[2]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("skipkb.models.nowhere.unet:unet", "there is no module 'skipkb.models.nowhere.unet'"),
        ("skipkb.models.segmentation.unet:no_such", "module 'skipkb.models.segmentation.unet' defines no 'no_such'"),
        ("skipkb.models.segmentation.unet:Tensor", "module 'skipkb.models.segmentation.unet' defines no 'Tensor'"),
        ("torchvision.models:resnet18", "'torchvision.models:resnet18' must point into skipkb"),
        ("os:system", "'os:system' must point into skipkb"),
        ("skipkb.models.segmentation.unet", "does not have the form"),
        ("skipkb/../os:system", "does not have the form"),
    ],
)
@pytest.mark.parametrize("where", ["variant", "smoke", "objective"])
def test_an_import_path_that_leads_nowhere(
    problems_of: Problems, directory: Path, path: str, message: str, where: str
) -> None:
    if where == "variant":
        entry, key_path = running(variant={"build": path}), "variants[0].build"
    else:
        field = "build" if where == "smoke" else "objective"
        entry, key_path = running(smoke=SMOKE | {field: path}), f"smoke.{field}"
    found = problems_of(entry)
    assert found[0].startswith(f"{place(directory, path + chr(10))}: {key_path}: ")
    assert message in found[0]


def test_a_model_file_that_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "skipkb"
    package.mkdir()
    (package / "broken.py").write_text("def f(:\n")
    (package / "null.py").write_bytes(b"x = 1\x00")
    (package / "latin.py").write_bytes(b"# caf\xe9\n")
    monkeypatch.setattr(rules, "PACKAGE", package)
    for module in ("broken", "null", "latin"):
        assert f"module 'skipkb.{module}' cannot be parsed: " in str(rules.unresolved(f"skipkb.{module}:f"))


def test_a_model_file_may_hand_on_what_it_lists_as_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "skipkb"
    package.mkdir()
    text = "from a import one as objective, two\n\n__all__ = ['objective', 'net', 'gone']\nnet = hidden = object()\n"
    (package / "model.py").write_text(text)
    monkeypatch.setattr(rules, "PACKAGE", package)
    for name in ("objective", "net"):
        assert rules.unresolved(f"skipkb.model:{name}") is None
    for name in ("one", "two", "hidden", "gone"):
        assert rules.unresolved(f"skipkb.model:{name}") == f"module 'skipkb.model' defines no {name!r} at its top level"


def test_tests_that_an_entry_names_exist(problems_of: Problems) -> None:
    deviation = {"what": "w", "reason": "r", "test": "tests/catalog/test_loading.py::test_no_such"}
    state_dict = {"library": "l", "constructor": "c", "test": "tests/no/such.py"}
    found = problems_of(running(deviations=[deviation], variant={"state_dicts": [state_dict]}))
    assert len(found) == 2
    assert found[0].endswith("variants[0].state_dicts[0].test: there is no file tests/no/such.py")
    assert found[1].endswith("deviations[0].test: tests/catalog/test_loading.py defines no test_no_such")
    assert rules.missing_test("tests/catalog/test_loading.py::test_tests_that_an_entry_names_exist") is None


PEER: dict[str, Any] = {
    "package": "lib", "version": "1.0", "build": "lib.nets:alpha", "parameters": 7, "difference": "none",
    "source": UNVERIFIED,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"constructor": "alpha()"}, "either `build` with `kwargs`, or `constructor` as text"),
        ({"build": None}, "either `build` with `kwargs`, or `constructor` as text"),
        ({"compared": "as built"}, "needs `build` and `variant`"),
        ({"timed": 1}, "needs `build` and `variant`"),
        ({"variant": "alpha-1", "names": "in order"}, "are for a peer that is compared"),
        ({"variant": "alpha-2"}, "'alpha-2' is not a variant of this entry"),
        ({"variant": "alpha-1", "compared": "as built", "names": [["(", ""]]}, "cannot be: "),
        ({"variant": "alpha-1", "compared": "as built", "names": [["", r"\1"]]}, "cannot be: "),
    ],
)
def test_a_peer_that_contradicts_itself(problems_of: Problems, changes: dict[str, Any], message: str) -> None:
    found = problems_of(running(peers=[copy.deepcopy(PEER) | changes]))
    assert message in found[0]


def test_a_peer_says_how_it_is_built_and_beside_what(directory: Path) -> None:
    text = PEER | {"build": None, "constructor": "B('alpha.py')"}
    whole = PEER | {"kwargs": {"depth": 3}, "variant": "alpha-1", "compared": "as built"}
    peers = [text, PEER, whole, whole | {"variant_kwargs": {"port": True}, "names": "in order"}]
    peers = [copy.deepcopy(peer) for peer in peers]  # YAML without aliases
    found = loading.load(sample.write(directory, running(peers=peers))).entries["alpha"].peers
    assert [peer.call for peer in found] == ["B('alpha.py')", "lib.nets.alpha()", *["lib.nets.alpha(depth=3)"] * 2]
    assert [peer.ours for peer in found] == ["", "", "alpha-1", "alpha-1(port=True)"]
    assert [peer.loads_here for peer in found] == [False, False, True, False]


def test_entries_come_folder_by_folder(directory: Path) -> None:
    works = [sample.work(key) for key in ("zeta", "alpha", "beta")]
    sample.write(directory, *works, folders={"alpha": "theory", "beta": "segmentation"})
    assert list(loading.load(directory).entries) == ["zeta", "beta", "alpha"]


def test_the_real_catalogue_has_no_problem() -> None:
    catalogue = loading.load(paths.source_dir())
    assert {"resnet", "highway", "retinanet", "unet", "swinir"} <= set(catalogue.entries)


def test_numbers_in_exponent_form(problems_of: Problems, directory: Path) -> None:
    problems_of(running())
    path = directory / "classification" / "alpha.yaml"
    path.write_text(path.read_text().replace("smoke:\n", "smoke:\n  learning_rate: 1e-3\n  kwargs: {drop: 5E-2}\n"))
    assert yaml.safe_load(path.read_text())["smoke"]["learning_rate"] == "1e-3"  # what YAML 1.1 would make of it
    smoke = loading.load(directory).entries["alpha"].smoke
    assert smoke is not None
    assert (smoke.learning_rate, smoke.kwargs) == (0.001, {"drop": 0.05})


def test_a_work_outside_the_survey_has_no_survey_key(directory: Path) -> None:
    outside = sample.work("beta")
    del outside["survey"]
    sample.write(directory, sample.work("alpha"), outside, rows={"classification": ["alpha"]})
    assert loading.read(directory)[1] == []


def test_a_section_that_the_survey_does_not_have(directory: Path) -> None:
    entry = sample.work()
    entry["survey"]["sections"] = ["III", "IX"]
    sample.write(directory, entry)
    (problem,) = loading.read(directory)[1]
    assert problem.key_path == "survey.sections[1]"
    assert (
        problem.message
        == "the survey has no section 'IX'; sections: I, II, III, IV.B, IV.C, IV.D, IV.E, V.B, IV.A, V.A"
    )


def test_python_m_skipkb_is_the_command() -> None:
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "skipkb", "cite", "unet"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("@inproceedings{ronneberger2015unet")

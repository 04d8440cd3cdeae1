"""One YAML file: what gets through, and what is refused with line and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipkb.catalog.problems import Problem
from skipkb.catalog.yamlfile import MAX_BYTES, Document, key_path_text, read_yaml


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads a text (or bytes) as if it stood in x.yaml: the document and the problems."""

    def run(content: str | bytes) -> tuple[Document | None, list[Problem]]:
        path = tmp_path / "x.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        problems: list[Problem] = []
        return read_yaml(path, "x.yaml", problems), problems

    return run


def test_plain_data_gets_through(read: Any) -> None:
    document, problems = read(
        "a: text\nb: [1, 2.5, true, null, 1e-3]\nc: {d: 2026-11-21}\n"
        'e: "<script>alert(1)</script>"\nf: |\n  two\n  lines\n'
    )
    assert problems == []
    data = document.data
    assert data["b"] == [1, 2.5, True, None, 0.001]
    assert data["c"]["d"].isoformat() == "2026-11-21"
    assert data["e"] == "<script>alert(1)</script>"
    assert data["f"] == "two\nlines\n"


def test_a_byte_order_mark_is_no_part_of_the_first_key(read: Any) -> None:
    assert read(b"\xef\xbb\xbfa: 1\n")[0].data == {"a": 1}


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        ("a: {b: 1,\n    b: 2}\n", "x.yaml:2:5: a.b", "the key stands twice in this mapping"),
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1: a", "the key stands twice in this mapping"),
        ("a: !!python/object/apply:os.system ['true']\n", "x.yaml:1:4: a", "apply:os.system' is not allowed"),
        ("a:\n- !!python/name:os.system x\n", "x.yaml:2:3: a[0]", "is not allowed; only plain values are"),
        ("!!python/object:object {}\n", "x.yaml:1:1", "is not allowed; only plain values are"),
        ("a: !!binary aGFsbG8=\n", "x.yaml:1:4: a", "is not allowed; only plain values are"),
        ("a: !!set {b, c}\n", "x.yaml:1:4: a", "is not allowed; only plain values are"),
        ("a: &x [1]\nb: *x\n", "x.yaml:1:4: b", "aliases (*name) are not allowed"),
        ("a: &x [*x]\n", "x.yaml:1:4: a[0]", "aliases (*name) are not allowed"),
        ("<<: {a: 1}\n", "x.yaml:1:1", "keys must be plain words"),
        ("a:\n  1: one\n", "x.yaml:2:3: a", "keys must be plain words"),
        ("a:\n  ? [b, c]\n  : one\n", "x.yaml:2:5: a", "keys must be plain words"),
        ("true: 1\n", "x.yaml:1:1", "keys must be plain words"),
        ("a: .nan\n", "x.yaml:1:4: a", ".nan is not a number that can be stored"),
        ("a: [0, -.inf]\n", "x.yaml:1:8: a[1]", "-.inf is not a number that can be stored"),
        ("a: 1e999\n", "x.yaml:1:4: a", "1e999 is not a number that can be stored"),
        ("a: 2026-13-45\n", "x.yaml:1:4: a", "month must be in 1..12"),
        (f"a: {'9' * 5000}\n", "x.yaml:1:4: a", "not a valid value"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1", "another document"),
        ("a: [1, 2\nb: 3\n", "x.yaml:2:", "not valid YAML"),
        ("a: b: c\n", "x.yaml:1:5", "not valid YAML"),
        ("a:\n\t- b\n", "x.yaml:2:1", "not valid YAML"),
        ("a: 1\nb: \x07bell\n", "x.yaml:2:4", "control characters are not allowed"),
        ('a: "\\ud800"\n', "x.yaml:1:7", "invalid Unicode character"),
        ("- a\n", "x.yaml:1:1", "the file must hold a mapping"),
        ("just a sentence\n", "x.yaml:1:1", "the file must hold a mapping"),
        ("", "x.yaml", "the file is empty"),
        ("# only\n\n# comments\n", "x.yaml", "the file is empty"),
        (b"a: 1\nb: caf\xe9\n", "x.yaml:2:7", "not UTF-8 (byte 0xe9)"),
        ("a: 1\n".encode("utf-16"), "x.yaml:1:1", "not UTF-8"),
    ],
)  # fmt: skip
def test_refused_with_its_place(read: Any, content: str | bytes, place: str, message: str) -> None:
    document, problems = read(content)
    assert len(problems) == 1, problems
    assert str(problems[0]).startswith(place)
    assert message in str(problems[0])
    assert "\n" not in str(problems[0])
    if "twice" not in message:
        assert document is None


def test_tags_build_nothing(read: Any, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    read(f"a: !!python/object/apply:os.mkdir ['{trap}']\n")
    assert not trap.exists()


def test_every_duplicate_key_is_reported(read: Any) -> None:
    _, problems = read("a: 1\na: 2\nb: {c: 1, c: 2, c: 3}\n")
    assert [(p.line, p.column, p.key_path) for p in problems] == [(2, 1, "a"), (3, 11, "b.c"), (3, 17, "b.c")]


def test_a_huge_file_is_not_even_read(read: Any, tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(50_000_000)  # sparse: takes no space
    problems: list[Problem] = []
    assert read_yaml(path, "huge.yaml", problems) is None
    assert [str(p) for p in problems] == [f"huge.yaml: the file has 50,000,000 bytes; at most {MAX_BYTES:,} are read"]


def test_missing_file_and_directory_are_problems(tmp_path: Path) -> None:
    problems: list[Problem] = []
    assert read_yaml(tmp_path / "no.yaml", "no.yaml", problems) is None
    assert read_yaml(tmp_path, "folder.yaml", problems) is None
    assert [str(p) for p in problems] == [
        "no.yaml: cannot be read: No such file or directory",
        "folder.yaml: cannot be read: Is a directory",
    ]


def test_aliases_cannot_explode(read: Any) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]  # 9**30 strings
    document, problems = read("\n".join(lines))
    assert document is None
    assert "aliases" in problems[0].message


@pytest.mark.parametrize("depth", [33, 10_000, 100_000])
@pytest.mark.parametrize("opening", ["[", "{a: ", "? ", "- "], ids=["list", "mapping", "key", "block"])
@pytest.mark.parametrize("closed", [True, False])
def test_deep_nesting_does_not_take_the_interpreter_down(read: Any, opening: str, depth: int, closed: bool) -> None:
    closing = {"[": "]", "{a: ": "}"}.get(opening, "") * depth if closed else ""
    document, problems = read("a:\n " + opening * depth + "1" + closing)
    assert document is None
    assert [p.message for p in problems] == ["nested too deeply to be read; at most 32 levels are"]
    assert problems[0].line == 2


def test_legal_nesting_is_read(read: Any) -> None:
    document, problems = read("a: " + "[" * 31 + "]" * 31)
    assert document is not None
    assert problems == []


def test_positions_of_keys_and_values(read: Any) -> None:
    document, _ = read("top:\n  - name: x\n    list: [1, 22, 3]\n")
    assert document.position(("top", 0, "list", 1)) == (3, 15)
    assert document.position(("top", 0, "list"), of_key=True) == (3, 5)
    assert document.position(("top", 0, "missing")) == (2, 5)
    assert document.position(("top", 9)) == (2, 3)
    assert document.position(()) == (1, 1)


def test_key_paths_as_text() -> None:
    assert key_path_text(("variants", 0, "name")) == "variants[0].name"
    assert key_path_text(()) == ""
    assert key_path_text(("bell\x1b[31m\n",)) == "bell\\x1b[31m\\n"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
    # PyYAML, which knows YAML 1.1, writes the text 1e5 without quotes; we read it as YAML 1.2 does, as a number.
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).filter(lambda t: "e" not in t.lower()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.from_regex(r"\A[a-z]{3,8}x\Z"), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.from_regex(r"\A[a-z]{3,8}x\Z"), PLAIN, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_yaml_dumps_is_read_back(read: Any, data: dict[str, Any]) -> None:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, _: Any) -> bool:
            return True

    document, problems = read(yaml.dump(data, Dumper=Dumper, allow_unicode=True))
    assert problems == []
    assert document.data == data


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_make_it_raise(read: Any, content: bytes) -> None:
    document, problems = read(content)
    assert problems or isinstance(document.data, dict)

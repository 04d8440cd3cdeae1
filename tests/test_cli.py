"""The command line: what it prints, its exit codes, and that no mistake of a user ends in a traceback."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import skipkb
from skipkb import cli
from skipkb.catalog import index, paths

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    *("list", "search", "show", "cite", "table", "check", "smoke", "trace"),
    *("extract", "notebooks", "site", "export", "new"),
)
Run = tuple[int, str, str]


def shell(*arguments: str, **environment: str) -> Run:
    """The real thing, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "skipkb.cli", *arguments], capture_output=True, cwd="/", timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


@pytest.fixture
def skip(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> Run:
        try:
            code = cli.main(arguments)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the catalogue, as the catalogue of a checkout of its own."""
    shutil.copytree(ROOT / "catalog", tmp_path / "catalog")
    monkeypatch.setattr(paths, "source_dir", lambda: tmp_path / "catalog")
    monkeypatch.setattr(paths, "index_candidates", lambda: [tmp_path / "build" / "index.sqlite"])
    index.forget()
    yield tmp_path
    index.forget()


def test_version_and_help_of_the_whole(skip: Callable[..., Run]) -> None:
    assert skip("--version")[:2] == (0, f"skipkb {skipkb.__version__}\n")
    code, out, _ = skip("--help")
    assert code == 0
    assert re.findall(r"^    (\w+)\b", out, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(skip: Callable[..., Run], command: str) -> None:
    code, out, err = skip(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: skipkb {command} ")
    assert ("--json" in out) == (command not in ("site", "extract"))
    if command in ("list", "search"):
        assert "facets: task, merge, span" in out


@pytest.mark.parametrize(
    "arguments",
    [
        "", "nonsense", "list extra", "list --nonsense", "list --tas x", "search", "show", "table", "export", "new",
        "search x --limit 0", "search x --limit many", "smoke --device toaster", "smoke --jobs -1",
    ],
)  # fmt: skip
def test_wrong_use_that_argparse_sees(skip: Callable[..., Run], arguments: str) -> None:
    code, out, err = skip(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("usage: skipkb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "unett"), "no entry is named 'unett'; did you mean 'unet'"),
        (("show", ""), "no entry is named ''"),
        (("cite", "unet", "resnett"), "no entry is named 'resnett'; did you mean 'ResNet'"),
        (("table", "V"), "no table is named 'V'; did you mean 'classification'"),
        (("table", "I", "--format", "pdf"), "there is no format 'pdf'; formats: md, csv"),
        (("table", "I", "--format", "csv", "--json"), "--json and --format contradict each other"),
        (("list", "--task", "segmentaton"), "no task is named 'segmentaton'; did you mean 'segmentation'"),
        (("list", "--year", "soon"), "year: 'soon' is neither a number nor a span"),
        (("list", "--year", "2015", "--year", "2016"), "--year takes one number or span"),
        (("list", "--models", "--task", "segmentation"), "--models takes a pattern and no filters"),
        (("search", "tusk:x"), "there is no filter 'tusk'; did you mean 'task'"),
        (("search", "x", "--merge", "ad"), "no merge is named 'ad'; did you mean 'add'"),
        (("search", "year:9999999999999999999999"), "is neither a number nor a span"),
        (("notebooks", "nothing"), "no entry is named 'nothing'"),
        (("smoke", "nothing"), "'nothing'"),
        (("export", "/dev/null/x"), "/dev/null"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_mistake_gets_a_message_and_code_2(
    skip: Callable[..., Run], arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = skip(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("skipkb: ")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("Fresh", "key 'Fresh': use lower-case letters"),
        ("fresh --folder nowhere", "there is no folder 'nowhere'; folders: classification"),
        ("fresh --name a:b", "name 'a:b': start with plain letters"),
        ("unet --folder detection", "exists already; nothing was written"),
    ],
)
def test_new_refuses(skip: Callable[..., Run], checkout: Path, arguments: str, message: str) -> None:
    before = sorted(checkout.rglob("*"))
    code, out, err = skip("new", *arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("skipkb: ")
    assert message in err
    assert sorted(checkout.rglob("*")) == before


def test_bytes_that_are_no_text_as_an_argument() -> None:
    for command in ("search", "show", "cite", "table"):
        done = subprocess.run(
            [sys.executable.encode(), b"-m", b"skipkb.cli", command.encode(), b"\xff\xfe"],
            capture_output=True,
            cwd=ROOT,
        )
        assert done.returncode == (0 if command == "search" else 2), done.stderr
        assert b"Traceback" not in done.stderr


def test_list(skip: Callable[..., Run]) -> None:
    code, out, _ = skip("list")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()} >= {"highway", "resnet", "unet"}
    found = skip("list", "--task", "segmentation", "--merge", "concat", "--year", "2015")[1].splitlines()
    assert any(re.match(r"unet +2015  runs  U-Net: ", line) for line in found)
    assert not any(line.startswith("resnet ") for line in found)
    assert skip("list", "--year", "1850")[:2] == (0, "")
    several = json.loads(skip("list", "--json", "--table", "segmentation", "--table", "detection")[1])
    works = {work["key"]: work for work in several}
    assert {"retinanet", "unet"} <= set(works)
    assert "resnet" not in works
    assert works["unet"].items() >= {"name": "U-Net", "year": 2015, "folder": "segmentation", "runs": True}.items()


def test_list_models(skip: Callable[..., Run]) -> None:
    names = skip("list", "--models")[1].split()
    assert {"resnet50", "highway10", "unet"} <= set(names)
    assert names.index("resnet18") < names.index("resnet101")
    assert skip("list", "--models", "resnet?0")[1].split() == ["resnet20", "resnet50"]
    assert json.loads(skip("list", "--models", "*WIDTH16", "--json")[1]) == ["highway10-width16"]
    assert skip("list", "--models", "zzz")[0] == 0


def test_search(skip: Callable[..., Run]) -> None:
    code, out, _ = skip("search", "biomedical segmentation", "--task", "segmentation", "--year", "2015")
    assert code == 0
    assert out.startswith("unet  U-Net (2015)  U-Net: Convolutional Networks")
    assert "\033" not in out  # no colours where nobody reads them
    found = json.loads(skip("search", "long skip", "task:segmentation", "--json", "--limit", "1")[1])
    assert len(found["hits"]) == 1
    assert set(found["hits"][0]) == {"key", "name", "title", "year", "score", "snippet"}
    code, out, _ = skip("search", "retinanett")
    assert (code, out.splitlines()[0][:16], out.splitlines()[-1]) == (0, "retinanet  Retin", "did you mean RetinaNet?")
    assert skip("search", "qqqq")[:2] == (0, "nothing found\n")
    found = json.loads(skip("search", "retinanett", "--json")[1])
    assert (found["hits"][0]["key"], found["suggestions"]) == ("retinanet", ["RetinaNet"])
    assert skip("search", "netinaretts")[1].endswith("did you mean RetinaNet?\n")
    assert skip("search", "")[:2] == (0, "nothing found\n")
    assert skip("search", '"', "AND", "(")[0] == 0


def test_show_and_cite(skip: Callable[..., Run]) -> None:
    assert skip("show", "U-Net")[1].startswith("U-Net (2015)\n")
    shown = json.loads(skip("show", "unet", "--json")[1])
    assert (shown["key"], shown["variants"][0]["parameters"]) == ("unet", 31030658)
    assert skip("cite", "resnet")[1].startswith("@inproceedings{he2016deep,")
    everything = skip("cite")[1]
    assert everything.count("\n@") + 1 >= 5
    assert json.loads(skip("cite", "--json")[1]) == {"bibtex": everything}


@pytest.mark.parametrize("format", ["md", "csv", "tsv", "html", "latex", "json"])
def test_table(skip: Callable[..., Run], format: str) -> None:
    code, out, err = skip("table", "classification", "--format", format)
    assert (code, err) == (0, "")
    assert out == skipkb.table("classification", format)
    assert "ResNet" in out


def test_table_as_json_and_by_number(skip: Callable[..., Run]) -> None:
    assert "SwinIR" in [row["name"] for row in json.loads(skip("table", "IV", "--json")[1])]
    assert "RetinaNet" in [row[0] for row in csv.reader(io.StringIO(skip("table", "ii", "--format", "csv")[1]))]


def test_check_of_the_real_catalogue(skip: Callable[..., Run]) -> None:
    code, out, err = skip("check")
    assert code == 0
    assert re.fullmatch(r"(\d+ errata and notes are not published: nobody has read what they rest on\n)?", err)
    assert out.strip().endswith("references: no problem")
    assert json.loads(skip("check", "--json")[1]) == {"problems": [], "stale_schemas": []}


def test_check_of_a_broken_catalogue(skip: Callable[..., Run], checkout: Path) -> None:
    path = checkout / "catalog" / "segmentation" / "unet.yaml"
    path.write_text(path.read_text("utf-8").replace("\nkind: method", "\nkindd: method"), "utf-8")
    with (checkout / "catalog" / "references.bib").open("a", encoding="utf-8") as file:
        file.write("\n@article{x, title={y}}\n")
    (checkout / "catalog" / "schema.json").write_text("{}")
    code, out, _ = skip("check")
    assert code == 1
    line = path.read_text("utf-8").split("kindd")[0].count("\n") + 1
    assert f"segmentation/unet.yaml:{line}:1: kindd: unknown key; did you mean 'kind'? allowed: key, name" in out
    assert "kind: this key is required and missing" in out
    assert "x: the record lacks author, year" in out
    assert "schema.json: not what the typed model gives; run `skipkb check --write-schema`" in out
    code, out, _ = skip("check", "--json")
    found = json.loads(out)
    assert (code, found["stale_schemas"]) == (1, ["schema.json"])
    places = [
        (problem["file"], problem["line"], problem["column"], problem["key_path"]) for problem in found["problems"]
    ]
    assert ("segmentation/unet.yaml", line, 1, "kindd") in places
    code, _, err = skip("check", "--write-schema")
    assert code == 1
    assert err.startswith("wrote schema.json\n")
    for command in (("list",), ("search", "unet"), ("export", str(checkout / "out"))):
        code, out, err = skip(*command)
        assert (code, out) == (1, "")
        assert err.startswith("skipkb: the catalogue has ")
        assert f"segmentation/unet.yaml:{line}:1" in err


def test_without_a_catalogue(skip: Callable[..., Run], checkout: Path) -> None:
    shutil.rmtree(checkout / "catalog")
    code, _, err = skip("list")
    assert code == 2
    assert err == f"skipkb: No such file or directory: {checkout / 'catalog'}\n"


def test_export(skip: Callable[..., Run], tmp_path: Path) -> None:
    code, out, _ = skip("export", str(tmp_path / "a"))
    assert code == 0
    assert len(out.splitlines()) == 4
    written = json.loads(skip("export", str(tmp_path / "a"), "--json")[1])
    assert [Path(path).name for path in written] == ["catalog.json", "catalog.csv", "references.bib", "catalog.sqlite"]
    blocker = tmp_path / "file"
    blocker.write_text("")
    code, _, err = skip("export", str(blocker))
    assert code == 2
    assert str(blocker) in err


def test_new(skip: Callable[..., Run], checkout: Path) -> None:
    code, out, _ = skip("new", "fresh-idea", "--folder", "detection", "--name", "Fresh Idea")
    assert code == 0
    created = [Path(line.removeprefix("created ")) for line in out.splitlines()[:-1]]
    assert {path.relative_to(checkout).as_posix() for path in created} >= {
        "catalog/detection/fresh_idea.yaml",
        "skipkb/models/detection/fresh_idea.py",
        "notebooks/detection/fresh_idea.ipynb",
    }
    assert all(path.is_file() for path in created)
    before = created[0].read_bytes()
    code, _, err = skip("new", "fresh-idea", "--folder", "detection")
    assert code == 2
    assert "exists already; nothing was written" in err
    assert created[0].read_bytes() == before
    code, out, _ = skip("check")
    assert code == 1
    assert "detection/fresh_idea.yaml:5:15: contribution: " in out
    made = json.loads(skip("new", "other", "--folder", "theory", "--json")[1])
    assert made[0] == str(checkout / "catalog" / "theory" / "other.yaml")


def test_new_needs_a_checkout(skip: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "source_dir", lambda: tmp_path / "site-packages" / "skipkb" / "_catalog")
    code, _, err = skip("new", "fresh")
    assert code == 2
    assert "works in a checkout of the repository" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["precious.txt", "index.md", "index.html", ".git"])
def test_site_keeps_its_hands_off_other_directories(skip: Callable[..., Run], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    code, _, err = skip("site", "--output", str(tmp_path))
    assert code == 2
    assert "holds something else than pages" in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_site_keeps_its_hands_off_a_file_and_off_its_own_sources(skip: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    before = sorted(path.name for path in (ROOT / "docs").iterdir())
    for output in (tmp_path / "file", ROOT / "docs", ROOT):
        code, _, err = skip("site", "--output", str(output))
        assert (code, "holds something else than pages" in err) == (2, True)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in (ROOT / "docs").iterdir()) == before


def test_site_from_a_wheel_touches_nothing(
    skip: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "source_dir", lambda: tmp_path / "site-packages" / "skipkb" / "_catalog")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / ".skipkb-pages").write_text("ours")
    code, _, err = skip("site", "--output", str(tmp_path / "pages"))
    assert code == 2
    assert "works in a checkout of the repository" in err
    assert [path.name for path in (tmp_path / "pages").iterdir()] == [".skipkb-pages"]


def test_export_replaces_only_what_it_wrote(skip: Callable[..., Run], tmp_path: Path) -> None:
    mine = tmp_path / "references.bib"
    mine.write_text("@article{mine, title={My life work}}")
    code, _, err = skip("export", str(tmp_path))
    assert code == 2
    assert f"{mine} is not as an earlier export left it; --force replaces it" in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(mine.name, mine.read_text())]
    assert skip("export", str(tmp_path), "--force")[0] == 0
    assert "He" in mine.read_text()
    assert skip("export", str(tmp_path))[0] == 0, "what it wrote itself it may replace"
    mine.write_text(mine.read_text() + "@article{mine, title={My life work}}")
    assert skip("export", str(tmp_path))[0] == 2
    assert "My life work" in mine.read_text()
    code, _, err = skip("export", "")
    assert (code, "an empty name is not a directory" in err) == (2, True)


def test_smoke_without_torch(skip: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))
    code, _, err = skip("smoke", "unet")
    assert code == 2
    assert err == (
        "skipkb: running the models needs torch, which is not installed\n"
        "this command needs more packages: pip install 'skipkb[models]'\n"
    )


def test_as_a_process() -> None:
    assert shell("search", "qqqq") == (0, "nothing found\n", "")
    code, out, err = shell("show", "unett")
    assert (code, out) == (2, "")
    assert err.startswith("skipkb: no entry is named 'unett'")
    assert shell()[0] == 2


def test_a_reader_that_leaves_early() -> None:
    for command in ("list", "cite", "show unet --json", "table I"):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"'{sys.executable}' -u -m skipkb.cli {command} | head -c 1"],
            capture_output=True, cwd=ROOT, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b""), command


def test_a_terminal_with_few_letters() -> None:
    code, out, err = shell("show", "highway", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (code, err) == (0, "")
    assert "99.4 ? 0.03" in out  # a plus-minus sign


def test_an_interrupted_command(skip: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skipkb.catalog.search.entries", interrupt)
    assert skip("list") == (130, "", "skipkb: interrupted\n")

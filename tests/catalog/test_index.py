"""The compiled index: kept when current, compiled anew when not, and never in the way of an answer."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sample

from skipkb.catalog import index, paths
from skipkb.catalog.problems import CatalogueError
from skipkb.catalog.search import get, search

Install = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the fixture ``install`` has the index compiled to."""
    return tmp_path / "build" / "index.sqlite"


def test_an_ordinary_sqlite_file(install: Install, file: Path) -> None:
    install(sample.work("alpha", aliases=["Größe"]), sample.work("beta"))
    assert get("alpha").name == "AlphaNet"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT key FROM entry ORDER BY id").fetchall() == [("alpha",), ("beta",)]
        names = connection.execute("SELECT name FROM name WHERE entry = 1 ORDER BY name").fetchall()
        assert names == [("alpha",), ("alphanet",), ("grösse",)]
        assert ("merge", "gate") in connection.execute("SELECT * FROM vocabulary").fetchall()


def test_a_current_index_is_used_as_it_is(install: Install, file: Path) -> None:
    install()
    search("alpha")
    before = (file.stat().st_mtime_ns, file.stat().st_ino)
    index.forget()
    search("alpha")
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before


@pytest.mark.parametrize("change", ["entry", "bibtex", "survey", "new", "removed"])
def test_a_stale_index_is_compiled_anew(install: Install, file: Path, change: str) -> None:
    directory = install(sample.work("alpha"), sample.work("beta", survey={"sections": ["III"]}))
    search("alpha")
    before = file.read_bytes()
    if change == "entry":
        path = directory / "classification" / "alpha.yaml"
        path.write_text(path.read_text().replace("segments nothing", "segments everything"))
    elif change == "bibtex":
        path = directory / "references.bib"
        path.write_text(path.read_text().replace("{2015}", "{2016}"))
    elif change == "survey":
        path = directory / "survey.yaml"
        path.write_text(path.read_text().replace("A survey", "Another survey"))
    elif change == "new":
        sample.write(directory, sample.work("alpha"), sample.work("gamma"))
        (directory / "classification" / "beta.yaml").unlink()
    else:
        (directory / "classification" / "beta.yaml").unlink()
    index.forget()
    search("alpha")
    assert file.read_bytes() != before


def test_an_index_of_another_format_is_compiled_anew(
    install: Install, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    search("alpha")
    before = file.read_bytes()
    monkeypatch.setattr(index, "FORMAT", "next")
    index.forget()
    search("alpha")
    assert file.read_bytes() != before


def _garbage(content: bytes) -> bytes:
    return b"this is not a database" * 1000


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 3]


def _empty(content: bytes) -> bytes:
    return b""


def _zeroed_behind_the_first_pages(content: bytes) -> bytes:
    return content[:8192] + b"\0" * (len(content) - 8192)


def _scrambled_behind_the_first_pages(content: bytes) -> bytes:
    return content[:8192] + bytes(byte ^ 0xA5 for byte in content[8192:])


@pytest.mark.parametrize(
    "damage", [_garbage, _truncated, _empty, _zeroed_behind_the_first_pages, _scrambled_behind_the_first_pages]
)
@pytest.mark.parametrize("ask", [lambda: get("alpha").key, lambda: search("sample")[0].key, lambda: search("alpah")])
def test_a_damaged_index_is_compiled_anew(
    install: Install, file: Path, damage: Callable[[bytes], bytes], ask: Callable[[], Any]
) -> None:
    install()
    expected = ask()
    index.forget()
    good = file.read_bytes()
    file.write_bytes(damage(good))
    assert ask() == expected
    assert file.read_bytes() == good


def test_damage_that_shows_only_in_a_later_query(install: Install, file: Path) -> None:
    install()
    search("alpha")
    index.forget()
    good = file.read_bytes()
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DROP TABLE entry_text")  # meta is current and whole, so that the file opens
    assert index.query("SELECT count(*) FROM entry") == [(1,)]
    assert search("sample")[0].key == "alpha"
    assert file.read_bytes() == good


def test_text_that_is_not_utf8_in_a_later_query(install: Install, file: Path) -> None:
    install()
    search("alpha")
    index.forget()
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE entry SET title = CAST(x'ff41' AS TEXT)")
    assert search("sample")[0].title.startswith("AlphaNet: a sample")


def test_a_foreign_database_is_replaced(install: Install, file: Path) -> None:
    install()
    file.parent.mkdir()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    assert search("alpha")[0].key == "alpha"


def test_a_directory_in_the_place_of_the_index(install: Install, file: Path) -> None:
    install()
    file.mkdir(parents=True)
    assert search("alpha")[0].key == "alpha"
    assert file.is_dir()


def test_a_place_that_cannot_be_written_is_passed_over(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    blocker = tmp_path / "blocker"
    blocker.write_text("a file where a directory should be")
    cache = tmp_path / "cache" / "skipkb" / "index.sqlite"
    monkeypatch.setattr(paths, "index_candidates", lambda: [blocker / "index.sqlite", cache])
    assert search("alpha")[0].key == "alpha"
    assert cache.is_file()
    stamp = cache.stat().st_mtime_ns
    index.forget()
    assert search("alpha")[0].key == "alpha"
    assert cache.stat().st_mtime_ns == stamp


def test_with_no_place_to_write_it_lives_in_memory(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    blocker = tmp_path / "blocker"
    blocker.write_text("a file where a directory should be")
    monkeypatch.setattr(paths, "index_candidates", lambda: [blocker / "a" / "index.sqlite", blocker / "b.sqlite"])
    assert search("alpha")[0].key == "alpha"
    assert get("alphanet").key == "alpha"
    assert index.query("PRAGMA database_list")[0][2] == ""


def test_a_place_that_must_not_be_looked_at(install: Install, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install()

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)  # as stat does below a directory of somebody else
    assert search("alpha")[0].key == "alpha"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the cache directory of Linux")
def test_candidates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "site-packages" / "skipkb" / "_catalog"
    monkeypatch.setattr(paths, "source_dir", lambda: source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert paths.index_candidates() == [source / "index.sqlite", tmp_path / "cache" / "skipkb" / "index.sqlite"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/path")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert paths.index_candidates()[1] == tmp_path / "home" / ".cache" / "skipkb" / "index.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert paths.index_candidates() == [source / "index.sqlite"]


def test_the_index_of_a_checkout_is_a_build_product() -> None:
    assert paths.source_dir() == ROOT / "catalog"
    assert paths.index_candidates()[0] == ROOT / "build" / "index.sqlite"


def test_a_broken_catalogue_cannot_be_compiled(install: Install, file: Path) -> None:
    directory = install()
    (directory / "classification" / "alpha.yaml").write_text("key: [")
    with pytest.raises(CatalogueError, match=r"classification/alpha\.yaml:2:1: not valid YAML"):
        search("alpha")
    assert not file.exists()
    sample.write(directory)  # mended: works at once
    assert search("alpha")[0].key == "alpha"


def test_wrong_statements_are_not_taken_for_damage_forever(install: Install) -> None:
    install()
    with pytest.raises(sqlite3.OperationalError):
        index.query("SELECT nonsense FROM nowhere")
    with pytest.raises(sqlite3.ProgrammingError):
        index.query("SELECT ?", [])
    assert search("alpha")[0].key == "alpha"


def test_readers_cannot_write(install: Install) -> None:
    install()
    search("alpha")
    index.forget()
    search("alpha")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        index.query("DELETE FROM entry")
    assert get("alpha").key == "alpha"


def test_threads_share_the_index(install: Install) -> None:
    install(*[sample.work(f"work{i}") for i in range(20)])
    found: list[str] = []

    def ask(number: int) -> None:
        for _ in range(20):
            found.append(get(f"work{number}").key + search(f"Work{number}Net")[0].key)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"work{i}work{i}" for i in range(6) for _ in range(20))


_COMPILE = """
import sys, pathlib, time
from skipkb.catalog import index, paths
source, file, go = map(pathlib.Path, sys.argv[1:])
paths.source_dir = lambda: source
paths.index_candidates = lambda: [file]
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
from skipkb.catalog.search import search
print(len(search("sample", limit=99)), flush=True)
"""


def test_processes_that_compile_at_once(directory: Path, tmp_path: Path, file: Path) -> None:
    sample.write(directory, *[sample.work(f"work{i}") for i in range(12)])
    command = [sys.executable, "-c", _COMPILE, str(directory), str(file), str(tmp_path / "go")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    assert [process.communicate(timeout=60)[0] for process in processes] == ["12\n"] * 3
    assert [path.name for path in file.parent.iterdir()] == ["index.sqlite"]  # no temporary file stays behind
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

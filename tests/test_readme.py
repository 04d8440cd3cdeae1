"""What the README shows is what happens: its console sessions and its Python run, outputs compared."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from skipkb.cli import main
from skipkb.evidence.counts import read_graphs
from skipkb.skips import SkipGraph

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")
SESSIONS = [
    (command, expected)
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
]
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_readme_has_examples() -> None:
    assert len(SESSIONS) >= 5
    assert len(PROGRAMS) >= 2


@pytest.mark.parametrize(("command", "expected"), SESSIONS, ids=[command for command, _ in SESSIONS])
def test_console_session(command: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command)
    assert program == "skipkb"
    assert main(arguments) == 0
    pattern = re.escape(expected).replace(re.escape("...\n"), "(?s:.*)").replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern, capsys.readouterr().out), command


@pytest.mark.parametrize("program", PROGRAMS, ids=["look-up", "model", "skips"])
def test_python_example(program: str) -> None:
    exec(compile(program, "README.md", "exec"), {})


def test_the_fingerprint_is_the_one_drawn_from_the_evidence() -> None:
    picture = Path(__file__).resolve().parents[1] / "docs" / "assets" / "fingerprint-unet.svg"
    graph = SkipGraph.from_json(read_graphs("unet")["unet"])
    assert picture.read_text("utf-8") == graph.to_svg(title="U-Net"), "write it anew: see test_readme.py"

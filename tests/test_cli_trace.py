"""``skipkb trace``: models of ours, of other libraries, and of nobody."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from skipkb.cli import main


@pytest.mark.parametrize(
    ("target", "adds"),
    [("resnet18", 8), ("timm:resnet18", 8), ("torchvision:vit_b_16", 24), ("torchvision.models:mobilenet_v2", 10)],
)
def test_skips_of_a_named_model(target: str, adds: int, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["trace", target, "--json", "--svg", str(tmp_path / "out.svg")]) == 0
    assert len(json.loads(capsys.readouterr().out)["skips"]) == adds
    assert ET.parse(tmp_path / "out.svg").getroot().tag.endswith("svg")


def test_our_models_know_their_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "unet"]) == 0
    assert capsys.readouterr().out.count("concat") >= 4
    assert main(["trace", "sam_vit_b"]) == 0
    assert "38 add" in capsys.readouterr().out, "with points, their labels and a box"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet81"], "did you mean 'resnet18'"),
        (["vit_b_16"], "or 'torchvision:vit_b_16'"),
        (["resnet5O"], "'timm:resnet50' or 'torchvision:resnet50'"),
        (["timm:nonesuch"], "no model is named 'timm:nonesuch'"),
        (["torchvision:vit_b16"], "or 'torchvision:vit_b_16'"),
        (["nonesuch.module:build"], "there is no module"),
        (["math:floor"], "cannot build 'math:floor'"),
        (["unet", "--input", "1,1,100,100"], "legal sizes"),
        (["unet", "--input", "1,x"], "is not an input such as"),
        (["unet", "--input", "2=1,1,188,188"], "is not an input such as"),
        (["unet", "--input", "half:1,1,188,188"], "is not an input such as"),
        (["unet", "--input", ""], "is not an input such as"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments]) == 2
    assert message in capsys.readouterr().err


SCRIPT = """
import sys
import torch
from torch import nn
from own_blocks import Block

print("a script may print")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Block(), Block()

    def forward(self, x):
        return self.b(self.a(x))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(2, 8), nn.Linear(8, 8)

    def forward(self, ids, mask, scale):
        x = self.embedding(ids)
        x = x + self.linear(x)
        return x.masked_fill(~mask[..., None], 0) * scale


class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x) * float(self.linear.weight.sum()) + x


class Needs(nn.Module):
    def __init__(self, width):
        super().__init__()


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(undefined, 1)


class Dies(nn.Module):
    def forward(self, x):
        raise KeyError("nothing here")


model, number = Net(), 3
"""
BLOCKS = """
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, in which they are."""
    (tmp_path / "own_net.py").write_text(SCRIPT)
    (tmp_path / "own_blocks.py").write_text(BLOCKS)
    (tmp_path / "quits.py").write_text("import sys\n\nsys.exit(3)\n")
    (tmp_path / "unfinished.py").write_text("def (\n")
    (tmp_path / "lacks.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    for name in ("own_net", "own_blocks", "quits", "unfinished", "lacks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


TOKENS = ["--input", "ids=int:2,16", "--input", "mask=bool:2,16", "--input", "scale=float:"]


@pytest.mark.parametrize(
    ("arguments", "adds"),
    [
        (["own_net:Net"], 2),
        (["own_net.py:Net"], 2),
        (["./own_net.py:Net"], 2),
        (["own_net:model"], 2),
        (["own_net.py:model", "--input", "2,3,8,8"], 2),
        (["own_net:Tokens", *TOKENS], 1),
        (["own_net:Tokens", "--input", "int:2,16", "--input", "bool:2,16", "--input", "1"], 1),
        (["own_net:Tokens", "--input", "int:2,16", "--input", "scale=1", "--input", "bool:2,16"], 1),
        (["own_net:Numbers", "--input", "1,4"], 1),
    ],
)
def test_a_script_of_ones_own(
    folder: Path, arguments: list[str], adds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = list(sys.path)
    assert main(["trace", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["skips"]) == adds
    assert "a script may print" in err
    assert sys.path == path


def test_a_script_from_another_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir("/")
    assert main(["trace", f"{folder}/own_net.py:Net", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["skips"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own_net:Nett"], "did you mean 'Net'?"),
        (["own_net.py:Nett"], "own_net.py has no 'Nett'; did you mean 'Net'?"),
        (["other_net.py:Net"], "there is no file 'other_net.py'"),
        (["own_net:number"], "gives an int, not a torch.nn.Module"),
        (["own_net:Needs"], "missing 1 required positional argument: 'width'"),
        (["own_net:Broken"], "NameError: name 'undefined' is not defined (own_net.py, line 47)"),
        (["own_net:Dies"], "own_net:Dies does not run on [1, 3, 224, 224]: KeyError: 'nothing here'"),
        (["own_net:Tokens"], "forward(ids, mask, scale) cannot be called like this"),
        (["own_net:Tokens", *TOKENS, "--input", "7"], "inputs without a name: 1, but forward has no more"),
        (["quits.py:Net"], "SystemExit: 3 (quits.py, line 3)"),
        (["unfinished.py:Net"], "SyntaxError: invalid syntax (unfinished.py, line 1)"),
        (["lacks.py:Net"], "No module named 'a_package_that_nobody_has' (lacks.py, line 1)"),
    ],
)
def test_a_fault_in_a_script(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err

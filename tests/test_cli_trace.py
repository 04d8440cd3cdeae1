"""``skipkb trace``: models of ours, of other libraries, and of nobody."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet81"], "did you mean 'resnet18'"),
        (["timm:nonesuch"], "cannot build 'timm:nonesuch'"),
        (["torchvision:nonesuch"], "cannot build 'torchvision:nonesuch'"),
        (["nonesuch.module:build"], "there is no module"),
        (["math:floor"], "cannot build 'math:floor'"),
        (["unet", "--input", "1,1,100,100"], "100"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_shape_that_is_none() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["trace", "unet", "--input", "1,x"])

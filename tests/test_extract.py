"""Every model file, extracted into one file, runs where this package cannot be imported, and computes the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from skipkb.catalog.entry import Work
from skipkb.catalog.imports import resolve
from skipkb.catalog.loading import load
from skipkb.cli import main
from skipkb.evidence import data
from skipkb.extract import extract, one_file
from skipkb.skips.record.calls import tensors_in

WORKS = [work for work in load().entries.values() if work.runs]
CHILD = """
import importlib.util, json, sys

import torch

sys.modules["skipkb"] = None  # an import of it fails
for one in json.loads(sys.argv[1]):
    try:
        spec = importlib.util.spec_from_file_location(one["key"], one["file"])
        module = importlib.util.module_from_spec(spec)
        sys.modules[one["key"]] = module
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        model = getattr(module, one["build"])(**one["kwargs"]).eval()
        assert callable(getattr(module, one["objective"]))
        with torch.no_grad():
            result = model(*torch.load(one["input"]))
        torch.save((model.state_dict(), result), one["output"])
    except Exception as error:
        open(one["output"], "w").write(f"{type(error).__name__}: {error}")
"""


def inputs_of(work: Work) -> tuple[torch.Tensor, ...]:
    assert work.smoke is not None
    return data.inputs(work.smoke.data, work.smoke.input)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the extracted models compute in a process without this package, by entry."""
    folder = tmp_path_factory.mktemp("extracted")
    jobs: list[dict[str, Any]] = []
    for work in WORKS:
        assert work.smoke is not None
        module, _, build = work.smoke.build.partition(":")
        files = {name: str(folder / f"{work.key}.{name}") for name in ("py", "input", "output")}
        Path(files["py"]).write_text(one_file(module), encoding="utf-8")
        torch.save(inputs_of(work), files["input"])
        objective = work.smoke.objective.partition(":")[2]
        job = {"key": work.key, "file": files.pop("py"), "build": build, "kwargs": work.smoke.kwargs}
        jobs.append(job | {"objective": objective} | files)
    subprocess.run([sys.executable, "-c", CHILD, json.dumps(jobs)], check=True, cwd=folder)
    return folder


@pytest.mark.parametrize("key", [work.key for work in WORKS])
def test_an_extracted_model_runs_alone_and_computes_the_same(outputs: Path, key: str) -> None:
    work = load().entries[key]
    assert work.smoke is not None
    output = outputs / f"{key}.output"
    assert output.read_bytes()[:2] == b"PK", output.read_text()
    state, result = torch.load(output)
    torch.manual_seed(0)
    ours = resolve(work.smoke.build)(**work.smoke.kwargs).eval()
    assert [*state] == [*ours.state_dict()]
    ours.load_state_dict(state, strict=True)
    with torch.no_grad():
        wanted = ours(*inputs_of(work))
    for found, one in zip(tensors_in(result), tensors_in(wanted), strict=True):
        torch.testing.assert_close(found, one)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.key)
def test_only_what_is_needed_comes_along(work: Work) -> None:
    text = extract(work.key)
    assert "import skipkb" not in text
    assert "from skipkb" not in text
    assert text.count("\nfrom __future__") == 1
    file = Path(__file__).resolve().parents[1] / f"{work.variants[0].build.partition(':')[0].replace('.', '/')}.py"
    assert text.endswith(file.read_text("utf-8").partition("\n__all__ = ")[2])
    if work.key in ("resnet", "densenet", "unet"):
        assert "ResNetTrunk" not in text  # an origin reads alone


def test_a_model_by_its_own_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["extract", "senet154"]) == 0
    text = capsys.readouterr().out
    assert text == extract("senet154") == extract("senet")
    file = tmp_path / "deep" / "senet.py"
    assert main(["extract", "senet", "--output", str(file)]) == 0
    assert file.read_text("utf-8") == text
    assert main(["extract", "resnet50", "--output", str(file)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert file.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("name", "message"), [("senet155", "did you mean"), ("vgg", "has no model here"), ("", "no model or work")]
)
def test_what_cannot_be_extracted(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", name]) == 2
    assert message in capsys.readouterr().err

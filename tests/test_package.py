"""The package from outside: what importing it costs, what it offers, and the wheel in a bare environment."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import skipkb
from skipkb import catalog

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "torchvision", "timm", "yaml", "numpy", "pydantic", "sqlite3", "bibtexparser", "rich"}


def python(*arguments: str, **environment: str) -> str:
    """Output of a fresh interpreter that finds the checkout's package."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd="/", timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_importing_costs_nothing() -> None:
    report = python("-X", "importtime", "-c", "import skipkb")
    imported = {line.split("|")[-1].strip() for line in report.splitlines()}
    assert "skipkb" in imported
    assert not {name for name in imported if name.split(".")[0] in HEAVY}
    assert not {name for name in imported if name.startswith("skipkb.")}


def test_looking_up_needs_the_standard_library_only() -> None:
    skipkb.search("unet")  # the index is compiled
    code = (
        "import skipkb, sys; from skipkb.catalog.search import nearest\n"
        "print(skipkb.search('unet task:segmentation')[0].key, skipkb.list_models('resnet1?'))\n"
        "print(nearest('resnett')[0], len(skipkb.cite('unet')) > 100, *{name.split('.')[0] for name in sys.modules})"
    )
    answers = python("-S", "-c", code).splitlines()  # -S: site-packages cannot be imported from at all
    assert answers[0] == "unet ['resnet18']"
    assert answers[1].startswith("ResNet True ")
    assert not HEAVY - {"sqlite3"} & set(re.findall(r"\w+", answers[1]))


def test_the_cold_search_command_needs_the_standard_library_only() -> None:
    skipkb.search("unet")
    assert python("-S", "-m", "skipkb.cli", "search", "unet").startswith("unet  U-Net (2015)")
    assert "resnet101" in python("-S", "-m", "skipkb.cli", "list", "--models")


def test_what_it_offers() -> None:
    assert set(skipkb.__all__) <= set(dir(skipkb))
    for name in skipkb.__all__:
        assert getattr(skipkb, name) is not None
    names: dict[str, object] = {}
    exec("from skipkb import *", names)
    assert set(skipkb.__all__) <= set(names)
    with pytest.raises(AttributeError, match="module 'skipkb' has no attribute 'serach'"):
        _ = skipkb.serach
    assert catalog.load().entries["unet"].name == "U-Net"
    with pytest.raises(AttributeError, match=r"module 'skipkb\.catalog' has no attribute 'loda'"):
        _ = catalog.loda


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == skipkb.__version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return directory / done.stdout.split()[-1]


def test_the_wheel_carries_catalogue_and_index(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        carried = {name.removeprefix("skipkb/_catalog/"): archive.read(name) for name in names if "/_catalog/" in name}
    sources = ["survey.yaml", "references.bib", "schema.json", "segmentation/unet.yaml"]
    for name in sources:
        assert carried[name] == (ROOT / "catalog" / name).read_bytes()
    assert carried["index.sqlite"].startswith(b"SQLite format 3\0")
    assert not [name for name in carried if name.startswith("evidence/")]
    assert "skipkb/models/segmentation/unet.py" in names
    assert not [name for name in names if not name.startswith(("skipkb/", "skipkb-"))]
    assert not [name for name in names if "__pycache__" in name or name.endswith(".ipynb")]


def _needed(name: str, found: dict[str, importlib.metadata.Distribution]) -> None:
    """The distribution ``name`` and all that it needs, extras left out."""
    from packaging.requirements import Requirement

    distribution = importlib.metadata.distribution(name)
    found[name.lower()] = distribution
    for text in distribution.requires or []:
        requirement = Requirement(text)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name.lower() not in found:
            _needed(requirement.name, found)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel in an environment of its own beside its declared dependencies: bin directory and site-packages."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True, timeout=120)
    (site,) = directory.glob("lib/python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", directory / "bin" / "python", "install", "--quiet", "--no-index",
         "--no-deps", "--disable-pip-version-check", wheel],
        check=True, timeout=120,
    )  # fmt: skip
    needed: dict[str, importlib.metadata.Distribution] = {}
    for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]:
        _needed(re.split(r"[<>=!~ ]", requirement)[0], needed)
    for distribution in needed.values():
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
    assert not (site / "torch").exists()
    return directory / "bin", site


def _run(
    installed: tuple[Path, Path], tmp_path: Path, program: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return subprocess.run(
        [installed[0] / program, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )


def test_the_installed_wheel_answers_with_the_index_it_brought(installed: tuple[Path, Path], tmp_path: Path) -> None:
    index = installed[1] / "skipkb" / "_catalog" / "index.sqlite"
    before = (hashlib.sha256(index.read_bytes()).hexdigest(), index.stat().st_mtime_ns)
    found = _run(installed, tmp_path, "skipkb", "search", "unet")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("unet  U-Net (2015)")
    models = _run(installed, tmp_path, "skipkb", "list", "--models")
    assert models.stdout.split() == skipkb.list_models()
    assert _run(installed, tmp_path, "skipkb", "check").stdout.endswith("no problem\n")
    assert _run(installed, tmp_path, "skipkb", "table", "III", "--json").returncode == 0
    shown = json.loads(_run(installed, tmp_path, "skipkb", "show", "unet", "--json").stdout)
    assert shown["variants"][0]["parameters"] == 31030658
    assert (hashlib.sha256(index.read_bytes()).hexdigest(), index.stat().st_mtime_ns) == before
    assert list(tmp_path.iterdir()) == []  # nothing was compiled anywhere else


def test_the_installed_wheel_without_torch(installed: tuple[Path, Path], tmp_path: Path) -> None:
    code = "import skipkb\ntry:\n    skipkb.create_model('resnet20')\nexcept ImportError as error:\n    print(error)"
    done = _run(installed, tmp_path, "python", "-c", code)
    assert done.stdout == "model 'resnet20' needs torch, which is not installed: pip install 'skipkb[models]'\n"
    for command in (("smoke", "unet"), ("notebooks",), ("new", "fresh")):
        done = _run(installed, tmp_path, "skipkb", *command)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert done.stderr.startswith("skipkb: ")
        assert "Traceback" not in done.stderr
        assert "pip install" in done.stderr


def test_an_install_nobody_may_write_to(installed: tuple[Path, Path], tmp_path: Path) -> None:
    """The index beside the catalogue is damaged and cannot be replaced: the user's cache takes its place."""
    index = installed[1] / "skipkb" / "_catalog" / "index.sqlite"
    index.unlink()
    index.mkdir()  # root may write everywhere, but not a file over a directory
    for _ in range(2):
        found = _run(installed, tmp_path, "skipkb", "search", "unet")
        assert found.stdout.startswith("unet  U-Net (2015)")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.sqlite")] == [
        "cache/skipkb/index.sqlite"
    ]

"""The vocabulary: each word once, colours that can be seen and told apart, nothing that nobody uses."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from skipkb import vocabulary
from skipkb.catalog.loading import load
from skipkb.vocabulary import LICENCES, MERGES, SHORTCUTS, TASKS, Merge, Shortcut, framework_names, stylesheet

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"light": ("#ffffff",), "dark": ("#1e2129", "#000000")}


def luminance(colour: str) -> float:
    def linear(value: int) -> float:
        share = value / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[k : k + 2], 16)) for k in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_each_word_has_its_facts() -> None:
    assert tuple(MERGES) == get_args(Merge)
    assert tuple(SHORTCUTS) == get_args(Shortcut)


def test_signs_nouns_and_colours_are_different() -> None:
    for part in ("sign", "noun", "light", "dark"):
        found = [getattr(kind, part) for kind in MERGES.values()]
        assert len(set(found)) == len(found), part
    assert all(len(kind.sign) == 1 for kind in MERGES.values())


@pytest.mark.parametrize("shade", ["light", "dark"])
def test_colours_are_seen_on_the_page(shade: str) -> None:
    for name, kind in MERGES.items():
        assert all(contrast(getattr(kind, shade), page) >= 3 for page in PAGES[shade]), name


def test_a_white_sign_is_seen_on_its_disc() -> None:
    assert all(contrast(kind.light, "#ffffff") >= 3 for kind in MERGES.values())


def test_the_stylesheet_has_each_kind_in_both_shades() -> None:
    text = stylesheet()
    for name, kind in MERGES.items():
        assert f"--skb-{name}:{kind.light};" in text
        assert f"--skb-{name}-line:{kind.dark};" in text
        assert f".skb-figure .skb-{name}{{stroke:" in text
        assert f".skb-timeline .skb-{name}{{fill:" in text


def test_colours_of_merges_stand_nowhere_else() -> None:
    colours = {colour for kind in MERGES.values() for colour in (kind.light, kind.dark)}
    files = [
        *(ROOT / "skipkb").rglob("*.py"),
        *(ROOT / "docs" / "assets").glob("*.css"),
    ]
    for file in files:
        if file.name != "vocabulary.py":
            assert not colours & set(re.findall(r"#[0-9a-f]{6}\b", file.read_text("utf-8"))), file


def test_every_task_and_licence_occurs() -> None:
    works = load().entries.values()
    assert {task for work in works for task in work.tasks} == set(TASKS)
    used = {code.licence for work in works for code in work.code}
    used |= {weights.licence for work in works for variant in work.variants for weights in variant.weights}
    assert {licence for licence in used if licence and not licence.startswith("LicenseRef-")} <= set(LICENCES)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("PyTorch", ["PyTorch"]),
        ("Caffe, PyTorch (mmdetection)", ["Caffe", "PyTorch"]),
        ("TensorFlow 1.14", ["TensorFlow"]),
        ("TensorFlow (TF-Slim)", ["TensorFlow"]),
        ("JAX/Flax", ["JAX"]),
        ("CUDA, C++ with Python 2", ["CUDA", "C++", "Python"]),
        ("Torch (Lua), PyTorch", ["Torch", "PyTorch"]),
        ("none", []),
    ],
)
def test_a_framework_has_one_name(text: str, names: list[str]) -> None:
    assert framework_names(text) == names


def test_it_needs_the_standard_library_only() -> None:
    tree = ast.parse(Path(vocabulary.__file__).read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(name).partition(".")[0] for name in imported} <= sys.stdlib_module_names
    code = "import sys; import skipkb.vocabulary; print('torch' in sys.modules, 'yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_no_two_groups_share_a_word() -> None:
    groups = (MERGES, SHORTCUTS, TASKS)
    assert not [word for one, other in itertools.combinations(groups, 2) for word in set(one) & set(other)]

"""Start a new method: an entry, a model file and a notebook with everything to fill in marked TODO."""

from __future__ import annotations

import json
import keyword
import re
from pathlib import Path

from skipkb.catalog.entry import FOLDERS
from skipkb.catalog.writing import write_text

_ENTRY = """\
# yaml-language-server: $schema=../schema.json
key: {key}
name: {name_in_yaml}
kind: method
contribution: TODO one line, what the work changed
description: >
  TODO a paragraph in your own words.
paper: TODO  # key of the record that you add to catalog/references.bib
# TODO: a work that the survey does not name has no `survey` key: delete these three lines then
survey:
  reference: TODO  # number in the survey's reference list
  sections: [TODO]  # such as IV.A; for a table row add `rows` here and the key to catalog/survey.yaml
tasks: [{folder}]
skips:
  - start: TODO
    end: TODO
    merge: add
    span: short
    shortcut: TODO
variants:
  - name: {key}
    title: {name_in_yaml}
    build: skipkb.models.{folder}.{key}:{key}
    input: [1, 3, 224, 224]
    output: [1, 1000]
    parameters: TODO  # exact
    macs: TODO  # exact; `skipkb smoke {key}` prints what it counted
smoke:
  build: skipkb.models.{folder}.{key}:{key}
  input: [4, 3, 32, 32]
  data: classification
  objective: skipkb.models.{folder}.{key}:objective
"""

_MODEL = '''\
r"""{name}: TODO one sentence on the idea.

TODO the equation, and where the skip is:

    y = x + F(x)

Source: TODO authors, title, venue, arXiv number.

Deviations from the paper: none.
"""

from __future__ import annotations

from torch import Tensor, nn


class {cls}(nn.Module):
    """TODO the network.

    Shapes: input ``[N, 3, H, W]``, output ``[N, num_classes]``.
    """

    def __init__(self, *, num_classes: int = 1000) -> None:
        super().__init__()
        raise NotImplementedError("TODO write {name} from the paper")

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def {key}(*, num_classes: int = 1000) -> {cls}:
    """TODO the published configuration, with its table."""
    return {cls}(num_classes=num_classes)


def objective(output: Tensor, target: Tensor) -> Tensor:
    """TODO the loss the paper trains with; a scalar. The plain ones are in skipkb.nn.objectives."""
    raise NotImplementedError
'''

_CELLS = [
    ("markdown", "# {name}\n\nTODO the idea of the paper, shown with its running code."),
    ("code", "import torch\n\ntorch.manual_seed(0)\ntorch.set_num_threads(1);"),
    ("code", "from skipkb.models.{folder}.{key} import {key}\n\nmodel = {key}()"),
    ("markdown", "## Take the skip away\n\nTODO what it costs."),
]


def scaffold(root: Path, key: str, *, folder: str, name: str | None = None) -> list[Path]:
    """Create the three files under the checkout ``root``; return their paths.

    Raises:
        ValueError: for a key or folder that cannot be, or a file that exists already (nothing is then written).
    """
    key = key.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", key) or len(key) > 60:
        raise ValueError(
            f"key {key!r}: use lower-case letters, digits and single underscores, starting with a letter, at most 60"
        )
    if keyword.iskeyword(key):
        raise ValueError(f"key {key!r} is a word of Python's own and cannot name a module")
    if folder not in FOLDERS:
        raise ValueError(f"there is no folder {folder!r}; folders: {', '.join(FOLDERS)}")
    name = name or key
    if not name.isprintable() or any(mark in name for mark in "\"'\\{}:#") or not name.strip():
        raise ValueError(f"name {name!r}: start with plain letters and digits; the entry can be edited afterwards")
    words = {
        "key": _as_yaml(key),
        "name": name,
        "name_in_yaml": _as_yaml(name),
        "folder": folder,
        "cls": "".join(part.capitalize() for part in key.split("_")),
    }
    cells: list[dict[str, object]] = [
        {"cell_type": kind, "id": f"{key[:40]}-{number}", "metadata": {}, "source": text.format(**words)}
        | ({"execution_count": None, "outputs": []} if kind == "code" else {})
        for number, (kind, text) in enumerate(_CELLS)
    ]
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    files = {
        root / "catalog" / folder / f"{key}.yaml": _ENTRY.format(**words),
        root / "skipkb" / "models" / folder / f"{key}.py": _MODEL.format(**words),
        root / "notebooks" / folder / f"{key}.ipynb": json.dumps(notebook, indent=1) + "\n",
    }
    for path in (*files, *(root / "catalog" / other / f"{key}.yaml" for other in FOLDERS)):
        if path.exists():
            raise ValueError(f"{path} exists already; nothing was written")
    package = root / "skipkb" / "models" / folder / "__init__.py"
    if not package.exists():
        files[package] = f'"""Reference implementations: {folder}."""\n'
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def _as_yaml(text: str) -> str:
    """``text`` as a YAML string, quoted where it would be something else (``no`` is a truth value, ``- x`` a list)."""
    import yaml

    try:
        plain = yaml.safe_load(text) == text
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text)

"""Which source files an entry's result depends on, and their hash. Nothing is imported, only read."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from skipkb.catalog.entry import Entry
from skipkb.catalog.paths import PACKAGE


def source_files(entry: Entry) -> dict[str, Path]:
    """Module name -> file of the entry's model, and of all of skipkb that it imports, sorted by name."""
    paths = [variant.build for variant in entry.variants]
    if entry.smoke:
        paths += [entry.smoke.build, entry.smoke.objective]
    todo = {path.partition(":")[0] for path in paths}
    files: dict[str, Path] = {}
    while todo:
        module = todo.pop()
        if module not in files and (file := module_file(module)):
            files[module] = file
            todo |= _skipkb_imports(module, file, file.stat().st_mtime_ns)
    return dict(sorted(files.items()))


def source_sha256(entry: Entry) -> str:
    """Hash of what the measurements depend on: the source files, and how the entry builds and runs them.

    A change of any of these makes recorded results stale. Claims (the declared figures) and prose
    are not part of it, and neither are line endings.
    """
    digest = hashlib.sha256()
    for module, file in source_files(entry).items():
        digest.update(f"{module}\n{file.read_text(encoding='utf-8')}\n".encode())
    builds = [[variant.name, variant.build, variant.kwargs, variant.input] for variant in entry.variants]
    smoke = entry.smoke.model_dump(mode="json") if entry.smoke else None
    digest.update(json.dumps([builds, smoke], sort_keys=True).encode())
    return digest.hexdigest()


def task_sha256(entry: Entry) -> str:
    """Hash of everything that decides the outcome: the source, the declared figures and the contract itself.

    An interrupted run repeats what this hash has changed for.
    """
    digest = hashlib.sha256(source_sha256(entry).encode())
    digest.update(json.dumps([[v.parameters, v.macs, v.output] for v in entry.variants]).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def module_file(module: str) -> Path | None:
    """File of a module, found without importing it or its packages; None if there is none."""
    where: list[str] | None = [str(PACKAGE.parent), *sys.path]
    parts = module.split(".")
    origin = None
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), where)
        if spec is None:
            return None
        where = list(spec.submodule_search_locations) if spec.submodule_search_locations else []
        origin = spec.origin
    return Path(origin) if origin and origin.endswith(".py") else None


@functools.cache
def _skipkb_imports(module: str, file: Path, changed: int) -> frozenset[str]:
    """Modules of skipkb that ``file``, last ``changed`` then, names in its import statements."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.startswith("skipkb.") and module_file(name))

"""Which source files a result depends on, and what they say. Nothing is imported, only read."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from skipkb.catalog.entry import Entry
from skipkb.catalog.paths import PACKAGE


def model_modules(entry: Entry) -> set[str]:
    """The modules that an entry's import paths name."""
    paths = [variant.build for variant in entry.variants]
    if entry.smoke:
        paths += [entry.smoke.build, entry.smoke.objective]
    return {path.partition(":")[0] for path in paths}


def source_files(modules: Iterable[str], *, within: str = "skipkb", lazy: bool = True) -> dict[str, Path]:
    """Module name -> file of ``modules``, and of all that they import from the package ``within``, sorted by name.

    Args:
        lazy: whether imports inside functions count too.
    """
    todo = set(modules)
    files: dict[str, Path] = {}
    while todo:
        module = todo.pop()
        if module not in files and (file := module_file(module)):
            files[module] = file
            read = _read(module, file, file.stat().st_mtime_ns)
            names = read.imports if lazy else read.top_imports
            todo |= {name for name in names if name.startswith(f"{within}.") and module_file(name)}
    return dict(sorted(files.items()))


def digest(files: dict[str, Path]) -> str:
    """A hash of the syntax of source files: comments, docstrings and layout are not part of it."""
    found = hashlib.sha256()
    for module, file in files.items():
        found.update(f"{module} {_read(module, file, file.stat().st_mtime_ns).digest}\n".encode())
    return found.hexdigest()[:16]


def syntax(text: str) -> str:
    """The syntax tree of Python source as text: the same for every Python, without comments and docstrings."""
    return _tree(ast.parse(text))


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


def imported(tree: ast.AST, package: Sequence[str] = (), *, lazy: bool = True) -> list[str]:
    """Names that may be modules, of all import statements in ``tree``, a module of ``package``."""
    names = []
    for node in ast.walk(tree) if lazy else ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return names


@dataclass(frozen=True)
class _Source:
    """One source file as it was when it was read."""

    imports: list[str]
    top_imports: list[str]
    digest: str


@functools.cache
def _read(module: str, file: Path, changed: int) -> _Source:
    """``file`` of ``module``, last ``changed`` then."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    content = hashlib.sha256(_tree(tree).encode()).hexdigest()
    return _Source(imported(tree, package), imported(tree, package, lazy=False), content)


def _tree(node: Any) -> str:
    """A syntax tree as text. Not ast.dump: that differs from one Python to the next where a field is empty."""
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 has an empty text more in a format that is computed
        values = [value for value in node.values if not (isinstance(value, ast.Constant) and value.value == "")]
        return f"JoinedStr({_tree(values)})"
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in sorted(ast.iter_fields(node)) if name not in ("kind", "ctx")]
        inner = (f"{name}={_tree(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({','.join(inner)})"
    if isinstance(node, list):
        return f"[{','.join(_tree(item) for item in node if not _is_text(item))}]"
    return repr(node)


def _is_text(node: Any) -> bool:
    """Whether a statement is only a string: a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

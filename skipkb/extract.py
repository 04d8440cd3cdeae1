"""``skipkb extract``: a model and all that it needs as one file that runs without this package."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from skipkb import __version__
from skipkb.catalog.index import query
from skipkb.catalog.paths import PACKAGE
from skipkb.catalog.problems import UnknownNameError
from skipkb.catalog.search import get


def extract(name: str) -> str:
    """The source of a model as one file.

    What the method's file imports of this package stands in front, and of that only what is needed. The rest is the
    file itself.

    Args:
        name: a model of :func:`skipkb.list_models`, or a work that has some.

    Raises:
        UnknownNameError: for a name that is neither.
        ValueError: for a work without a model, or two files that use one name for different things.
    """
    rows = query("SELECT build FROM variant WHERE name = ?", [name])
    if rows:
        return one_file(str(rows[0][0]).partition(":")[0])
    try:
        work = get(name)
    except UnknownNameError as error:
        raise UnknownNameError("model or work", name, error.suggestions) from None
    if not work.variants:
        raise ValueError(f"{work.name} has no model here that could be extracted")
    return one_file(work.variants[0].build.partition(":")[0])


def one_file(module: str) -> str:
    """Like :func:`extract`, for a module of this package by its full name."""
    main = _Module(module)
    parts = _needed(main)
    imports: list[ast.Import | ast.ImportFrom] = [*main.imports]
    front, owner = "", dict.fromkeys(main.own(), module)
    for part, names in parts.items():
        statements = [s for s in part.statements if names & _bound(s)]
        for name in sorted(set().union(*map(_bound, statements))):
            if owner.setdefault(name, part.name) != part.name:
                raise ValueError(f"{owner[name]} and {part.name} both have a {name}, which one file cannot")
        imports += [i for i in part.imports if _names(i) & set().union(*map(_used, statements))]
        front += f"\n\n# From {part.name}\n\n\n" + "\n\n\n".join(map(part.text, statements)) + "\n"
    renamed = [f"{new} = {old}\n" for new, (_, old) in main.ours.items() if new != old]
    return (
        f"# {module} of skipkb {__version__}, with all that it needs, in one file. Licence: Apache-2.0.\n\n"
        f"{main.head}\nfrom __future__ import annotations\n\n{_merged(imports)}{front}"
        + ("\n\n" + "".join(renamed) if renamed else "")
        + (f"\n\n# {module}\n\n" if front else "")
        + f"\n{main.body}"
    )


class _Module:
    """A module of this package, taken apart."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lines = PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py").read_text("utf-8").splitlines()
        tree = ast.parse("\n".join(self._lines))
        self.imports = [s for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom) and not _ours(s)]
        self.ours: dict[str, tuple[str, str]] = {
            alias.asname or alias.name: (str(s.module), alias.name)
            for s in tree.body
            if isinstance(s, ast.ImportFrom) and _ours(s)
            for alias in s.names
        }
        """Name -> module of ours, and the name there."""
        first, *rest = tree.body
        self.statements = [s for s in rest if not isinstance(s, ast.Import | ast.ImportFrom)]
        self.head = "\n".join(self._lines[: first.end_lineno]) + "\n"
        last = max(s.end_lineno or 0 for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom))
        self.body = "\n".join(self._lines[last:]).strip("\n") + "\n"

    def own(self) -> set[str]:
        """The names that it gives, also to what it imports of ours."""
        renamed = {name for name, (_, there) in self.ours.items() if name != there}
        return set().union(renamed, *map(_bound, self.statements)) - {"__all__"}

    def text(self, statement: ast.stmt) -> str:
        """The lines of a statement, decorators included."""
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
        return "\n".join(self._lines[first - 1 : statement.end_lineno])


def _needed(main: _Module) -> dict[_Module, set[str]]:
    """The modules of ours that ``main`` rests on, those first that others rest on, and the names it needs of each."""
    modules: dict[str, _Module] = {}
    names: dict[str, set[str]] = {}
    order: list[str] = []

    def need(name: str, wanted: Iterable[str]) -> None:
        module = modules.setdefault(name, _Module(name))
        todo = set(wanted) - names.setdefault(name, set())
        while todo:
            one = todo.pop()
            names[name].add(one)
            used: set[str] = set().union(*(_used(s) for s in module.statements if one in _bound(s)))
            todo |= (used & module.own()) - names[name]
            for other, (place, there) in module.ours.items():
                if other in used:
                    need(place, {there})
        if name not in order:
            order.append(name)

    for place, there in main.ours.values():
        need(place, {there})
    return {modules[name]: names[name] for name in order}


def _ours(statement: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] == PACKAGE.name


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module gives to something."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return {statement.name}
    parts = ast.walk(statement)
    return {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _used(statement: ast.stmt) -> set[str]:
    """The names that it mentions, those of its own variables too."""
    return {part.id for part in ast.walk(statement) if isinstance(part, ast.Name)}


def _names(statement: ast.Import | ast.ImportFrom) -> set[str]:
    return {alias.asname or alias.name.split(".")[0] for alias in statement.names}


def _merged(statements: Iterable[ast.Import | ast.ImportFrom]) -> str:
    """The imports, each once, sorted."""
    plain: set[str] = set()
    names: dict[str, set[str]] = {}
    for statement in statements:
        texts = {alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in statement.names}
        if isinstance(statement, ast.Import):
            plain |= {f"import {text}" for text in texts}
        elif statement.module != "__future__":
            names.setdefault(str(statement.module), set()).update(texts)
    lines = [*sorted(plain), *(f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names))]
    return "\n".join(lines) + "\n"

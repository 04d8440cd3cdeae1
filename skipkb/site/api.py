"""The API reference, read from the source by griffe without importing it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from skipkb.catalog.paths import PACKAGE

_PAGES = {
    "skipkb": "The names at the top: what most programs need.",
    "skipkb.catalog": "Loading and checking the catalogue.",
    "skipkb.catalog.entry": "What an entry may say.",
    "skipkb.skips": "Finding, drawing and switching off skip connections.",
    "skipkb.evidence": "The contract, its runner and what it leaves behind.",
    "skipkb.evidence.data": "Real data for checks and notebooks.",
}


def api_pages() -> dict[str, str]:
    """Markdown pages by path under the pages directory."""
    return _pages(tuple(file.stat().st_mtime_ns for file in sorted(PACKAGE.rglob("*.py"))))


@cache
def _pages(changed: tuple[int, ...]) -> dict[str, str]:
    """The pages for the sources last ``changed`` then; a preview that rewrites them all asks again and again."""
    import griffe

    package = griffe.load(PACKAGE.name, search_paths=[PACKAGE.parent], docstring_parser="google", resolve_aliases=True)
    pages = {}
    for name, summary in _PAGES.items():
        module: Any = package if name == PACKAGE.name else package[name.removeprefix(f"{PACKAGE.name}.")]
        pages[f"api/{name}.md"] = _page(package, module, name, summary)
    entries = "".join(f"- [`{name}`]({name}.md): {summary}\n" for name, summary in _PAGES.items())
    pages["api/index.md"] = f"# API reference\n\n{entries}"
    return pages


def _page(package: Any, module: Any, name: str, summary: str) -> str:
    parts = [f"# `{name}`\n", _docstring(module) or summary]
    for member in _public(package, module):
        parts.append(_member(member, level=2))
    return "\n".join(parts)


def _public(package: Any, module: Any) -> list[Any]:
    """The public members of ``module`` in order; names it only hands on are looked up where they live."""
    if module.exports is not None:
        home = _homes(module)
        return [_find(package, home[name]) for name in map(str, module.exports) if name in home]
    return [m for m in module.members.values() if not m.is_alias and m.is_public and (m.is_function or m.is_class)]


def _homes(module: Any) -> dict[str, str]:
    """Name -> dotted path of everything imported by ``module`` for type checkers."""
    return {name: member.target_path for name, member in module.members.items() if member.is_alias}


def _find(package: Any, path: str) -> Any:
    return package[path.removeprefix(f"{PACKAGE.name}.")]


def _member(member: Any, *, level: int) -> str:
    marks = "#" * level
    if member.is_function:
        return f"{marks} `{member.name}`\n\n```python\n{_signature(member)}\n```\n\n{_docstring(member)}"
    parts = [f"{marks} `{member.name}`\n\n{_docstring(member)}"]
    fields = [m for m in member.members.values() if m.is_attribute and m.is_public and not m.name.startswith("model_")]
    if fields:
        lines = []
        for field in fields:
            text = " ".join(_plain(field.docstring.value).split()) if field.docstring else ""
            name = f"{field.name}: {field.annotation}" if field.annotation else field.name
            lines.append(f"- `{name}`" + (f": {text}" if text else ""))
        parts.append("\n".join(lines) + "\n")
    for method in member.members.values():
        if method.is_function and method.is_public and not method.name.startswith("_"):
            parts.append(_member(method, level=level + 1))
    return "\n".join(parts)


def _signature(function: Any) -> str:
    parameters: list[str] = []
    star = False
    for p in function.parameters:
        if p.name in ("self", "cls"):
            continue
        kind = str(p.kind.value if p.kind else "")
        if kind == "keyword-only" and not star:
            parameters.append("*")
            star = True
        prefix = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        star = star or prefix == "*"
        text = prefix + p.name + (f": {p.annotation}" if p.annotation else "")
        parameters.append(text + (f" = {p.default}" if p.default is not None and not prefix else ""))
    joined = ", ".join(parameters)
    returns = f" -> {function.returns}" if function.returns else ""
    if len(joined) > 80:
        joined = "\n" + "".join(f"    {parameter},\n" for parameter in parameters)
    return f"{function.name}({joined}){returns}"


def _docstring(thing: Any) -> str:
    if not thing.docstring:
        return ""
    parts = []
    for section in thing.docstring.parse("google"):
        kind = section.kind.value
        if kind == "text":
            parts.append(_plain(section.value))
        elif kind == "examples":
            examples = "\n".join(str(text) for _, text in section.value)
            parts.append(f"```python\n{examples}\n```")
        elif kind in ("parameters", "raises", "returns", "yields", "attributes"):
            lines = []
            for item in section.value:
                label = getattr(item, "name", "") or str(item.annotation or "")
                description = " ".join(_plain(str(item.description)).split())
                lines.append(f"- `{label}`: {description}" if label else f"- {description}")
            title = {"parameters": "Arguments"}.get(kind, kind.capitalize())
            parts.append(f"**{title}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """reStructuredText roles and literals as Markdown code, sessions as code blocks; angle brackets as text."""
    text = re.sub(r"(?m)^((?:>>>|\.\.\.) .*\n(?:.+\n?)*)", r"```pycon\n\1\n```\n", text)
    text = re.sub(r":\w+:`~?\.?([^`]*)`", r"`\1`", text)
    text = re.sub(r"(?<!`)``(?!`)", "`", text)
    parts = re.split(r"(```pycon.*?```|`[^`]*`)", text, flags=re.DOTALL)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)

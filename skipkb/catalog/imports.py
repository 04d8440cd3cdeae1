"""Import paths of entries, ``package.module:name``, turned into the thing they name."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any


class ImportPathError(LookupError):
    """An import path names a module or an attribute that does not exist."""


def resolve(path: str) -> Any:
    """Import ``package.module`` and return its attribute ``name``.

    Raises:
        ImportPathError: the path is malformed, or its module or attribute does not exist.
        ModuleNotFoundError: the module exists but needs a package that is not installed.
    """
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise ImportPathError(f"{path!r} is not an import path, which has the form package.module:name")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ImportPathError(f"{path!r}: there is no module {error.name!r}") from error
        raise  # the module is there; something it imports is not
    try:
        return getattr(module, attribute)
    except AttributeError:
        near = difflib.get_close_matches(attribute, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ImportPathError(f"{path!r}: module {module_name!r} has no {attribute!r}{hint}") from None

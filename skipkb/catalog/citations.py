"""Cite a work."""

from __future__ import annotations

from skipkb.catalog.index import folded, query
from skipkb.catalog.problems import UnknownNameError
from skipkb.catalog.search import BY_NAME, nearest


def cite(*names: str) -> str:
    """BibTeX records of the named works, each once, ready to paste.

    Args:
        names: keys, names or aliases; none means the whole catalogue.

    Raises:
        UnknownNameError: for a name the catalogue does not have, with suggestions.
    """
    if not names:
        found = [text for (text,) in query("SELECT bibtex FROM entry ORDER BY id")]
    else:
        found = [_record(name) for name in names]
    return "\n\n".join(dict.fromkeys(found)) + "\n"


def _record(name: str) -> str:
    rows = query(f"SELECT bibtex FROM entry WHERE id IN ({BY_NAME})", [folded(name)])
    if not rows:
        raise UnknownNameError("entry", name, nearest(name))
    return str(rows[0][0])

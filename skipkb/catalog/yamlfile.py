"""Read one YAML file safely, and remember where everything stood.

Only plain data gets through: no tags that build objects, no aliases (which can explode), no
duplicate keys, no surprising sizes, depths or encodings. Positions are kept so that every later complaint
can name line and column.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from skipkb.catalog.problems import Problem

MAX_BYTES = 1_000_000
MAX_DEPTH = 32  # the C loader recurses, and a deep enough file would take the interpreter down
Position = tuple[int, int]
KeyPath = tuple[str | int, ...]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, which also reads 1e-3 as the number it is in YAML 1.2 (and in the JSON Schema)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Document:
    """The data of one file and the position of each value and key in it."""

    def __init__(self, file: str, data: Any, root: yaml.Node) -> None:
        self.file = file
        self.data = data
        self._root = root

    def position(self, path: KeyPath, *, of_key: bool = False) -> Position:
        """Line and column (from 1) of the value at ``path``, or of the key that leads to it.

        Parts of the path that the file does not have are passed over, so the answer for a missing
        key is its parent.
        """
        node, mark = self._root, self._root.start_mark
        for part in path:
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == str(part):
                        node, mark = value, (key if of_key else value).start_mark
                        break
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                mark = node.start_mark
        return mark.line + 1, mark.column + 1

    def problem(self, path: KeyPath, message: str, *, of_key: bool = False) -> Problem:
        """A :class:`Problem` at ``path``."""
        return Problem(self.file, *self.position(path, of_key=of_key), key_path_text(path), message)


def key_path_text(path: KeyPath) -> str:
    """``('variants', 0, 'name')`` as ``variants[0].name``; control characters in keys are shown escaped."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text if text.isprintable() else repr(text)[1:-1]


def read_yaml(path: Path, file: str, problems: list[Problem]) -> Document | None:
    """Read ``path``; on a mistake append to ``problems`` (reported under the name ``file``)."""

    def refuse(message: str, mark: yaml.Mark | None = None, key_path: str = "") -> None:
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        problems.append(Problem(file, line, column, key_path, message))

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            refuse(f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read")
            return None
        raw = path.read_bytes()
    except OSError as error:
        refuse(f"cannot be read: {error.strerror}")
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        problems.append(
            Problem(file, line, column, "", f"not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8")
        )
        return None

    loader = None
    try:
        if (mark := _too_deep(text)) is not None:
            refuse(f"nested too deeply to be read; at most {MAX_DEPTH} levels are", mark)
            return None
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            refuse("the file is empty")
            return None
        data = _plain(loader, root, (), set(), refuse)
    except yaml.MarkedYAMLError as error:
        refuse(f"not valid YAML: {error.problem}", error.problem_mark)
        return None
    except yaml.reader.ReaderError as error:  # its position counts bytes
        before = raw[: error.position]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        problems.append(Problem(file, line, column, "", f"not valid YAML: {error.reason}"))
        return None
    except _RefusedError as error:
        refuse(str(error), error.mark, key_path_text(error.path))
        return None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(data, dict):
        refuse("the file must hold a mapping (key: value lines)", root.start_mark)
        return None
    return Document(file, data, root)


def _too_deep(text: str) -> Any:
    """Mark of where the nesting passes MAX_DEPTH, or None; found by events alone, which need no recursion."""
    loader = _Loader(text)
    depth = 0
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    return event.start_mark
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    finally:
        loader.dispose()
    return None


class _RefusedError(Exception):
    def __init__(self, message: str, node: yaml.Node, path: KeyPath) -> None:
        super().__init__(message)
        self.mark, self.path = node.start_mark, path


_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")}


def _plain(loader: Any, node: yaml.Node, path: KeyPath, seen: set[int], refuse: Any) -> Any:
    """Turn a node into plain Python data; an alias shows as a node met twice."""
    if id(node) in seen:
        raise _RefusedError("YAML aliases (*name) are not allowed here; repeat the value", node, path)
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        if node.tag not in _PLAIN_TAGS:
            raise _RefusedError(f"the YAML tag {node.tag!r} is not allowed; only plain values are", node, path)
        try:
            value = loader.construct_object(node)
        except ValueError as error:
            raise _RefusedError(f"not a valid value: {error}", node, path) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise _RefusedError(f"{node.value} is not a number that can be stored", node, path)
        return value
    if isinstance(node, yaml.SequenceNode):
        if node.tag != "tag:yaml.org,2002:seq":
            raise _RefusedError(f"the YAML tag {node.tag!r} is not allowed; only plain values are", node, path)
        return [_plain(loader, item, (*path, index), seen, refuse) for index, item in enumerate(node.value)]
    if node.tag != "tag:yaml.org,2002:map":
        raise _RefusedError(f"the YAML tag {node.tag!r} is not allowed; only plain values are", node, path)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise _RefusedError("keys must be plain words", key_node, path)
        if key in result:
            refuse("the key stands twice in this mapping", key_node.start_mark, key_path_text((*path, key)))
            continue
        result[key] = _plain(loader, value_node, (*path, key), seen, refuse)
    return result

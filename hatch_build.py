"""Build hook: the wheel carries the catalogue and its compiled index; a search then needs the standard library only."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class IndexHook(BuildHookInterface[Any]):
    """Adds the catalogue and its index as ``skipkb/_catalog``; an editable install finds those of the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        try:
            from skipkb.catalog.index import source_hash, write_index
            from skipkb.catalog.loading import load

            self.temporary = tempfile.TemporaryDirectory()
            path = Path(self.temporary.name) / "index.sqlite"
            catalog = Path(self.root) / "catalog"
            write_index(load(catalog), path, source_hash(catalog))
        finally:
            sys.path.remove(self.root)
        carried = {str(path): "skipkb/_catalog/index.sqlite"}
        for file in catalog.rglob("*"):
            place = file.relative_to(catalog)
            if file.is_file() and place.parts[0] != "evidence":  # what was measured is shown by the site
                carried[str(file)] = f"skipkb/_catalog/{place.as_posix()}"
        build_data["force_include"] |= carried

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.temporary.cleanup()

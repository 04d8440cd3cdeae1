"""Notebooks as Markdown: with their outputs where they were executed, as source with a note where not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from skipkb.catalog.entry import Work
from skipkb.notebooks import executed_notebook, notebook_file
from skipkb.site.math import with_mathml
from skipkb.site.text import escape

_NOTE = """!!! note "Shown without outputs"
    `make notebooks` executes it and the next build of the site shows what came out.

"""


def notebook_section(work: Work, pages: Path) -> str:
    """The notebook of ``work`` as Markdown; its pictures are written under ``pages``/methods/<key>/."""
    source = notebook_file(work.folder, work.key)
    if not source.is_file():
        return ""
    executed = executed_notebook(work)
    name = source.relative_to(source.parents[2]).as_posix()
    download = pages / "methods" / work.key / source.name
    download.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, download)
    intro = f'<p>Source: <a href="{work.key}/{source.name}" download><code>{escape(name)}</code></a></p>\n\n'
    intro += "" if executed else _NOTE
    return intro + _markdown(executed or source, work.key, pages / "methods" / work.key)


def _markdown(path: Path, key: str, pictures: Path) -> str:
    import nbformat
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # The page has its own title and sections: the notebook's headings go two levels below.
            cell.source = with_mathml(re.sub(r"^(#{1,4}) ", r"##\1 ", cell.source, flags=re.MULTILINE))
        elif cell.cell_type == "code":
            for output in cell.outputs:
                output.get("data", {}).pop("text/html", None)  # plain text and pictures only
    resources: dict[str, Any] = {"output_files_dir": key}
    exporter = MarkdownExporter()
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # prints in a row are one output
    body, resources = exporter.from_notebook_node(notebook, resources=resources)
    for name, content in sorted(resources.get("outputs", {}).items()):
        file = pictures / Path(name).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return str(body).replace("![png](", "![Output of the cell above](")

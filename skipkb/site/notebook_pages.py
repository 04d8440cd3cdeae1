"""Notebooks as Markdown: with their outputs where they were executed, as source with a note where not."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from skipkb.notebooks import Notebook
from skipkb.site.math import with_mathml
from skipkb.site.text import escape

_NOTE = """!!! note "Shown without outputs"
    `make notebooks` executes it and the next build of the site shows what came out.

"""


def notebook_section(notebook: Notebook, pages: Path) -> str:
    """A notebook as a section of a method's page, or nothing; its pictures go under ``pages``/methods/<key>/."""
    return _body(notebook, pages / "methods", deeper=2) if notebook.file.is_file() else ""


def guide_page(notebook: Notebook, pages: Path) -> str:
    """A notebook as a page of its own, ``pages``/guides/<key>.md."""
    intro, _, body = _body(notebook, pages / "guides", deeper=0).partition("\n# ")
    title, _, text = body.partition("\n")
    return f"# {title}\n\n{intro}\n{text}"


def _body(notebook: Notebook, folder: Path, *, deeper: int) -> str:
    source, executed = notebook.file, notebook.executed
    download = folder / notebook.key / source.name
    download.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, download)
    name = source.relative_to(source.parents[2]).as_posix()
    intro = f'<p>Source: <a href="{notebook.key}/{source.name}" download><code>{escape(name)}</code></a></p>\n\n'
    intro += "" if executed else _NOTE
    return intro + _markdown(executed or source, notebook.key, folder / notebook.key, deeper)


def _markdown(path: Path, key: str, pictures: Path, deeper: int) -> str:
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # Inside a page with its own title and sections, the notebook's headings go some levels below.
            cell.source = with_mathml(re.sub(r"^(#{1,4}) ", "#" * deeper + r"\1 ", cell.source, flags=re.MULTILINE))
        elif cell.cell_type == "code":
            # Plain text and pictures only; warnings name places on the machine that ran it.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("data", {}).pop("text/html", None)
    resources: dict[str, Any] = {"output_files_dir": key}
    body, resources = _exporter().from_notebook_node(notebook, resources=resources)
    for name, content in sorted(resources.get("outputs", {}).items()):
        file = pictures / Path(name).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return str(body).replace("![png](", "![Output of the cell above](")


@cache
def _exporter() -> Any:
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    exporter = MarkdownExporter()
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # prints in a row are one output
    return exporter

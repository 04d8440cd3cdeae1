"""Execute the notebooks, in parallel, and remember by content what has been executed."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from skipkb.catalog.entry import Work
from skipkb.catalog.paths import PACKAGE
from skipkb.catalog.writing import write_text
from skipkb.evidence.key import installed_torch, key_of, pinned_torch, tracer
from skipkb.evidence.sources import digest, imported, source_files

ROOT = PACKAGE.parent
BUDGET = 12
"""Seconds of CPU that a notebook may take on a machine of today."""
_EXECUTE = """
import json, resource, sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=int(sys.argv[2]), kernel_name="python3").execute()
for cell in notebook.cells:
    cell.metadata.pop("execution", None)  # times of day would make every run different
used = resource.getrusage(resource.RUSAGE_CHILDREN)
sys.stdout.write(json.dumps({"cpu": used.ru_utime + used.ru_stime, "notebook": nbformat.writes(notebook)}))
"""


@dataclass(frozen=True)
class Executed:
    """What became of one notebook."""

    key: str
    ok: bool
    cached: bool
    cpu_seconds: float
    """Of all processors together."""
    message: str = ""


@dataclass(frozen=True)
class Notebook:
    """A notebook of the checkout, and what its outcome depends on besides itself."""

    key: str
    folder: str
    depends_on: str
    """Hash of the models that it runs, the search for skips, and the version of torch."""

    @property
    def file(self) -> Path:
        """Where it lies in the checkout."""
        return ROOT / "notebooks" / self.folder / f"{self.key}.ipynb"

    @property
    def executed(self) -> Path | None:
        """The executed notebook, if neither it nor what it depends on has changed since."""
        if not self._output.is_file() or not self._stamp.is_file() or not self.file.is_file():
            return None
        return self._output if self._stamp.read_text(encoding="utf-8").strip() == self.content_hash() else None

    def content_hash(self) -> str:
        """Hash of the notebook, of what it imports of skipkb, and of what it depends on."""
        modules = source_files(name for name in imported(_code(self.file)) if name.startswith("skipkb."))
        found = hashlib.sha256(self.file.read_bytes())
        found.update(f"{digest(modules)} {self.depends_on}".encode())
        return found.hexdigest()

    def keep(self, content: str, content_hash: str) -> None:
        """Store the executed notebook under build/notebooks."""
        write_text(self._output, content)
        write_text(self._stamp, content_hash + "\n")

    @property
    def _output(self) -> Path:
        return ROOT / "build" / "notebooks" / self.folder / f"{self.key}.ipynb"

    @property
    def _stamp(self) -> Path:
        return self._output.with_suffix(".sha256")


def notebook_of(work: Work) -> Notebook:
    """The notebook of an entry, which depends on its model; its file may not exist."""
    key = key_of(work, _torch())
    return Notebook(work.key, work.folder, f"{key.model} {key.tracer} {key.torch}")


def guides() -> list[Notebook]:
    """The notebooks that belong to no entry: notebooks/guides. They depend on what finds the skips."""
    depends_on = f"{tracer()} {_torch()}"
    files = sorted((ROOT / "notebooks" / "guides").glob("*.ipynb"))
    return [Notebook(file.stem, "guides", depends_on) for file in files]


def _torch() -> str | None:
    """The version of torch that executes notebooks; where none is installed, the one that is to."""
    return installed_torch() or pinned_torch("cpu")


def _code(file: Path) -> ast.Module:
    """The code cells of a notebook; one with a command of IPython in it is passed over."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    body: list[ast.stmt] = []
    for cell in cells:
        if cell["cell_type"] == "code":
            with contextlib.suppress(SyntaxError):
                body += ast.parse("".join(cell["source"])).body
    return ast.Module(body, type_ignores=[])


def execute(
    notebooks: Iterable[Notebook],
    *,
    jobs: int | None = None,
    timeout: int = 600,
    again: bool = False,
    on_done: Callable[[Executed, int, int], None] | None = None,
) -> list[Executed]:
    """Execute the notebooks that are not cached, each in a process of its own with one thread.

    Args:
        jobs: notebooks at a time (one for each core).
        timeout: seconds for one cell.
        again: execute those too that have not changed.
        on_done: called as (result, finished, total) after each.
    """
    todo = [notebook for notebook in notebooks if notebook.file.is_file()]
    results: list[Executed] = []
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        for future in as_completed([pool.submit(_execute, notebook, timeout, again) for notebook in todo]):
            results.append(future.result())
            if on_done:
                on_done(results[-1], len(results), len(todo))
    return sorted(results, key=lambda result: result.key)


def _execute(notebook: Notebook, timeout: int, again: bool) -> Executed:
    if notebook.executed and not again:
        return Executed(notebook.key, ok=True, cached=True, cpu_seconds=0.0)
    wanted = notebook.content_hash()
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    finished = subprocess.run(
        [sys.executable, "-c", _EXECUTE, str(notebook.file), str(timeout)],
        cwd=ROOT,
        env={**os.environ, **one_thread, "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if finished.returncode:
        return Executed(notebook.key, ok=False, cached=False, cpu_seconds=0.0, message=finished.stderr[-3000:])
    done = json.loads(finished.stdout)
    notebook.keep(done["notebook"], wanted)
    return Executed(notebook.key, ok=True, cached=False, cpu_seconds=done["cpu"])

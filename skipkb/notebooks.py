"""Execute the notebooks, in parallel, and remember by content what has been executed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from skipkb.catalog.entry import Work
from skipkb.catalog.files import write_text
from skipkb.catalog.paths import PACKAGE
from skipkb.evidence.sources import source_files

ROOT = PACKAGE.parent
_EXECUTE = """
import json, sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=int(sys.argv[2]), kernel_name="python3").execute()
for cell in notebook.cells:
    cell.metadata.pop("execution", None)  # times of day would make every run different
sys.stdout.write(nbformat.writes(notebook))
"""


@dataclass(frozen=True)
class Executed:
    """What became of one notebook."""

    key: str
    ok: bool
    cached: bool
    seconds: float
    message: str = ""


def notebook_file(folder: str, key: str) -> Path:
    """Where the notebook of an entry lies in the checkout."""
    return ROOT / "notebooks" / folder / f"{key}.ipynb"


def executed_notebook(work: Work) -> Path | None:
    """The executed notebook of ``work``, if it was executed with the present content of notebook and model."""
    file, stamp = _executed_file(work), _stamp_file(work)
    if not file.is_file() or not stamp.is_file() or not notebook_file(work.folder, work.key).is_file():
        return None
    return file if stamp.read_text(encoding="utf-8").strip() == content_hash(work) else None


def content_hash(work: Work) -> str:
    """SHA-256 over the notebook and the source files its entry depends on."""
    digest = hashlib.sha256(notebook_file(work.folder, work.key).read_bytes())
    for module, file in source_files(work).items():
        digest.update(module.encode() + file.read_bytes())
    return digest.hexdigest()


def execute(
    works: Iterable[Work],
    *,
    jobs: int | None = None,
    timeout: int = 600,
    on_done: Callable[[Executed, int, int], None] | None = None,
) -> list[Executed]:
    """Execute the notebooks that are not cached, each in a process of its own with one thread.

    Args:
        jobs: notebooks at a time (one for each core).
        timeout: seconds for one cell.
        on_done: called as (result, finished, total) after each.
    """
    todo = [work for work in works if notebook_file(work.folder, work.key).is_file()]
    results: list[Executed] = []
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        for future in as_completed([pool.submit(_execute, work, timeout) for work in todo]):
            results.append(future.result())
            if on_done:
                on_done(results[-1], len(results), len(todo))
    return sorted(results, key=lambda result: result.key)


def _execute(work: Work, timeout: int) -> Executed:
    if executed_notebook(work):
        return Executed(work.key, ok=True, cached=True, seconds=0.0)
    start = time.monotonic()
    wanted = content_hash(work)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    finished = subprocess.run(
        [sys.executable, "-c", _EXECUTE, str(notebook_file(work.folder, work.key)), str(timeout)],
        cwd=ROOT,
        env={**os.environ, **one_thread, "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    seconds = time.monotonic() - start
    if finished.returncode:
        return Executed(work.key, ok=False, cached=False, seconds=seconds, message=finished.stderr[-3000:])
    json.loads(finished.stdout)  # a half-written notebook is no notebook
    write_text(_executed_file(work), finished.stdout)
    write_text(_stamp_file(work), wanted + "\n")
    return Executed(work.key, ok=True, cached=False, seconds=seconds)


def _executed_file(work: Work) -> Path:
    return ROOT / "build" / "notebooks" / work.folder / f"{work.key}.ipynb"


def _stamp_file(work: Work) -> Path:
    return _executed_file(work).with_suffix(".sha256")

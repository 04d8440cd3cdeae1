"""Live preview: ``python -m skipkb.site.serve`` rewrites the pages that an edit changes while MkDocs serves them."""

from __future__ import annotations

import filecmp
import gc
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from skipkb.catalog.paths import source_dir
from skipkb.catalog.problems import CatalogueError
from skipkb.site.build import write_pages


class _Edits(FileSystemEventHandler):
    def __init__(self) -> None:
        self.seen = threading.Event()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "modified", "moved", "deleted") and not event.is_directory:
            self.seen.set()


def refresh(pages: Path) -> list[Path]:
    """Write all pages anew, but touch only the files under ``pages`` that differ; return those.

    Raises:
        CatalogueError: when the catalogue has problems; the pages are then left as they were.
    """
    fresh = pages.with_name(f"{pages.name}.next")
    write_pages(fresh, say=lambda _: None)
    changed = []
    for file in sorted(path for path in fresh.rglob("*") if path.is_file()):
        target = pages / file.relative_to(fresh)
        if not target.is_file() or not filecmp.cmp(file, target, shallow=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            changed.append(target)
    for file in sorted(path for path in pages.rglob("*") if path.is_file()):
        if not (fresh / file.relative_to(pages)).exists():
            file.unlink()
            changed.append(file)
    shutil.rmtree(fresh)
    return changed


def main() -> int:
    """Serve until interrupted; arguments are handed on to ``mkdocs serve``."""
    root = source_dir().parent
    pages = root / "build" / "pages"
    pages.mkdir(parents=True, exist_ok=True)
    refresh(pages)
    edits, observer = _Edits(), Observer()
    for name in ("catalog", "docs", "notebooks", "build/notebooks"):
        if (root / name).is_dir():
            observer.schedule(edits, str(root / name), recursive=True)
    observer.start()
    # --dirty builds only pages that changed; the theme's search then knows only those, which a preview can do without.
    server = subprocess.Popen(
        [sys.executable, "-m", "mkdocs", "serve", "--livereload", "--dirty", *sys.argv[1:]], cwd=root
    )
    try:
        while server.poll() is None:
            if edits.seen.wait(timeout=0.5):
                time.sleep(0.1)  # editors write in several steps
                edits.seen.clear()
                start = time.monotonic()
                gc.disable()  # a collection in between costs more than the memory is worth
                try:
                    changed = refresh(pages)
                    print(f"{len(changed)} files rewritten in {time.monotonic() - start:.1f} s", flush=True)
                except CatalogueError as error:
                    print(error, flush=True)
                gc.enable()
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        observer.stop()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())

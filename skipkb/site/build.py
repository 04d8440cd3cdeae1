"""Write every page of the site into one directory; the same input gives the same bytes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from skipkb.catalog import index
from skipkb.catalog.export import write_files
from skipkb.catalog.loading import Catalogue, load
from skipkb.catalog.paths import source_dir
from skipkb.catalog.problems import CatalogueError
from skipkb.catalog.writing import write_text
from skipkb.evidence.recorded import read_recorded
from skipkb.notebooks import guides, notebook_of
from skipkb.site.api import api_pages
from skipkb.site.errata import errata_files, errata_page
from skipkb.site.evidence import evidence_page
from skipkb.site.explorer import bibtex_data, explorer_data, fingerprint_data
from skipkb.site.family import family_page
from skipkb.site.fingerprints import gallery_page
from skipkb.site.groups import group_pages
from skipkb.site.home import home_page
from skipkb.site.machines import dataset, llms_txt
from skipkb.site.methods import method_page, methods_index
from skipkb.site.notebook_pages import guide_page, notebook_section
from skipkb.site.search_index import search_data, trim_theme_search
from skipkb.site.table_pages import table_files, table_page
from skipkb.site.text import checked_links
from skipkb.site.timeline import timeline_page
from skipkb.vocabulary import stylesheet

OURS = ".skipkb-pages"
"""Name of the file that marks a directory as written here; only such a directory is ever replaced."""


def write_pages(output: Path, say: Callable[[str], None] = print) -> int:
    """Write all pages into ``output`` and return how many Markdown pages there are.

    They are written beside it and take its place at the end.

    Args:
        output: a directory of earlier pages, an empty one, or one that does not exist yet.
        say: is told about each step.

    Raises:
        CatalogueError: when the catalogue or a recorded result has problems; nothing is then written.
        FileExistsError: ``output`` holds something else; it is left as it is.
    """
    if output.exists() and not (output / OURS).is_file() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} holds something else than pages of this site; name an empty or new directory")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        fresh, old = Path(temporary, "fresh"), Path(temporary, "old")
        count = _write(fresh, say)
        (fresh / OURS).write_text("Written by skipkb site, which replaces this directory.\n", encoding="utf-8")
        if output.exists():
            output.rename(old)
        fresh.rename(output)
    return count


def _write(output: Path, say: Callable[[str], None]) -> int:
    """The pages, in a directory that does not exist yet."""
    index.forget()  # a long-lived preview must see edited files
    checked_links.cache_clear()
    catalogue = load()
    recorded = read_recorded()
    if recorded.problems:
        raise CatalogueError(recorded.problems)
    root = source_dir().parent
    shutil.copytree(root / "docs", output)
    shutil.copyfile(root / "CONTRIBUTING.md", output / "contributing.md")
    prose = set(output.rglob("*.md"))

    say(f"1/5 {len(catalogue.entries)} method pages")
    works = list(catalogue.entries.values())
    for work in works:
        page = method_page(work, catalogue, recorded, notebook_section(notebook_of(work), output))
        write_text(output / "methods" / f"{work.key}.md", page)
    write_text(output / "methods" / "index.md", methods_index(works))

    say("2/5 tables, errata, evidence")
    for table in catalogue.survey.tables:
        write_text(output / "tables" / f"{table.key}.md", table_page(table, catalogue, recorded))
        for name, text in table_files(table, catalogue).items():
            write_text(output / "tables" / name, text)
    write_text(output / "errata.md", errata_page(catalogue))
    for name, text in errata_files(catalogue).items():
        write_text(output / name, text)
    write_text(output / "fingerprints.md", gallery_page(works))
    write_text(output / "evidence.md", evidence_page(catalogue, recorded))

    for name, text in group_pages(catalogue).items():
        write_text(output / name, text)
    write_text(output / "timeline.md", timeline_page(catalogue))
    write_text(output / "family.md", family_page(catalogue))

    say("3/5 home, search and explorer")
    home = home_page((output / "index.md").read_text(encoding="utf-8"), catalogue, recorded)
    write_text(output / "index.md", f"{home}\n{dataset(catalogue)}")
    write_text(output / "assets" / "vocabulary.css", stylesheet())
    write_text(output / "assets" / "search-data.js", search_data(catalogue))
    write_text(output / "assets" / "explorer-data.js", explorer_data(catalogue))
    write_text(output / "assets" / "fingerprint-data.js", fingerprint_data(catalogue))
    write_text(output / "assets" / "bibtex-data.js", bibtex_data(catalogue))

    say("4/5 guides and API reference")
    for guide in guides():
        write_text(output / "guides" / f"{guide.key}.md", guide_page(guide, output))
    for name, text in api_pages().items():
        write_text(output / name, text)

    say("5/5 downloads")
    _downloads(catalogue, output)
    write_text(output / "llms.txt", llms_txt(catalogue))
    trim_theme_search(output, prose)
    return len(list(output.rglob("*.md")))


def _downloads(catalogue: Catalogue, output: Path) -> None:
    write_files(catalogue, output)
    schema = json.loads((source_dir() / "schema.json").read_text(encoding="utf-8"))
    write_text(output / "schema.json", json.dumps(schema, indent=1, sort_keys=True) + "\n")

"""The bibliography: references.bib read by bibtexparser into plain records."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from skipkb.catalog.problems import Problem

FILE = "references.bib"


@dataclass(frozen=True)
class Reference:
    """One bibliographic record, LaTeX escapes decoded."""

    key: str
    title: str
    authors: tuple[str, ...]
    """Full names, first name first."""
    year: int
    venue: str
    """Journal, proceedings or publisher, as the record gives it."""
    doi: str | None
    arxiv: str | None
    bibtex: str
    """The record as it stands in the file."""
    line: int


def read_references(directory: Path, problems: list[Problem]) -> dict[str, Reference]:
    """Read references.bib under ``directory``; mistakes are appended to ``problems``."""
    import bibtexparser
    from bibtexparser import middlewares

    logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # its warnings become problems below
    try:
        text = (directory / FILE).read_bytes().decode("utf-8")
    except OSError as error:
        problems.append(Problem(FILE, 0, 0, "", f"cannot be read: {error.strerror}"))
        return {}
    except UnicodeDecodeError:
        problems.append(Problem(FILE, 0, 0, "", "not UTF-8; save the file as UTF-8"))
        return {}
    library = bibtexparser.parse_string(
        text,
        append_middleware=[
            middlewares.LatexDecodingMiddleware(),
            middlewares.SeparateCoAuthors(),
            middlewares.SplitNameParts(),
        ],
    )
    for block in library.failed_blocks:
        reason = str(block.error).split(" Note:")[0].replace("\n", " ").strip() or type(block).__name__
        problems.append(Problem(FILE, (block.start_line or 0) + 1, 1, "", f"broken BibTeX record: {reason}"))

    references: dict[str, Reference] = {}
    for entry in library.entries:
        fields = {field.key.lower(): field.value for field in entry.fields}
        line = (entry.start_line or 0) + 1
        missing = [name for name in ("author", "title", "year") if not fields.get(name)]
        if missing:
            problems.append(Problem(FILE, line, 1, entry.key, f"the record lacks {', '.join(missing)}"))
            continue
        if not str(fields["year"]).isdigit():
            problems.append(Problem(FILE, line, 1, entry.key, f"year {fields['year']!r} is not a number"))
            continue
        venue = next(
            (fields[name] for name in ("journal", "booktitle", "school", "publisher") if fields.get(name)), ""
        )
        if not venue and fields.get("archiveprefix", "").lower() == "arxiv":
            venue = "arXiv"
        references[entry.key] = Reference(
            key=entry.key,
            title=" ".join(str(fields["title"]).split()),
            authors=tuple(
                " ".join([*name.first, *name.von, *name.last, *name.jr]) for name in fields["author"]
            ),
            year=int(fields["year"]),
            venue=" ".join(str(venue).split()),
            doi=fields.get("doi"),
            arxiv=fields.get("eprint") if fields.get("archiveprefix", "").lower() == "arxiv" else None,
            bibtex=(entry.raw or "").strip(),
            line=line,
        )
    return references

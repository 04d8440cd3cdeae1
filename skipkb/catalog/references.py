"""The bibliography: references.bib read by bibtexparser into plain records."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipkb.catalog.problems import Problem

FILE = "references.bib"
MAX_BYTES = 5_000_000
_DOI = r"10\.\d{4,9}/\S+"
_ARXIV = r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}"
_URL = r"https?://[^\s<>\"`\\]+"


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
    url: str | None
    bibtex: str
    """The record as it stands in the file."""
    line: int


def read_references(directory: Path, problems: list[Problem]) -> dict[str, Reference]:
    """Read references.bib under ``directory``; mistakes are appended to ``problems``."""
    from bibtexparser import middlewares
    from bibtexparser.entrypoint import parse_string
    from bibtexparser.model import ImplicitComment

    logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # its warnings become problems below
    try:
        size = (directory / FILE).stat().st_size
        if size > MAX_BYTES:
            problems.append(Problem(FILE, 0, 0, "", f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read"))
            return {}
        text = (directory / FILE).read_bytes().decode("utf-8")
    except OSError as error:
        problems.append(Problem(FILE, 0, 0, "", f"cannot be read: {error.strerror}"))
        return {}
    except UnicodeDecodeError:
        problems.append(Problem(FILE, 0, 0, "", "not UTF-8; save the file as UTF-8"))
        return {}
    library = parse_string(
        text,
        append_middleware=[
            middlewares.LatexDecodingMiddleware(decoder=_decoder()),
            middlewares.SeparateCoAuthors(),
            middlewares.SplitNameParts(),
        ],
    )
    for block in library.failed_blocks:
        reason = getattr(block.error, "abort_reason", None) or str(block.error)
        reason = " ".join(reason.split(" Note:")[0].split())
        problems.append(Problem(FILE, (block.start_line or 0) + 1, 1, "", f"broken BibTeX record: {reason}"))

    for comment in library.comments:
        lost = [line for line in comment.comment.splitlines() if line.strip() and not line.strip().startswith("%")]
        if lost and isinstance(comment, ImplicitComment):
            message = f"text outside any record: {lost[0].strip()[:60]!r}; a comment line starts with %"
            problems.append(Problem(FILE, (comment.start_line or 0) + 1, 1, "", message))

    references: dict[str, Reference] = {}
    for entry in library.entries:
        fields = {field.key.lower(): field.value for field in entry.fields}
        line = (entry.start_line or 0) + 1
        missing = [name for name in ("author", "title", "year") if not fields.get(name)]
        if missing:
            problems.append(Problem(FILE, line, 1, entry.key, f"the record lacks {', '.join(missing)}"))
            continue
        if not re.fullmatch("[0-9]{4}", str(fields["year"])):
            problems.append(Problem(FILE, line, 1, entry.key, f"year {fields['year']!r} is not a year"))
            continue
        venue = next((fields[name] for name in ("journal", "booktitle", "school", "publisher") if fields.get(name)), "")
        if not venue and fields.get("archiveprefix", "").lower() == "arxiv":
            venue = "arXiv"
        arxiv = fields.get("eprint") if fields.get("archiveprefix", "").lower() == "arxiv" else None
        identifiers = {"doi": fields.get("doi"), "eprint": arxiv, "url": fields.get("url")}
        for (name, value), form in zip(identifiers.items(), (_DOI, _ARXIV, _URL), strict=True):
            if value is not None and not re.fullmatch(form, value):
                problems.append(Problem(FILE, line, 1, entry.key, f"{name} {value!r} does not have the form {form}"))
        references[entry.key] = Reference(
            key=entry.key,
            title=" ".join(str(fields["title"]).split()),
            authors=tuple(" ".join([*name.first, *name.von, *name.last, *name.jr]) for name in fields["author"]),
            year=int(fields["year"]),
            venue=" ".join(str(venue).split()),
            doi=fields.get("doi"),
            arxiv=arxiv,
            url=fields.get("url"),
            bibtex=(entry.raw or "").strip(),
            line=line,
        )
    return references


def _decoder() -> Any:
    """LaTeX to text; most values hold none, and parsing them all takes longer than everything else in the catalogue."""
    from pylatexenc.latex2text import LatexNodes2Text

    class Decoder(LatexNodes2Text):  # type: ignore[misc]
        def latex_to_text(self, latex: str, **options: Any) -> str:
            return super().latex_to_text(latex, **options) if _LATEX.search(latex) else latex

    return Decoder(math_mode="verbatim")


_LATEX = re.compile(r"[\\{}$%~^_&#`']|--")
"""Characters that mean something to LaTeX."""

"""Load the whole catalogue from its files, or say everything that is wrong with it at once."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from skipkb.catalog import paths
from skipkb.catalog.entry import FOLDERS, Entry, Erratum, Note, SurveyFile, Work
from skipkb.catalog.problems import CatalogueError, Problem
from skipkb.catalog.references import Reference, read_references
from skipkb.catalog.rules import cross_check
from skipkb.catalog.synonyms import Synonyms
from skipkb.catalog.yamlfile import Document, KeyPath, read_yaml

T = typing.TypeVar("T", bound=BaseModel)
Remarked = typing.TypeVar("Remarked", Work, SurveyFile)

_ELSEWHERE = f"would be ignored here; an entry is a file KEY.yaml in one of the folders {', '.join(FOLDERS)}"


@dataclass(frozen=True)
class Catalogue:
    """Everything the catalogue holds, validated; errata and notes that nobody has checked are left out."""

    survey: SurveyFile
    entries: Mapping[str, Work]
    """By key, in the order of the folders, then alphabetically."""
    references: Mapping[str, Reference]
    synonyms: Synonyms = field(default_factory=Synonyms)
    waiting: int = 0
    """How many errata and notes are left out because nobody has read what they rest on."""


def load(directory: Path | None = None) -> Catalogue:
    """Load and validate every file under ``directory`` (default: the installed catalogue).

    Raises:
        CatalogueError: with the full list of problems, when there is any.
    """
    catalogue, problems = read(directory)
    if problems or catalogue is None:
        raise CatalogueError(problems)
    return catalogue


def read(directory: Path | None = None) -> tuple[Catalogue | None, list[Problem]]:
    """Read what can be read and return it with all problems found; a bad file hides no other."""
    directory = directory or paths.source_dir()
    problems: list[Problem] = []
    references = read_references(directory, problems)
    survey_document = read_yaml(directory / "survey.yaml", "survey.yaml", problems)
    survey = validate(survey_document, SurveyFile, problems) if survey_document else None
    synonyms = _synonyms(directory, problems)
    problems += [Problem(name, 0, 0, "", _ELSEWHERE) for name in _misplaced_files(directory)]

    documents: dict[str, Document] = {}
    works: dict[str, Work] = {}
    for path in entry_files(directory):
        name = path.relative_to(directory).as_posix()
        document = read_yaml(path, name, problems)
        entry = validate(document, Entry, problems) if document else None
        if document is None or entry is None:
            continue
        if entry.key != path.stem:
            message = f"key {entry.key!r} must be the file's stem, {path.stem!r}"
            problems.append(document.problem(("key",), message))
            continue
        if entry.key in works:
            message = f"key {entry.key!r} is taken by {documents[entry.key].file}"
            problems.append(document.problem(("key",), message))
            continue
        reference = references.get(entry.paper)
        if reference is None:
            near = difflib.get_close_matches(entry.paper, references, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            message = f"references.bib has no record {entry.paper!r}{hint}"
            problems.append(document.problem(("paper",), message))
            continue
        documents[entry.key] = document
        works[entry.key] = Work(
            **dict(entry),
            folder=path.parent.name,
            title=reference.title,
            authors=list(reference.authors),
            year=reference.year,
            venue=reference.venue,
            arxiv=reference.arxiv,
            doi=reference.doi,
            url=reference.url,
            bibtex=reference.bibtex,
        )
    if survey is None or survey_document is None:
        return None, sorted(problems)
    cross_check(survey, survey_document, works, documents, references, problems)
    waiting = sum(_waiting(work) for work in works.values()) + _waiting(survey)
    checked = MappingProxyType({key: _checked(work) for key, work in works.items()})
    frozen = Catalogue(_checked(survey), checked, MappingProxyType(references), synonyms, waiting)
    return frozen, sorted(set(problems))


def _unread(remark: Erratum | Note) -> bool:
    return remark.evidence.checked == "unverified"


def _waiting(source: Work | SurveyFile) -> int:
    return sum(_unread(erratum) for erratum in source.errata) + sum(_unread(note) for note in source.notes)


def _checked(source: Remarked) -> Remarked:
    """``source`` without the errata and notes that nobody has checked: nothing may publish or count them."""
    if not _waiting(source):
        return source
    errata = [erratum for erratum in source.errata if not _unread(erratum)]
    notes = [note for note in source.notes if not _unread(note)]
    return source.model_copy(update={"errata": errata, "notes": notes})


def _synonyms(directory: Path, problems: list[Problem]) -> Synonyms:
    """What synonyms.yaml says; a catalogue may do without."""
    path = directory / "synonyms.yaml"
    document = read_yaml(path, path.name, problems) if path.exists() else None
    return (validate(document, Synonyms, problems) if document else None) or Synonyms()


def entry_files(directory: Path) -> list[Path]:
    """The entry files under ``directory``, folder by folder, sorted."""
    return [path for folder in FOLDERS for path in sorted((directory / folder).glob("*.yaml"))]


def _misplaced_files(directory: Path) -> list[str]:
    """YAML files where nobody looks for entries, such as in a misspelt folder."""
    known = {directory / "survey.yaml", directory / "synonyms.yaml", *entry_files(directory)}
    found = {path for ending in ("yaml", "yml") for path in directory.rglob(f"*.{ending}")}
    return sorted(path.relative_to(directory).as_posix() for path in found - known)


def validate(document: Document, model: type[T], problems: list[Problem]) -> T | None:
    """Check ``document`` against ``model``; each complaint is located and says what is allowed."""
    unfit = [
        document.problem(path, f"{text!r}: {reason}")
        for path, text in _texts(document.data, ())
        if (reason := _unfit(text))
    ]
    if unfit:
        problems.extend(unfit)
        return None
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        places = [_place(document.data, detail) for detail in details]
        for detail, path in zip(details, places, strict=True):
            # a list that may also be a mapping is refused as both; the complaint inside it says enough
            deeper = any(len(other) > len(path) and other[: len(path)] == path for other in places)
            if not (deeper and detail["type"] in ("list_type", "dict_type")):
                problems.append(_problem(document, model, detail, path))
        return None


def _texts(data: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(data, str):
        yield path, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _texts(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _texts(value, (*path, index))


def _unfit(text: str) -> str | None:
    """Why no entry may say this. Checked here and not by the model: what comes from the index has been through it."""
    if _CONTROL.search(text):
        return "control characters are not allowed"
    return "still to be filled in" if _TODO.match(text) else None


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TODO = re.compile(r"TODO\b")


def _place(data: Any, detail: ErrorDetails) -> KeyPath:
    """Path to what pydantic complains about; its location also names members of unions, which are not places."""
    path: list[str | int] = []
    part: Any
    for part in detail["loc"]:
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and part in range(len(data))):
            path.append(part)
            data = data[part]
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else tuple(path)


def _problem(document: Document, model: type[BaseModel], detail: ErrorDetails, path: KeyPath) -> Problem:
    kind, context = detail["type"], detail.get("ctx", {})
    found = repr(detail["input"])
    found = found if len(found) <= 80 else found[:77] + "..."
    if kind == "extra_forbidden":
        allowed = _fields_at(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        message = f"unknown key; {hint}allowed: {', '.join(allowed)}"
        return document.problem(path, message, of_key=True)
    if kind == "missing":
        return document.problem(path, "this key is required and missing")
    if kind in ("literal_error", "enum"):
        message = f"{found} is not allowed; allowed: {str(context['expected']).replace(' or ', ', ')}"
    elif kind == "string_pattern_mismatch":
        message = f"{found} does not have the form {context['pattern']}"
    elif kind == "value_error":
        message = f"{found}: {context['error']}" if isinstance(detail["input"], str) else str(context["error"])
    else:
        message = f"{detail['msg']} (found {found})"
    return document.problem(path, message)


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Names of the fields of the model found by following ``path`` from ``model``."""
    current: Any = model
    for part in path:
        if isinstance(part, int):
            continue  # lists were unwrapped with their field
        field = current.model_fields.get(part) if _is_model(current) else None
        current = _inner_model(field.annotation) if field else None
    return list(current.model_fields) if _is_model(current) else []


def _inner_model(annotation: Any) -> Any:
    """The model inside ``list[X]``, ``X | None`` or ``Annotated[X, ...]``; None when there is none."""
    if _is_model(annotation):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation):
        return next(filter(None, map(_inner_model, typing.get_args(annotation))), None)
    return None


def _is_model(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseModel)

"""Rules that no single file can break alone: links between entries, tables, references and code."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from skipkb.catalog.entry import SurveyFile, Work
from skipkb.catalog.paths import PACKAGE
from skipkb.catalog.problems import Problem
from skipkb.catalog.prose import american_words
from skipkb.catalog.references import FILE, Reference
from skipkb.catalog.yamlfile import Document, KeyPath


def cross_check(
    survey: SurveyFile,
    survey_document: Document,
    works: Mapping[str, Work],
    documents: Mapping[str, Document],
    references: Mapping[str, Reference],
    problems: list[Problem],
) -> None:
    """Append a problem for every broken link between the files."""
    _check_rows(survey, survey_document, works, documents, problems)
    _check_names(works, documents, problems)
    _check_references(works, documents, references, problems)
    _check_numbers(survey, survey_document, works, documents, references, problems)
    _check_relations(works, documents, problems)
    hosts = set(survey.hosts)
    for key, work in works.items():
        _check_implementation(work, documents[key], problems)
        _check_hosts(hosts, documents[key], problems)
        for place, word, british in american_words(work):
            message = f"{word!r} is American; the catalogue's own words are British: {british}"
            problems.append(documents[key].problem(place, message))


def _check_rows(
    survey: SurveyFile,
    survey_document: Document,
    works: Mapping[str, Work],
    documents: Mapping[str, Document],
    problems: list[Problem],
) -> None:
    listed: set[tuple[str, str]] = set()
    for number, table in enumerate(survey.tables):
        for index, key in enumerate(table.rows):
            place: KeyPath = ("tables", number, "rows", index)
            if (table.key, key) in listed:
                problems.append(survey_document.problem(place, f"{key!r} stands twice in this table"))
            listed.add((table.key, key))
            if key not in works:
                problems.append(survey_document.problem(place, f"there is no valid entry {key!r} for this row"))
            elif all(row.table != table.key for row in works[key].survey.rows):
                message = f"entry {key!r} describes no row of table {table.key!r} under survey.rows"
                problems.append(survey_document.problem(place, message))
        if len(table.rows) != table.survey_rows:
            message = f"{len(table.rows)} rows listed, but the survey prints {table.survey_rows}"
            problems.append(survey_document.problem(("tables", number, "rows"), message))
    for key, work in works.items():
        for index, row in enumerate(work.survey.rows):
            if (row.table, key) not in listed:
                message = f"survey.yaml lists no row {key!r} in table {row.table!r}; add it in the survey's order"
                problems.append(documents[key].problem(("survey", "rows", index, "table"), message))
        if "survey" in documents[key].data and not work.survey.rows and not work.survey.sections:
            message = "neither a table row nor a section; a work that the survey does not name has no `survey` key"
            problems.append(documents[key].problem(("survey",), message))
        for index, section in enumerate(work.survey.sections):
            if section not in (known := _sections(survey)):
                message = f"the survey has no section {section!r}; sections: {', '.join(known)}"
                problems.append(documents[key].problem(("survey", "sections", index), message))


def _sections(survey: SurveyFile) -> list[str]:
    return [*survey.sections, *survey.themes, *survey.explanations]


def _check_names(works: Mapping[str, Work], documents: Mapping[str, Document], problems: list[Problem]) -> None:
    owners: dict[str, str] = {}
    for key, work in works.items():
        names: list[tuple[KeyPath, str]] = [(("key",), key), (("name",), work.name)]
        names += [(("aliases", i), alias) for i, alias in enumerate(work.aliases)]
        for place, name in names:
            owner = owners.setdefault(name.casefold(), key)
            if owner != key:
                message = f"{name!r} is already a name of {documents[owner].file}"
                problems.append(documents[key].problem(place, message))
    builders: dict[str, str] = {}
    for key, work in works.items():
        for index, variant in enumerate(work.variants):
            path: KeyPath = ("variants", index, "name")
            if variant.name in builders:
                message = f"variant {variant.name!r} is already built by {documents[builders[variant.name]].file}"
                problems.append(documents[key].problem(path, message))
            elif variant.name in works and variant.name != key:
                message = f"variant {variant.name!r} has the key of another entry"
                problems.append(documents[key].problem(path, message))
            builders.setdefault(variant.name, key)


def _check_references(
    works: Mapping[str, Work],
    documents: Mapping[str, Document],
    references: Mapping[str, Reference],
    problems: list[Problem],
) -> None:
    first: dict[tuple[str, str], Reference] = {}
    for reference in references.values():
        title = "".join(filter(str.isalnum, reference.title.casefold()))
        for field, value in (("DOI", reference.doi), ("arXiv number", reference.arxiv), ("title", title)):
            if value is None:
                continue
            other = first.setdefault((field, value.lower()), reference)
            if other is not reference:
                message = f"same {field} as {other.key!r} in line {other.line}: one work, one record"
                problems.append(Problem(FILE, reference.line, 1, reference.key, message))


def _check_numbers(
    survey: SurveyFile,
    survey_document: Document,
    works: Mapping[str, Work],
    documents: Mapping[str, Document],
    references: Mapping[str, Reference],
    problems: list[Problem],
) -> None:
    """The survey's reference numbers, and references that nobody needs."""
    for index, listed in enumerate(survey.references):
        if listed not in references:
            message = f"references.bib has no record {listed!r} for reference [{index + 1}]"
            problems.append(survey_document.problem(("references", index), message))
    for key, work in works.items():
        numbers: list[tuple[KeyPath, int]] = []
        if work.survey.reference:
            numbers.append((("survey", "reference"), work.survey.reference))
        numbers += [(("survey", "repeated", i), n) for i, n in enumerate(work.survey.repeated)]
        mistaken = any(erratum.type == "citation" for erratum in work.errata)
        for place, number in numbers:
            if number > len(survey.references):
                message = f"the survey lists {len(survey.references)} references"
                problems.append(documents[key].problem(place, message))
            elif (listed := survey.references[number - 1]) != work.paper and not mistaken:
                message = (
                    f"reference [{number}] is {listed!r} in survey.yaml and {work.paper!r} here; "
                    "where the survey cites something else, a citation erratum says so"
                )
                problems.append(documents[key].problem(place, message))
    needed = {*survey.references, *(work.paper for work in works.values())}
    for reference in references.values():
        if reference.key not in needed:
            message = "neither the survey nor an entry cites this record"
            problems.append(Problem(FILE, reference.line, 1, reference.key, message))


def _check_relations(works: Mapping[str, Work], documents: Mapping[str, Document], problems: list[Problem]) -> None:
    parents = {key: [r.to for r in work.relations if r.type == "extends"] for key, work in works.items()}
    for key, work in works.items():
        seen: set[tuple[str, str]] = set()
        for index, relation in enumerate(work.relations):
            place: KeyPath = ("relations", index, "to")
            if relation.to == key:
                problems.append(documents[key].problem(place, "a work has no relation to itself"))
            elif relation.to not in works:
                near = difflib.get_close_matches(relation.to, works, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                problems.append(documents[key].problem(place, f"there is no entry {relation.to!r}{hint}"))
            elif (relation.type, relation.to) in seen:
                problems.append(documents[key].problem(place, f"{relation.type} {relation.to!r} stands here twice"))
            elif relation.type == "extends" and key in _ancestors(relation.to, parents):
                message = f"{relation.to!r} in turn extends {key!r}: one of the two came first"
                problems.append(documents[key].problem(place, message))
            seen.add((relation.type, relation.to))


def _ancestors(key: str, parents: Mapping[str, list[str]]) -> set[str]:
    found: set[str] = set()
    todo = [key]
    while todo:
        for parent in parents.get(todo.pop(), ()):
            if parent not in found:
                found.add(parent)
                todo.append(parent)
    return found


def _check_hosts(hosts: set[str], document: Document, problems: list[Problem]) -> None:
    for place, url in _urls(document.data, ()):
        host = urlsplit(url).hostname or ""
        if host not in hosts:
            near = difflib.get_close_matches(host, hosts, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            message = f"{host!r} is not a known host; {hint}if it is right, add it to hosts in survey.yaml"
            problems.append(document.problem(place, message))


def _urls(data: object, place: KeyPath) -> Iterable[tuple[KeyPath, str]]:
    """Every value of a key ``url``; the survey's own links are claims and may lead anywhere."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key == "url" and isinstance(value, str):
                yield (*place, key), value
            else:
                yield from _urls(value, (*place, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _urls(value, (*place, index))


def _check_implementation(work: Work, document: Document, problems: list[Problem]) -> None:
    if work.variants and work.implementation:
        message = "an entry with variants has an implementation; delete this key"
        problems.append(document.problem(("implementation",), message))
    if not work.variants and not work.implementation:
        message = "no variants: say under implementation whether code is planned or not applicable, and why"
        problems.append(document.problem((), message))
    if bool(work.variants) != bool(work.smoke):
        message = "variants and smoke go together: the contract runs the small configuration given under smoke"
        problems.append(document.problem(("smoke",), message))
    for path, target in _import_paths(work):
        if reason := unresolved(target):
            problems.append(document.problem(path, reason))
    for path, test in _test_paths(work):
        if reason := missing_test(test):
            problems.append(document.problem(path, reason))
    variants = {variant.name for variant in work.variants}
    for index, peer in enumerate(work.peers):
        if peer.variant and peer.variant not in variants:
            message = f"{peer.variant!r} is not a variant of this entry"
            problems.append(document.problem(("peers", index, "variant"), message))
    own = f"{PACKAGE.name}.models.{work.folder}.{work.key}:"
    if any(variant.build.startswith(own) for variant in work.variants):
        problems += [document.problem(("variants",), reason) for reason in _missing_files(work)]


def _missing_files(work: Work) -> Iterable[str]:
    """What a method that runs must have beside its model; a wheel carries neither notebooks nor tests."""
    if (PACKAGE / "_catalog").is_dir():
        return
    test = f"tests/models/test_{work.key}.py"
    if not (PACKAGE.parent / test).is_file():
        yield f"there is no {test} with the property that the paper is about"
    notebook = f"notebooks/{work.folder}/{work.key}.ipynb"
    file = PACKAGE.parent / notebook
    if not file.is_file():
        yield f"there is no {notebook}"
    elif re.search(r"\bTODO\b", file.read_text(encoding="utf-8")):
        yield f"{notebook} is still to be written: it says TODO"


def _import_paths(work: Work) -> Iterable[tuple[KeyPath, str]]:
    for index, variant in enumerate(work.variants):
        yield ("variants", index, "build"), variant.build
    if work.smoke:
        yield ("smoke", "build"), work.smoke.build
        yield ("smoke", "objective"), work.smoke.objective


def _test_paths(work: Work) -> Iterable[tuple[KeyPath, str]]:
    for index, variant in enumerate(work.variants):
        for number, state_dict in enumerate(variant.state_dicts):
            yield ("variants", index, "state_dicts", number, "test"), state_dict.test
    for index, deviation in enumerate(work.deviations):
        yield ("deviations", index, "test"), deviation.test


def unresolved(import_path: str) -> str | None:
    """Why ``package.module:name`` leads nowhere, or None. Reads the file; imports (and needs) no torch."""
    module, _, name = import_path.partition(":")
    if module.split(".")[0] != PACKAGE.name:
        return f"{import_path!r} must point into {PACKAGE.name}"
    file = PACKAGE.parent / Path(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        return f"there is no module {module!r}"
    try:
        body = _top_level(file)
    except (SyntaxError, ValueError) as error:
        return f"module {module!r} cannot be parsed: {error}"
    if name in _defined(body) | _handed_on(body):
        return None
    return f"module {module!r} defines no {name!r} at its top level"


def missing_test(test: str) -> str | None:
    """Why ``tests/file.py::name`` does not exist, or None; a wheel carries no tests, so nothing is said there."""
    file, _, name = test.partition("::")
    if (PACKAGE / "_catalog").is_dir():
        return None
    path = PACKAGE.parent / file
    if not path.is_file():
        return f"there is no file {file}"
    try:
        return f"{file} defines no {name}" if name and name not in _defined(_top_level(path)) else None
    except (SyntaxError, ValueError) as error:
        return f"{file} cannot be parsed: {error}"


@cache
def _top_level(file: Path) -> tuple[ast.stmt, ...]:
    return tuple(ast.parse(file.read_text(encoding="utf-8")).body)


def _defined(body: Iterable[ast.stmt]) -> set[str]:
    """Names of functions and classes."""
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _handed_on(body: Iterable[ast.stmt]) -> set[str]:
    """Names that the module imports from another, or assigns, and lists in ``__all__``."""
    given: set[str] = set()
    public: set[str] = set()
    for node in body:
        if isinstance(node, ast.ImportFrom):
            given |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            given |= names
            if "__all__" in names and isinstance(node.value, ast.List | ast.Tuple):
                public = {str(item.value) for item in node.value.elts if isinstance(item, ast.Constant)}
    return given & public

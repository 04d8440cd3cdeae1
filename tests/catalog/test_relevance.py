"""The questions of relevance.yaml are answered by the real catalogue, and by rules that know none of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from skipkb.catalog import index, paths
from skipkb.catalog.search import get, search

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS: dict[str, dict[str, list[str]]] = yaml.safe_load((ROOT / "tests/catalog/relevance.yaml").read_text("utf-8"))
ALL = {question: wanted for group in QUESTIONS.values() for question, wanted in group.items()}


@pytest.fixture(scope="module", autouse=True)
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The real catalogue, with an index of its own."""
    file = tmp_path_factory.mktemp("relevance") / "index.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "source_dir", lambda: ROOT / "catalog")
        patch.setattr(paths, "index_candidates", lambda: [file])
        index.forget()
        yield
        index.forget()


def test_the_questions_are_many_and_of_many_kinds() -> None:
    assert len(ALL) == sum(map(len, QUESTIONS.values())) >= 70, "a question stands there twice"
    assert len(QUESTIONS) >= 8
    assert all(wanted and all(get(key).key == key for key in wanted) for wanted in ALL.values())


def test_19_of_20_questions_are_answered_among_the_first_three() -> None:
    failed = []
    for question, wanted in ALL.items():
        found = [hit.key for hit in search(question, limit=3)]
        if not set(wanted) & set(found):
            failed.append(f"{question!r}: {', '.join(found) or 'nothing'} instead of {', '.join(wanted)}")
    share = 1 - len(failed) / len(ALL)
    assert share >= 0.95, f"{share:.1%} of {len(ALL)}; failed:\n" + "\n".join(failed)


def test_an_answer_does_not_depend_on_case_or_on_space() -> None:
    for question in ALL:
        if ":" not in question:
            found = [hit.key for hit in search(question, limit=3)]
            assert [hit.key for hit in search(f"  {question.upper()} ", limit=3)] == found, question


def test_no_question_and_no_work_is_named_in_the_code() -> None:
    questions = {question.lower() for question in ALL}
    keys = {path.stem for path in (ROOT / "catalog").glob("*/*.yaml")}
    for path in (ROOT / "skipkb/catalog").glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        strings = {value.lower() for value in constants if isinstance(value, str)}
        assert not strings & (questions | keys), path
    script = (ROOT / "docs/assets/search.js").read_text("utf-8")
    strings = {found.lower() for found in re.findall(r'"([^"\n]*)"', script)}
    assert not strings & (questions | keys)


def test_synonyms_are_words_and_no_questions() -> None:
    text = yaml.safe_load((ROOT / "catalog/synonyms.yaml").read_text("utf-8"))
    members = {member.lower() for group in text["groups"] for member in group}
    assert not {question.lower() for question in ALL if len(question.split()) > 3} & members
    assert not {path.stem for path in (ROOT / "catalog").glob("*/*.yaml")} & members


def test_a_question_why_leads_to_the_explanations() -> None:
    assert {"V.A", "V.B", "V.D", "V.E"} <= set(search("why do skips help").explanations)
    assert search("ensembles of shallow networks").explanations[0] == "V.B"
    assert search("U-Net").explanations == ()
    assert search("").explanations == ()

"""The committed JSON Schema: current, named by every file, and as strict as the loader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sample
import yaml

from skipkb.catalog import loading, paths, schema

CATALOG = Path(__file__).resolve().parents[2] / "catalog"
YAML_FILES = [CATALOG / "survey.yaml", *loading.entry_files(CATALOG)]


def as_json(data: Any) -> Any:
    """YAML data as an editor sees it: a date is a string there."""
    return json.loads(json.dumps(data, default=str))


@pytest.fixture(scope="module")
def validator() -> jsonschema.protocols.Validator:
    text = json.loads((CATALOG / "schema.json").read_text("utf-8"))
    kind = jsonschema.validators.validator_for(text)
    kind.check_schema(text)
    return kind(text)


def test_the_committed_schema_is_current() -> None:
    for name, model in schema.FILES.items():
        assert (CATALOG / name).read_text("utf-8") == schema.schema_text(model), "run `skipkb check --write-schema`"
    assert schema.stale_schemas(CATALOG) == []


def test_a_stale_schema_is_noticed_and_written(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{}")
    assert schema.stale_schemas(tmp_path) == ["schema.json", "survey.schema.json", "synonyms.schema.json"]
    assert schema.write_schemas(tmp_path) == [tmp_path / name for name in schema.FILES]
    assert schema.stale_schemas(tmp_path) == []
    assert schema.write_schemas(tmp_path) == []


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.stem)
def test_each_file_names_its_schema(path: Path) -> None:
    first = path.read_text("utf-8").splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named, f"{path}: the first line must name the schema"
    expected = "survey.schema.json" if path.name == "survey.yaml" else "schema.json"
    assert (path.parent / named[1]).resolve() == CATALOG / expected


@pytest.mark.parametrize("path", YAML_FILES[1:], ids=lambda path: path.stem)
def test_each_entry_passes_the_schema(path: Path, validator: jsonschema.protocols.Validator) -> None:
    validator.validate(as_json(yaml.load(path.read_text("utf-8"), yaml.SafeLoader)))


def test_the_survey_passes_its_schema() -> None:
    text = json.loads((CATALOG / "survey.schema.json").read_text("utf-8"))
    jsonschema.validate(as_json(yaml.safe_load((CATALOG / "survey.yaml").read_text("utf-8"))), text)


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1}, {"survey": {"sectoins": []}}, {"name": 5}, {"name": ""}, {"contribution": "x" * 201},
        {"contribution": "two\nlines"}, {"kind": "methd"}, {"tasks": ["Big Task"]}, {"survey": {"reference": "1"}},
        {"survey": {"reference": 203}}, {"key": "Alpha"}, {"themes": ["IV.Z"]}, {"paper": "a b"},
    ],
    ids=repr,
)  # fmt: skip
def test_what_the_loader_refuses_the_schema_refuses(
    validator: jsonschema.protocols.Validator, problems_of: Callable[..., list[str]], change: dict[str, Any]
) -> None:
    written = sample.work() | {"paper": "doe2015alpha"}
    validator.validate(as_json(written))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(as_json(written | change))
    if "key" not in change:
        paper = {"paper": {"bibtex": change["paper"]}} if "paper" in change else {}
        assert problems_of(sample.work() | change | paper)


def test_every_field_is_explained() -> None:
    """An editor shows these texts when the pointer rests on a key."""
    text = json.loads((CATALOG / "schema.json").read_text("utf-8"))
    assert text["properties"]["key"]["description"] == "Unique; equal to the file's stem."
    assert all("description" in part for part in text["$defs"].values() if part.get("type") == "object")


def test_the_checkout_is_what_is_tested() -> None:
    assert paths.source_dir() == CATALOG

"""JSON Schema for editors, generated from the typed model and committed beside the entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from skipkb.catalog.entry import Entry, SurveyFile
from skipkb.catalog.synonyms import Synonyms
from skipkb.catalog.writing import write_text

FILES: dict[str, type[BaseModel]] = {
    "schema.json": Entry,
    "survey.schema.json": SurveyFile,
    "synonyms.schema.json": Synonyms,
}


def schema_text(model: type[BaseModel]) -> str:
    """The JSON Schema of ``model`` as it is committed."""
    schema: dict[str, Any] = model.model_json_schema(mode="validation")
    schema = {"$schema": GenerateJsonSchema.schema_dialect, **schema}
    return json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def write_schemas(directory: Path) -> list[Path]:
    """Write the schema files that changed, and return them."""
    changed = []
    for name in stale_schemas(directory):
        write_text(directory / name, schema_text(FILES[name]))
        changed.append(directory / name)
    return changed


def stale_schemas(directory: Path) -> list[str]:
    """Names of the schema files under ``directory`` that are missing or not what the model gives."""
    return [
        name
        for name, model in FILES.items()
        if not (directory / name).is_file() or (directory / name).read_text("utf-8") != schema_text(model)
    ]

"""The config's JSON Schema."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import Any

from pydantic import TypeAdapter

from training.config import DEFAULTS, LEAST, MOST, SECRETS, WITHOUT_EFFECT, Config, training_fields


def json_schema() -> dict[str, Any]:
    """For editors that complete and check YAML; the Trainer's arguments are in it where transformers and torch are
    installed."""
    schema = Config.model_json_schema()
    if find_spec("torch") and find_spec("transformers"):
        arguments, kinds = _training_schema()
        schema["properties"]["training"] |= {"properties": arguments, "additionalProperties": False}
        schema["$defs"] |= kinds
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _training_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """The Trainer's arguments that a config may name, and the kinds that they refer to."""
    from transformers import TrainingArguments

    types = training_fields()
    said = {field.name: field.metadata.get("help", "") for field in dataclasses.fields(TrainingArguments)}
    names = [name for name in types if name != "output_dir" and name not in SECRETS and name not in WITHOUT_EFFECT]
    found, kinds = TypeAdapter.json_schemas(
        [(name, "validation", TypeAdapter(types[name])) for name in names], ref_template="#/$defs/{model}"
    )
    arguments: dict[str, Any] = {}
    for name in names:
        arguments[name] = {**found[name, "validation"], "description": " ".join(said[name].split())}
        for bound, values in (("minimum", LEAST), ("maximum", MOST)):
            if name in values:
                arguments[name][bound] = values[name]
        if name == "fsdp":  # the Trainer takes more of it than its type says
            arguments[name] = {"description": arguments[name]["description"]}
        if name in DEFAULTS:
            arguments[name]["default"] = DEFAULTS[name]
    return arguments, kinds.get("$defs", {})

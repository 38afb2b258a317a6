"""The language as JSON Schema for editors: draft 7, which is what yaml-language-server reads.

pydantic writes draft 2020-12; here it is put into the older words. Nothing is described here: see `spec.py`.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from agentdag.language.scalars import IDENTIFIER
from agentdag.language.spec import PipelineSpec

DRAFT = "http://json-schema.org/draft-07/schema#"
_OWN_KEYS = {"^x-": {"description": "Yours: a place for YAML anchors, or for notes; agentdag leaves it alone."}}
_IDENTIFIERS = {"pattern": f"^(x-.*|{IDENTIFIER.pattern})$"}
_NAMED = frozenset({"inputs", "tools", "nodes"})
"""The mappings whose keys templates write."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a pipeline; every key has a description and an example."""
    schema = PipelineSpec.model_json_schema(by_alias=True, schema_generator=_Generator)
    whole: dict[str, Any] = _draft_7(schema)
    for name in ("inputs", "providers", "tiers", "tools", "nodes", "outputs"):
        named = whole["properties"][name]
        named["patternProperties"] = _OWN_KEYS
        if name in _NAMED:
            named["propertyNames"] = _IDENTIFIERS
    whole["properties"]["nodes"]["minProperties"] = 1
    for definition in (whole, *whole["definitions"].values()):
        for told in definition.get("properties", {}).values():
            if "description" not in told:  # pydantic leaves out what a whole model says of itself
                (reference,) = told["allOf"]
                told["description"] = whole["definitions"][reference["$ref"].rpartition("/")[2]]["description"]
    return {"$schema": DRAFT, "title": "agentdag pipeline", **whole}


class _Generator(GenerateJsonSchema):
    """Leaves out what says nothing to whoever writes a pipeline: generated titles, and null."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic asks
        return False

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if isinstance(inner.get("type"), str) and not {"enum", "const"} & inner.keys():
            return {**inner, "type": [inner["type"], "null"]}
        return {"anyOf": [*_alternatives(inner), {"type": "null"}]}

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        told = super().default_schema(schema)
        if isinstance(told.get("default", {}), (dict, type(None))):
            told.pop("default", None)
        return told


def _alternatives(schema: JsonSchemaValue) -> list[Any]:
    """What *schema* lets one choose from: itself, where that is not a choice."""
    return list(schema["anyOf"]) if schema.keys() == {"anyOf"} else [schema]


def _draft_7(part: Any) -> Any:
    """*part* with `$defs` as `definitions`, and nothing beside a `$ref`, where draft 7 would not see it."""
    if isinstance(part, list):
        return [_draft_7(each) for each in part]
    if not isinstance(part, dict):
        return part
    told = {("definitions" if key == "$defs" else key): _draft_7(value) for key, value in part.items()}
    if isinstance(told.get("description"), str):
        told["description"] = " ".join(told["description"].split())
    if told.get("type") == "object" and "additionalProperties" in told and "properties" in told:
        told["patternProperties"] = _OWN_KEYS
        del told["title"]
    reference = told.get("$ref")
    if isinstance(reference, str):
        told["$ref"] = reference.replace("#/$defs/", "#/definitions/")
        if len(told) > 1:
            told["allOf"] = [{"$ref": told.pop("$ref")}]
    return told

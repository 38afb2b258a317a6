"""What a node's answer is to be: text, JSON, or what a JSON Schema describes; and what can be read of it.

The short form `fields` is written out as a schema here. Files and pydantic models are read by whoever may read files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from agentdag.language.findings import did_you_mean
from agentdag.language.model import Model
from agentdag.language.sandbox import MAPPING_METHODS
from agentdag.language.scalars import describe, refusal

TEXT, JSON, SCHEMA = "text", "json", "schema"
_TYPES = ("string", "number", "integer", "boolean", "object", "array")
_FIELDS_HINT = "write a type such as string or number, [string] for a list, `low | high` for a choice, or a mapping"
_DETAILS: Mapping[str, frozenset[str]] = {
    "description": frozenset(_TYPES),
    "minimum": frozenset({"number", "integer"}),
    "maximum": frozenset({"number", "integer"}),
    "minLength": frozenset({"string"}),
    "maxLength": frozenset({"string"}),
    "pattern": frozenset({"string"}),
    "format": frozenset({"string"}),
    "minItems": frozenset({"array"}),
    "maxItems": frozenset({"array"}),
}
"""What may be said of a field besides its type, in the words of JSON Schema, and of which types."""
_COUNTED = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_NUMBERED = frozenset({"minimum", "maximum"})


def _fields(value: Any) -> Any:
    """Refuses what is no short form; it stays as it is written."""
    schema_of(value)
    return value


class OutputSpec(Model):
    """What the answer is to be: JSON that fits a schema."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["schema"]}, {"required": ["fields"]}]})

    schema_: dict[str, Any] | str | None = Field(
        default=None,
        alias="schema",
        examples=["schemas/finding.json", "findings:Finding", {"type": "array", "items": {"type": "string"}}],
    )
    """A JSON Schema (2020-12): written here, in a file beside the pipeline, or that of a pydantic model, as
    `package.module:Model`."""
    fields: Annotated[dict[str, Any] | None, BeforeValidator(_fields)] = Field(
        default=None, examples=[{"risk": "low | medium | high", "score": "number", "tags": ["string"]}]
    )
    """The short form of a schema: an object with these fields, and no others. A field is a type (string, number,
    integer, boolean, object, array), `[type]` for a list, `a | b` for a choice of words, or a mapping of fields; a `?`
    after a type says that it may be null. `{type: ..., description: ...}` says more of a field: a `description`,
    `minimum`, `maximum`, `minLength`, `maxLength`, `pattern`, `format`, `minItems` or `maxItems`."""

    @model_validator(mode="after")
    def _one_form(self) -> OutputSpec:
        said = [key for key, value in (("schema", self.schema_), ("fields", self.fields)) if value is not None]
        if len(said) > 1:
            raise refusal("`schema` and `fields` exclude each other", "keep one")
        if not said:
            raise refusal("this output says nothing", "write text, json, {fields: ...} or {schema: ...}", lacks=True)
        return self


def _output(value: Any) -> Any:
    if isinstance(value, dict):
        return OutputSpec.model_validate(value)
    if isinstance(value, str) and value in {TEXT, JSON}:
        return value
    hint = did_you_mean(value, (TEXT, JSON)) if isinstance(value, str) else None
    raise refusal(
        f"an output is text, json or a mapping, not {describe(value)}", hint or "write {fields: {score: number}}"
    )


Output = Annotated[Literal["text", "json"] | OutputSpec | None, BeforeValidator(_output)]


def schema_of(fields: Any) -> dict[str, Any]:
    """The JSON Schema of the short form *fields*; every field is required, and there are no others."""
    match fields:
        case {"type": kind, **details} if details and _DETAILS.keys() >= details.keys() and not _are_fields(details):
            return _detailed(kind, details)
        case dict() if fields:
            return {
                "type": "object",
                "properties": {str(name): schema_of(kind) for name, kind in fields.items()},
                "required": [str(name) for name in fields],
                "additionalProperties": False,
            }
        case [kind]:
            return {"type": "array", "items": schema_of(kind)}
        case str():
            return _word_schema(fields)
    raise refusal(f"{describe(fields)} is no type of a field", _FIELDS_HINT)


def _are_fields(details: Mapping[Any, Any]) -> bool:
    """Whether what stands beside `type` are all types: then these are fields that happen to have such names."""
    try:
        for each in details.values():
            schema_of(each)
    except PydanticCustomError:
        return False
    return True


def _detailed(kind: Any, details: Mapping[Any, Any]) -> dict[str, Any]:
    """The schema of a field of this *kind*, of which more is said."""
    made = schema_of(kind)
    kinds = made.get("type", "string")
    kinds = set(kinds if isinstance(kinds, list) else [kinds])
    for word, value in details.items():
        if not _DETAILS[word] & kinds:
            raise refusal(
                f"`{word}` means nothing for {describe(kind)}", f"it is of {' or '.join(sorted(_DETAILS[word]))}"
            )
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if word in _COUNTED and not (number and isinstance(value, int) and value >= 0):
            raise refusal(f"`{word}` is a whole number, not {describe(value)}", f"write `{word}: 3`")
        if word in _NUMBERED and not number:
            raise refusal(f"`{word}` is a number, not {describe(value)}", f"write `{word}: 0`")
        if word not in _COUNTED | _NUMBERED and not isinstance(value, str):
            raise refusal(f"`{word}` is a text, not {describe(value)}", f"write `{word}: ...`")
        if word == "pattern" and not _is_pattern(value):
            raise refusal(f"{describe(value)} is no regular expression", "escape what is meant as it stands")
    return {**made, **details}


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _word_schema(word: str) -> dict[str, Any]:
    """The schema of `number`, `number?` or `low | high`."""
    name = word.strip()
    optional = name.endswith("?")
    name = name.removesuffix("?").strip()
    choices = [choice.strip() for choice in name.split("|")]
    if len(choices) > 1 and all(choices):
        values: list[Any] = [*choices, *([None] if optional else [])]
        return {"enum": values} if optional else {"type": "string", "enum": values}
    if name not in _TYPES:
        raise refusal(f"{describe(word)} is no type of a field", did_you_mean(name, _TYPES) or _FIELDS_HINT)
    return {"type": [name, "null"]} if optional else {"type": name}


def lacks(schema: Mapping[str, Any], path: Sequence[str]) -> tuple[str, list[str]] | None:
    """The first step of *path* that nothing which fits *schema* has, with what is there; None where there may be.

    Only what the schema lists is held to be there, unless it says that others may be, too.
    """
    return _lacks([schema], path, schema)


def item_lacks(schema: Mapping[str, Any], place: Sequence[str], path: Sequence[str]) -> tuple[str, list[str]] | None:
    """As `lacks`, of the items of the list that *place* leads to."""
    found = _at(schema, place)
    lists = [] if found is None else _alternatives([_resolved(each, schema) for each in found], schema)
    items = [each.get("items") for each in lists]
    if not items or not all(isinstance(each, dict) for each in items):
        return None
    return _lacks([each for each in items if isinstance(each, dict)], path, schema)


def _lacks(
    here: Sequence[Mapping[str, Any]], path: Sequence[str], root: Mapping[str, Any]
) -> tuple[str, list[str]] | None:
    for step in path:
        inner, known = _stepped([_resolved(each, root) for each in here], step, root)
        if inner is None:
            return None
        if not inner:
            return step, known
        here = inner
    return None


def _at(schema: Mapping[str, Any], path: Sequence[str]) -> Sequence[Mapping[str, Any]] | None:
    """The schemas of what *path* leads to; None where nobody can tell."""
    here: Sequence[Mapping[str, Any]] = [schema]
    for step in path:
        inner, _ = _stepped([_resolved(each, schema) for each in here], step, schema)
        if not inner:
            return None
        here = inner
    return here


def kinds(schema: Mapping[str, Any], path: Sequence[str]) -> frozenset[str] | None:
    """The JSON types that what *path* leads to in *schema* may have; None where nobody can tell."""
    here = _at(schema, path)
    if here is None:
        return None
    found: set[str] = set()
    for each in _alternatives([_resolved(each, schema) for each in here], schema):
        kind = each.get("type")
        if not kind:
            return None
        found |= {kind} if isinstance(kind, str) else set(kind)
    return frozenset(found)


def _stepped(
    here: Sequence[Mapping[str, Any]], step: str, root: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]] | None, list[str]]:
    """The schemas of what *step* leads to from *here*, and what could be read instead; None where nobody can tell."""
    inner: list[Mapping[str, Any]] = []
    known: list[str] = []
    for part in _alternatives(here, root):
        kinds = part.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if "enum" in part or "const" in part or (kinds and not {"object", "array"} & set(kinds)):
            if hasattr("", step):
                return None, []
            continue
        if kinds and "object" not in kinds:  # a list: its items are not read by name
            if hasattr([], step) or step.isdigit():
                return None, []
            continue
        properties = part.get("properties")
        if not isinstance(properties, dict) or part.get("additionalProperties") or _OPEN & part.keys():
            return None, []
        if step in properties:
            found = properties[step]
            if not isinstance(found, dict) or not found:
                return None, []
            inner.append(_resolved(found, root))
        elif step in MAPPING_METHODS:
            return None, []
        known += properties
    return inner, known


_OPEN = frozenset({"patternProperties", "allOf", "if", "not", "unevaluatedProperties", "dependentSchemas"})
"""Words of JSON Schema behind which further properties may stand."""


def _alternatives(here: Sequence[Mapping[str, Any]], root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """*here* with each choice taken apart."""
    parts: list[Mapping[str, Any]] = []
    for each in here:
        choice = each.get("anyOf") or each.get("oneOf")
        if isinstance(choice, list):
            parts += [_resolved(one, root) for one in choice if isinstance(one, dict)]
        else:
            parts.append(each)
    return parts


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """*schema*, or what its reference into *root* names."""
    for _ in range(10):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        found: Any = root
        for step in reference[2:].split("/"):
            found = found.get(step) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            return {}
        schema = found
    return {}

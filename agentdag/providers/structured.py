"""How a model is asked for JSON: by its provider's own structured output, by a tool that takes it, or in words.

Servers differ, so it is a setting of the provider. What comes back is checked elsewhere, whoever has promised it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentdag.calls import Form

JSON_SCHEMA, JSON_OBJECT, TOOL, PROMPT = "json_schema", "json_object", "tool", "prompt"
ANSWER_TOOL = "give_answer"
"""The tool that takes the answer, where one does."""
_ABOUT_TOOL = "Give the final answer."
_IN_WORDS = "Answer with JSON alone: no prose around it, no code fence."


def in_words(system: str | None, form: Form) -> str:
    """The *system* prompt, which also says what *form* the answer is to have."""
    said = _IN_WORDS
    if form.schema is not None:
        said += f" It must fit this JSON Schema:\n{json.dumps(form.schema, ensure_ascii=False)}"
    return said if system is None else f"{system}\n\n{said}"


def mode_of(said: str | None, form: Form | None) -> str | None:
    """How an answer of this *form* is asked for, where the provider is set to *said*; None for text."""
    if form is None:
        return None
    mode = said or JSON_SCHEMA
    if form.schema is None and mode in {JSON_SCHEMA, TOOL}:  # there is nothing to tell but that it is JSON
        return JSON_OBJECT
    return mode


def tool_schema(form: Form) -> Mapping[str, Any]:
    """The arguments of the tool that takes the answer: an object always, as tools demand."""
    assert form.schema is not None
    if is_object(form.schema):
        return form.schema
    return {"type": "object", "properties": {"value": form.schema}, "required": ["value"]}


def answer_tool(form: Form) -> tuple[str, str, Mapping[str, Any]]:
    """Name, description and arguments of the tool that takes the answer."""
    return ANSWER_TOOL, _ABOUT_TOOL, tool_schema(form)


def answer_in(arguments: str, form: Form) -> str:
    """The answer as JSON, out of the *arguments* of the tool that takes it."""
    if form.schema is None or is_object(form.schema):
        return arguments
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return json.dumps(given["value"], ensure_ascii=False) if isinstance(given, dict) and "value" in given else arguments


def is_object(schema: Mapping[str, Any]) -> bool:
    """Whether what fits *schema* is certainly an object."""
    return schema.get("type") == "object"


_STRICT = frozenset({"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"}) | {
    "$defs",
    "$ref",
    "title",
    "description",
}
"""The words of JSON Schema that every strict mode knows."""


def is_strict(schema: Any) -> bool:
    """Whether *schema* keeps to what strict modes take: closed objects, every property required, few words."""
    if not isinstance(schema, dict):
        return False
    if not schema.keys() <= _STRICT:
        return False
    inner: list[Any] = [*_values(schema.get("properties")), *_values(schema.get("$defs"))]
    inner += [schema["items"]] if "items" in schema else []
    inner += schema.get("anyOf", [])
    kinds = schema.get("type")
    if kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in schema:
        names = set(schema.get("properties", {}))
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != names:
            return False
    return all(map(is_strict, inner))


def _values(part: Any) -> Sequence[Any]:
    return list(part.values()) if isinstance(part, dict) else []

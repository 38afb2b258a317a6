"""How a model is asked for JSON: by its provider's own structured output, by a tool that takes it, or in words.

Servers differ, so it is a setting of the provider. What comes back is checked elsewhere, whoever has promised it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentdag.calls import Form, ToolCall
from agentdag.providers.schemas import WRAPPED, as_object, is_wrapped, strict

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


def mode_of(mode: str, form: Form | None) -> str | None:
    """How an answer of this *form* is asked for, where its provider is asked by *mode*; None for text."""
    if form is None:
        return None
    if form.schema is None and mode in {JSON_SCHEMA, TOOL}:  # there is nothing to tell but that it is JSON
        return JSON_OBJECT
    return mode


def schema_sent(form: Form, *, loosely: bool) -> tuple[dict[str, Any], bool]:
    """The schema of *form* as OpenAI's protocols take it, and whether that is in strict form; not where that is to be
    sent *loosely*, or cannot be said so."""
    assert form.schema is not None
    closed = None if loosely else strict(form.schema)
    return (as_object(form.schema), False) if closed is None else (closed, True)


def answer_tool(form: Form) -> tuple[str, str, Mapping[str, Any]]:
    """Name, description and arguments of the tool that takes the answer: an object always, as tools demand."""
    assert form.schema is not None
    return ANSWER_TOOL, _ABOUT_TOOL, as_object(form.schema)


def answer_among(calls: tuple[ToolCall, ...], form: Form) -> str | None:
    """The answer as JSON, where one of *calls* is of the tool that takes it."""
    given = next((call for call in calls if call.name == ANSWER_TOOL), None)
    return None if given is None else unwrapped(given.arguments, form)


def unwrapped(text: str, form: Form) -> str:
    """The answer in *text* without the object that `as_object` has put around it."""
    if form.schema is None or not is_wrapped(form.schema):
        return text
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return text
    is_ours = isinstance(given, dict) and given.keys() == {WRAPPED}
    return json.dumps(given[WRAPPED], ensure_ascii=False) if is_ours else text

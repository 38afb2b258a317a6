"""What came back, read as what the node is to answer: text, JSON, or JSON that fits a schema.

Whoever has promised that an answer fits, it is checked here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agentdag.calls import Form
from agentdag.errors import ErrorKind, Failure, call_error

MOST_ERRORS = 10
_FENCED = re.compile(r"\A\s*```[\w-]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_SHORTEST_SEEN = 200
"""Characters of an answer that an error quotes."""


class Read(NamedTuple):
    """The value of an answer, or what is wrong with it, a line each."""

    value: Any
    errors: tuple[str, ...] = ()


Model = Callable[[Any], tuple[Any, tuple[str, ...]]]
"""Checks a value as a pydantic model does: the value with what the model adds, or what is wrong."""


class Reader:
    """Reads answers that are JSON, and where *schema* is given, fit it; *model* has the last word."""

    def __init__(self, schema: Mapping[str, Any] | None = None, model: Model | None = None) -> None:
        self.form = Form(schema)
        self._model = model
        self._validator: Any = None
        if schema is not None:
            from jsonschema import Draft202012Validator  # noqa: PLC0415 - heavy: only what has a schema pays for it
            from referencing import Registry  # noqa: PLC0415 - likewise

            self._validator = Draft202012Validator(schema, registry=Registry())

    def text(self, text: str) -> Read:
        """The value in *text*, which may stand in a code fence."""
        fenced = _FENCED.match(text)
        try:
            value = parsed(fenced[1] if fenced else text)
        except (ValueError, RecursionError) as error:
            return Read(None, (f"it is not JSON: {error}",))
        return self.value(value)

    def value(self, value: Any) -> Read:
        """*value*, if it fits."""
        if self._validator is not None:
            try:
                found = sorted(
                    self._validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path))
                )
            except RecursionError:
                return Read(None, ("it is nested too deeply",))
            if found:
                return Read(None, tuple(map(_told, found[:MOST_ERRORS])))
        if self._model is not None:
            value, errors = self._model(value)
            return Read(value, errors[:MOST_ERRORS])
        return Read(value)


def parsed(text: str) -> Any:
    """The value that *text* holds as JSON. Raises ValueError, or RecursionError; numbers must be finite."""
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def read_value(read: Read) -> Any:
    """What was read; raises RetryableError where the answer does not fit."""
    if read.errors:
        raise call_error(Failure(ErrorKind.INVALID_OUTPUT, complaint(read.errors)))
    return read.value


def objection(errors: tuple[str, ...]) -> str:
    """What a model is told whose answer does not fit."""
    listed = "\n".join(f"- {error}" for error in errors)
    return f"This answer cannot be used:\n{listed}\nAnswer again, in full, with JSON alone."


def complaint(errors: tuple[str, ...]) -> str:
    """What is wrong with an answer, in one line."""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"the answer does not fit `output`: {errors[0]}{more}"


def model_reader(model: type[Any]) -> tuple[Mapping[str, Any], Model]:
    """The JSON Schema of the pydantic *model*, and how it checks. Raises what pydantic raises of what is none."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - only what has such a schema pays for it
    from pydantic_core import to_jsonable_python  # noqa: PLC0415 - likewise

    adapter: TypeAdapter[Any] = TypeAdapter(model)

    def check(value: Any) -> tuple[Any, tuple[str, ...]]:
        try:
            return to_jsonable_python(adapter.validate_json(json.dumps(value)), by_alias=True), ()
        except ValidationError as error:
            return None, tuple(f"{_place(each['loc'])}: {each['msg']}" for each in error.errors(include_url=False))

    return adapter.json_schema(), check


def _told(error: Any) -> str:
    """A validator's error with its place."""
    message = error.message
    if len(message) > _SHORTEST_SEEN:
        message = f"{message[:_SHORTEST_SEEN]}…"
    return f"{_place(error.absolute_path)}: {message}"


def _place(path: Any) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number that JSON knows")


def _finite(word: str) -> float:
    number = float(word)
    if math.isinf(number):
        raise ValueError(f"{word} is too large a number")
    return number

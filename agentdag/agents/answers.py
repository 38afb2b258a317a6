"""What came back, read as what the node is to answer: text, JSON, or JSON that fits a schema.

Whoever has promised that an answer fits, it is checked here.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agentdag.agents.thoughts import answered
from agentdag.calls import Form
from agentdag.errors import ErrorKind, Failure, call_error

MOST_ERRORS = 10
_FENCE = re.compile(r"(```+|~~~+)")
_LANGUAGE = re.compile(r"\A[\w.+-]*")
"""What a fence says of what stands in it."""
_CLOSER = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_BLANK = "\ufeff \t\r\n\0"
MOST_LOOKED_AT = 2**20
"""Characters of an answer that are searched for JSON between other words."""
MOST_VALUES = 50
"""Different ones are looked at."""
MOST_TRIES = 200
"""Places in it at which a value may begin that turn out to begin none."""
MOST_TOLD_SCHEMA = 20_000
"""Characters of a schema that a model is told again."""
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
        """The value in *text*: all of it, or the one that fits between thoughts, fences and other words. Several that
        fit and differ are none."""
        text = text.strip(_BLANK)
        try:
            return self._unquoted(parsed(text))
        except (ValueError, RecursionError) as error:
            why = f"it is not JSON: {error}"
        said = answered(text).text
        for found in (_fenced(said), _values(said), _values(text[_after_thoughts(text) :])):
            reads = [self.value(value) for value in found]
            fitting = [read for read in reads if not read.errors]
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                return Read(None, (f"it holds {len(fitting)} different values that fit: give one of them, alone",))
            if len(reads) == 1:
                return reads[0]
        return Read(None, (why,))

    def _unquoted(self, value: Any) -> Read:
        """*value*; where it is a text that does not fit, the value that stands in it as JSON once more."""
        read = self.value(value)
        if not isinstance(value, str) or not read.errors:
            return read
        try:
            inner = self.value(parsed(value))
        except (ValueError, RecursionError):
            return read
        return read if inner.errors else inner

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


def _fenced(text: str) -> list[Any]:
    """The different values that fill a code fence in *text*."""
    found: list[Any] = []
    pieces = _FENCE.split(text[:MOST_LOOKED_AT])
    for number in range(2, len(pieces), 4):  # between an opening and a closing fence; every second piece is a fence
        with contextlib.suppress(ValueError, RecursionError):
            _add(found, parsed(_LANGUAGE.sub("", pieces[number]).strip(_BLANK)))
        if len(found) == MOST_VALUES:
            break
    return found


def _values(text: str) -> list[Any]:
    """The different objects and lists that stand in *text* between other words; none from within another."""
    found: list[Any] = []
    decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
    at, tries, text = 0, 0, text[:MOST_LOOKED_AT]
    while tries < MOST_TRIES and len(found) < MOST_VALUES:
        begins = [place for place in (text.find("{", at), text.find("[", at)) if place >= 0]
        if not begins:
            break
        at = min(begins)
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:  # what stands before the place of the error is part of what is broken
            at, tries = max(at + 1, error.pos), tries + 1
        except (ValueError, RecursionError):
            break
        else:
            _add(found, value)
    return found


def _add(found: list[Any], value: Any) -> None:
    if not any(value == other and type(value) is type(other) for other in found):
        found.append(value)


def _after_thoughts(text: str) -> int:
    """Where the last tag ends that closes thinking: a model may name that tag while it thinks."""
    closers = list(_CLOSER.finditer(text))
    return closers[-1].end() if closers else len(text)


def read_value(read: Read) -> Any:
    """What was read; raises RetryableError where the answer does not fit."""
    if read.errors:
        raise call_error(Failure(ErrorKind.INVALID_OUTPUT, complaint(read.errors)))
    return read.value


def objection(errors: tuple[str, ...], form: Form) -> str:
    """What a model is told whose answer does not fit: why, and what would, as its server may have ignored that."""
    listed = "\n".join(f"- {error}" for error in errors)
    said = f"This answer cannot be used:\n{listed}\nAnswer again, in full, with JSON alone."
    schema = "" if form.schema is None else json.dumps(form.schema, ensure_ascii=False)
    return f"{said} It must fit this JSON Schema:\n{schema}" if 0 < len(schema) <= MOST_TOLD_SCHEMA else said


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

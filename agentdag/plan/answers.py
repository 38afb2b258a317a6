"""What nodes are to answer, read from their `output`: schemas written out, in files, or of pydantic models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentdag.language.answers import JSON, SCHEMA, OutputSpec, schema_of
from agentdag.language.check import Report
from agentdag.language.scalars import CALL_NAME, describe
from agentdag.plan.drafts import Path_
from agentdag.plan.files import FileProblem, locate, read
from agentdag.plan.functions import FunctionProblem, Functions
from agentdag.plan.work import AS_JSON, AS_TEXT, Answer


@dataclass(frozen=True)
class Answers:
    """Reads the `output` of the nodes of one pipeline; problems go to the report."""

    report: Report
    functions: Functions
    folder: Path
    allowed: Sequence[Path]

    def answer(self, spec: OutputSpec | str, path: Path_) -> Answer:
        """What *spec*, which stands at *path*, asks for; where it is wrong, anything in JSON."""
        if isinstance(spec, str):
            return AS_JSON if spec == JSON else AS_TEXT
        if spec.fields is not None:
            return Answer(SCHEMA, schema_of(spec.fields))
        place = (*path, "schema")
        if isinstance(spec.schema_, str):
            return self._named(spec.schema_, place)
        assert spec.schema_ is not None
        return self._checked(spec.schema_, place)

    def _named(self, name: str, path: Path_) -> Answer:
        """The schema in a file, or of a pydantic model."""
        if CALL_NAME.fullmatch(name):
            module, model = name.split(":")
            try:
                self.functions.check(module, model)
            except FunctionProblem as problem:
                self.report.at(path, "AD207", str(problem), problem.hint)
            return Answer(SCHEMA, model=name, fields=self.functions.fields(module, model))
        try:
            text = read(locate(name, self.folder, self.allowed), name)
            schema = json.loads(text)
        except FileProblem as problem:
            self.report.at(path, "AD206", str(problem), problem.hint)
            return AS_JSON
        except (ValueError, RecursionError) as error:
            self.report.at(path, "AD211", f"`{name}` is not JSON: {error}")
            return AS_JSON
        return self._checked(schema, path)

    def _checked(self, schema: Any, path: Path_) -> Answer:
        problem = problem_of(schema)
        if problem is not None:
            self.report.at(path, "AD211", problem, "see https://json-schema.org/draft/2020-12")
            return AS_JSON
        return Answer(SCHEMA, schema)


def problem_of(schema: Any) -> str | None:
    """Why *schema* is no JSON Schema by which answers can be checked, or None."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - heavy: only pipelines with a schema pay for it
    from jsonschema.exceptions import SchemaError  # noqa: PLC0415 - likewise

    if not isinstance(schema, dict):
        return f"a JSON Schema is a mapping, not {describe(schema)}"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"this is no JSON Schema: {_told(error)}"
    except RecursionError:
        return "this JSON Schema is nested too deeply"
    foreign = next((each for each in _references(schema) if not each.startswith("#")), None)
    return None if foreign is None else f"this schema refers to {foreign}, and nothing is fetched: write it out"


def misfit(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Why *value* does not fit *schema*, or None."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - heavy: only pipelines with a schema pay for it

    error = next(iter(Draft202012Validator(schema).iter_errors(value)), None)
    return None if error is None else _told(error)


def _told(error: Any) -> str:
    """What jsonschema says is wrong, with its place."""
    where = ".".join(map(str, error.absolute_path))
    return f"`{where}`: {error.message}" if where else str(error.message)


def _references(part: Any) -> list[str]:
    """Every `$ref` in *part*."""
    found: list[str] = []
    left = [part]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            reference = each.get("$ref")
            found += [reference] if isinstance(reference, str) else []
            left += each.values()
        elif isinstance(each, list):
            left += each
    return found

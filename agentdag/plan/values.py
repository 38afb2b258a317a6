"""Values of inputs: what the file declares, and what an invocation gives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentdag.errors import UsageError
from agentdag.language.check import Report
from agentdag.language.findings import did_you_mean
from agentdag.language.scalars import IDENTIFIER, describe
from agentdag.language.spec import InputSpec
from agentdag.plan.files import FileProblem, locate, read
from agentdag.plan.plan import Plan

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "file": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def check_input_specs(inputs: Mapping[str, InputSpec], report: Report, folder: Path, allowed: Sequence[Path]) -> None:
    """Names, defaults and choices that do not fit."""
    for name, spec in inputs.items():
        path = ("inputs", name)
        if not IDENTIFIER.fullmatch(name):
            message = f"the input `{name}` is not letters, digits and _, beginning with a letter"
            report.at(path, "AD202", message, "templates write it as `inputs.<name>`", key=True)
        for index, choice in enumerate(spec.enum or ()):
            if not _fits(choice, spec.type):
                report.at((*path, "enum", index), "AD202", f"{describe(choice)} is not of type {spec.type}")
        if spec.required:
            continue
        if not _fits(spec.default, spec.type):
            message = f"the default of `{name}` is {describe(spec.default)}, not of type {spec.type}"
            report.at((*path, "default"), "AD202", message)
        elif spec.enum is not None and spec.default not in spec.enum:
            message = f"the default of `{name}` is not one of {_choices(spec)}"
            report.at((*path, "default"), "AD202", message, did_you_mean(str(spec.default), map(str, spec.enum)))
        elif spec.type == "file":
            try:
                locate(spec.default, folder, allowed)
            except FileProblem as problem:
                report.at((*path, "default"), "AD206", str(problem), problem.hint)


def resolve_inputs(plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every input: *given*, else its default. Raises UsageError that names each problem.

    An input of type `file` becomes the file's text. A given `FileText` is that text already.
    """
    problems: list[str] = []
    for name in given:
        if name not in plan.inputs:
            near = did_you_mean(name, plan.inputs)
            known = near or (f"known are {', '.join(plan.inputs)}" if plan.inputs else "this pipeline has none")
            problems.append(f"there is no input `{name}` ({known.rstrip('?')}{'?' if near else ''})")
    values: dict[str, Any] = {}
    for name, spec in plan.inputs.items():
        if name not in given and spec.required:
            about = f": {spec.description}" if spec.description else ""
            problems.append(f"the input `{name}` is required{about}")
            continue
        value = given.get(name, spec.default)
        try:
            values[name] = _resolve(name, spec, value, plan)
        except (FileProblem, ValueError) as problem:
            problems.append(str(problem))
    if problems:
        missing = [f"-i {name}=VALUE" for name, spec in plan.inputs.items() if name not in given and spec.required]
        raise UsageError("; ".join(problems), hint=" ".join(missing) or None)
    return values


def resolve_given(plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    """As `resolve_inputs`, of a pipeline that a node of another runs: a file is given as its text."""
    texts = {
        name: FileText(value)
        for name, value in given.items()
        if plan.inputs[name].type == "file" and isinstance(value, str)
    }
    return resolve_inputs(plan, {**given, **texts})


class FileText(str):
    """The text of a file that the user named on the command line: read already, wherever it was."""

    __slots__ = ()


def parse_value(text: str, spec: InputSpec | None) -> Any:
    """The value that *text*, typed on a command line, stands for; JSON where the type is not text."""
    if spec is None or spec.type in {"string", "file"}:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _resolve(name: str, spec: InputSpec, value: Any, plan: Plan) -> Any:
    if spec.default is None and value is None and not spec.required:
        return None
    if not _fits(value, spec.type):
        raise ValueError(f"the input `{name}` is of type {spec.type}, not {describe(value)}")
    if spec.enum is not None and value not in spec.enum:
        raise ValueError(f"the input `{name}` is one of {_choices(spec)}, not {describe(value)}")
    if spec.type == "file" and not isinstance(value, FileText):
        return read(locate(value, plan.path.parent, plan.allowed), value)
    return str(value) if isinstance(value, FileText) else value


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, _TYPES[kind]) and not (isinstance(value, float) and not math.isfinite(value))


def _choices(spec: InputSpec) -> str:
    return ", ".join(str(choice) for choice in spec.enum or ())

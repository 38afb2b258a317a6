"""`run`: what was typed, made into a session."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentdag.cli.check import report
from agentdag.cli.watch import Shown, watch
from agentdag.errors import SpecError, UsageError
from agentdag.events import Exit
from agentdag.language.document import decode
from agentdag.language.findings import did_you_mean
from agentdag.plan.files import MAX_FILE_BYTES
from agentdag.plan.plan import Plan
from agentdag.plan.values import FileText, parse_value
from agentdag.session import BatchSession, BatchSpec, Options, Session, compile_pipeline, keeper_of
from agentdag.store.keeper import Keeper, store_of
from agentdag.views.lines import writer


@dataclass(frozen=True, slots=True, kw_only=True)
class RunArguments:
    """What was typed."""

    pipeline: Path
    inputs: Sequence[str]
    inputs_file: str | None
    options: Options
    shown: Shown
    dry_run: bool
    allowed: tuple[Path, ...]
    store: Path | None
    no_store: bool
    batch: Path | None
    max_failures: int | None


def run_pipeline(arguments: RunArguments, *, began: float) -> int:
    """Run it and print what it gave; the exit code. *began* is when the program started."""
    shown = arguments.shown
    compiled = compile_pipeline(arguments.pipeline, allowed=arguments.allowed)
    report(compiled.findings, shown.color)
    if compiled.plan is None:
        return Exit.USAGE
    plan = compiled.plan
    given = given_inputs(plan, arguments.inputs, arguments.inputs_file, pipeline=arguments.pipeline)
    if arguments.max_failures is not None and arguments.batch is None:
        raise UsageError("--max-failures counts the rows of a batch", hint="add --batch FILE")
    if arguments.dry_run:
        if shown.output is not None:
            raise UsageError("a dry run has no outputs to write", hint="leave -o out; what it tells goes to stdout")
        if arguments.batch is not None:
            raise UsageError("a dry run tells of one run", hint="give it the inputs of one row with -i, and no --batch")
        from agentdag.cli.dry import dry_run

        return dry_run(plan, given, arguments.options, as_json=shown.format == "json")
    if arguments.batch is not None:
        return _run_batch(plan, given, arguments, arguments.batch)
    keeper = _keeper(plan, arguments)
    session = Session(plan, given, options=shown.options(arguments.options), keeper=keeper)
    return watch(session, shown, began)


def _run_batch(plan: Plan, given: Mapping[str, Any], arguments: RunArguments, rows: Path) -> int:
    from agentdag.cli.batch import check_shown, watch_batch

    shown = arguments.shown
    check_shown(shown)
    spec = BatchSpec(rows=rows, output=shown.output, common=given, max_failures=arguments.max_failures)
    session = BatchSession(
        plan,
        spec,
        options=replace(arguments.options, stream=False),
        keeper=_keeper(plan, arguments),
        print_line=writer(sys.stdout),
    )
    return watch_batch(session, shown)


def _keeper(plan: Plan, arguments: RunArguments) -> Keeper | None:
    """The store, unless the run is not to be kept."""
    if arguments.no_store:
        if arguments.options.select or arguments.options.cache:
            raise UsageError("--select and --cache read earlier runs from the store", hint="leave --no-store out")
        return None
    return keeper_of(plan, store_of(plan.path, arguments.store, os.environ))


def given_inputs(
    plan: Plan, inputs: Sequence[str], inputs_file: str | None, *, pipeline: Path | None = None
) -> dict[str, Any]:
    """Inputs from `--inputs`, then from `-i`, which win."""
    given: dict[str, Any] = {}
    from_stdin = [str(pipeline) == "-", inputs_file == "-"]
    from_stdin += [text.endswith("=@-") for text in inputs]
    if sum(from_stdin) > 1:
        raise UsageError("stdin can be read only once", hint="give the others as files")
    if inputs_file is not None:
        given |= _inputs_object(inputs_file)
    for text in inputs:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"-i {text} has no `=`", hint="write -i NAME=VALUE or -i NAME=@FILE")
        if name not in plan.inputs:
            hint = did_you_mean(name, plan.inputs) or f"known are {', '.join(plan.inputs) or 'none'}"
            raise UsageError(f"there is no input `{name}`", hint=hint)
        spec = plan.inputs[name]
        if value.startswith("@"):
            read = _file_text(value[1:])
            given[name] = FileText(read) if spec.type == "file" else parse_value(read, spec)
        else:
            given[name] = parse_value(value, spec)
    return given


def _inputs_object(name: str) -> dict[str, Any]:
    text = _file_text(name)
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--inputs {name} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise UsageError(f"--inputs {name} is no JSON object", hint='write {"name": value}')
    return given


def _file_text(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return decode(data, name, MAX_FILE_BYTES)
    except SpecError as error:
        raise UsageError(f"cannot read {name}: {error.findings[0].message}") from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror or error}") from None

"""`run`: one pipeline, watched and interrupted by a person or by CI."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentdag.cli.check import report, wants_color
from agentdag.cli.main import USAGE
from agentdag.errors import UsageError
from agentdag.events import Event, NodeSettled, Observer, RunFinished
from agentdag.language.document import decode
from agentdag.language.findings import did_you_mean
from agentdag.plan.plan import Plan
from agentdag.plan.values import FileText, parse_value
from agentdag.session import Options, RunResult, Session, compile_pipeline
from agentdag.views.board import Board
from agentdag.views.lines import JsonLines, Lines, writer
from agentdag.views.words import inert_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class RunArguments:
    """What was typed."""

    pipeline: Path
    inputs: Sequence[str]
    inputs_file: str | None
    options: Options
    format: str
    output: Path | None
    quiet: bool
    debug: bool
    color: str
    allowed: tuple[Path, ...]


def run_pipeline(arguments: RunArguments, *, began: float) -> int:
    """Run it and print what it gave; the exit code. *began* is when the program started."""
    compiled = compile_pipeline(arguments.pipeline, allowed=arguments.allowed)
    report(compiled.findings, arguments.color)
    if compiled.plan is None:
        return USAGE
    if arguments.debug:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s: %(message)s")
    plan = compiled.plan
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        raise UsageError(f"the folder of {arguments.output} does not exist", hint="create it first")
    given = _given_inputs(plan, arguments)
    view = _view(arguments)
    ending = _Ending()
    board = Board.of((node.id, node.wave, None if node.model is None else str(node.model)) for node in plan.nodes)
    observers: list[Observer] = [board, ending]
    options = replace(arguments.options, stream=view == "table")
    if view == "json":
        observers.append(JsonLines(sys.stdout))
    elif view == "plain":
        observers.append(Lines(sys.stderr, max(len(node.id) for node in plan.nodes)))
    live = None
    if view == "table" and sys.stderr.isatty():
        from agentdag.views.live import LiveTable

        live = LiveTable(board, sys.stderr, color=wants_color(sys.stderr, arguments.color))
        observers.append(live)
    session = Session(plan, given, options=options, observers=tuple(observers))
    result = asyncio.run(_watched(session, live, began))
    for observer, error in session.observers.dropped:
        writer(sys.stderr)(f"warning: {type(observer).__name__} stopped: {type(error).__name__}: {error}\n")
    if view != "json":
        _close(arguments, result, board, ending, view)
    return result.exit_code


async def _watched(session: Session, live: Any, began: float) -> RunResult:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _interrupt, session, live, number)
    with _prints_to_stderr() if live is None else live.capturing_prints():
        return await session.run(began=began)


def _interrupt(session: Session, live: Any, number: int) -> None:
    session.interrupt(number)
    text = "interrupted: what is in flight has 10 s to finish; again stops at once\n"
    if session.interrupts == 1:
        live.above(text) if live is not None else writer(sys.stderr)(text)


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """What functions print goes to stderr: stdout is for results alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


class _Ending:
    """Keeps what the closing words are made of."""

    def __init__(self) -> None:
        self.settled: list[NodeSettled] = []
        self.finished: RunFinished | None = None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, NodeSettled):
            self.settled.append(event)
        elif isinstance(event, RunFinished):
            self.finished = event


def _view(arguments: RunArguments) -> str:
    """table, plain, json or none."""
    if arguments.format == "json":
        return "json"
    if arguments.quiet:
        return "none"
    if arguments.format != "auto":
        return arguments.format
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    return "table" if sys.stderr.isatty() and not dumb else "plain"


def _given_inputs(plan: Plan, arguments: RunArguments) -> dict[str, Any]:
    """Inputs from `--inputs`, then from `-i`, which win."""
    given: dict[str, Any] = {}
    if arguments.inputs_file is not None:
        given |= _inputs_object(arguments.inputs_file)
    for text in arguments.inputs:
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
    text = sys.stdin.read() if name == "-" else _file_text(name)
    try:
        given = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--inputs {name} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise UsageError(f"--inputs {name} is no JSON object", hint='write {"name": value}')
    return given


def _file_text(name: str) -> str:
    try:
        return decode(Path(name).read_bytes(), name, 16 * 2**20)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror or error}") from None


def _close(arguments: RunArguments, result: RunResult, board: Board, ending: _Ending, view: str) -> None:
    """The closing words on stderr, the outputs on stdout or in the file that was asked for."""
    from rich.console import Console

    from agentdag.views.summary import summary
    from agentdag.views.table import render

    color = wants_color(sys.stderr, arguments.color)
    console = Console(stderr=True, no_color=not color, highlight=False, soft_wrap=True, markup=False, emoji=False)
    with contextlib.suppress(OSError):
        if view == "table":
            height = max(12, console.size.height - 8)
            for line in render(board, now=result.elapsed_s, width=console.width, height=height)[:-2]:
                console.print(line)
            console.print()
        if ending.finished is not None and (not arguments.quiet or result.exit_code):
            for line in summary(ending.finished, ending.settled):
                console.print(line)
    if arguments.output is not None:
        _write_file(arguments.output, result)
    else:
        writer(sys.stdout)(_output_text(result, terminal=sys.stdout.isatty()))


def _output_text(result: RunResult, *, terminal: bool) -> str:
    """One output as it is; several as a JSON object, or under headings on a terminal."""
    outputs = result.outputs
    if not outputs or all(value is None for value in outputs.values()):
        return ""
    if len(outputs) == 1:
        (value,) = outputs.values()
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        return _ended("\n" + inert_lines(text) if terminal else text)
    if not terminal:
        return json.dumps(dict(outputs), indent=2, ensure_ascii=False) + "\n"
    parts = []
    for name, value in outputs.items():
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        parts.append(f"\n== {name} ==\n{_ended(inert_lines(text))}")
    return "".join(parts)


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _write_file(path: Path, result: RunResult) -> None:
    """The outputs in *path*, whole or not at all; as JSON where its name ends so."""
    if path.suffix == ".json":
        text = json.dumps(dict(result.outputs), indent=2, ensure_ascii=False) + "\n"
    else:
        text = _output_text(result, terminal=False)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None

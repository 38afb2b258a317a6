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
from agentdag.cli.children import end_children
from agentdag.errors import SpecError, UsageError
from agentdag.events import BarrierOpened, Event, Exit, NodeSettled, Observer, RunFinished
from agentdag.language.document import decode
from agentdag.language.findings import did_you_mean
from agentdag.plan.files import MAX_FILE_BYTES
from agentdag.plan.plan import Plan
from agentdag.plan.values import FileText, parse_value
from agentdag.session import Options, RunResult, Session, compile_pipeline, planned, run_loop
from agentdag.views.board import Board
from agentdag.views.lines import JsonLines, Lines, writer
from agentdag.views.words import inert_lines

_CLOSING_LINES = 64
"""Lines that the closing table may have, however small the screen: it stays in the scrollback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunArguments:
    """What was typed."""

    pipeline: Path
    inputs: Sequence[str]
    inputs_file: str | None
    options: Options
    format: str
    output: Path | None
    dry_run: bool
    quiet: bool
    debug: bool
    color: str
    allowed: tuple[Path, ...]


def run_pipeline(arguments: RunArguments, *, began: float) -> int:
    """Run it and print what it gave; the exit code. *began* is when the program started."""
    compiled = compile_pipeline(arguments.pipeline, allowed=arguments.allowed)
    report(compiled.findings, arguments.color)
    if compiled.plan is None:
        return Exit.USAGE
    if arguments.debug:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s: %(message)s")
    given = _given_inputs(compiled.plan, arguments)
    if arguments.dry_run:
        if arguments.output is not None:
            raise UsageError("a dry run has no outputs to write", hint="leave -o out; what it tells goes to stdout")
        from agentdag.cli.dry import dry_run

        return dry_run(compiled.plan, given, arguments.options, as_json=arguments.format == "json")
    if arguments.output is not None:
        _check_output(arguments.output)
    return _run(compiled.plan, given, arguments, began)


def _run(plan: Plan, given: dict[str, Any], arguments: RunArguments, began: float) -> int:
    view = _view(arguments)
    ending = _Ending()
    board = _board(plan, arguments.options)
    observers: list[Observer] = [board, ending]
    options = replace(arguments.options, stream=view in {"table", "json"})
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
    result = run_loop(_watched(session, live, began))
    if session.interrupts:
        end_children()
    for observer, error in session.observers.dropped:
        if isinstance(observer, JsonLines):
            raise error
    if view != "json":
        _tell_end(arguments, result, board, ending, view)
    if arguments.output is not None:
        _write_file(arguments.output, result)
    elif view != "json":
        writer(sys.stdout)(_output_text(result, terminal=sys.stdout.isatty()))
    return result.exit_code


def _board(plan: Plan, options: Options) -> Board:
    """The board of *plan*, with how long it is expected to take under this run's cap and schedule."""
    nodes = ((node.id, node.wave, None if node.model is None else str(node.model)) for node in plan.nodes)
    return Board.of(nodes, expected_s=planned(plan, options).takes_s())


async def _watched(session: Session, live: Any, began: float) -> RunResult:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _interrupt, session, live, number)
    with _prints_to_stderr() if live is None else live.capturing_prints():
        return await session.run(began=began)


def _interrupt(session: Session, live: Any, number: int) -> None:
    session.interrupt(number)
    text = "interrupted: what is in flight has 10 s to finish; again stops at once"
    if session.interrupts == 1:
        live.note(text) if live is not None else writer(sys.stderr)(text + "\n")


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """What functions print goes to stderr: stdout is for results alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


class _Ending:
    """Keeps what the closing words are made of."""

    def __init__(self) -> None:
        self.settled: list[NodeSettled] = []
        self.joins: list[BarrierOpened] = []
        self.finished: RunFinished | None = None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, NodeSettled):
            self.settled.append(event)
        elif isinstance(event, BarrierOpened):
            self.joins.append(event)
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
    from_stdin = [str(arguments.pipeline) == "-", arguments.inputs_file == "-"]
    from_stdin += [text.endswith("=@-") for text in arguments.inputs]
    if sum(from_stdin) > 1:
        raise UsageError("stdin can be read only once", hint="give the others as files")
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


def _tell_end(arguments: RunArguments, result: RunResult, board: Board, ending: _Ending, view: str) -> None:
    """The closing words, on stderr."""
    from rich.console import Console

    from agentdag.views.summary import summary
    from agentdag.views.table import render

    color = wants_color(sys.stderr, arguments.color)
    console = Console(stderr=True, no_color=not color, highlight=False, soft_wrap=True, markup=False, emoji=False)
    with contextlib.suppress(OSError):
        if view == "table":
            height = max(_CLOSING_LINES, console.size.height - 8)
            for line in render(board, now=result.elapsed_s, width=console.width, height=height, footer=False):
                console.print(line)
            console.print()
        if ending.finished is not None and (not arguments.quiet or result.exit_code):
            for line in summary(ending.finished, ending.settled, ending.joins):
                console.print(line)


def _output_text(result: RunResult, *, terminal: bool) -> str:
    """One output as it is; several as a JSON object, or under headings on a terminal.

    Where a run did not get to its outputs, the answers of what did succeed are printed in their place.
    """
    outputs = {name: value for name, value in result.outputs.items() if value is not None or not terminal}
    if all(value is None for value in outputs.values()):
        outputs = {name: node.output for name, node in result.nodes.items() if node.output is not None}
    if not outputs:
        return ""
    if len(outputs) == 1:
        (value,) = outputs.values()
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        return _ended("\n" + inert_lines(text) if terminal else text)
    if not terminal:
        return json.dumps(outputs, indent=2, ensure_ascii=False) + "\n"
    parts = []
    for name, value in outputs.items():
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        parts.append(f"\n== {name} ==\n{_ended(inert_lines(text))}")
    return "".join(parts)


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _check_output(path: Path) -> None:
    """Refuse, before any call, an output file that could not be written after it."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"the folder of {path} does not exist", hint="create it first")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageError(f"{path} may not be written")


def _write_file(path: Path, result: RunResult) -> None:
    """The outputs in *path*, whole or not at all; as JSON where its name ends so.

    A link is followed and the file's mode kept; what is no regular file (a pipe, a device) is written to directly.
    """
    if path.suffix == ".json":
        text = json.dumps(dict(result.outputs), indent=2, ensure_ascii=False) + "\n"
    else:
        text = _output_text(result, terminal=False)
    data = text.encode("utf-8", "backslashreplace")
    target = path.resolve()
    if target.exists() and not target.is_file():
        with target.open("wb") as stream:
            stream.write(data)
        return
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        Path(temporary).chmod(mode)
        Path(temporary).replace(target)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

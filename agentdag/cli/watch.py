"""A session watched and interrupted by a person or by CI: its views, its signals, its closing words, its outputs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentdag.cli.check import wants_color
from agentdag.cli.children import end_children
from agentdag.errors import UsageError
from agentdag.events import BarrierOpened, Event, NodeSettled, NodeWarned, Observer, RunFinished, RunStatus
from agentdag.plan.flat import flat
from agentdag.plan.plan import PlanNode
from agentdag.plan.work import PromptWork
from agentdag.session import BatchSession, Options, RunResult, Session, run_loop
from agentdag.store.keeper import stores_around
from agentdag.views.board import Board
from agentdag.views.lines import JsonLines, Lines, OutputError, writer
from agentdag.views.words import count, inert_lines, names

if TYPE_CHECKING:
    from agentdag.views.live import Draw, LiveTable, Watched
    from agentdag.views.summary import About

T = TypeVar("T")
B = TypeVar("B", bound="Watched")
_CLOSING_LINES = 64
"""Lines that the closing table may have, however small the screen: it stays in the scrollback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How a run is to be shown. *output* is the file that its outputs go to, instead of to stdout."""

    format: str = "auto"
    output: Path | None = None
    quiet: bool = False
    debug: bool = False
    color: str = "auto"

    @property
    def view(self) -> str:
        """table, plain, json or none."""
        if self.format == "json":
            return "json"
        if self.quiet:
            return "none"
        if self.format != "auto":
            return self.format
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        return "table" if sys.stderr.isatty() and not dumb else "plain"

    def begin(self) -> None:
        """With --debug, tell what the SDKs log."""
        if self.debug:
            logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s: %(message)s")

    @property
    def paints(self) -> bool:
        """Whether a terminal is to show it live."""
        return self.view == "table" and sys.stderr.isatty()

    def live(self, board: B, draw: Draw[B]) -> LiveTable[B]:
        """The live table of *board*."""
        from agentdag.views.live import LiveTable

        return LiveTable(board, sys.stderr, color=wants_color(sys.stderr, self.color), draw=draw)

    def options(self, options: Options) -> Options:
        """*options*, with streaming: whether anybody looks changes nothing in what is asked."""
        return replace(options, stream=True)


def watch(session: Session, shown: Shown, began: float) -> int:
    """Run *session* to its end and print what it gave; the exit code. *began* is when the program started."""
    shown.begin()
    if shown.output is not None:
        check_output(shown.output)
    view = shown.view
    ending = _Ending()
    board = _board(session)
    observers: list[Observer] = [board, ending]
    if view == "json":
        observers.append(JsonLines(sys.stdout))
    elif view == "plain":
        observers.append(Lines(sys.stderr, max(_wide(name, node) for name, _, node in session.plan.walk())))
    live = None
    if shown.paints:
        from agentdag.views.table import render

        live = shown.live(board, render)
        observers.append(live)
    session.observers.add(*observers)
    result = run_loop(attended(session, live, lambda: session.run(began=began)))
    if session.interrupts:
        end_children()
    for observer, error in session.observers.dropped:
        if isinstance(observer, JsonLines):
            raise error
    if view != "json":
        _tell_end(shown, session, result, board, ending)
    if shown.output is not None:
        try:
            _write_file(shown.output, result)
        except OSError as error:
            raise OutputError(*error.args) from error
    elif view != "json":
        writer(sys.stdout)(_output_text(result, terminal=sys.stdout.isatty()))
    return result.exit_code


def _wide(name: str, node: PlanNode) -> int:
    """Letters of *name*, and of the index of its first items."""
    return len(name) + (len("[99]") if node.foreach is not None else 0)


def _about(session: Session) -> About:
    """What the closing words need to know of *session*."""
    from agentdag.views.summary import About

    tiers = session.plan.tiers
    top = f"the top tier ({tiers[-1].name}, {tiers[-1].model})" if len(tiers) > 1 else None
    if session.stage.options.real:
        return About(top_tier=top)
    nodes = [(name, node) for name, _, node in session.plan.walk() if node.is_played and node.body is None]
    played = [name for name, node in nodes if not isinstance(node.work, PromptWork)]
    return About(True, top, played, [name for name, node in nodes if node.save is not None])


def _board(session: Session) -> Board:
    """The board of the run, with how long it is expected to take under its cap and schedule."""
    plan = session.plan
    waves = {"": 0}
    nodes = []
    for name, _, node in plan.walk():
        waves[name] = waves[name.rpartition(".")[0]] + node.wave
        nodes.append((name, waves[name], None if node.model is None else str(node.model)))
    return Board.of(nodes, expected_s=flat(plan.lasting(dict.fromkeys(session.answered, 0.0))).takes_s())


async def attended(session: Session | BatchSession, live: Any, main: Callable[[], Awaitable[T]]) -> T:
    """What *main* gives, with signals that interrupt *session* and prints that spoil nothing."""
    loop, heard = asyncio.get_running_loop(), 0

    def hear(number: int, _frame: object) -> None:
        nonlocal heard
        heard += 1
        if heard > 1:  # a third says nothing more
            _listen(signal.SIG_IGN)
        if not loop.is_closed():  # else the run is over, and its last words are being said
            loop.call_soon_threadsafe(_interrupt, session, live, number)

    _listen(hear)  # outlasts the loop, which would give the signals back while it closes
    with _prints_to_stderr() if live is None else live.capturing_prints():
        return await main()


def _listen(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _interrupt(session: Session | BatchSession, live: Any, number: int) -> None:
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
        self.warnings: list[NodeWarned] = []
        self.finished: RunFinished | None = None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, NodeSettled):
            self.settled.append(replace(event, output=None))
        elif isinstance(event, BarrierOpened):
            self.joins.append(event)
        elif isinstance(event, NodeWarned):
            self.warnings.append(event)
        elif isinstance(event, RunFinished):
            self.finished = event


def _tell_end(shown: Shown, session: Session, result: RunResult, board: Board, ending: _Ending) -> None:
    """The closing words, on stderr."""
    from rich.console import Console

    from agentdag.views.summary import summary
    from agentdag.views.table import render

    color = wants_color(sys.stderr, shown.color)
    console = Console(stderr=True, no_color=not color, highlight=False, soft_wrap=True, markup=False, emoji=False)
    with contextlib.suppress(OSError):
        if shown.view == "table":
            height = max(_CLOSING_LINES, console.size.height - 8)
            for line in render(board, now=result.elapsed_s, width=console.width, height=height, footer=False):
                console.print(line)
            console.print()
        if ending.finished is not None and (not shown.quiet or result.exit_code):
            about = _about(session)._replace(warnings=ending.warnings)
            for line in summary(ending.finished, ending.settled, ending.joins, about):
                console.print(line)
            if unused := session.stage.unused_recordings:
                console.print(f"replay  {count(len(unused), 'recording')} not asked for: {names(unused)}")
            for trouble in store_trouble(session):
                console.print(trouble)
            if result.status is not RunStatus.SUCCEEDED and (command := resume_command(session)) is not None:
                more = " --budget ..." if result.status is RunStatus.OUT_OF_BUDGET else ""
                console.print(f"resume  {command}{more}")


def store_trouble(session: Session | BatchSession) -> list[str]:
    """Why the store could not be written, and where what it did not take is kept."""
    keeper = session.stage.keeper
    journal = None if keeper is None else keeper.journal
    if journal is None or journal.broken is None:
        return []
    kept = f"kept in {journal.spilled}, from where a resume takes it in" if journal.spilled else "lost"
    return [f"store   {journal.broken}", f"        what it did not take is {kept}"]


def resume_command(session: Session | BatchSession) -> str | None:
    """What to type to go on with a run, where it is on record."""
    if session.stage.keeper is None:
        return None
    folder = session.stage.keeper.folder
    found = any(store.resolve() == folder.resolve() for store in stores_around(None, os.environ, Path()))
    where = "" if found else f" --store {shlex.quote(str(folder))}"
    return f"agentdag resume {session.id}{where}"


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


def check_output(path: Path) -> None:
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

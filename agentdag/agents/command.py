"""A node that runs a program: no shell, a process group of its own, and nothing of it left behind.

What it prints is the output. A program that is cut off is asked to end, with its children, and killed after a while.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agentdag.agents.agent import Outcome, Task
from agentdag.agents.answers import Reader, read_value
from agentdag.errors import ErrorKind, Failure, FinalError
from agentdag.limits.turn import Attempt

MAX_OUTPUT_BYTES = 32 * 2**20
KEPT_STDERR_BYTES = 16 * 2**10
TOLD_STDERR = 500
"""Characters of what a program said last, in the error of its failure."""
KILLED_AFTER_S = 5.0
"""How long a group that was asked to end may take."""
LINGERS_S = 2.0
"""How long children that hold the output open may do so after the program itself has ended."""


class Finished(NamedTuple):
    """How a program ended: its exit code (below 0: the signal that killed it), what it printed, and its last words."""

    code: int
    output: bytes
    said: str


class _TooMuchError(Exception):
    """A program printed more than `MAX_OUTPUT_BYTES`."""


class _Program(asyncio.SubprocessProtocol):
    """One program at work: what it prints, and when it and its output have ended."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.silent: asyncio.Future[None] = loop.create_future()
        """Done once nobody can print any more; of too much, an error."""
        self._printed: list[bytes] = []
        self._room = MAX_OUTPUT_BYTES
        self._said = b""
        self._open = {1, 2}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self.transport = transport
        self.group = transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:  # standard error
            self._said = (self._said + data)[-KEPT_STDERR_BYTES:]
            return
        self._room -= len(data)
        if self._room >= 0:
            self._printed.append(data)
        elif not self.silent.done():
            self.silent.set_exception(_TooMuchError())
            self._printed.clear()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's protocol
        self._open.discard(fd)
        if not self._open and not self.silent.done():
            self.silent.set_result(None)

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(self.transport.get_returncode() or 0)

    async def finished(self, stdin: bytes | None) -> Finished:
        """Give it what it reads, and return when it has ended; children may hold its output open a little longer."""
        if stdin is not None:
            pipe = self.transport.get_pipe_transport(0)
            assert isinstance(pipe, asyncio.WriteTransport)
            pipe.write(stdin)
            pipe.close()
        ends: set[asyncio.Future[Any]] = {self.exited, self.silent}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self.silent.done():
            await self.silent
        code = await self.exited
        await asyncio.wait({self.silent}, timeout=LINGERS_S)
        if self.silent.done():
            await self.silent
        return Finished(code, b"".join(self._printed), self._said.decode("utf-8", "replace"))


def search_path() -> str:
    """Where programs are looked for: those of the environment that agentdag itself runs in first."""
    return os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)))  # noqa: PTH120 - plain


class Programs:
    """The programs of a run. Whatever still runs when it is closed is killed."""

    def __init__(self) -> None:
        self._alive: set[_Program] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def run(self, argv: tuple[str, ...], stdin: bytes | None, env: Mapping[str, str], cwd: Path) -> Finished:
        """Run *argv* to its end. Raises OSError or ValueError where it cannot be started."""
        _, program = await asyncio.get_running_loop().subprocess_exec(
            _Program,
            *argv,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        self._alive.add(program)
        try:
            return await program.finished(stdin)
        finally:
            self._end(program)

    def _end(self, program: _Program) -> None:
        """Ask what is left of the group of *program* to end, and kill it where it does not."""
        if not _signal_group(program.group, signal.SIGTERM) and program.exited.done():
            self._ended(program)
            return
        ending = asyncio.create_task(self._killed(program), name=f"end of process {program.group}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _killed(self, program: _Program) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + KILLED_AFTER_S
        await asyncio.wait({program.exited}, timeout=KILLED_AFTER_S)
        while loop.time() < until and _signal_group(program.group, 0):  # noqa: ASYNC110 - see below
            await asyncio.sleep(0.05)  # nobody tells when somebody else's children end
        _signal_group(program.group, signal.SIGKILL)
        await program.exited
        self._ended(program)

    def _ended(self, program: _Program) -> None:
        self._alive.discard(program)
        program.silent.cancel()
        program.transport.close()

    async def aclose(self) -> None:
        """Kill what still runs, and wait until it is gone."""
        for program in self._alive:
            _signal_group(program.group, signal.SIGKILL)
        if self._ending:
            await asyncio.wait(self._ending)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to every process of *group*; whether there is any."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # one of them has become somebody else's
    return True


@dataclass(frozen=True, slots=True)
class CommandAgent:
    """Runs *argv* with *programs*; what it prints must be what *reader* reads, where there is one.

    *redact* takes secrets out of a text.
    """

    programs: Programs
    argv: tuple[str, ...]
    stdin: str | None
    env: Mapping[str, str]
    cwd: Path
    redact: Callable[[str], str]
    reader: Reader | None = None

    async def perform(self, task: Task) -> Outcome:
        said = ""

        async def act(_attempt: Attempt) -> object:
            nonlocal said
            finished = await self._ran()
            said = finished.said
            if finished.code:
                raise FinalError(Failure(ErrorKind.COMMAND, _told(finished)))
            text = self.redact(finished.output.decode("utf-8", "replace")).replace("\r\n", "\n")
            return text.removesuffix("\n") if self.reader is None else read_value(self.reader.text(text))

        call = await task.call(act)
        return Outcome(call.attempts, call.latency_s, call.result, call.failure, stderr=said or None)

    async def _ran(self) -> Finished:
        stdin = None if self.stdin is None else self.stdin.encode("utf-8", "surrogatepass")
        try:
            return await self.programs.run(self.argv, stdin, self.env, self.cwd)
        except _TooMuchError:
            message = f"printed more than {MAX_OUTPUT_BYTES // 2**20} MiB"
            raise FinalError(Failure(ErrorKind.COMMAND, message, final=True)) from None
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            missing = not self.cwd.is_dir()
            what = f"cannot run in {self.cwd}" if missing else f"cannot run {self.argv[0]}"
            raise FinalError(Failure(ErrorKind.COMMAND, f"{what}: {why}", final=True)) from None


def _told(finished: Finished) -> str:
    """How a program failed, and what it said last."""
    if finished.code < 0:
        try:
            how = f"was killed by {signal.Signals(-finished.code).name}"
        except ValueError:
            how = f"was killed by signal {-finished.code}"
    else:
        how = f"ended with exit code {finished.code}"
    last = " ".join(finished.said.split())
    return f"{how}: {'…' if len(last) > TOLD_STDERR else ''}{last[-TOLD_STDERR:]}" if last else how

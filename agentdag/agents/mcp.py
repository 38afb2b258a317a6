"""MCP servers: started when a run needs them, reached again when they are lost, ended with the run.

Each session is entered and left in one task of its own, as the SDK demands. A call that was out when its server died
is told to the model as a failed tool; a server that cannot be reached at all fails the attempt of whoever needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agentdag.agents.command import search_path
from agentdag.agents.mcp_wire import Program, over_http, over_pipes, started
from agentdag.agents.order import Effects
from agentdag.agents.toolbox import Tool, failed
from agentdag.calls import ToolForm
from agentdag.errors import CallError, ErrorKind, Failure, RetryableError, call_error

STARTS, STARTS_WITHIN_S = 3, 60.0
"""How often a program is started within so long: what dies more often is left alone until the time is over."""
START_S = 30.0
"""How long a server may take to start and to tell its tools, where the file says nothing."""
CLOSE_S = 8.0
"""How long its end may take: it is waited for, asked, and killed."""
MAX_PAGES = 100
MAX_NAME = 64
TOLD_STDERR = 500
TOLD_ERROR = 300
_NO_WORDS = "Server returned an error response"
"""What the SDK says of an error over HTTP whose status and body it keeps to itself."""
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_FORGOTTEN = frozenset({400, 404})
"""How HTTP servers answer to a session that they know no more."""
ANSWERS_WITHIN_S = 5.0
"""How long a server that has let a call run out may take to answer a ping."""
_INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ")
logging.getLogger("mcp").addHandler(logging.NullHandler())  # what goes wrong is told as the node's error


@dataclass(frozen=True, slots=True)
class McpSettings:
    """How to reach one server: a program that speaks over its pipes, or an address. Secrets are filled in."""

    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    start_s: float = START_S


class UnreachableError(RetryableError):
    """A server cannot be reached: not the tool has failed, but the attempt of whoever needs it."""


@dataclass(slots=True)
class _Session:
    """One connection. `ready` gives the SDK's client and the tools that were there; `over` ends it."""

    ready: asyncio.Future[tuple[Any, list[Any]]]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    status: int | None = None
    """The last error with which an HTTP server has answered."""
    forgotten: bool = False
    """Whether that was to a request which named the session: the server knows it no more."""
    calls: int = 0
    """How many are out."""
    gone: bool = False
    """Whether nothing more can come from the server."""
    broken: BaseException | None = None
    """Why it ended, where it did so by itself."""

    def ends(self) -> None:
        self.gone = True

    def refused(self, status: int, in_session: bool) -> None:  # noqa: FBT001 - as the transport tells it
        self.status = status
        self.forgotten |= in_session and status in _FORGOTTEN


class McpServer:
    """One server. `tools` waits until it is there; calls from any task are fine."""

    def __init__(self, settings: McpSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._now = now
        self._session: _Session | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._starts: deque[float] = deque(maxlen=STARTS)
        self._words = ""
        """What it has said last, where it failed."""

    def start(self) -> None:
        """Start it, unless that was done."""
        if self._session is None:
            self._open()

    def _open(self) -> _Session:
        """A new session. Raises UnreachableError where its program was started too often of late."""
        now = self._now()
        of_ours = self._settings.url is None
        if of_ours and len(self._starts) == STARTS and now - self._starts[0] < STARTS_WITHIN_S:
            wait_s = STARTS_WITHIN_S - (now - self._starts[0])
            told = f"died {STARTS} times within {STARTS_WITHIN_S:g} s, and is left alone for {wait_s:.0f} s more"
            raise UnreachableError(self._failure(f"{told}{self._words}"))
        self._starts.append(now)
        session = self._session = _Session(asyncio.get_running_loop().create_future())
        session.task = asyncio.create_task(self._own(session), name=f"MCP server {self._settings.name}")
        self._tasks.add(session.task)
        session.task.add_done_callback(self._tasks.discard)
        return session

    def _failure(self, what: str, *, final: bool = False) -> Failure:
        return Failure(ErrorKind.TOOL, f"the MCP server `{self._settings.name}` {what}", final=final)

    async def tools(self) -> list[Any]:
        """What it offers. Raises CallError where it cannot be reached."""
        _, (_, found) = await self._reached()
        return found

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """The result of *tool*: text, or a value where it gives one. Raises FinalError where it fails, and
        UnreachableError where the server cannot be reached."""
        from mcp import MCPError  # noqa: PLC0415 - heavy: loaded where a server has been reached
        from mcp.types import CONNECTION_CLOSED  # noqa: PLC0415 - likewise

        for again in (False, True):
            session, (client, _) = await self._reached()
            session.calls += 1
            try:
                result = await client.call_tool(tool, dict(arguments))
            except asyncio.CancelledError:
                self._doubt(session, client)
                raise
            except MCPError as error:
                unheard = session.forgotten and error.code != CONNECTION_CLOSED
                if session.gone:
                    self._leave(session)
                    await self._ended(session)
                    unheard |= _was_refused(session.broken)
                if unheard and not again:
                    continue  # nothing was done
                raise failed(f"{tool}: {self._told(session, error)}") from error
            except Exception as error:
                raise failed(f"{tool}: {_why(error)}") from error
            finally:
                session.calls -= 1
                if session.forgotten:
                    self._replace(session)
            return result_of(tool, result)
        raise AssertionError  # the second time either returns or raises

    def _told(self, session: _Session, error: Exception) -> str:
        """What came of a call: the server's words, or that it is there no more."""
        if session.gone:
            why = "" if session.broken is None else f" ({_why(session.broken)})"
            return f"the server died, or its connection broke, before it answered{why}{self._words}"
        told = _why(error)
        return f"{told} (status {session.status})" if told == _NO_WORDS and session.status is not None else told

    def _doubt(self, session: _Session, client: Any) -> None:
        """A call was given up: a server that does not answer a ping any more is ended, and started for the next."""
        if session.gone or session.over.is_set():
            return

        async def look() -> None:
            try:
                async with asyncio.timeout(ANSWERS_WITHIN_S):
                    await client.send_ping()
            except Exception:  # noqa: BLE001 - however it does not answer
                self._leave(session)

        task = asyncio.create_task(look(), name=f"ping of MCP server {self._settings.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reached(self) -> tuple[_Session, tuple[Any, list[Any]]]:
        """A session that is open, as far as anybody knows. Raises CallError where there is none."""
        if self._session is not None and self._session.gone and self._session.ready.done():
            self._leave(self._session)  # it ended between two calls
        session = self._session or self._open()
        return session, await asyncio.shield(session.ready)

    @staticmethod
    async def _ended(session: _Session) -> None:
        """Wait until *session* has ended, to know why."""
        if session.task is not None:
            await asyncio.wait({session.task}, timeout=CLOSE_S)

    def _leave(self, session: _Session) -> None:
        """*session* reaches nobody any more: whoever calls next opens another."""
        session.over.set()
        if self._session is session:
            self._session = None

    def _replace(self, session: _Session) -> None:
        """Whoever calls next opens another; *session* ends with the last call that is out."""
        if self._session is session:
            self._session = None
        if not session.calls:
            session.over.set()

    async def _own(self, session: _Session) -> None:
        """Live with a session, from its beginning to its end."""
        program: Program | None = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(self._settings.start_s):
                        program, transport = await self._transport(session)
                        client, found = await _connected(stack, transport)
                except TimeoutError:
                    told = f"did not start and tell its tools within {self._settings.start_s:g} s"
                    raise UnreachableError(self._failure(f"{told} (`start_timeout`){_said(program)}")) from None
                session.ready.set_result((client, found))
                await session.over.wait()
        except Exception as error:  # noqa: BLE001 - a server is foreign code, and so is what its end raises
            session.broken = error
            self._end(session, error, program)
        finally:
            self._words = _said(program)
            self._leave(session)
            if not session.ready.done():
                session.ready.set_exception(UnreachableError(self._failure("is being closed")))
                session.ready.exception()

    async def _transport(self, session: _Session) -> tuple[Program | None, Any]:
        settings = self._settings
        if settings.url is not None:
            return None, over_http(settings.url, settings.headers, session.refused, session.ends)
        name, *arguments = settings.command
        argv = (shutil.which(name, path=search_path()) or name, *arguments)
        inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        program = await started(argv, {**inherited, "PATH": search_path(), **settings.env}, settings.cwd)
        return program, over_pipes(program, session.ends)

    def _end(self, session: _Session, error: Exception, program: Program | None) -> None:
        """Tell whoever waits why there is no session."""
        if session.ready.done():
            return
        if not isinstance(error, CallError):
            missing = isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError))
            where = "" if self._settings.url is None else f" at {self._settings.url}"
            status = "" if session.status is None else f" (status {session.status})"
            failure = self._failure(f"cannot be reached{where}: {_why(error)}{status}{_said(program)}", final=missing)
            error = call_error(failure) if missing else UnreachableError(failure)
        session.ready.set_exception(error)
        session.ready.exception()  # it is told to whoever asks

    async def aclose(self) -> None:
        """End the server; nothing of it is left."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=CLOSE_S)


async def _connected(stack: contextlib.AsyncExitStack, transport: Any) -> tuple[Any, list[Any]]:
    """The SDK's client at the other end of *transport*, and all tools that it is told of."""
    from mcp import Client  # noqa: PLC0415 - heavy: only who has a server pays for it

    client = await stack.enter_async_context(Client(transport))
    found: list[Any] = []
    seen: set[str] = set()
    cursor = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if not cursor or cursor in seen:
            return client, found
        seen.add(cursor)
    raise ValueError(f"its list of tools has more than {MAX_PAGES} pages")


def _said(program: Program | None) -> str:
    words = "" if program is None else program.said
    if len(words) > TOLD_STDERR:
        words = f"... {words[-TOLD_STDERR:].partition(' ')[2]}"
    return f": {words}" if words else ""


def _was_refused(error: BaseException | None) -> bool:
    """Whether nobody was there to connect to, so that nothing was sent."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_was_refused, error.exceptions))
    return error is not None and "Connect" in type(error).__name__


def result_of(tool: str, result: Any) -> Any:
    """What a call came to, as the model is told: its parts in their order, or the value where there is only that."""
    text = "\n".join(map(_part, result.content))
    if result.is_error:
        raise failed(f"{tool}: {text or 'it failed'}")
    structured = getattr(result, "structured_content", None)
    return structured if structured is not None and not result.content else text


def _part(part: Any) -> str:
    match part.type:
        case "text":
            return str(part.text)
        case "resource":
            inner = part.resource
            text = getattr(inner, "text", None)
            if text is not None:
                return f"{inner.uri}:\n{text}"
            return f"({inner.uri}: {_kind(inner)}, {_size(getattr(inner, 'blob', ''))}, not shown)"
        case "resource_link":
            about = f": {part.description}" if getattr(part, "description", None) else ""
            return f"{part.name}{about} <{part.uri}>"
        case kind:
            return f"({kind}: {_kind(part)}, {_size(getattr(part, 'data', ''))}, not shown)"


def _kind(part: Any) -> str:
    return getattr(part, "mime_type", None) or "of an unknown kind"


def _size(base64: str) -> str:
    return f"{len(base64) * 3 // 4:,} bytes"


def mcp_tools(server: McpServer, found: list[Any], family: str, effects: Effects) -> dict[str, Tool]:
    """The tools in *found*, by the names that models know: what is not read-only writes to the server, as far as
    anybody knows."""
    tools: dict[str, Tool] = {}
    for each in found:
        name = _name(f"{family}_{each.name}", tools)
        annotations = each.annotations
        resource = frozenset({f"mcp:{family}"})
        reads_only = annotations is not None and annotations.read_only_hint is True
        own = Effects(
            effects.reads | (resource if reads_only else frozenset()),
            effects.writes | (frozenset() if reads_only else resource),
            effects.after,
            effects.parallel,
        )
        act: Callable[[Mapping[str, Any]], Any] = partial(server.call, each.name)
        form = ToolForm(name, each.description or each.name, each.input_schema)
        tools[name] = Tool(form, family, act, own)
    return tools


def _name(wanted: str, taken: Mapping[str, Tool]) -> str:
    """*wanted* as providers accept names of tools: letters, digits, _ and -, at most 64, each once."""
    name = _NOT_IN_NAMES.sub("_", wanted)
    if len(name) <= MAX_NAME and name not in taken:
        return name
    digest = hashlib.blake2b(wanted.encode("utf-8", "replace"), digest_size=4).hexdigest()
    return f"{name[: MAX_NAME - len(digest) - 1]}_{digest}"


def _why(error: BaseException) -> str:
    """The innermost cause: failures to connect come in groups of groups."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    told = str(error) or type(error).__name__
    return told if len(told) <= TOLD_ERROR else f"{told[:TOLD_ERROR]} ..."

"""Tools of MCP servers: each server is started once a run, in a task of its own, and restarted once where it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from agentdag.agents.command import search_path
from agentdag.agents.order import Effects
from agentdag.agents.toolbox import Tool, failed
from agentdag.calls import ToolForm
from agentdag.errors import UsageError

STARTS = 2
"""How often a server is started: once, and once more where it died."""
START_S = 30.0
"""How long a server may take to answer at first."""
CLOSE_S = 8.0
"""How long its end may take: the SDK waits, asks, and kills."""
TOLD_STDERR = 500
TOLD_ERROR = 300
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


class McpServer:
    """One server. `tools` waits until it is there; calls from any task are fine."""

    def __init__(self, settings: McpSettings) -> None:
        self._settings = settings
        self._owner: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Any]
        self._broken = asyncio.Event()
        self._words = ""
        """What a server that could not be reached has said last."""

    def start(self) -> None:
        """Start it, unless that was done."""
        if self._owner is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._owner = asyncio.create_task(self._own(), name=f"MCP server {self._settings.name}")

    async def tools(self) -> list[Any]:
        """What it offers. Raises UsageError where it cannot be reached."""
        client = await self._client()
        try:
            found: list[Any] = []
            cursor = None
            while True:
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if not cursor:
                    return found
        except Exception as error:
            told = f"the MCP server `{self._settings.name}` does not tell its tools: {_why(error)}"
            raise UsageError(told) from error

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """The result of *tool*: text, or a value where it gives one. Raises FinalError where it fails."""
        try:
            client = await self._client()
        except UsageError as error:
            raise failed(error.message) from None
        try:
            result = await client.call_tool(tool, dict(arguments))
        except Exception as error:
            from mcp import MCPError  # noqa: PLC0415 - loaded already where it is called

            if not isinstance(error, MCPError) or "closed" in str(error).lower():
                self._break(client)
            raise failed(f"{tool}: {_why(error)}") from error
        return _result(tool, result)

    async def _client(self) -> Any:
        self.start()
        return await asyncio.shield(self._ready)

    def _break(self, client: Any) -> None:
        """*client* reaches nobody any more: whoever calls next waits for the one that follows, if there is one."""
        ready = self._ready
        present = ready.done() and ready.exception() is None and ready.result() is client
        if present and not self._broken.is_set():
            self._ready = asyncio.get_running_loop().create_future()
            self._broken.set()

    async def _own(self) -> None:
        """Live with the server, from its start to its end; a session is entered and left in this one task."""
        why = f"the MCP server `{self._settings.name}` died {STARTS} times"
        for _ in range(STARTS):
            self._broken.clear()
            try:
                async with self._session() as client:
                    self._ready.set_result(client)
                    await self._broken.wait()
            except Exception as error:  # noqa: BLE001 - a server is foreign code, and so is what its end raises
                if not self._ready.done() and not self._broken.is_set():
                    why = f"the MCP server `{self._settings.name}` cannot be reached: {_why(error)}{self._words}"
                    break
        if not self._ready.done():
            self._ready.set_exception(UsageError(why))
            self._ready.exception()  # it is told to whoever asks

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[Any]:
        from mcp import Client, StdioServerParameters, stdio_client  # noqa: PLC0415 - heavy: only who has one pays

        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            if settings.url is not None:
                from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415 - likewise
                from mcp.shared._httpx_utils import create_mcp_http_client  # noqa: PLC0415 - likewise

                http = await stack.enter_async_context(create_mcp_http_client(headers=dict(settings.headers)))
                transport: Any = streamable_http_client(settings.url, http_client=http)
            else:
                said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - the stack's
                stack.enter_context(said)
                stack.push(partial(self._hear, said))
                program, *arguments = settings.command
                parameters = StdioServerParameters(
                    command=shutil.which(program, path=search_path()) or program,
                    args=arguments,
                    env={"PATH": search_path(), **settings.env},
                    cwd=settings.cwd,
                )
                transport = stdio_client(parameters, errlog=said)
            try:
                async with asyncio.timeout(START_S):
                    client = await stack.enter_async_context(Client(transport))
            except TimeoutError:
                raise UsageError(f"it did not answer within {START_S:g} s") from None
            yield client

    def _hear(self, said: IO[str], kind: object, _error: object, _trace: object) -> bool:
        """Keep the last words of a server that failed."""
        if kind is not None:
            said.seek(0, os.SEEK_END)
            said.seek(max(0, said.tell() - 4 * TOLD_STDERR))
            told = " ".join(said.read().split())[-TOLD_STDERR:]
            self._words = f": {told}" if told else ""
        return False

    async def aclose(self) -> None:
        """End the server; nothing of it is left."""
        if self._owner is None:
            return
        self._owner.cancel()
        await asyncio.wait({self._owner}, timeout=CLOSE_S)


def _result(tool: str, result: Any) -> Any:
    texts = [part.text for part in result.content if getattr(part, "type", "") == "text"]
    others = [part.type for part in result.content if getattr(part, "type", "") != "text"]
    text = "\n".join([*texts, *(f"({kind})" for kind in others)])
    if result.is_error:
        raise failed(f"{tool}: {text or 'it failed'}")
    structured = getattr(result, "structured_content", None)
    if structured is not None and not texts:
        return structured
    return text


def mcp_tools(server: McpServer, found: list[Any], family: str, effects: Effects) -> dict[str, Tool]:
    """The tools in *found*, by the names that models know: what is not read-only writes to the server, as far as
    anybody knows."""
    tools = {}
    for each in found:
        name = f"{family}_{each.name}"
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


def _why(error: BaseException) -> str:
    """The innermost cause: failures to connect come in groups of groups."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    told = str(error) or type(error).__name__
    return told if len(told) <= TOLD_ERROR else f"{told[:TOLD_ERROR]} ..."

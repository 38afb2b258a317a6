"""The messages of an MCP server on their way in: over the pipes of a program of ours, or over HTTP.

What comes is bounded, and put right where servers deviate from the protocol: one bad tool does not lose the others, and
a byte that is no UTF-8 does not silence the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_MESSAGE_BYTES = 8 * 2**20
"""A larger message is dropped, and whoever waits for it is told so."""
KEPT_STDERR_BYTES = 4096
ENDS_WITHIN_S = 2.0
"""How long a server may take to end by itself once its input is closed; then again once it is asked to."""
_CHUNK = 2**16
_SESSION = "mcp-session-id"
_ID = re.compile(rb'"id"\s*:\s*(\d+|"[^"\\]{1,64}")')
_ENDS = 200
"""Bytes at both ends of a message that is too large, where its id stands."""


class Program:
    """One server of ours at work. `said` are its last words on stderr, or what it printed that is no message."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said = b""
        self._noise = b""

    @property
    def said(self) -> str:
        lines = (self._said or self._noise).decode("utf-8", "replace").splitlines()
        return " ".join(word for line in lines if line.strip(" ^~") for word in line.split())

    async def hear(self) -> None:
        """Read what it says on stderr, for ever, and keep the end of it."""
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(_CHUNK):
            self._said = (self._said + data)[-KEPT_STDERR_BYTES:]

    async def messages(self) -> AsyncIterator[Any]:
        """What it says on stdout, message by message, until it says nothing more."""
        assert self._process.stdout is not None
        parts: list[bytes] = []
        size, head = 0, b""
        while data := await self._process.stdout.read(_CHUNK):
            *lines, rest = data.split(b"\n")
            for line in lines:
                if size + len(line) > MAX_MESSAGE_BYTES:
                    yield too_large(head or line[:_ENDS], (b"".join(parts[-1:]) + line)[-_ENDS:])
                else:
                    message = self._message(b"".join((*parts, line)))
                    if message is not None:
                        yield message
                parts, size, head = [], 0, b""
            size += len(rest)
            if size <= MAX_MESSAGE_BYTES:
                parts.append(rest)
            else:
                head = head or b"".join(parts)[:_ENDS]
                parts = [rest]

    def _message(self, line: bytes) -> Any:
        """What *line* holds; None where it is blank, or a word that servers should not say there."""
        line = line.removeprefix(b"\xef\xbb\xbf").strip()
        if not line:
            return None
        try:
            message = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self._noise = (self._noise + line + b"\n")[-KEPT_STDERR_BYTES:]
            return None
        return message

    async def send(self, text: str) -> None:
        """Say *text* to it, a line. Raises OSError where it hears nothing any more."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode("utf-8", "replace") + b"\n")
        await self._process.stdin.drain()

    async def end(self) -> None:
        """Its end, and that of everything it has started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if await self._gone():
                break
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # children that have outlived it
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def _gone(self) -> bool:
        try:
            async with asyncio.timeout(ENDS_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            return False
        return True


def too_large(head: bytes, tail: bytes) -> Any:
    """The answer in place of one that is too large; its id is at either end."""
    found = _ID.search(head) or _ID.search(tail)
    id_ = None if found is None else json.loads(found[1])
    message = f"the answer is larger than {MAX_MESSAGE_BYTES // 2**20} MiB"
    return {"jsonrpc": "2.0", "id": id_, "error": {"code": -32603, "message": message}}


async def started(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> Program:
    """The server that *argv* starts, in a process group of its own. Raises OSError where it cannot be started."""
    return Program(
        await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
            limit=_CHUNK,
        )
    )


@contextlib.asynccontextmanager
async def over_pipes(program: Program, on_end: Callable[[], None]) -> AsyncIterator[tuple[Any, Any]]:
    """The streams that the SDK reads and writes, to and from *program*; at the end nothing of it is left. *on_end* is
    told when it says nothing more."""
    import anyio  # noqa: PLC0415 - the SDK's own: only who has a server pays for it
    from mcp.shared.message import SessionMessage  # noqa: PLC0415 - likewise
    from mcp.types import jsonrpc_message_adapter  # noqa: PLC0415 - likewise

    into, read = anyio.create_memory_object_stream[Any](0)
    write, out = anyio.create_memory_object_stream[Any](0)

    async def reading() -> None:
        async with into:
            async for message in program.messages():
                try:
                    parsed: Any = SessionMessage(jsonrpc_message_adapter.validate_python(put_right(message)))
                except ValueError as error:
                    parsed = error
                await into.send(parsed)
            on_end()  # before whoever waits for an answer is told

    async def writing() -> None:
        async with out:
            async for each in out:
                await program.send(each.message.model_dump_json(by_alias=True, exclude_unset=True))

    tasks = [asyncio.ensure_future(each) for each in (reading(), writing(), program.hear())]
    try:
        yield read, write
    finally:
        ending = asyncio.ensure_future(program.end())
        await asyncio.shield(asyncio.wait({ending}))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for stream in (into, read, write, out):
            stream.close()


@contextlib.asynccontextmanager
async def over_http(
    url: str, headers: Mapping[str, str], on_refusal: Callable[[int, bool], None], on_end: Callable[[], None]
) -> AsyncIterator[tuple[Any, Any]]:
    """The streams that the SDK reads and writes, to and from the server at *url*. *on_refusal* is told the status of
    each answer that is an error, which the SDK does not pass on, and whether the request named a session; *on_end* when
    nothing more can come."""
    import anyio  # noqa: PLC0415 - as above
    import httpx2  # noqa: PLC0415 - likewise
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415 - likewise
    from mcp.shared._httpx_utils import create_mcp_http_client  # noqa: PLC0415 - likewise
    from mcp.shared.message import SessionMessage  # noqa: PLC0415 - likewise

    async with (
        create_mcp_http_client(headers=dict(headers)) as http,
        streamable_http_client(url, http_client=http, max_sse_event_size=MAX_MESSAGE_BYTES) as (come, write),
    ):

        async def hear(response: Any) -> None:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                response.stream = _bounded(response.stream, httpx2.AsyncByteStream)
            if response.status_code >= 400 and response.request.method == "POST":
                on_refusal(response.status_code, _SESSION in response.request.headers)

        http.event_hooks["response"].append(hear)
        into, read = anyio.create_memory_object_stream[Any](0)

        async def reading() -> None:
            async with into:
                async for each in come:
                    result = getattr(each.message, "result", None) if isinstance(each, SessionMessage) else None
                    if isinstance(result, dict):
                        result.update(put_right_result(result))
                    await into.send(each)
                on_end()

        task = asyncio.ensure_future(reading())
        try:
            yield read, write
        finally:
            task.cancel()
            await asyncio.wait({task})
            into.close()
            read.close()


def _bounded(stream: Any, base: type[Any]) -> Any:
    """*stream*, a body's, which fails past `MAX_MESSAGE_BYTES`; of the class *base*, as the client demands."""

    class Bounded(base):  # type: ignore[misc]  # known only once httpx2 is loaded
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = MAX_MESSAGE_BYTES
            async for chunk in stream:
                left -= len(chunk)
                if left < 0:
                    raise ValueError(f"the answer is larger than {MAX_MESSAGE_BYTES // 2**20} MiB")
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def put_right(message: Any) -> Any:
    """A *message* with what servers get wrong in their answers put right."""
    result = message.get("result") if isinstance(message, dict) else None
    return {**message, "result": put_right_result(result)} if isinstance(result, dict) else message


def put_right_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """A list of tools without those that have no name, each with the schema of an object; or what a tool came to, as
    parts that are known. What else a result may be stays as it is."""
    if isinstance(result.get("tools"), list):
        found = [
            _tool(tool) for tool in result["tools"] if isinstance(tool, dict) and isinstance(tool.get("name"), str)
        ]
        return {**result, "tools": found}
    if {"content", "isError", "structuredContent"} & result.keys():
        content = result.get("content")
        parts = content if isinstance(content, list) else [] if content is None else [content]
        kept = {key: value for key, value in result.items() if key not in {"structuredContent", "isError"}}
        if isinstance(result.get("isError"), bool):
            kept["isError"] = result["isError"]
        structured = result.get("structuredContent")
        if isinstance(structured, dict):
            kept["structuredContent"] = structured
        elif structured is not None:
            parts = [*parts, structured]
        return {**kept, "content": [_part(part) for part in parts]}
    return dict(result)


_PARTS = {"text": ("text",), "image": ("data", "mimeType"), "audio": ("data", "mimeType"), "resource": ("resource",)}
_PARTS["resource_link"] = ("uri", "name")


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as the protocol knows it. What its results should be is not demanded: the tool has run by then."""
    schema = tool.get("inputSchema")
    schema = {**schema, "type": "object"} if isinstance(schema, dict) else {"type": "object"}
    if schema.get("properties") is None:
        schema.pop("properties", None)
    made = {key: value for key, value in tool.items() if key != "outputSchema"} | {"inputSchema": schema}
    hints = tool.get("annotations")
    if isinstance(hints, dict):
        made["annotations"] = {
            key: value for key, value in hints.items() if not key.endswith("Hint") or isinstance(value, bool)
        }
    elif "annotations" in made:
        del made["annotations"]
    if not isinstance(made.get("description"), str):
        made.pop("description", None)
    return made


def _part(part: Any) -> dict[str, Any]:
    """A part of a result; one that is not known as its JSON."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, dict):
        needed = _PARTS.get(str(part.get("type")))
        if needed is not None and all(part.get(key) is not None for key in needed):
            return part
    return {"type": "text", "text": json.dumps(part, ensure_ascii=False, default=str)}

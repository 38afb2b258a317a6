"""The one HTTP client of a run, shared by both SDKs, with a bound on how much an answer may hold.

It is the SDKs' own aiohttp transport: cancelling calls does not leak its connections.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from agentdag.providers.proxies import certificate_problem

MAX_BODY_BYTES = 32 * 2**20
MAX_EVENT_BYTES = 4 * 2**20
"""The last event of OpenAI's Responses repeats the instructions and the whole answer."""
_DIGITS = len(str(MAX_BODY_BYTES))
"""A length of fewer digits is below the bound."""
CONNECT_TIMEOUT_S = 10.0
_HEADERS = "agentdag.headers"
Headers = Mapping[bytes, bytes]
"""The headers of an answer by their names in small letters. Each that is looked up in those of the client costs more
than to read all of them once."""


class BodyTooLargeError(Exception):
    """An answer passed `MAX_BODY_BYTES`."""


class SharedHttp:
    """Makes the client when the first SDK asks for it. *connections* is how many calls may be in flight.

    Raises UsageError where the certificates that the environment names cannot be read.
    """

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._client: Any = None

    def client(self, sdk: Any) -> Any:
        """The client, of the aiohttp class that *sdk* (the `openai` or `anthropic` module) ships."""
        if self._client is None:
            import httpx2  # noqa: PLC0415 - heavy: only a run that calls a provider pays for it

            limits = httpx2.Limits(max_connections=self._connections, max_keepalive_connections=self._connections)
            try:
                self._client = sdk.DefaultAioHttpClient(
                    timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
                    limits=limits,
                    headers={"accept-encoding": "identity"},
                    follow_redirects=False,  # prompts and keys go to the address in the file and nowhere else
                    event_hooks={"response": [_bounding(httpx2.AsyncByteStream)]},
                )
            except OSError as error:
                raise certificate_problem(error) from error
        return self._client

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def headers_of(response: Any) -> Headers:
    """The headers of an answer that the client of a `SharedHttp` has brought; none where there is no answer."""
    headers: Headers = {} if response is None else response.extensions.get(_HEADERS, {})
    return headers


def _bounding(byte_stream: type[Any]) -> Callable[[Any], Awaitable[None]]:
    """A hook that bounds every answer's stream; *byte_stream* is the class that the client takes streams of."""

    class BoundedStream(byte_stream):  # type: ignore[misc]  # known only once httpx2 is loaded
        """A stream, decoded, that fails past the bound: compressed bytes are never all unpacked first."""

        def __init__(self, inner: Any, encoding: bytes | None, *, events: bool) -> None:
            self._inner = inner
            self._encoding = encoding
            self._events = events

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left, line = MAX_BODY_BYTES, 0
            unpack = zlib.decompressobj(zlib.MAX_WBITS | 32) if self._encoding in {b"gzip", b"deflate"} else None
            async for packed in self._inner:
                chunk = unpack.decompress(packed, left + 1) if unpack is not None else packed
                left -= len(chunk)
                if left < 0:
                    raise BodyTooLargeError(f"the answer is larger than {MAX_BODY_BYTES // 2**20} MiB")
                if self._events:  # the SDKs' decoders take quadratic time in the length of a line
                    line = len(chunk) - 1 - chunk.rfind(b"\n") if b"\n" in chunk else line + len(chunk)
                    if line > MAX_EVENT_BYTES:
                        raise BodyTooLargeError(f"one event is larger than {MAX_EVENT_BYTES // 2**20} MiB")
                yield chunk

        async def aclose(self) -> None:
            await self._inner.aclose()

    async def bound(response: Any) -> None:
        told: Headers = {name.lower(): value for name, value in response.headers.raw}
        response.extensions[_HEADERS] = told
        encoding, length = told.get(b"content-encoding"), told.get(b"content-length", b"")
        if encoding is not None:
            del response.headers["content-encoding"]
        elif length.isdigit() and len(length) < _DIGITS:
            return  # aiohttp reads no more than was announced, and that is little
        events = told.get(b"content-type", b"").startswith(b"text/event-stream")
        response.stream = BoundedStream(response.stream, encoding, events=events)

    return bound

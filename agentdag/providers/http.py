"""The one HTTP client of a run, shared by both SDKs, with a bound on how much an answer may hold.

It is the SDKs' own aiohttp transport: cancelling calls does not leak its connections.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any

MAX_BODY_BYTES = 32 * 2**20
CONNECT_TIMEOUT_S = 10.0


class BodyTooLargeError(Exception):
    """An answer passed `MAX_BODY_BYTES`."""


class SharedHttp:
    """Makes the client when the first SDK asks for it. *connections* is how many calls may be in flight."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._client: Any = None

    def client(self, sdk: Any) -> Any:
        """The client, of the aiohttp class that *sdk* (the `openai` or `anthropic` module) ships."""
        if self._client is None:
            import httpx2  # noqa: PLC0415 - heavy: only a run that calls a provider pays for it

            self._client = sdk.DefaultAioHttpClient(
                timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
                limits=httpx2.Limits(max_connections=self._connections, max_keepalive_connections=self._connections),
                headers={"accept-encoding": "identity"},
                event_hooks={"response": [_bound]},
            )
        return self._client

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()


async def _bound(response: Any) -> None:
    encoding = response.headers.pop("content-encoding", "identity")
    response.stream = _bounded_stream(response.stream, encoding)


def _bounded_stream(inner: Any, encoding: str) -> Any:
    """*inner*, decoded, that fails past the bound: compressed bytes are never all unpacked first."""
    import httpx2  # noqa: PLC0415 - as above

    class BoundedStream(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = MAX_BODY_BYTES
            unpack = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in {"gzip", "deflate"} else None
            async for packed in inner:
                chunk = unpack.decompress(packed, left + 1) if unpack is not None else packed
                left -= len(chunk)
                if left < 0:
                    raise BodyTooLargeError(f"the answer is larger than {MAX_BODY_BYTES // 2**20} MiB")
                yield chunk

        async def aclose(self) -> None:
            await inner.aclose()

    return BoundedStream()

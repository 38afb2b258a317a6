"""The way from a request to either SDK and back: its `post` path with plain dictionaries.

That path keeps the SDK's authentication, base URL and error classes at half the CPU of its typed methods.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from agentdag.calls import Gauge, Room
from agentdag.errors import CallError, call_error
from agentdag.providers.faults import bad_response, error_body_failure, failure_of
from agentdag.providers.http import CONNECT_TIMEOUT_S, Headers, headers_of


class Told(NamedTuple):
    """What the headers of an answer tell."""

    request_id: str | None
    room: Room


class SdkClient:
    """One client of one SDK. *client* is the SDK's own, *sdk* its module."""

    def __init__(self, client: Any, sdk: Any, provider: str, request_id_header: str) -> None:
        import httpx2  # noqa: PLC0415 - heavy: only a run that calls a provider pays for it

        self._client = client
        self._response_class = httpx2.Response
        self._timeout_class = httpx2.Timeout
        self._timeouts: dict[float, Any] = {}
        self._stream_class = sdk.AsyncStream[object]
        self._request_id_header = request_id_header.encode()
        self.provider = provider

    async def post(self, path: str, body: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], Told]:
        """The JSON object that *path* answers with, and what its headers tell. Raises CallError only."""
        options = {"timeout": self._timeout(timeout_s)}
        try:
            response = await self._client.post(path, cast_to=self._response_class, body=body, options=options)
        except Exception as error:
            raise self._failed(error) from error
        told = self._told(headers_of(response))
        return self._object(response, told.request_id), told

    def _told(self, headers: Headers) -> Told:
        request_id = headers.get(self._request_id_header)
        return Told(None if request_id is None else request_id.decode("latin-1"), room_of(headers))

    def _failed(self, error: Exception) -> CallError:
        """What *error* of the SDK means, and how much room its answer tells of."""
        failed = call_error(failure_of(error, self.provider))
        failed.room = room_of(headers_of(getattr(error, "response", None)))
        return failed

    def _object(self, response: Any, request_id: str | None) -> dict[str, Any]:
        """The JSON object in *response*; raises CallError where it is something else, or tells an error."""
        try:
            answer = json.loads(response.content)
        except (ValueError, RecursionError) as error:
            kind = response.headers.get("content-type", "something without a type")
            raise self.fail(f"answered {kind}, which is not the JSON that is due: {error}", request_id) from error
        if not isinstance(answer, dict):
            raise self.fail("answered JSON that is no object", request_id)
        if answer.get("error"):
            raise call_error(error_body_failure(answer, self.provider, request_id))
        return answer

    @asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, Any], timeout_s: float
    ) -> AsyncIterator[tuple[AsyncIterator[Any] | dict[str, Any], Told]]:
        """The events of a streamed answer as plain values, and what its headers tell. Raises CallError only.

        A server that knows no streams answers as a whole: then its JSON object stands in place of the events.
        """
        async with self._mapped():
            stream = await self._client.post(
                path,
                cast_to=object,
                body=body,
                options={"timeout": self._timeout(timeout_s)},
                stream=True,
                stream_cls=self._stream_class,
            )
            told = self._told(headers_of(stream.response))
            try:
                kind = stream.response.headers.get("content-type", "")
                if "html" in kind:
                    raise self.fail(f"answered {kind} instead of a stream", told.request_id)
                if kind.startswith("application/json"):
                    await stream.response.aread()
                    yield self._object(stream.response, told.request_id), told
                else:
                    yield aiter(stream), told
            finally:
                await stream.close()

    def _timeout(self, timeout_s: float) -> Any:
        """No shorter than the attempt, which is bounded outside: this only frees what nobody waits for."""
        if timeout_s not in self._timeouts:
            connect = min(CONNECT_TIMEOUT_S, timeout_s + 1)
            self._timeouts[timeout_s] = self._timeout_class(timeout_s + 1, connect=connect, pool=None)
        return self._timeouts[timeout_s]

    @asynccontextmanager
    async def _mapped(self) -> AsyncIterator[None]:
        try:
            yield
        except CallError:
            raise
        except Exception as error:
            raise self._failed(error) from error

    def fail(self, message: str, request_id: str | None, *, final: bool = False) -> CallError:
        """The error for an answer that is no answer."""
        return call_error(bad_response(message, self.provider, request_id=request_id, final=final))


MOST_DIGITS = 12
"""A larger count is none."""
_COUNTED = ("requests", "tokens", "input-tokens", "output-tokens")
_GAUGES = [
    (counted.replace("-", "_"), limit.encode(), left.encode())
    for counted in _COUNTED
    for limit, left in (
        (f"anthropic-ratelimit-{counted}-limit", f"anthropic-ratelimit-{counted}-remaining"),
        (f"x-ratelimit-limit-{counted}", f"x-ratelimit-remaining-{counted}"),
    )
]
"""What is counted, and the headers that tell how much a minute allows of it and how much is left: the last that is
there counts."""


def room_of(headers: Headers) -> Room:
    """What the `x-ratelimit-*` or `anthropic-ratelimit-*` headers of an answer tell of limits and of what is left."""
    room = {}
    for counted, limit, remaining in _GAUGES:
        left = headers.get(remaining)
        if left is not None:
            room[counted] = Gauge(_number(headers.get(limit)), _number(left))
    return room


def _number(text: bytes | None) -> int | None:
    """A whole number in a header, or None where it is anything else."""
    return int(text) if text is not None and text.isdigit() and len(text) <= MOST_DIGITS else None


def count(value: Any) -> int | None:
    """A token count, or None where the server sent anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**MOST_DIGITS else None

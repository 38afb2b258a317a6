"""The way from a request to either SDK and back: its `post` path with plain dictionaries.

That path keeps the SDK's authentication, base URL and error classes at half the CPU of its typed methods. What comes
back is told apart by its first bytes: servers label streams as JSON, and JSON as a stream.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from agentdag.calls import Gauge, Room
from agentdag.errors import CallError, call_error
from agentdag.providers.faults import bad_response, error_body_failure, failure_of, is_error, refusal_text
from agentdag.providers.http import CONNECT_TIMEOUT_S, Headers, headers_of

DONE = "[DONE]"
"""What ends a stream of OpenAI's."""
_BLANK = b"\xef\xbb\xbf \t\r\n\0"
"""A byte-order mark and white space, which may stand in front of anything."""
_AMAZON = "application/vnd.amazon.eventstream"
MAX_QUOTED = 200
"""Characters that an error quotes of what is not JSON."""


class Told(NamedTuple):
    """What the headers of an answer tell."""

    request_id: str | None
    room: Room


class Event(NamedTuple):
    """An event of a stream: its name, if it has one, and its data, which is never blank."""

    name: str | None
    data: str


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

    @property
    def base_url(self) -> str:
        """Where the SDK sends requests, without a slash at the end."""
        return str(self._client.base_url).rstrip("/")

    async def post(
        self, path: str, body: Mapping[str, Any], timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any] | Iterator[Any], Told]:
        """What *path* answers with, and what its headers tell: an object, or the events of a stream that nobody asked
        for. Raises CallError only."""
        options = self._options(timeout_s, headers)
        try:
            response = await self._client.post(path, cast_to=self._response_class, body=body, options=options)
        except Exception as error:
            raise self._failed(error) from error
        told = self._told(headers_of(response))
        try:
            answer = json.loads(response.content)
        except (ValueError, RecursionError) as error:
            return self._unlabelled(response, error, told), told
        return self._object(answer, told), told

    async def listed(self, path: str, timeout_s: float) -> list[str]:
        """The ids of what *path* lists. Raises CallError only."""
        options = self._options(timeout_s, None)
        try:
            response = await self._client.get(path, cast_to=self._response_class, options=options)
        except Exception as error:
            raise self._failed(error) from error
        told = self._told(headers_of(response))
        data = self.whole(response, response.content, told).get("data")
        found = (each.get("id") for each in data if isinstance(each, dict)) if isinstance(data, list) else ()
        return [each for each in found if isinstance(each, str)]

    def _unlabelled(self, response: Any, error: Exception, told: Told) -> dict[str, Any] | Iterator[Any]:
        """What *response* holds that is no JSON as it stands; raises CallError where it is no answer."""
        content = response.content.strip(_BLANK)
        if content[:1] in {b"{", b"["}:
            try:
                return self._object(json.loads(content), told)
            except (ValueError, RecursionError):
                pass
        elif content.startswith((b"data:", b"event:", b":", b"id:", b"retry:")):
            return self._values(_events_in(content.decode("utf-8", "replace")), told)
        raise self._no_json(response, str(error), content, told)

    def _no_json(self, response: Any, why: str, content: bytes, told: Told) -> CallError:
        kind = response.headers.get("content-type", "something without a type")
        said = content[: 4 * MAX_QUOTED].decode("utf-8", "replace")
        if content.startswith(b"<"):
            return self.fail(f"answered {kind} where JSON was expected", told.request_id)
        quoted = f": {said[:MAX_QUOTED]}" if said.isprintable() and said else f": {why}"
        return self.fail(f"answered {kind}, which is not JSON{quoted}", told.request_id)

    def _values(self, events: Iterator[Event], told: Told) -> Iterator[Any]:
        return (DONE if event.data.startswith(DONE) else self.value(event, told) for event in events)

    def value(self, event: Event, told: Told) -> dict[str, Any]:
        """The object that an *event* holds; raises CallError where it tells an error, or holds something else."""
        try:
            value = json.loads(event.data)
        except (ValueError, RecursionError):
            said = event.data[:MAX_QUOTED]
            raise self.fail(f"the stream holds what is not JSON: {said}", told.request_id) from None
        if event.name == "error" or is_error(value):
            raise self.error(value, told, billed=True)
        if not isinstance(value, dict):
            raise self.fail("the stream holds JSON that is no object", told.request_id)
        return value

    def _told(self, headers: Headers) -> Told:
        request_id = headers.get(self._request_id_header)
        return Told(None if request_id is None else request_id.decode("latin-1"), room_of(headers))

    def _failed(self, error: Exception) -> CallError:
        """What *error* of the SDK means, and how much room its answer tells of."""
        failed = call_error(failure_of(error, self.provider))
        failed.room = room_of(headers_of(getattr(error, "response", None)))
        failed.refusal = refusal_text(getattr(error, "body", None))
        return failed

    def error(self, body: Any, told: Told, *, billed: bool) -> CallError:
        """The error that *body* tells of in an answer with status 200; *billed* where some of the answer had come."""
        failed = call_error(error_body_failure(body, self.provider, told.request_id, billed=billed))
        failed.refusal = refusal_text(body)
        return failed

    def _object(self, answer: Any, told: Told) -> dict[str, Any]:
        """*answer*, which is to be an object; raises CallError where it is something else, or tells an error."""
        if is_error(answer):
            raise self.error(answer, told, billed=False)
        if not isinstance(answer, dict):
            raise self.fail("answered JSON that is no object", told.request_id)
        return answer

    @asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, Any], timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Incoming]:
        """The answer as it comes in, once its headers are there. Raises CallError only."""
        async with self._mapped():
            stream = await self._client.post(
                path,
                cast_to=object,
                body=body,
                options=self._options(timeout_s, headers),
                stream=True,
                stream_cls=self._stream_class,
            )
            try:
                yield Incoming(self, stream, self._told(headers_of(stream.response)))
            finally:
                await stream.close()

    def whole(self, response: Any, content: bytes, told: Told) -> dict[str, Any]:
        """The object in *content*, which came where a stream was asked for; raises CallError where it is none."""
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._no_json(response, str(error), content, told) from None
        return self._object(answer, told)

    def _options(self, timeout_s: float, headers: Mapping[str, str] | None) -> dict[str, Any]:
        options: dict[str, Any] = {"timeout": self._timeout(timeout_s)}
        return options if headers is None else {**options, "headers": dict(headers)}

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


class Incoming:
    """An answer to a request for a stream. `read` it once."""

    def __init__(self, client: SdkClient, stream: Any, told: Told) -> None:
        self._client = client
        self._stream = stream
        self.told = told

    async def read(self) -> dict[str, Any] | AsyncIterator[Any]:
        """The values of its events in order, `DONE` among them; or, of a server that answers as a whole, the object.
        Raises CallError where it is no answer, as the iterator does."""
        response = self._stream.response
        chunks = response.aiter_bytes()
        if response.headers.get("content-type", "").startswith(_AMAZON):
            return self._values(chunks)
        head = b""
        async for chunk in chunks:
            head += chunk
            if head := head.lstrip(_BLANK):
                break
        if head[:1] in {b"{", b"[", b"<"}:
            rest = [chunk async for chunk in chunks]
            return self._client.whole(response, b"".join((head, *rest)).rstrip(_BLANK), self.told)
        return self._values(_followed(head, chunks))

    async def _values(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        client, told = self._client, self.told
        async for event in self._stream._decoder.aiter_bytes(chunks):  # noqa: SLF001 - what decodes Bedrock's frames, too
            data = event.data
            if data.startswith(DONE):
                yield DONE
            elif data and not data.isspace():
                yield client.value(Event(event.event, data), told)


async def _followed(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk
    yield b"\n\n"  # the last event may lack its blank line


def _events_in(text: str) -> Iterator[Event]:
    """The events of a whole stream: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing"""
    for block in text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n"):
        name, data = None, []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            if field == "event":
                name = value.removeprefix(" ")
            elif field == "data":
                data.append(value.removeprefix(" "))
        if any(data) and (joined := "\n".join(data)).strip():
            yield Event(name, joined)


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


def paired(text: str) -> str:
    """*text* with the two halves of a character joined that a server has sent apart; half a one is replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


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

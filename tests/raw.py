"""A server on loopback that answers with the very bytes that a test gives it, whatever the request."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from loopback import Loopback

SSE = "text/event-stream"
JSON = "application/json"


@dataclass(frozen=True)
class Raw:
    """One answer."""

    body: str | bytes
    type: str = JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """One request as it came."""

    path: str
    body: Any
    headers: dict[str, str]


Answer = Raw | Callable[[Any], Raw]


class RawServer(Loopback):
    """Gives *answers* one after another, the last again and again."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self.answers: Sequence[Answer] = answers
        self.asked: list[Asked] = []

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/{path:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        body = json.loads(data) if data else None
        self.asked.append(Asked(request.path_qs, body, {k.lower(): v for k, v in request.headers.items()}))
        raw = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if callable(raw):
            raw = raw(body)
        content = raw.body.encode() if isinstance(raw.body, str) else raw.body
        headers = {"content-type": raw.type, **raw.headers}
        if raw.type == SSE:
            response = web.StreamResponse(status=raw.status, headers=headers)
            await response.prepare(request)
            await response.write(content)
            await response.write_eof()
            return response
        return web.Response(body=content, status=raw.status, headers=headers)


def sse(*events: Any, done: bool = True) -> Raw:
    """A stream of *events*: texts are lines as they are, anything else is JSON."""
    lines = [each if isinstance(each, str) else f"data: {json.dumps(each)}\n\n" for each in events]
    return Raw("".join(lines) + ("data: [DONE]\n\n" if done else ""), SSE)


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a streamed chat completion."""
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish, **more}]}


def completion(message: dict[str, Any] | None = None, finish: Any = "stop", **more: Any) -> Raw:
    """A chat completion in one body."""
    told = {"role": "assistant", "content": "hello", **(message or {})}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return Raw(
        json.dumps({"choices": [{"index": 0, "message": told, "finish_reason": finish}], "usage": usage, **more})
    )


def refusal(message: str, status: int = 400, **more: Any) -> Raw:
    """An error as OpenAI sends them."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}
    return Raw(json.dumps({"error": error}), status=status)

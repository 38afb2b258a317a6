"""Wire-true OpenAI and Anthropic servers on loopback, in a thread of their own.

A model's name decides what happens: `script["name"]` lists one behaviour for each call to that model, the
last one repeated; without a script the call succeeds. Every request is kept in `calls`.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiohttp import web
from loopback import Loopback
from multidict import CIMultiDict

from agentdag.providers.invented import invented

HANG_S = 3600.0
ANSWER = "Hello from the wire, with ünicode."
PIECES = ["Hello ", "from ", "the wire, ", "with ünicode."]


@dataclass
class Limits:
    """What the server really enforces: requests a second with a burst, tokens a minute, calls at once. What is over is
    refused with 429, with or without headers; a minute lasts `minute_s`."""

    rate: float | None = None
    burst: int = 1
    tokens: int | None = None
    concurrency: int | None = None
    headers: bool = False
    retry_after_s: float | None = None
    minute_s: float = 60.0
    refused: int = 0
    taken_at: list[float] = field(default_factory=list)
    """When each call was let in, on a clock of the server's."""

    def __post_init__(self) -> None:
        self._level, self._tokens, self._at, self._held = float(self.burst), float(self.tokens or 0), None, 0

    def take(self, now: float, tokens: int) -> bool:
        """Whether a request of *tokens* is let in."""
        gone = 0.0 if self._at is None else now - self._at
        self._at = now
        self._level = min(self.burst, self._level + (self.rate or 0) * gone)
        if self.tokens is not None:
            self._tokens = min(self.tokens, self._tokens + self.tokens / self.minute_s * gone)
        over = (self.rate is not None and self._level < 1) or (self.tokens is not None and self._tokens < tokens)
        if over or (self.concurrency is not None and self._held >= self.concurrency):
            self.refused += 1
            return False
        self._level -= self.rate is not None
        self._tokens -= tokens
        self._held += 1
        self.taken_at.append(now)
        return True

    def done(self) -> None:
        self._held -= 1

    def told(self, *, refused: bool, anthropic: bool) -> dict[str, str]:
        """The headers of an answer."""
        headers: dict[str, str] = {}
        if self.headers:
            gauges = {}
            if self.rate is not None:
                gauges["requests"] = (round(self.rate * self.minute_s), max(0, int(self._level)))
            if self.tokens is not None:
                gauges["tokens"] = (self.tokens, max(0, int(self._tokens)))
            for name, (limit, left) in gauges.items():
                if anthropic:
                    headers |= {f"anthropic-ratelimit-{name}-limit": str(limit)}
                    headers |= {f"anthropic-ratelimit-{name}-remaining": str(left)}
                else:
                    headers |= {f"x-ratelimit-limit-{name}": str(limit), f"x-ratelimit-remaining-{name}": str(left)}
        if refused and self.retry_after_s is not None:
            headers["retry-after-ms"] = str(round(self.retry_after_s * 1000))
        return headers


@dataclass
class Call:
    """One request as it came."""

    path: str
    body: dict[str, Any]
    headers: CIMultiDict[str]

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Say:
    """An answer of a test's own: text, and the tools that the model asks for, as names with arguments."""

    text: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    thought: str = ""


Behaviour = str | Say


def plays(body: dict[str, Any]) -> Behaviour:
    """What a model might say: it asks for each tool that it is offered once, and answers in the form that is due."""
    chance = Random(1)
    offered = [tool.get("function", tool) for tool in body.get("tools", ())]
    if offered and not any(message["role"] == "assistant" for message in body["messages"]):
        schemas = (tool.get("parameters") or tool["input_schema"] for tool in offered)
        return Say(
            calls=tuple((tool["name"], invented(each, chance)) for tool, each in zip(offered, schemas, strict=True))
        )
    format_ = body.get("response_format") or body.get("output_config", {}).get("format") or {}
    schema = format_.get("schema") or format_.get("json_schema", {}).get("schema")
    return "ok" if schema is None else Say(json.dumps(invented(schema, chance)))


@dataclass
class WireServer(Loopback):
    """Both protocols under one address; `base_url` differs: OpenAI's ends in /v1."""

    usual: Callable[[dict[str, Any]], Behaviour] | None = None
    """What happens where the script says nothing of a model."""
    script: dict[str, list[Behaviour] | Callable[[dict[str, Any]], Behaviour]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    latency_s: float = 0.0
    limits: Limits | None = None
    in_flight: int = 0
    peak: int = 0
    url: str = ""
    arrived: threading.Condition = field(default_factory=threading.Condition)
    """Told of each call that came."""

    def __post_init__(self) -> None:
        super().__init__()
        self._turns: Counter[str] = Counter()

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    def count(self, model: str) -> int:
        """How many calls asked for *model*."""
        return sum(call.body.get("model") == model for call in self.calls)

    def await_calls(self, number: int, model: str | None = None) -> None:
        """Return once *number* calls came, for *model* where it is given."""
        with self.arrived:
            came = self.arrived.wait_for(lambda: (self.count(model) if model else len(self.calls)) >= number, 30)
        assert came, f"{len(self.calls)} calls came"

    def start(self) -> WireServer:
        self.serve()
        return self

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self._openai)
        app.router.add_post("/openai/deployments/{deployment}/chat/completions", self._openai)
        app.router.add_post("/v1/messages", self._anthropic)
        vertex = "/projects/{project}/locations/{region}/publishers/anthropic/models/{model}:{verb}"
        app.router.add_post(vertex, self._anthropic)
        app.router.add_post("/model/{model}/{verb}", self._anthropic)

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, OpenAIWire())

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, AnthropicWire())

    async def _handle(self, request: web.Request, wire: OpenAIWire | AnthropicWire) -> web.StreamResponse:
        body = {**request.match_info, **json.loads(await request.read())}
        if request.match_info.get("verb") == "invoke-with-response-stream":
            body["stream"] = True
        with self.arrived:
            self.calls.append(Call(request.path, body, request.headers.copy()))
            self.arrived.notify_all()
        model = body["model"]
        script = self.script.get(model) or self.usual or ["ok"]
        turn = self._turns[model]
        self._turns[model] += 1
        limits, anthropic = self.limits, isinstance(wire, AnthropicWire)
        if limits is not None and not limits.take(self.loop.time(), 49):
            return wire.error(429, "too fast", headers=limits.told(refused=True, anthropic=anthropic))
        if (wrong := wire.complaint(body)) is not None:
            return wire.error(400, wrong, headers={})
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        told = {} if limits is None else limits.told(refused=False, anthropic=anthropic)
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            behaviour = script(body) if callable(script) else script[min(turn, len(script) - 1)]
            answer = await self._behave(request, body, wire, behaviour)
            if not answer.prepared:
                answer.headers.update(told)
            return answer
        finally:
            self.in_flight -= 1
            if limits is not None:
                limits.done()

    async def _behave(
        self, request: web.Request, body: dict[str, Any], wire: OpenAIWire | AnthropicWire, behaviour: Behaviour
    ) -> web.StreamResponse:
        if isinstance(behaviour, Say):
            if body.get("stream"):
                return await stream(request, wire.said_events(body, behaviour))
            return web.json_response(wire.said(body, behaviour), headers={"x-request-id": "req-1"})
        name, _, argument = behaviour.partition(":")
        if name.isdigit():
            headers = dict(pair.split("=", 1) for pair in argument.split(";") if pair)
            return wire.error(int(name), "told by the server", headers=headers)
        if name in FAULTS:
            return await FAULTS[name](request, body, wire, argument)
        if body.get("stream"):
            return await stream(request, wire.events(body, name))
        return web.json_response(wire.answer(body, name), headers={"x-request-id": "req-1", "request-id": "req-1"})


def _json(arguments: Any) -> str:
    """Arguments as a model writes them; a text is taken as it is, for those that are no JSON."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


class OpenAIWire:
    """Chat completions as OpenAI sends them."""

    def complaint(self, body: dict[str, Any]) -> str | None:
        """Why the API would refuse *body*."""
        open_: list[str] = []
        for message in body["messages"]:
            if message["role"] == "tool":
                if message["tool_call_id"] not in open_:
                    return "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
                open_.remove(message["tool_call_id"])
            elif open_:
                return f"tool_call_ids did not have response messages: {open_}"
            open_ += [call["id"] for call in message.get("tool_calls") or ()]
        format_ = body.get("response_format") or {}
        if format_.get("type") == "json_object" and "json" not in str(body["messages"]).lower():
            return "'messages' must contain the word 'json' in some form"
        schema = format_.get("json_schema", {}).get("schema")
        if schema is not None and schema.get("type") != "object":
            return "schema must be a JSON Schema of 'type: \"object\"'"
        return None

    def said(self, body: dict[str, Any], say: Say) -> dict[str, Any]:
        whole = self.answer(body, "ok")
        message: dict[str, Any] = {"role": "assistant", "content": say.text or None, "refusal": None}
        if say.calls:
            message["tool_calls"] = [
                {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": _json(given)}}
                for index, (name, given) in enumerate(say.calls)
            ]
        finish = "tool_calls" if say.calls else "stop"
        whole["choices"] = [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]
        return whole

    def said_events(self, body: dict[str, Any], say: Say) -> list[str]:
        def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
            return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}) + "\n\n"

        lines = [chunk({"role": "assistant", "content": ""})]
        lines += [chunk({"content": say.text[at : at + 7]}) for at in range(0, len(say.text), 7)]
        for index, (name, given) in enumerate(say.calls):
            begun = {"index": index, "id": f"call_{index}", "type": "function"}
            lines.append(chunk({"tool_calls": [{**begun, "function": {"name": name, "arguments": ""}}]}))
            text = _json(given)
            for at in range(0, len(text), 5):
                lines.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": text[at : at + 5]}}]}))
        lines.append(chunk({}, "tool_calls" if say.calls else "stop"))
        usage = {"prompt_tokens": 40, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}}
        return [*lines, "data: " + json.dumps({"choices": [], "usage": usage}) + "\n\n", "data: [DONE]\n\n"]

    def error(self, status: int, message: str, *, headers: dict[str, str], code: str | None = None) -> web.Response:
        kinds = {401: "invalid_request_error", 429: "requests", 400: "invalid_request_error"}
        codes = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
        error = {
            "message": message,
            "type": kinds.get(status, "server_error"),
            "param": None,
            "code": code or codes.get(status),
        }
        return web.json_response({"error": error}, status=status, headers={"x-request-id": "req-err", **headers})

    def answer(self, body: dict[str, Any], variant: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": ANSWER, "refusal": None}
        finish = "stop"
        if variant == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I will not do that."}
        elif variant == "content_filter":
            message["content"], finish = "", "content_filter"
        elif variant == "empty_text":
            message["content"], finish = "", "length"
        elif variant == "parts":
            message["content"] = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "parts"}]
        elif variant == "echo_key":
            message["content"] = body["messages"][-1]["content"]
        choices: Any = [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]
        choices = {"empty_choices": [], "null_choices": None}.get(variant, choices)
        whole = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": choices,
            "usage": {
                "prompt_tokens": 40,
                "completion_tokens": 9,
                "total_tokens": 49,
                "prompt_tokens_details": {"cached_tokens": 8},
            },
        }
        if variant == "no_usage":
            del whole["usage"]
        if variant == "error200":
            return {"error": {"message": "upstream fell over", "type": None, "code": None}}
        return whole

    def events(self, body: dict[str, Any], variant: str) -> list[str]:
        def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
            return "data: " + json.dumps({**whole, "choices": [choice], **more}) + "\n\n"

        pieces = {"echo_key": [body["messages"][-1]["content"]]}.get(variant, PIECES)
        lines = [chunk({"role": "assistant", "content": ""})]
        if variant == "refusal":
            lines += [chunk({"refusal": "I will not do that."}), chunk({}, "stop")]
        elif variant == "content_filter":
            lines.append(chunk({}, "content_filter"))
        elif variant in {"empty_choices", "null_choices", "error200"}:
            value: Any = {"empty_choices": {"choices": []}, "null_choices": {"choices": None}}.get(variant)
            value = value or {"error": {"message": "upstream fell over"}}
            lines = ["data: " + json.dumps(value) + "\n\n"]
        elif variant == "empty_text":
            lines.append(chunk({}, "length"))
        elif variant == "error_event":
            error = {"error": {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}}
            return [*lines, chunk({"content": "Hel"}), "data: " + json.dumps(error) + "\n\n"]
        else:
            lines += [chunk({"content": piece}) for piece in pieces]
            if variant == "no_end":
                return lines
            lines.append(chunk({}, "stop"))
        if variant != "no_usage" and body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": 40, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}}
            lines.append("data: " + json.dumps({"choices": [], "usage": usage}) + "\n\n")
        return [*lines, "data: [DONE]\n\n"]


class AnthropicWire:
    """Messages as Anthropic sends them."""

    def complaint(self, body: dict[str, Any]) -> str | None:
        """Why the API would refuse *body*."""
        open_: list[str] = []
        before = None
        for message in body["messages"]:
            if message["role"] == before:
                return "roles must alternate between user and assistant"
            before = message["role"]
            blocks = message["content"] if isinstance(message["content"], list) else []
            if any(block["type"] == "text" and not block["text"].strip() for block in blocks):
                return "text content blocks must be non-empty"
            answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            if answered != open_:
                return f"`tool_use` ids were found without `tool_result` blocks: {open_}, but {answered}"
            open_ = [block["id"] for block in blocks if block["type"] == "tool_use"]
            if any(block["type"] == "thinking" and not block.get("signature") for block in blocks):
                return "thinking blocks need their signature"
        return None if before == "user" else "the last message must be the user's"

    def _blocks(self, say: Say) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if say.thought:
            blocks.append({"type": "thinking", "thinking": say.thought, "signature": "sig-1"})
        if say.text:
            blocks.append({"type": "text", "text": say.text})
        for index, (name, given) in enumerate(say.calls):
            blocks.append({"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": given})
        return blocks

    def said(self, body: dict[str, Any], say: Say) -> dict[str, Any]:
        stop = "tool_use" if say.calls else "end_turn"
        return {**self.answer(body, "ok"), "content": self._blocks(say), "stop_reason": stop}

    def said_events(self, body: dict[str, Any], say: Say) -> list[str]:
        def event(kind: str, **more: Any) -> str:
            return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n"

        usage = {"input_tokens": 30, "cache_read_input_tokens": 8, "cache_creation_input_tokens": 2, "output_tokens": 1}
        start = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "usage": usage}
        lines = [event("message_start", message={**start, "content": []})]
        for index, block in enumerate(self._blocks(say)):
            match block:
                case {"type": "text", "text": text}:
                    begun, deltas = {"type": "text", "text": ""}, [{"type": "text_delta", "text": text}]
                case {"type": "thinking", "thinking": text, "signature": signature}:
                    begun = {"type": "thinking", "thinking": "", "signature": ""}
                    deltas = [
                        {"type": "thinking_delta", "thinking": text},
                        {"type": "signature_delta", "signature": signature},
                    ]
                case _:
                    begun, text = {**block, "input": {}}, _json(block["input"])
                    parts = [text[at : at + 5] for at in range(0, len(text), 5)]
                    deltas = [{"type": "input_json_delta", "partial_json": part} for part in ("", *parts)]
            lines.append(event("content_block_start", index=index, content_block=begun))
            lines += [event("content_block_delta", index=index, delta=delta) for delta in deltas]
            lines.append(event("content_block_stop", index=index))
        stop = "tool_use" if say.calls else "end_turn"
        lines.append(event("message_delta", delta={"stop_reason": stop}, usage={"output_tokens": 9}))
        return [*lines, event("message_stop")]

    def error(self, status: int, message: str, *, headers: dict[str, str], code: str | None = None) -> web.Response:
        kinds = {
            400: "invalid_request_error",
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            529: "overloaded_error",
        }
        error = {"type": "error", "error": {"type": code or kinds.get(status, "api_error"), "message": message}}
        return web.json_response(error, status=status, headers={"request-id": "req-err", **headers})

    def answer(self, body: dict[str, Any], variant: str) -> dict[str, Any]:
        content: Any = [{"type": "text", "text": ANSWER}]
        stop: str | None = "end_turn"
        if variant in {"refusal", "content_filter"}:
            content, stop = [], "refusal"
        elif variant == "empty_text":
            content, stop = [], "max_tokens"
        elif variant == "parts":
            content = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "parts"}]
        elif variant == "echo_key":
            content = [{"type": "text", "text": body["messages"][-1]["content"]}]
        elif variant == "empty_choices":
            content, stop = [], None
        elif variant == "null_choices":
            content = None
        whole = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 30,
                "cache_read_input_tokens": 8,
                "cache_creation_input_tokens": 2,
                "output_tokens": 9,
            },
        }
        if variant == "no_usage":
            del whole["usage"]
        if variant == "error200":
            return {"type": "error", "error": {"message": "upstream fell over"}}
        return whole

    def events(self, body: dict[str, Any], variant: str) -> list[str]:
        def event(kind: str, **more: Any) -> str:
            return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n"

        usage = {"input_tokens": 30, "cache_read_input_tokens": 8, "cache_creation_input_tokens": 2, "output_tokens": 1}
        start = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
        if variant != "no_usage":
            start["usage"] = usage
        lines = [
            event("message_start", message=start),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            event("ping"),
        ]
        pieces = {"echo_key": [body["messages"][-1]["content"]]}.get(variant, PIECES)
        stop = "end_turn"
        if variant in {"refusal", "content_filter", "empty_text"}:
            pieces, stop = [], "max_tokens" if variant == "empty_text" else "refusal"
        if variant in {"empty_choices", "null_choices", "error200"}:
            return ['event: nothing\ndata: {"type": "nothing"}\n\n']
        lines += [
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece}) for piece in pieces
        ]
        if variant == "error_event":
            return [*lines, event("error", error={"type": "overloaded_error", "message": "Overloaded"})]
        if variant == "no_end":
            return lines
        lines.append(event("content_block_stop", index=0))
        told = {} if variant == "no_usage" else {"usage": {"output_tokens": 9}}
        lines.append(event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, **told))
        return [*lines, event("message_stop")]


Wire = OpenAIWire | AnthropicWire


def _amazon_frame(event: str) -> bytes:
    """A server-sent event as a frame of application/vnd.amazon.eventstream."""
    payload = json.dumps({"bytes": base64.b64encode(event.partition("data: ")[2].strip().encode()).decode()}).encode()
    headers = b""
    for name, value in (
        (b":event-type", b"chunk"),
        (b":content-type", b"application/json"),
        (b":message-type", b"event"),
    ):
        headers += bytes([len(name)]) + name + b"\x07" + struct.pack("!H", len(value)) + value
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


async def stream(request: web.Request, events: list[str]) -> web.StreamResponse:
    amazon = request.match_info.get("verb") == "invoke-with-response-stream"
    kind = "application/vnd.amazon.eventstream" if amazon else "text/event-stream"
    response = web.StreamResponse(headers={"content-type": kind, "x-request-id": "req-1", "request-id": "req-1"})
    await response.prepare(request)
    for event in events:
        await response.write(_amazon_frame(event) if amazon else event.encode())
    await response.write_eof()
    return response


async def _html(request: web.Request, body: dict[str, Any], wire: Wire, argument: str) -> web.StreamResponse:
    return web.Response(text="<html>Sign in to the hotel's network</html>", content_type="text/html")


async def _raw(request: web.Request, body: dict[str, Any], wire: Wire, argument: str) -> web.StreamResponse:
    texts = {"truncated": b'{"choices": [{"mess', "empty": b"", "utf8": b'{"choices": "\xff\xfe"}', "list": b"[1, 2]"}
    if body.get("stream"):
        data = b"" if argument == "empty" else b"data: " + texts[argument] + b"\n\n"
        return web.Response(body=data, content_type="text/event-stream")
    return web.Response(body=texts[argument], content_type="application/json")


async def _reset(request: web.Request, body: dict[str, Any], wire: Wire, argument: str) -> web.StreamResponse:
    """Half an answer, then the connection is cut hard."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "content-length": "100000"})
    if not body.get("stream"):
        response.content_type = "application/json"
    if argument != "before":
        await response.prepare(request)
        await response.write(b'{"choices": ' if not body.get("stream") else wire.events(body, "ok")[0].encode())
    assert request.transport is not None
    request.transport.abort()
    return response


async def _stall(request: web.Request, body: dict[str, Any], wire: Wire, argument: str) -> web.StreamResponse:
    """Never answers; or begins to and falls silent (`stall:begun`); or only keeps alive (`stall:alive`)."""
    if argument:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": begun\n\n")
        while argument == "alive":
            await response.write(b": keep-alive\n\n")
            await asyncio.sleep(0.01)
    await asyncio.sleep(HANG_S)
    raise AssertionError


async def _huge(request: web.Request, body: dict[str, Any], wire: Wire, argument: str) -> web.StreamResponse:
    """48 MiB of answer; with `huge:gzip` in 48 KiB of bytes."""
    response = web.StreamResponse(headers={"content-type": "application/json"})
    if body.get("stream"):
        response.headers["content-type"] = "text/event-stream"
    if argument == "gzip":
        response.headers["content-encoding"] = "gzip"
        await response.prepare(request)
        await response.write(gzip.compress(b'{"choices": "' + b"x" * (48 * 2**20) + b'"}'))
        return response
    await response.prepare(request)
    await response.write(b'data: {"choices": "' if body.get("stream") else b'{"choices": "')
    for _ in range(48):
        await response.write(b"x" * 2**20)
    return response


async def _coded(request: web.Request, body: dict[str, Any], wire: Wire, argument: str) -> web.StreamResponse:
    status, code, message = argument.split(",", 2)
    return wire.error(int(status), message, headers={}, code=code or None)


async def _whole(request: web.Request, body: dict[str, Any], wire: Wire, argument: str) -> web.StreamResponse:
    return web.json_response(wire.answer(body, "ok"))


async def _gzip(request: web.Request, body: dict[str, Any], wire: Wire, argument: str) -> web.StreamResponse:
    data = json.dumps(wire.answer(body, "ok")).encode()
    return web.Response(
        body=gzip.compress(data), headers={"content-type": "application/json", "content-encoding": "gzip"}
    )


FAULTS: dict[str, Callable[[web.Request, dict[str, Any], Wire, str], Awaitable[web.StreamResponse]]] = {
    "html": _html,
    "raw": _raw,
    "reset": _reset,
    "stall": _stall,
    "huge": _huge,
    "coded": _coded,
    "gzip": _gzip,
    "whole": _whole,
}

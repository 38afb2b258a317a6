"""Anthropic's messages; Bedrock and Vertex through the SDK's own clients.

Protocol: https://docs.anthropic.com/en/api/messages and /en/api/messages-streaming
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentdag.calls import (
    Exchange,
    Form,
    OnDelta,
    Reply,
    Request,
    ToolCall,
    ToolForm,
    Usage,
    asked_tokens,
    estimate_tokens,
)
from agentdag.errors import ErrorKind, Failure, UsageError, call_error
from agentdag.providers.sdk import SdkClient, Told, count
from agentdag.providers.settings import Settings
from agentdag.providers.structured import (
    ANSWER_TOOL,
    JSON_OBJECT,
    JSON_SCHEMA,
    PROMPT,
    TOOL,
    answer_in,
    answer_tool,
    in_words,
    mode_of,
)

_PATH = "/v1/messages"
_PARTIAL = "partial_json"
"""Where the arguments of a tool stand in a block while they stream."""
DEFAULT_MAX_TOKENS = 4096
"""The API demands a bound; this one is sent where the pipeline gives none."""


class AnthropicProvider:
    """One account at one server."""

    def __init__(self, settings: Settings) -> None:
        import anthropic  # noqa: PLC0415 - heavy: only a run that uses it pays for it

        self._settings = settings
        shared: dict[str, Any] = {
            "max_retries": 0,
            "default_headers": dict(settings.headers) or None,
            "http_client": settings.http.client(anthropic),
        }
        if settings.base_url is not None:
            shared["base_url"] = settings.base_url
        try:
            client = self._client(anthropic, shared)
        except (ImportError, ValueError, RuntimeError, anthropic.AnthropicError) as error:
            hint = f"install the extra: pip install '.[{settings.type}]'" if isinstance(error, ImportError) else None
            raise UsageError(f"`{settings.name}` cannot be reached: {error}", hint=hint) from None
        self._sdk = SdkClient(client, anthropic, settings.name, "request-id")

    def _client(self, anthropic: Any, shared: dict[str, Any]) -> Any:
        settings = self._settings
        if settings.type == "bedrock":
            self._need("boto3")
            return anthropic.AsyncAnthropicBedrock(aws_region=settings.region, api_key=settings.api_key, **shared)
        if settings.type == "vertex":
            if settings.api_key is None:  # which is an access token here
                self._need("google.auth")
            place = {"region": settings.region, "project_id": settings.project}
            given = {key: value for key, value in place.items() if value is not None}
            return anthropic.AsyncAnthropicVertex(access_token=settings.api_key, **given, **shared)
        return anthropic.AsyncAnthropic(api_key=settings.key("ANTHROPIC_API_KEY"), **shared)

    def _need(self, module: str) -> None:
        from importlib.util import find_spec  # noqa: PLC0415 - rarely needed

        top = module.partition(".")[0]
        if find_spec(top) is None or find_spec(module) is None:
            raise ImportError(f"the package {module} is not installed")

    async def complete(self, request: Request, on_delta: OnDelta) -> Reply:
        """The answer to *request*; streamed where it says so. Raises CallError only."""
        body = self._body(request)
        stream = request.stream if self._settings.stream is None else self._settings.stream
        if stream:
            return await self._streamed(request, body, on_delta)
        answer, told = await self._sdk.post(_PATH, body, request.timeout_s)
        return self._whole(request, answer, told)

    def _whole(self, request: Request, answer: dict[str, Any], told: Told) -> Reply:
        content = answer.get("content")
        if not isinstance(content, list):
            raise self._sdk.fail("the answer has no content", told.request_id)
        usage = answer.get("usage")
        counted = usage if isinstance(usage, dict) else {}
        blocks = [block for block in content if isinstance(block, dict)]
        return self._reply(request, blocks, answer.get("stop_reason"), counted, told, None)

    async def _streamed(self, request: Request, body: dict[str, Any], on_delta: OnDelta) -> Reply:
        body["stream"] = True
        blocks: dict[int, dict[str, Any]] = {}
        stop, ttft_s, ended = None, None, False
        usage: dict[str, Any] = {}
        started = time.monotonic()
        async with self._sdk.stream(_PATH, body, request.timeout_s) as (events, told):
            if isinstance(events, dict):
                return self._whole(request, events, told)
            on_delta("")
            async for event in events:
                match event:
                    case {"type": "content_block_start", "index": int(index), "content_block": dict(block)}:
                        blocks[index] = dict(block)
                    case {"type": "content_block_delta", "delta": dict(delta)}:
                        piece = _added(blocks.setdefault(event.get("index", 0), {"type": "text", "text": ""}), delta)
                        if piece:
                            ttft_s = time.monotonic() - started if ttft_s is None else ttft_s
                        on_delta(piece)
                    case {"type": "message_start", "message": {"usage": dict(counted)}}:
                        usage |= counted
                    case {"type": "message_delta", "delta": dict(delta)}:
                        stop = delta.get("stop_reason") or stop
                        more = event.get("usage")
                        usage |= {key: v for key, v in more.items() if v is not None} if isinstance(more, dict) else {}
                    case {"type": "message_stop"}:
                        ended = True
        if not ended:
            raise self._sdk.fail("the stream ended without its end marker", told.request_id)
        return self._reply(
            request, [_whole_block(blocks[index]) for index in sorted(blocks)], stop, usage, told, ttft_s
        )

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": sampling.max_tokens or DEFAULT_MAX_TOKENS,
            "messages": [{"role": "user", "content": _content(request)}],
        }
        for exchange in request.history:
            body["messages"] += _messages(exchange)
        mode, form = mode_of(self._settings.structured, request.form), request.form
        if form is not None and mode in {JSON_OBJECT, PROMPT}:
            request = replace(request, system=in_words(request.system, form))
        config: dict[str, Any] = {"effort": sampling.reasoning_effort} if sampling.reasoning_effort else {}
        if form is not None and mode == JSON_SCHEMA:
            config["format"] = {"type": "json_schema", "schema": _taken(form)}
        if form is not None and mode == TOOL:
            name, about, schema = answer_tool(form)
            body["tools"] = [{"name": name, "description": about, "input_schema": schema}]
            body["tool_choice"] = {"type": "tool", "name": name} if request.closing else {"type": "any"}
        if request.tools:
            body["tools"] = [*map(_tool, request.tools), *body.get("tools", ())]
            if request.closing and mode != TOOL:
                body["tool_choice"] = {"type": "none"}
        given = {
            "system": _system(request),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop_sequences": list(sampling.stop) or None,
            "output_config": config or None,
        }
        body |= {key: value for key, value in given.items() if value is not None}
        return body | dict(sampling.params)

    def _reply(
        self,
        request: Request,
        blocks: list[dict[str, Any]],
        stop: Any,
        usage: Mapping[str, Any],
        told: Told,
        ttft_s: float | None,
    ) -> Reply:
        text = "".join(block["text"] for block in blocks if isinstance(block.get("text"), str))
        calls = tuple(_call(block) for block in blocks if block.get("type") == "tool_use")
        raw: Any = {"role": "assistant", "content": [block for block in blocks if block.get("text") != ""]}
        if request.form is not None:
            taken = next((call for call in calls if call.name == ANSWER_TOOL), None)
            if taken is not None:
                text, calls, raw = answer_in(taken.arguments, request.form), (), None
        if stop == "refusal":
            name = self._settings.name
            message = text[:500] or "the model refused to answer"
            raise call_error(Failure(ErrorKind.REFUSED, message, name, 200, told.request_id, billed="yes"))
        if not isinstance(stop, str):
            raise self._sdk.fail("the answer has no stop_reason", told.request_id)
        if not text and not calls:
            cut = stop == "max_tokens"
            message = "max_tokens was spent before any text came" if cut else "the answer is empty"
            raise self._sdk.fail(message, told.request_id, final=cut)
        return Reply(text, _usage(usage, request, text), stop, told.request_id, ttft_s, told.room, calls, raw)

    async def aclose(self) -> None:
        """Nothing to close: the HTTP client is the run's."""


_KEEP = {"cache_control": {"type": "ephemeral"}}


def _tool(form: ToolForm) -> dict[str, Any]:
    return {"name": form.name, "description": form.about, "input_schema": form.schema}


def _call(block: Mapping[str, Any]) -> ToolCall:
    arguments = block.get("input")
    return ToolCall(str(block.get("id")), str(block.get("name")), json.dumps(arguments, ensure_ascii=False))


def _added(block: dict[str, Any], delta: Mapping[str, Any]) -> str:
    """Add what a stream brings to its *block*; returns the text that came."""
    match delta:
        case {"type": "text_delta", "text": str(piece)}:
            block["text"] = block.get("text", "") + piece
            return piece
        case {"type": "input_json_delta", "partial_json": str(piece)}:
            block[_PARTIAL] = block.get(_PARTIAL, "") + piece
        case {"type": "thinking_delta", "thinking": str(piece)}:
            block["thinking"] = block.get("thinking", "") + piece
        case {"type": "signature_delta", "signature": str(piece)}:
            block["signature"] = block.get("signature", "") + piece
    return ""


def _whole_block(block: dict[str, Any]) -> dict[str, Any]:
    """A block whose stream has ended; arguments that are no JSON stay as they are, for whoever reads them."""
    partial = block.pop(_PARTIAL, None)
    if partial is not None:
        try:
            block["input"] = json.loads(partial)
        except (ValueError, RecursionError):
            block["input"] = partial
    return block


def _messages(exchange: Exchange) -> list[dict[str, Any]]:
    """What was said on both sides in one turn."""
    said = exchange.raw
    if said is None:
        said = {"role": "assistant", "content": exchange.text}
    told: list[dict[str, Any]] = [
        {"type": "tool_result", "tool_use_id": result.call, "content": result.text, "is_error": result.failed}
        for result in exchange.results
    ]
    if exchange.told is not None:
        told.append({"type": "text", "text": exchange.told})
    return [said, {"role": "user", "content": told}]


def _taken(form: Form) -> Mapping[str, Any]:
    """The schema as the API takes it: bounds that it does not know become words. The SDK knows how."""
    from anthropic import transform_schema  # noqa: PLC0415 - heavy: loaded already where it is asked

    assert form.schema is not None
    try:
        taken: Mapping[str, Any] = transform_schema(dict(form.schema))
    except (ValueError, TypeError, KeyError, AttributeError):  # words that the SDK has not heard of
        return form.schema
    return taken


def _content(request: Request) -> str | list[dict[str, Any]]:
    """The prompt; what others begin with too in a block of its own, which the cache is asked to keep."""
    if not request.lead:
        return request.prompt
    shared, own = request.prompt[: request.lead], request.prompt[request.lead :]
    if not own.strip() or not shared.strip():  # a block of white space is refused
        return [{"type": "text", "text": request.prompt, **_KEEP}]
    return [{"type": "text", "text": shared, **_KEEP}, {"type": "text", "text": own}]


def _system(request: Request) -> str | list[dict[str, Any]] | None:
    """The system prompt, which the cache is asked to keep where it is all that calls share."""
    if request.system is None or request.lead is None or request.lead > 0:
        return request.system
    return [{"type": "text", "text": request.system, **_KEEP}]


def _usage(told: Mapping[str, Any], request: Request, text: str) -> Usage:
    """Tokens as counted, cached ones among the input; estimated where the server counted none."""
    given, made = count(told.get("input_tokens")), count(told.get("output_tokens"))
    if given is None or made is None:
        return Usage(asked_tokens(request), estimate_tokens(text), 0, estimated=True)
    read = count(told.get("cache_read_input_tokens")) or 0
    written = count(told.get("cache_creation_input_tokens")) or 0
    return Usage(given + read + written, made, read, written_tokens=written)

"""OpenAI's chat completions, which also most local servers and gateways speak; Azure through the SDK.

Protocol: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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
    is_object,
    is_strict,
    mode_of,
)

_PATH = "/chat/completions"
_REASONING = ("reasoning_content", "reasoning")
"""Where servers stream what a model thinks before it answers."""


class OpenAIProvider:
    """One account at one server."""

    def __init__(self, settings: Settings) -> None:
        import openai  # noqa: PLC0415 - heavy: only a run that uses it pays for it

        self._settings = settings
        own_server = settings.base_url is not None and settings.type == "openai"
        self._takes_cache_keys = not own_server
        self._max_tokens_field = settings.max_tokens_field or ("max_tokens" if own_server else "max_completion_tokens")
        shared: dict[str, Any] = {
            "max_retries": 0,
            "default_headers": dict(settings.headers) or None,
            "http_client": settings.http.client(openai),
        }
        if settings.type == "azure":
            client = self._azure(openai, shared)
        else:
            key = settings.key("OPENAI_API_KEY")
            client = openai.AsyncOpenAI(api_key=key, base_url=settings.base_url, **shared)
        self._sdk = SdkClient(client, openai, settings.name, "x-request-id")

    def _azure(self, openai: Any, shared: Mapping[str, Any]) -> Any:
        settings = self._settings
        endpoint = settings.base_url or settings.environment.get("AZURE_OPENAI_ENDPOINT")
        if not endpoint:
            raise UsageError(
                f"`{settings.name}` needs the endpoint of your Azure resource",
                hint="write `base_url: https://NAME.openai.azure.com`, or export AZURE_OPENAI_ENDPOINT",
            )
        key = settings.api_key or settings.environment.get("AZURE_OPENAI_API_KEY")
        if not key:
            raise UsageError(f"`{settings.name}` needs an API key", hint="export AZURE_OPENAI_API_KEY=...")
        settings.secrets.add(key)
        version = settings.api_version or settings.environment.get("OPENAI_API_VERSION") or "2024-10-21"
        return openai.AsyncAzureOpenAI(azure_endpoint=endpoint, api_key=key, api_version=version, **shared)

    async def complete(self, request: Request, on_delta: OnDelta) -> Reply:
        """The answer to *request*; streamed where it says so. Raises CallError only."""
        body = self._body(request)
        stream = request.stream if self._settings.stream is None else self._settings.stream
        if stream:
            return await self._streamed(request, body, on_delta)
        answer, told = await self._sdk.post(_PATH, body, request.timeout_s)
        return self._whole(request, answer, told)

    def _whole(self, request: Request, answer: dict[str, Any], told: Told) -> Reply:
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise self._sdk.fail("the answer has no choices", told.request_id)
        message = choice["message"]
        if message.get("refusal"):
            raise self._refused(str(message["refusal"]), told.request_id)
        text, asked = _text(message.get("content")), _calls(message.get("tool_calls"))
        raw = message | {"tool_calls": _assistant(text, asked)["tool_calls"]} if asked else message
        said = _Said(text, asked, raw)
        return self._reply(request, said, choice.get("finish_reason"), answer.get("usage"), told, None)

    async def _streamed(self, request: Request, body: dict[str, Any], on_delta: OnDelta) -> Reply:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        pieces: list[str] = []
        thoughts: dict[str, str] = {}
        calls: dict[int, dict[str, str]] = {}
        finish, usage, ttft_s, refusal = None, None, None, ""
        started = time.monotonic()
        async with self._sdk.stream(_PATH, body, request.timeout_s) as (events, told):
            if isinstance(events, dict):
                return self._whole(request, events, told)
            on_delta("")
            async for event in events:
                if not isinstance(event, dict):
                    raise self._sdk.fail("the stream holds JSON that is no object", told.request_id)
                usage = event.get("usage") or usage
                choices = event.get("choices")
                choice = choices[0] if isinstance(choices, list) and choices else None
                if not isinstance(choice, dict):
                    continue
                finish = choice.get("finish_reason") or finish
                delta = choice.get("delta")
                if not isinstance(delta, dict):
                    continue
                refusal += str(delta.get("refusal") or "")
                if piece := _text(delta.get("content")):
                    ttft_s = time.monotonic() - started if ttft_s is None else ttft_s
                    pieces.append(piece)
                _add_calls(calls, delta.get("tool_calls"))
                for key in _REASONING:
                    if isinstance(delta.get(key), str):
                        thoughts[key] = thoughts.get(key, "") + delta[key]
                if piece or delta.get("tool_calls") or any(delta.get(key) for key in _REASONING):
                    on_delta(piece)
        if refusal:
            raise self._refused(refusal, told.request_id)
        if finish is None:
            raise self._sdk.fail("the stream ended without its end marker", told.request_id)
        asked = _distinct(call for _, call in sorted(calls.items()))
        text = "".join(pieces)
        raw = _assistant(text, asked) | thoughts
        return self._reply(request, _Said(text, asked, raw), finish, usage, told, ttft_s)

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        mode = mode_of(self._settings.structured, request.form)
        system = request.system
        if request.form is not None and mode in {JSON_OBJECT, PROMPT}:
            system = in_words(system, request.form)
        messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": request.prompt})
        for exchange in request.history:
            messages += _messages(exchange)
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        body |= _structured(request.form, mode)
        if request.tools:
            body["tools"] = [*map(_tool, request.tools), *body.get("tools", ())]
            if request.closing and mode != TOOL:
                body["tool_choice"] = "none"
            elif request.closing and request.form is not None:
                body["tool_choice"] = {"type": "function", "function": {"name": ANSWER_TOOL}}
        given = {
            self._max_tokens_field: sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "reasoning_effort": sampling.reasoning_effort,
            "prompt_cache_key": request.cache_key if self._takes_cache_keys else None,
        }
        body |= {key: value for key, value in given.items() if value is not None}
        return body | dict(sampling.params)

    def _reply(self, request: Request, said: _Said, finish: Any, usage: Any, told: Told, ttft_s: float | None) -> Reply:
        text, calls, raw = said
        if request.form is not None:
            given = next((call for call in calls if call.name == ANSWER_TOOL), None)
            if given is not None:
                text, calls, raw = answer_in(given.arguments, request.form), (), None
            text = _unwrapped(text, request.form, mode_of(self._settings.structured, request.form))
        if finish == "content_filter":
            raise self._refused("the content filter stopped the answer", told.request_id)
        if not isinstance(finish, str):
            raise self._sdk.fail("the answer has no finish_reason", told.request_id)
        if not text and not calls:
            cut = finish == "length"
            message = "max_tokens was spent before any text came" if cut else "the answer is empty"
            raise self._sdk.fail(message, told.request_id, final=cut)
        return Reply(text, _usage(usage, request, text), finish, told.request_id, ttft_s, told.room, calls, raw)

    def _refused(self, message: str, request_id: str | None) -> Exception:
        name = self._settings.name
        return call_error(Failure(ErrorKind.REFUSED, message[:500], name, 200, request_id, billed="yes"))

    async def aclose(self) -> None:
        """Nothing to close: the HTTP client is the run's."""


class _Said(NamedTuple):
    """What the model said: text, calls of tools, and the message as it came."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    raw: Any = None


def _tool(form: ToolForm) -> dict[str, Any]:
    function = {"name": form.name, "description": form.about, "parameters": form.schema}
    return {"type": "function", "function": function}


def _assistant(text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """A message of the model's."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message


def _messages(exchange: Exchange) -> list[dict[str, Any]]:
    """What was said on both sides in one turn."""
    messages = [exchange.raw or _assistant(exchange.text, exchange.calls)]
    messages += [{"role": "tool", "tool_call_id": result.call, "content": result.text} for result in exchange.results]
    if exchange.told is not None:
        messages.append({"role": "user", "content": exchange.told})
    return messages


def _structured(form: Form | None, mode: str | None) -> dict[str, Any]:
    """The part of a body that asks for JSON."""
    if form is None or mode in {None, PROMPT}:
        return {}
    if mode == TOOL:
        name, about, schema = answer_tool(form)
        function = {"name": name, "description": about, "parameters": schema}
        return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    if mode == JSON_SCHEMA:
        schema = _as_object(form.schema or {})
        told = {"name": "answer", "schema": schema, "strict": is_strict(schema)}
        return {"response_format": {"type": "json_schema", "json_schema": told}}
    return {"response_format": {"type": "json_object"}}


def _as_object(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """*schema*, which the API wants to describe an object: anything else is wrapped in one."""
    if is_object(schema):
        return schema
    return {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
    }


def _unwrapped(text: str, form: Form, mode: str | None) -> str:
    """The answer without what `_as_object` put around it."""
    wrapped = mode == JSON_SCHEMA and form.schema is not None and not is_object(form.schema)
    return answer_in(text, form) if wrapped else text


def _calls(told: Any) -> tuple[ToolCall, ...]:
    """The tools that a message asks for; what has no name is none."""
    found: dict[int, dict[str, str]] = {}
    _add_calls(found, told)
    return _distinct(call for call in found.values() if call["name"])


def _distinct(calls: Iterable[Mapping[str, str]]) -> tuple[ToolCall, ...]:
    """*calls*, each by an id of its own: some servers give them all the same, or none."""
    made: dict[str, ToolCall] = {}
    for number, call in enumerate(calls, 1):
        id_ = call["id"]
        while not id_ or id_ in made:
            id_ = f"{id_ or 'call'}_{number}"
        made[id_] = ToolCall(id_, call["name"], call["arguments"])
    return tuple(made.values())


def _add_calls(calls: dict[int, dict[str, str]], told: Any) -> None:
    """Take in calls of tools, whole or in pieces, by their index."""
    for place, each in enumerate(told if isinstance(told, list) else ()):
        function = each.get("function") if isinstance(each, dict) else None
        if not isinstance(function, dict):
            continue
        index = each.get("index")
        call = calls.setdefault(
            index if isinstance(index, int) else place, {"id": f"call_{place}", "name": "", "arguments": ""}
        )
        if isinstance(each.get("id"), str) and each["id"]:
            call["id"] = each["id"]
        for part in ("name", "arguments"):
            if isinstance(function.get(part), str):
                call[part] += function[part]


def _text(content: Any) -> str:
    """A message's text; some servers send it in parts."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _usage(usage: Any, request: Request, text: str) -> Usage:
    """Tokens as counted; estimated from the texts where the server counted none."""
    told = usage if isinstance(usage, dict) else {}
    given, made = count(told.get("prompt_tokens")), count(told.get("completion_tokens"))
    details = told.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if given is None or made is None:
        return Usage(asked_tokens(request), estimate_tokens(text), 0, estimated=True)
    return Usage(given, made, cached or 0)

"""OpenAI's API as it is documented, and no more lenient: chat completions and Responses, at OpenAI's and Azure's paths.

It refuses what the real one is known to refuse, in its words. Rules:
https://platform.openai.com/docs/guides/structured-outputs https://platform.openai.com/docs/guides/reasoning
https://platform.openai.com/docs/guides/migrate-to-responses
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from loopback import Loopback

NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
REASONS = re.compile(r"^(o\d|gpt-[56](?!-chat))")
NEWEST = re.compile(r"^gpt-(5\.[5-9]|[6-9])")
"""Models that refuse function tools on chat completions unless they do not reason."""
_CHAT = {
    "model", "messages", "tools", "tool_choice", "response_format", "max_tokens", "max_completion_tokens", "temperature",
    "top_p", "seed", "stop", "reasoning_effort", "service_tier", "prompt_cache_key", "stream", "stream_options", "n",
    "metadata", "logprobs", "parallel_tool_calls", "user", "store", "presence_penalty", "frequency_penalty",
}  # fmt: skip
_RESPONSES = {
    "model", "input", "instructions", "tools", "tool_choice", "text", "max_output_tokens", "temperature", "top_p",
    "reasoning", "include", "store", "service_tier", "prompt_cache_key", "stream", "metadata", "parallel_tool_calls",
    "previous_response_id", "truncation", "top_logprobs", "user", "max_tool_calls", "safety_identifier",
}  # fmt: skip
_MESSAGE = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "refusal", "audio", "function_call"},
    "tool": {"role", "content", "tool_call_id"},
}
_ITEMS = {
    "message": {"type", "role", "content", "id", "status", "phase"},
    "reasoning": {"type", "id", "summary", "encrypted_content"},
    "function_call": {"type", "id", "call_id", "name", "arguments", "namespace"},
    "function_call_output": {"type", "call_id", "output", "id"},
}
_STRICT = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs", "title",
    "description", "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minItems", "maxItems",
}  # fmt: skip
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}


@dataclass(frozen=True)
class Turn:
    """What the model does in one turn."""

    text: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    thought: str = ""
    refusal: str = ""
    incomplete: str = ""
    failed: str = ""
    tier: str = "default"


class Refused(Exception):
    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        self.status = status


Script = Callable[[dict[str, Any]], Turn | web.Response]


@dataclass
class StrictOpenAI(Loopback):
    """Plays *turns* one after another, the last again and again; a callable decides for itself."""

    turns: list[Turn | Script] = field(default_factory=lambda: [Turn("hello")])
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    keys: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def routes(self, app: web.Application) -> None:
        for prefix in ("/v1", "/openai/v1"):
            app.router.add_post(f"{prefix}/chat/completions", self._chat)
            app.router.add_post(f"{prefix}/responses", self._responses)
            app.router.add_get(f"{prefix}/models", self._models)
        app.router.add_post("/openai/deployments/{deployment}/chat/completions", self._chat)
        app.router.add_post("/openai/responses", self._responses)

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "gpt-5-mini"}, {"id": "gpt-4o"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, check_chat, chat_body, chat_events)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, check_response, response_body, response_events)

    async def _answer(self, request: web.Request, check: Any, whole: Any, events: Any) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.keys.append({name.lower(): value for name, value in request.headers.items()})
        try:
            check(body)
        except Refused as refused:
            self.refused.append(refused.error["message"] or "")
            return web.json_response(
                {"error": refused.error}, status=refused.status, headers={"x-request-id": "req-no"}
            )
        self.asked.append((request.path_qs, body))
        turn = self.turns[min(len(self.asked), len(self.turns)) - 1]
        if not isinstance(turn, Turn):
            turn = turn(body)
        if isinstance(turn, web.Response):
            return turn
        headers = {"x-request-id": f"req-{len(self.asked)}", **self.headers}
        if not body.get("stream"):
            return web.json_response(whole(body, turn), headers=headers)
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **headers})
        await response.prepare(request)
        for event in events(body, turn):
            await response.write(event.encode())
        await response.write_eof()
        return response


def _known(body: dict[str, Any], known: set[str], where: str = "") -> None:
    for key in body:
        if key not in known:
            raise Refused(f"Unknown parameter: '{where}{key}'.", f"{where}{key}", "unknown_parameter")


def check_chat(body: dict[str, Any]) -> None:
    _known(body, _CHAT)
    reasons = REASONS.match(body["model"]) is not None
    effort = body.get("reasoning_effort")
    if NEWEST.match(body["model"]) and body.get("tools") and effort != "none":
        told = f"Function tools with reasoning_effort are not supported for {body['model']} in /v1/chat/completions. "
        raise Refused(
            told + "To use function tools, use /v1/responses or set reasoning_effort to 'none'.", "reasoning_effort"
        )
    if reasons and "max_tokens" in body:
        told = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise Refused(told, "max_tokens", "unsupported_parameter")
    _check_sampling(body, reasons, effort)
    if "stream_options" in body and not body.get("stream"):
        raise Refused("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    for number, tool in enumerate(body.get("tools", ())):
        _check_tool(tool["function"], f"tools[{number}].function")
    _check_messages(body["messages"])
    format_ = body.get("response_format") or {}
    if format_.get("type") == "json_object" and "json" not in json.dumps(body["messages"]).lower():
        raise Refused(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
        )
    if format_.get("type") == "json_schema":
        _check_format(format_["json_schema"], "response_format")


def _check_messages(messages: list[dict[str, Any]]) -> None:
    open_: list[str] = []
    for number, message in enumerate(messages):
        _known(message, _MESSAGE[message["role"]], f"messages[{number}].")
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_:
                raise Refused("messages with role 'tool' must be a response to a preceding message with 'tool_calls'.")
            open_.remove(message["tool_call_id"])
        elif open_:
            raise Refused(f"The following tool_call_ids did not have response messages: {', '.join(open_)}")
        if message["role"] == "assistant" and not message.get("content") and not message.get("tool_calls"):
            raise Refused(f"Invalid value for 'content': expected a string, got null. messages[{number}].content")
        for call in message.get("tool_calls") or ():
            if not isinstance(call["function"]["arguments"], str):
                raise Refused("Invalid type for 'arguments': expected a string, but got an object instead.")
            open_.append(call["id"])


def _check_sampling(body: dict[str, Any], reasons: bool, effort: str | None) -> None:
    for key in ("temperature", "top_p"):
        if reasons and key in body and effort != "none":
            raise Refused(
                f"Unsupported parameter: '{key}' is not supported with this model.", key, "unsupported_parameter"
            )
    if body.get("service_tier") not in {None, "auto", "default", "flex", "priority"}:
        raise Refused(f"Invalid value: '{body['service_tier']}'.", "service_tier")


def _check_tool(function: dict[str, Any], where: str) -> None:
    if not NAME.match(function["name"]):
        told = f"Invalid '{where}.name': string does not match pattern. Expected a string that matches the pattern"
        raise Refused(f"{told} '^[a-zA-Z0-9_-]+$'.", f"{where}.name", "invalid_value")
    schema, name = function.get("parameters"), function["name"]
    param, code = f"{where}.parameters", "invalid_function_parameters"
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise Refused(
            f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"'.", param, code
        )
    if {"oneOf", "anyOf", "allOf", "enum", "not"} & schema.keys():
        told = "schema must have type 'object' and not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level."
        raise Refused(f"Invalid schema for function '{name}': {told}", param, code)
    if not isinstance(schema.get("properties"), dict):
        raise Refused(f"Invalid schema for function '{name}': object schema missing properties.", param, code)
    if (place := _array_without_items(schema)) is not None:
        raise Refused(
            f"Invalid schema for function '{name}': In context={place}, array schema missing items.", param, code
        )
    if function.get("strict") and (why := strict_problem(schema)) is not None:
        raise Refused(f"Invalid schema for function '{name}': {why}", param, code)


def _array_without_items(part: Any, place: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    if isinstance(part, list):
        return next((found for each in part if (found := _array_without_items(each, place)) is not None), None)
    if not isinstance(part, dict):
        return None
    kinds = part.get("type")
    if "array" in (kinds if isinstance(kinds, list) else [kinds]) and "items" not in part:
        return place
    for key, inner in part.items():
        if key not in {"enum", "const", "default", "examples"}:
            found = _array_without_items(inner, (*place, key))
            if found is not None:
                return found
    return None


def _check_format(format_: dict[str, Any], where: str) -> None:
    schema = format_["schema"]
    if schema.get("type") != "object":
        told = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
        raise Refused(f"Invalid schema for response_format '{format_['name']}': {told}", where)
    if format_.get("strict") and (why := strict_problem(schema)) is not None:
        raise Refused(f"Invalid schema for response_format '{format_['name']}': {why}", where)


def strict_problem(schema: dict[str, Any]) -> str | None:
    """Why the strict mode refuses *schema*, by the published rules; None where it accepts it."""
    if schema.get("type") != "object" or "anyOf" in schema:
        return "schema must be an object, and not anyOf, at its root."
    properties = names = 0
    left: list[tuple[Any, tuple[str, ...], int]] = [(schema, (), 0)]
    while left:
        part, place, depth = left.pop()
        if depth > 10:
            return "nesting exceeds 10 levels."
        if (why := _part_problem(part, place, schema)) is not None:
            return f"In context={place}, {why}"
        own = part.get("properties", {})
        properties += len(own)
        names += sum(map(len, own)) + sum(len(str(each)) for each in part.get("enum", ()))
        left += [(each, (*place, "properties", name), depth + 1) for name, each in own.items()]
        left += [(each, (*place, "$defs", name), 0) for name, each in part.get("$defs", {}).items()]
        left += [(each, (*place, "anyOf", str(n)), depth) for n, each in enumerate(part.get("anyOf", ()))]
        left += [(part["items"], (*place, "items"), depth + 1)] if "items" in part else []
    return "too many properties or names." if properties > 5000 or names > 120_000 else None


def _part_problem(part: Any, place: tuple[str, ...], root: dict[str, Any]) -> str | None:
    if not isinstance(part, dict):
        return "a schema must be an object."
    kinds = part.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    is_object, reference = "object" in kinds, part.get("$ref")
    if reference is not None:
        known = reference == "#" or reference.removeprefix("#/$defs/") in root.get("$defs", {})
        rules = [
            (len(part) > 1, f"$ref cannot have keywords {set(part) - {'$ref'}}."),
            (not known, f"reference to component '{reference}' which was not found in the schema."),
        ]
    else:
        every = set(part.get("required", ())) == set(part.get("properties", {}))
        rules = [
            (bool(part.keys() - _STRICT), f"'{min(part.keys() - _STRICT, default='')}' is not permitted."),
            ("type" not in part and "anyOf" not in part, "schema must have a 'type' key."),
            ("$defs" in part and bool(place), "'$defs' is not permitted."),
            (part.get("format", "date") not in _FORMATS, f"'{part.get('format')}' is not a valid format."),
            ("(?" in part.get("pattern", ""), "lookarounds are not supported."),
            (
                is_object and part.get("additionalProperties") is not False,
                "'additionalProperties' is required to be supplied and to be false.",
            ),
            (is_object and not every, "'required' is required to be supplied and to be an array including every key."),
            ("array" in kinds and "items" not in part, "array schema missing items."),
        ]
    return next((message for wrong, message in rules if wrong), None)


def check_response(body: dict[str, Any]) -> None:
    _known(body, _RESPONSES)
    reasons = REASONS.match(body["model"]) is not None
    effort = (body.get("reasoning") or {}).get("effort")
    _check_sampling(body, reasons, effort)
    if effort is not None and not reasons:
        raise Refused("Unsupported parameter: 'reasoning.effort' is not supported with this model.", "reasoning.effort")
    if "reasoning.encrypted_content" in body.get("include", ()) and not reasons:
        raise Refused("Encrypted content is not supported with this model.", "include")
    if body.get("max_output_tokens") is not None and body["max_output_tokens"] < 16:
        told = "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got "
        raise Refused(f"{told}{body['max_output_tokens']} instead.", "max_output_tokens", "integer_below_min_value")
    for number, tool in enumerate(body.get("tools", ())):
        if tool["type"] == "function":
            _check_tool({"strict": True, **tool}, f"tools[{number}]")
    format_ = (body.get("text") or {}).get("format") or {}
    if format_.get("type") == "json_object" and "json" not in json.dumps(body["input"]).lower():
        raise Refused(
            "Response input messages must contain the word 'json' in some form to use 'text.format'.", "input"
        )
    if format_.get("type") == "json_schema":
        _check_format(format_, "text.format")
    _check_items(body["input"], store=body.get("store", True), reasons=reasons)


def _check_items(items: list[dict[str, Any]], *, store: bool, reasons: bool) -> None:
    calls: list[str] = []
    thought = False
    before: dict[str, Any] = {}
    for number, item in enumerate(items):
        kind = item.get("type", "message")
        _known(item, _ITEMS[kind], f"input[{number}].")
        if kind == "reasoning" and not store and not item.get("encrypted_content"):
            told = f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is set to false."
            raise Refused(told, "input", status=404)
        if before.get("type") == "reasoning" and (
            kind not in {"function_call", "message"} or item.get("role") == "user"
        ):
            told = f"Item '{before.get('id')}' of type 'reasoning' was provided without its required following item."
            raise Refused(told, "input")
        if kind == "function_call":
            if item.get("id") and reasons and not thought:
                told = (
                    f"Item '{item['id']}' of type 'function_call' was provided without its required 'reasoning' item."
                )
                raise Refused(told, "input")
            calls.append(item["call_id"])
        if kind == "function_call_output":
            if item["call_id"] not in calls:
                raise Refused(f"No tool call found for function call output with call_id {item['call_id']}.", "input")
            calls.remove(item["call_id"])
        thought = (thought or kind == "reasoning") and item.get("role") != "user"
        before = item
    if calls:
        raise Refused(f"No tool output found for function call {calls[0]}.", "input")


def _usage(turn: Turn) -> tuple[int, int, int, int]:
    return 40, 9, 8, 5 if turn.thought else 0


def chat_body(body: dict[str, Any], turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": turn.text or None, "refusal": turn.refusal or None}
    message["annotations"] = []
    if turn.calls:
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for number, (name, given) in enumerate(turn.calls)
        ]
    finish = (
        "tool_calls" if turn.calls else {"max_output_tokens": "length"}.get(turn.incomplete, turn.incomplete) or "stop"
    )
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": _chat_usage(turn),
        "service_tier": turn.tier,
        "system_fingerprint": "fp_1",
    }


def _chat_usage(turn: Turn) -> dict[str, Any]:
    given, made, cached, thought = _usage(turn)
    return {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def chat_events(body: dict[str, Any], turn: Turn) -> Iterator[str]:
    whole = chat_body(body, turn)
    message, finish = whole["choices"][0]["message"], whole["choices"][0]["finish_reason"]

    def event(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        told = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": body["model"], "choices": [choice]}
        return f"data: {json.dumps({**told, 'service_tier': turn.tier, 'usage': None})}\n\n"

    yield event({"role": "assistant", "content": "", "refusal": None})
    if turn.refusal:
        yield event({"refusal": turn.refusal})
    for at in range(0, len(turn.text), 7):
        yield event({"content": turn.text[at : at + 7]})
    for index, call in enumerate(message.get("tool_calls", ())):
        given = call["function"]["arguments"]
        yield event({"tool_calls": [{"index": index, **call, "function": {**call["function"], "arguments": ""}}]})
        for at in range(0, len(given), 5):
            yield event({"tool_calls": [{"index": index, "function": {"arguments": given[at : at + 5]}}]})
    yield event({}, finish)
    if (body.get("stream_options") or {}).get("include_usage"):
        yield f"data: {json.dumps({'choices': [], 'usage': whole['usage'], 'service_tier': turn.tier})}\n\n"
    yield "data: [DONE]\n\n"


def response_body(body: dict[str, Any], turn: Turn) -> dict[str, Any]:
    output: list[dict[str, Any]] = []
    if turn.thought:
        summary = [{"type": "summary_text", "text": turn.thought}]
        output.append({"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": "gAAAAsecret"})
    if turn.text or turn.refusal:
        part = {"type": "output_text", "text": turn.text, "annotations": [], "logprobs": []}
        part = {"type": "refusal", "refusal": turn.refusal} if turn.refusal else part
        status = "incomplete" if turn.incomplete else "completed"
        output.append({"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": [part]})
    for number, (name, given) in enumerate(turn.calls):
        call = {"id": f"fc_{number}", "type": "function_call", "call_id": f"call_{number}", "status": "completed"}
        output.append({**call, "name": name, "arguments": given if isinstance(given, str) else json.dumps(given)})
    given, made, cached, thought = _usage(turn)
    usage = {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": given + made,
    }
    status = "failed" if turn.failed else "incomplete" if turn.incomplete else "completed"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "error": {"code": turn.failed, "message": f"it failed: {turn.failed}"} if turn.failed else None,
        "incomplete_details": {"reason": turn.incomplete} if turn.incomplete else None,
        "model": body["model"],
        "output": output,
        "service_tier": turn.tier,
        "usage": usage,
        "instructions": body.get("instructions"),
        "text": body.get("text") or {"format": {"type": "text"}},
    }


def response_events(body: dict[str, Any], turn: Turn) -> Iterator[str]:
    whole = response_body(body, turn)
    number = -1

    def event(kind: str, **more: Any) -> str:
        nonlocal number
        number += 1
        return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': number, **more})}\n\n"

    begun = {**whole, "status": "in_progress", "output": [], "usage": None, "error": None, "incomplete_details": None}
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for index, item in enumerate(whole["output"]):
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] == "reasoning":
            yield event(
                "response.output_item.added",
                output_index=index,
                item={**item, "summary": [], "encrypted_content": "part"},
            )
            for at in range(0, len(turn.thought), 5):
                piece = turn.thought[at : at + 5]
                yield event("response.reasoning_summary_text.delta", **place, summary_index=0, delta=piece)
        elif item["type"] == "message":
            yield event(
                "response.output_item.added", output_index=index, item={**item, "status": "in_progress", "content": []}
            )
            kind = "refusal" if turn.refusal else "output_text"
            text = turn.refusal or turn.text
            for at in range(0, len(text), 7):
                yield event(f"response.{kind}.delta", **place, content_index=0, delta=text[at : at + 7])
        else:
            yield event(
                "response.output_item.added",
                output_index=index,
                item={**item, "arguments": "", "status": "in_progress"},
            )
            for at in range(0, len(item["arguments"]), 5):
                piece = item["arguments"][at : at + 5]
                yield event("response.function_call_arguments.delta", **place, delta=piece)
        yield event("response.output_item.done", output_index=index, item=item)
    yield event(f"response.{whole['status']}", response=whole)

"""Anthropic's messages.

Protocol: https://docs.anthropic.com/en/api/messages and /en/api/messages-streaming
This file does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentdag.calls import ADAPTIVE, Exchange, Form, Request, ToolCall, ToolForm
from agentdag.providers.dialect import CACHE_CONTROL, TOOL_CHOICE, Dialect, Rule, omission, other_structure
from agentdag.providers.finish import reason_in
from agentdag.providers.schemas import for_tool, rooted, untyped_unions
from agentdag.providers.sdk import count, paired
from agentdag.providers.structured import (
    JSON_OBJECT,
    JSON_SCHEMA,
    PROMPT,
    TOOL,
    answer_tool,
    in_words,
    mode_of,
)
from agentdag.providers.tool_calls import object_in
from agentdag.providers.wire import Counted, NoAnswerError, Said

DEFAULT_MAX_TOKENS = 4096
"""The API demands a bound; this one is sent where the pipeline gives none."""
_SAMPLED_VERSION = {"anthropic-version": "2023-06-01"}
"""The version of the API in which models that take `temperature` and `top_p` take them."""
_PARTIAL = "partial_json"
"""Where the arguments of a tool stand in a block while they stream."""
_KEEP = {"cache_control": {"type": "ephemeral"}}


def _keeps(body: Mapping[str, Any]) -> bool:
    return CACHE_CONTROL in json.dumps([body.get("system"), body["messages"][0]], default=str)


class MessagesWire:
    """Anthropic's messages."""

    path = "/v1/messages"
    rules: Sequence[Rule] = (
        other_structure(
            (JSON_SCHEMA, TOOL, PROMPT),
            ("output_config", "output_config.format", "output_format", "format", "schema", "structured"),
            lambda body: "format" in body.get("output_config", {}),
        ),
        other_structure((TOOL, PROMPT), ("tools", "tool_use"), lambda body: "tools" in body),
        omission(TOOL_CHOICE),
        omission(CACHE_CONTROL, sent=_keeps),
    )

    def headers(self, request: Request) -> Mapping[str, str] | None:
        """Another version of the API, where the file says what only that one takes."""
        sampling = request.sampling
        sampled = sampling.temperature is not None or sampling.top_p is not None or "top_k" in sampling.params
        return _SAMPLED_VERSION if sampled else None

    def body(self, request: Request, dialect: Dialect, *, stream: bool) -> dict[str, Any]:
        """What is sent for *request*."""
        sampling, form = request.sampling, request.form
        mode = mode_of(dialect.structured, form)
        if form is not None and mode in {JSON_OBJECT, PROMPT}:
            request = replace(request, system=in_words(request.system, form))
        if CACHE_CONTROL in dialect.omit:
            request = replace(request, lead=None)
        thinking, longest = _thinking(sampling.thinking)
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": sampling.max_tokens or DEFAULT_MAX_TOKENS + longest,
            "messages": [{"role": "user", "content": _content(request)}],
        }
        for exchange in request.history:
            body["messages"] += _messages(exchange)
        config: dict[str, Any] = {"effort": sampling.reasoning_effort} if sampling.reasoning_effort else {}
        if form is not None and mode == JSON_SCHEMA:
            config["format"] = {"type": "json_schema", "schema": _taken(form)}
        if form is not None and mode == TOOL:
            name, about, schema = answer_tool(form)
            body["tools"] = [{"name": name, "description": about, "input_schema": schema}]
            if not longest:  # a model that thinks first refuses to be forced
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
            "thinking": thinking,
            "service_tier": sampling.service_tier,
            "output_config": config or None,
        }
        body |= {key: value for key, value in given.items() if value is not None}
        if stream:
            body["stream"] = True
        dialect.trim(body)
        return {**body, **sampling.params} if sampling.params else body

    def reader(self, request: Request, dialect: Dialect) -> MessagesReader:  # noqa: ARG002 - all are read alike
        """What reads the answer to *request*."""
        return MessagesReader(goes_on=bool(request.tools) or request.form is not None)


class MessagesReader:
    """Reads one message; *goes_on* says whether it may have to go back to the model."""

    def __init__(self, *, goes_on: bool) -> None:
        self._goes_on = goes_on
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}
        """What streams of each block, by the key where it stands."""
        self._reason: str | None = None
        self._usage: dict[str, Any] = {}
        self._ended = False
        self._refusal = ""

    def whole(self, answer: Mapping[str, Any]) -> Said:
        """What a body says."""
        content = answer.get("content")
        if not isinstance(content, list):
            raise NoAnswerError("the answer has no content")
        self._blocks = {number: dict(block) for number, block in enumerate(content) if isinstance(block, dict)}
        self._counts(answer.get("usage"))
        self._stops(answer)
        return self.said()

    def take(self, event: Mapping[str, Any]) -> str | None:
        """An event of a stream."""
        match event:
            case {"type": "content_block_start", "index": int(index), "content_block": dict(block)}:
                self._blocks[index] = dict(block)
                return str(block.get("text") or "")
            case {"type": "content_block_delta", "delta": dict(delta)}:
                return self._add(event.get("index", 0), delta)
            case {"type": "message_start", "message": dict(message)}:
                self._counts(message.get("usage"))
            case {"type": "message_delta", "delta": dict(delta)}:
                self._stops(delta)
                self._counts(event.get("usage"))
            case {"type": "message_stop"}:
                self._ended = True
        return None

    def _add(self, index: int, delta: Mapping[str, Any]) -> str:
        """Take in what a stream brings to a block; returns the text that came."""
        block = self._blocks.setdefault(index, {"type": "text", "text": ""})
        match delta:
            case {"type": "text_delta", "text": str(piece)}:
                self._pieces.setdefault((index, "text"), []).append(piece)
                return piece
            case {"type": "input_json_delta", "partial_json": str(piece)}:
                self._pieces.setdefault((index, _PARTIAL), []).append(piece)
            case {"type": "thinking_delta", "thinking": str(piece)}:
                self._pieces.setdefault((index, "thinking"), []).append(piece)
            case {"type": "signature_delta", "signature": str(piece)}:
                block["signature"] = piece
            case {"type": "citations_delta", "citation": citation}:
                block.setdefault("citations", []).append(citation)
        return ""

    def _counts(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage |= {key: value for key, value in usage.items() if value is not None}

    def _stops(self, told: Mapping[str, Any]) -> None:
        self._reason = reason_in(told.get("stop_reason")) or self._reason
        if self._reason == "refusal":
            details = told.get("stop_details")
            why = details.get("explanation") if isinstance(details, dict) else None
            self._refusal = why if isinstance(why, str) else "the model refused to answer"

    def said(self) -> Said:
        """What the message says, once it is over."""
        for (index, key), pieces in self._pieces.items():
            self._blocks[index][key] = paired((self._blocks[index].get(key) or "") + "".join(pieces))
        blocks = [_whole_block(self._blocks[index]) for index in sorted(self._blocks)]
        text = "".join(block["text"] for block in blocks if isinstance(block.get("text"), str))
        calls = tuple(_call(block) for block in blocks if block.get("type") == "tool_use")
        return Said(
            text,
            calls,
            {"role": "assistant", "content": blocks} if self._goes_on else None,
            self._reason,
            ended=self._ended,
            refusal=(text or self._refusal) if self._reason == "refusal" else "",
            reasoning="\n\n".join(each for block in blocks if isinstance(each := block.get("thinking"), str) and each),
            counted=_counted(self._usage),
            service_tier=tier if isinstance(tier := self._usage.get("service_tier"), str) else None,
        )


def _thinking(said: str | int | None) -> tuple[dict[str, Any] | None, int]:
    """How the model is asked to think, and how many tokens more an answer needs for that."""
    if isinstance(said, int):
        return {"type": "enabled", "budget_tokens": said}, said
    if said == ADAPTIVE:
        return {"type": ADAPTIVE, "display": "summarized"}, DEFAULT_MAX_TOKENS
    return (None if said is None else {"type": said}), 0


def _tool(form: ToolForm) -> dict[str, Any]:
    return {"name": form.name, "description": form.about, "input_schema": for_tool(form.schema)}


def _call(block: Mapping[str, Any]) -> ToolCall:
    given = block.get("input")
    arguments = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)
    return ToolCall(str(block.get("id")), str(block.get("name")), arguments)


def _whole_block(block: dict[str, Any]) -> dict[str, Any]:
    """A block whose stream has ended; arguments that are no JSON stay as they are, for whoever reads them."""
    partial = block.pop(_PARTIAL, None)
    if partial:
        try:
            block["input"] = json.loads(partial)
        except (ValueError, RecursionError):
            block["input"] = partial
    return block


def _messages(exchange: Exchange) -> list[dict[str, Any]]:
    """What was said on both sides in one turn."""
    raw = exchange.raw if isinstance(exchange.raw, dict) else {}
    content = raw.get("content")
    blocks = [block for block in map(_returned, content) if block is not None] if isinstance(content, list) else []
    if not blocks:
        blocks = [{"type": "text", "text": exchange.text}] if exchange.text.strip() else []
        blocks += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": object_in(call.arguments)}
            for call in exchange.calls
        ]
    told: list[dict[str, Any]] = [
        {"type": "tool_result", "tool_use_id": result.call, "content": result.text, "is_error": result.failed}
        for result in exchange.results
    ]
    if exchange.told is not None:
        told.append({"type": "text", "text": exchange.told})
    said = [{"role": "assistant", "content": blocks}] if blocks else []  # a blank turn is refused
    return [*said, {"role": "user", "content": told}]


def _returned(block: Any) -> dict[str, Any] | None:
    """A block as it goes back: what the API knows of it, and nothing that is blank."""
    match block:
        case {"type": "text", "text": str(text)}:
            cited = {"citations": block["citations"]} if block.get("citations") else {}
            return {"type": "text", "text": text, **cited} if text.strip() else None
        case {"type": "tool_use", "id": id_, "name": name}:
            given = block.get("input")
            given = given if isinstance(given, dict) else object_in(given) if isinstance(given, str) else {}
            return {"type": "tool_use", "id": id_, "name": name, "input": given}
        case {"type": "thinking"}:
            signed = block.get("signature")
            kept = {"type": "thinking", "thinking": block.get("thinking") or "", "signature": signed}
            return kept if signed else None
        case {"type": "text"}:
            return None
    return block if isinstance(block, dict) else None


def _taken(form: Form) -> Mapping[str, Any]:
    """The schema as the API takes it: bounds that it does not know become words. The SDK knows how."""
    from anthropic import transform_schema  # noqa: PLC0415 - heavy: loaded already where it is asked

    assert form.schema is not None
    ready: Mapping[str, Any] = untyped_unions(rooted(form.schema))
    try:
        taken: Mapping[str, Any] = transform_schema(dict(ready))
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError):
        return ready  # words that the SDK has not heard of
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


def _counted(told: Mapping[str, Any]) -> Counted:
    """Tokens as counted, cached ones among the input."""
    given, made = count(told.get("input_tokens")), count(told.get("output_tokens"))
    if given is None or made is None:
        return Counted()
    read = count(told.get("cache_read_input_tokens")) or 0
    written = count(told.get("cache_creation_input_tokens")) or 0
    details = told.get("output_tokens_details")
    thought = count(details.get("thinking_tokens")) if isinstance(details, dict) else None
    return Counted(given + read + written, made, read, written, thought or 0)

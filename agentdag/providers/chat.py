"""OpenAI's chat completions, which most local servers and gateways speak too.

Protocol: https://platform.openai.com/docs/api-reference/chat
This file does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentdag.calls import Exchange, Form, Notice, Request, ToolCall, ToolForm
from agentdag.providers.dialect import (
    CACHE_KEY,
    REASONING_CONTENT,
    STREAM_OPTIONS,
    STRICT,
    TOOL_CHOICE,
    Dialect,
    Rule,
    loose_schemas,
    omission,
    other_max_tokens,
    other_structure,
    returned_reasoning,
    withheld_reasoning,
)
from agentdag.providers.finish import reason_in
from agentdag.providers.schemas import for_tool
from agentdag.providers.sdk import paired
from agentdag.providers.structured import (
    ANSWER_TOOL,
    JSON_OBJECT,
    JSON_SCHEMA,
    PROMPT,
    TOOL,
    answer_tool,
    in_words,
    mode_of,
    schema_sent,
    unwrapped,
)
from agentdag.providers.tool_calls import ToolCalls, object_in
from agentdag.providers.wire import NoAnswerError, Said, ServerError, counted_as

_REASONING = (REASONING_CONTENT, "reasoning", "thinking")
"""Where servers put what a model thinks before it answers."""
_DETAILS = "reasoning_details"
"""Where OpenRouter puts the same with signatures, which must go back unchanged."""
_EXTRA = "extra_content"
"""Where Gemini puts the signature of a tool call, which must go back with it."""
_ERRORS = frozenset({"error", "network_error", "abort"})
"""Reasons that count whatever else was said."""


def _is_strict(body: Mapping[str, Any]) -> bool:
    return bool(body.get("response_format", {}).get("json_schema", {}).get("strict"))


class ChatWire:
    """Chat completions. *takes_cache_keys*: whether the server is one that knows `prompt_cache_key`."""

    path = "/chat/completions"
    rules: Sequence[Rule] = (
        omission(STREAM_OPTIONS, ": the tokens of streamed answers are estimated"),
        other_max_tokens(),
        loose_schemas(_is_strict),
        other_structure(
            (JSON_SCHEMA, JSON_OBJECT, PROMPT),
            ("response_format", "json_schema", "json_object", "schema", "grammar", "guided_json", "structured"),
            lambda body: "response_format" in body,
        ),
        omission(CACHE_KEY),
        withheld_reasoning(),
        returned_reasoning(),
        omission(TOOL_CHOICE),
    )

    def __init__(self, *, takes_cache_keys: bool) -> None:
        self._takes_cache_keys = takes_cache_keys

    def headers(self, request: Request) -> None:
        """None: all are the client's."""

    def body(self, request: Request, dialect: Dialect, *, stream: bool) -> dict[str, Any]:
        """What is sent for *request*."""
        sampling, form = request.sampling, request.form
        mode = mode_of(dialect.structured, form)
        system = request.system
        if form is not None and mode in {JSON_OBJECT, PROMPT}:
            system = in_words(system, form)
        messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": request.prompt})
        for exchange in request.history:
            messages += _messages(exchange, dialect)
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        if form is not None:
            body |= _structured(form, mode, dialect)
        if request.tools:
            body["tools"] = [*map(_tool, request.tools), *body.get("tools", ())]
            if request.closing and mode != TOOL:
                body["tool_choice"] = "none"
            elif request.closing and form is not None:
                body["tool_choice"] = {"type": "function", "function": {"name": ANSWER_TOOL}}
        given = {
            dialect.max_tokens: sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "reasoning_effort": sampling.reasoning_effort,
            "service_tier": sampling.service_tier,
            "prompt_cache_key": request.cache_key if self._takes_cache_keys else None,
        }
        body |= {key: value for key, value in given.items() if value is not None}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        dialect.trim(body)
        return {**body, **sampling.params} if sampling.params else body

    def reader(self, request: Request, dialect: Dialect) -> ChatReader:
        """What reads the answer to *request*."""
        return ChatReader(request, mode_of(dialect.structured, request.form))


class ChatReader:
    """Reads one chat completion. Only the first of several choices counts."""

    def __init__(self, request: Request, mode: str | None) -> None:
        self._request = request
        self._mode = mode
        self._pieces: list[str] = []
        self._calls: ToolCalls | None = None
        self._thoughts: dict[str, list[str]] = {}
        self._details: list[Any] = []
        self._refusal = ""
        self._reason: str | None = None
        self._usage: Any = None
        self._tier: Any = None
        self._others: set[int] = set()

    def whole(self, answer: Mapping[str, Any]) -> Said:
        """What a body says."""
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise NoAnswerError("the answer has no choices")
        choice = choices[0]
        if len(choices) > 1:
            self._others.update(range(1, len(choices)))
        message = choice.get("message")
        if not isinstance(message, dict):
            self._ends(choice)
            raise NoAnswerError("the answer has no choices with a message")
        self._usage = answer.get("usage")
        self._tier = answer.get("service_tier")
        if message.get("tool_calls"):
            self._calls = ToolCalls()
            self._calls.take_whole(message["tool_calls"])
            message = {key: value for key, value in message.items() if key not in {"tool_calls", "function_call"}}
        self._add(message)
        self._ends(choice)
        return self.said()

    def take(self, event: Mapping[str, Any]) -> str | None:
        """A chunk of a stream."""
        if isinstance(event.get("usage"), dict):
            self._usage = event["usage"]
        self._tier = event.get("service_tier") or self._tier
        choices = event.get("choices")
        piece = None
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            if isinstance(choice.get("index"), int) and choice["index"]:
                self._others.add(choice["index"])
                continue
            if isinstance(choice.get("usage"), dict):
                self._usage = choice["usage"]
            came = None
            for delta in (choice.get("delta"), choice.get("message")):
                if isinstance(delta, dict):
                    came = self._add(delta)
                    break
            self._ends(choice)
            piece = came if piece is None else piece + (came or "")
        return piece

    def _add(self, message: Mapping[str, Any]) -> str | None:
        """Take in a message, or a piece of one: the text that it brings, or None where it brings nothing."""
        piece, thought = texts_in(message.get("content"))
        came = self._add_calls(message)
        if isinstance(message.get("refusal"), str):
            self._refusal += message["refusal"]
        if thought:
            self._thoughts.setdefault(REASONING_CONTENT, []).append(thought)
        for key in _REASONING:
            if isinstance(message.get(key), str) and message[key]:
                self._thoughts.setdefault(key, []).append(message[key])
                came = True
        if isinstance(message.get(_DETAILS), list) and message[_DETAILS]:
            self._details += message[_DETAILS]
            came = True
        if piece:
            self._pieces.append(piece)
        return piece if piece or came or thought else None

    def _add_calls(self, message: Mapping[str, Any]) -> bool:
        """Take in the calls of tools that a message holds; whether it holds any."""
        whole, old = message.get("tool_calls"), message.get("function_call")
        if not whole and not old:
            return False
        self._calls = self._calls or ToolCalls()
        return self._calls.take(whole) | self._calls.take_function_call(old)

    def _ends(self, choice: Mapping[str, Any]) -> None:
        """Note why the answer ended, if it has. Of two reasons the first counts, unless the second is an error."""
        error = choice.get("error")
        if error:
            raise ServerError({"error": error})
        reason = reason_in(choice.get("finish_reason"))
        if "native_finish_reason" in choice:
            native = reason_in(choice["native_finish_reason"])
            reason = native if native is not None and native.lower() in _ERRORS else reason
        if reason is not None and (self._reason is None or reason.lower() in _ERRORS):
            self._reason = reason

    def said(self) -> Said:
        """What the answer says, once it is over."""
        whole = text = "".join(self._pieces)
        calls = () if self._calls is None else self._calls.calls()
        request = self._request
        if request.form is not None and self._mode == JSON_SCHEMA:
            text = unwrapped(text, request.form)
        thoughts = {key: paired("".join(pieces)) for key, pieces in self._thoughts.items()}
        reasoning = next(iter(thoughts.values()), "")
        raw = None
        if request.tools or request.form is not None:  # else nothing goes back
            raw = _assistant(whole, calls, () if self._calls is None else self._calls.extras()) | thoughts
            if self._details:
                raw[_DETAILS] = _merged(self._details)
        notices: tuple[Notice, ...] = ()
        if self._others:
            more = len(self._others)
            notices = (
                Notice(f"{more} more answer{'s' * (more > 1)} came and nobody reads them", "remove `n` from `params`"),
            )
        return Said(
            text,
            calls,
            raw,
            self._reason,
            refusal=self._refusal,
            reasoning=reasoning,
            counted=counted_as(self._usage, "prompt", "completion"),
            service_tier=self._tier if isinstance(self._tier, str) else None,
            notices=notices,
        )


def _merged(details: list[Any]) -> list[Any]:
    """The *details* of reasoning, whose texts came in pieces, each whole."""
    made: list[Any] = []
    for each in details:
        last = made[-1] if made and isinstance(made[-1], dict) else {}
        place = (each.get("index"), each.get("type")) if isinstance(each, dict) else (None, None)
        if place[0] is None or place != (last.get("index"), last.get("type")):
            made.append(each)
            continue
        made[-1] = joined = dict(last)
        for key, value in each.items():
            before = last.get(key)
            if key in {"text", "summary", "data"} and isinstance(value, str) and isinstance(before, str):
                joined[key] = before + value
            elif value is not None:
                joined[key] = value
    return made


def _tool(form: ToolForm) -> dict[str, Any]:
    function = {"name": form.name, "description": form.about, "parameters": for_tool(form.schema)}
    return {"type": "function", "function": function}


def _assistant(text: str, calls: Sequence[ToolCall], extras: Sequence[Any] = ()) -> dict[str, Any]:
    """A message of the model's."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
        for told, extra in zip(message["tool_calls"], extras, strict=False):
            if extra:
                told[_EXTRA] = extra
    return message


def _messages(exchange: Exchange, dialect: Dialect) -> list[dict[str, Any]]:
    """What was said on both sides in one turn: of the model's message, what the protocol knows."""
    raw = exchange.raw if isinstance(exchange.raw, dict) else {}
    said = _assistant(exchange.text, exchange.calls)
    for told, recorded in zip(said.get("tool_calls", ()), raw.get("tool_calls") or (), strict=False):
        told["function"]["arguments"] = json.dumps(object_in(told["function"]["arguments"]), ensure_ascii=False)
        if isinstance(recorded, dict) and recorded.get(_EXTRA):
            told[_EXTRA] = recorded[_EXTRA]
    if dialect.reasoning is not None:
        thought = raw.get(dialect.reasoning) or next((raw[key] for key in _REASONING if raw.get(key)), "")
        if dialect.reasoning == _DETAILS:
            thought = raw.get(_DETAILS)
        if thought or (exchange.calls and dialect.reasoning == REASONING_CONTENT):
            said[dialect.reasoning] = thought
    messages = [said]
    messages += [{"role": "tool", "tool_call_id": result.call, "content": result.text} for result in exchange.results]
    if exchange.told is not None:
        messages.append({"role": "user", "content": exchange.told})
    return messages


def _structured(form: Form, mode: str | None, dialect: Dialect) -> dict[str, Any]:
    """The part of a body that asks for JSON."""
    if mode == TOOL:
        name, about, schema = answer_tool(form)
        function = {"name": name, "description": about, "parameters": schema}
        return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    if mode == JSON_SCHEMA:
        loosely = STRICT in dialect.omit
        schema, strictly = schema_sent(form, loosely=loosely)
        told = {"name": "answer", "schema": schema, **({} if loosely else {"strict": strictly})}
        return {"response_format": {"type": "json_schema", "json_schema": told}}
    return {"response_format": {"type": "json_object"}} if mode == JSON_OBJECT else {}


def texts_in(content: Any) -> tuple[str, str]:
    """A message's text, and what it thought; some servers send both in parts."""
    if isinstance(content, str):
        return content, ""
    text, thought = "", ""
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if part.get("type") == "thinking":
            inner = part.get("thinking")
            thought += inner if isinstance(inner, str) else texts_in(inner)[0]
        elif isinstance(part.get("text"), str):
            text += part["text"]
    return text, thought

"""OpenAI's Responses, without state on the server: what a conversation needs travels with each request.

Protocol: https://platform.openai.com/docs/api-reference/responses
This file does no I/O.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentdag.calls import Exchange, Form, Request, ToolForm
from agentdag.providers.dialect import (
    CACHE_KEY,
    ENCRYPTED,
    STRICT,
    TOOL_CHOICE,
    Dialect,
    Rule,
    loose_schemas,
    omission,
    other_structure,
)
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
from agentdag.providers.tool_calls import arguments_text, distinct, object_in
from agentdag.providers.wire import NoAnswerError, Said, ServerError, counted_as

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_DELTAS = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_KEPT = frozenset({"reasoning", "message", "function_call"})
"""The kinds of items that go back to the model as they are rebuilt here; those of hosted tools go back as they came."""
CHAT_ONLY = frozenset(
    {"n", "logit_bias", "logprobs", "presence_penalty", "frequency_penalty", "response_format", "messages", "stop"}
    | {"seed", "max_completion_tokens", "max_tokens", "prediction", "modalities", "audio", "web_search_options"}
    | {"reasoning_effort", "verbosity", "functions", "function_call", "extra_body", "chat_template_kwargs"}
)
"""Parameters of chat completions that Responses does not have, or has in another form."""


def says_what_only_chat_knows(request: Request) -> bool:
    """Whether *request* has parameters that Responses does not have."""
    sampling = request.sampling
    return bool(sampling.stop or sampling.seed is not None or CHAT_ONLY & sampling.params.keys())


def _is_strict(body: Mapping[str, Any]) -> bool:
    return bool(body.get("text", {}).get("format", {}).get("strict"))


class ResponsesWire:
    """The Responses protocol."""

    path = "/responses"
    rules: Sequence[Rule] = (
        omission(
            ENCRYPTED,
            ": its reasoning does not travel between turns",
            names=("encrypted_content", "Encrypted content"),
        ),
        loose_schemas(_is_strict),
        other_structure(
            (JSON_SCHEMA, JSON_OBJECT, PROMPT),
            ("format", "text.format", "json_schema", "json_object", "schema"),
            lambda body: "format" in body.get("text", {}),
        ),
        omission(CACHE_KEY),
        omission(TOOL_CHOICE),
    )

    def headers(self, request: Request) -> None:
        """None: all are the client's."""

    def body(self, request: Request, dialect: Dialect, *, stream: bool) -> dict[str, Any]:
        """What is sent for *request*."""
        sampling, form = request.sampling, request.form
        mode = mode_of(dialect.structured, form)
        items: list[dict[str, Any]] = [{"role": "user", "content": request.prompt}]
        in_input = form is not None and mode in {JSON_OBJECT, PROMPT}
        if form is not None and in_input:  # the word "JSON" has to stand in the input, not in the instructions
            items.insert(0, {"role": "system", "content": in_words(request.system, form)})
        for exchange in request.history:
            items += _items(exchange)
        body: dict[str, Any] = {"model": request.model, "input": items, "store": False}
        if request.tools and not _THOUGHTLESS.match(request.model):
            body["include"] = [_REASONING]
        if form is not None:
            body |= _structured(form, mode, dialect)
        if request.tools:
            body["tools"] = [*map(_tool, request.tools), *body.get("tools", ())]
            if request.closing and mode != TOOL:
                body["tool_choice"] = "none"
            elif request.closing and form is not None:
                body["tool_choice"] = {"type": "function", "name": ANSWER_TOOL}
        given = {
            "instructions": None if in_input else request.system,
            "max_output_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "reasoning": {"effort": sampling.reasoning_effort} if sampling.reasoning_effort else None,
            "service_tier": sampling.service_tier,
            "prompt_cache_key": request.cache_key,
        }
        body |= {key: value for key, value in given.items() if value is not None}
        if stream:
            body["stream"] = True
        dialect.trim(body)
        return _with_params(body, sampling.params)

    def reader(self, request: Request, dialect: Dialect) -> ResponsesReader:
        """What reads the answer to *request*."""
        return ResponsesReader(request, mode_of(dialect.structured, request.form))


_REASONING = "reasoning.encrypted_content"
_THOUGHTLESS = re.compile(r"(chat)?gpt-[34]|gpt-5(\.\d)?-chat")
"""Models that do not reason, and refuse to be asked for it."""


def _with_params(body: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """*body* with the file's own parameters; what both say of `text`, `reasoning` and `include` is put together."""
    for key, value in params.items():
        own = body.get(key)
        if isinstance(own, dict) and isinstance(value, dict):
            body[key] = {**own, **value}
        elif key in {"include", "tools"} and isinstance(own, list) and isinstance(value, list):
            body[key] = [*own, *(each for each in value if each not in own)]
        else:
            body[key] = value
    return body


class ResponsesReader:
    """Reads one response. The items count as they are when they are done."""

    def __init__(self, request: Request, mode: str | None) -> None:
        self._request = request
        self._mode = mode
        self._items: dict[int, dict[str, Any]] = {}
        self._texts: dict[tuple[int, int], list[str]] = {}
        self._refusals: list[str] = []
        self._thoughts: list[str] = []
        self._arguments: dict[int, list[str]] = {}
        self._response: Mapping[str, Any] = {}
        self._ended = False

    def whole(self, answer: Mapping[str, Any]) -> Said:
        """What a body says."""
        if not isinstance(answer.get("output"), list):
            raise NoAnswerError("the answer has no output")
        self._end(answer)
        return self.said()

    def take(self, event: Mapping[str, Any]) -> str | None:
        """An event of a stream."""
        kind, index = event.get("type"), event.get("output_index", 0)
        delta = event.get("delta")
        piece: str | None = None
        if kind == "response.output_text.delta" and isinstance(delta, str):
            self._texts.setdefault((index, event.get("content_index", 0)), []).append(delta)
            piece = delta
        elif kind == "response.refusal.delta" and isinstance(delta, str):
            self._refusals.append(delta)
            piece = ""
        elif kind in _DELTAS and isinstance(delta, str):
            self._thoughts.append(delta)
            piece = ""
        elif kind == "response.function_call_arguments.delta" and isinstance(delta, str):
            self._arguments.setdefault(index, []).append(delta)
            piece = ""
        elif kind in {"response.output_item.added", "response.output_item.done"} and isinstance(
            event.get("item"), dict
        ):
            self._items[index] = event["item"]
            piece = ""
        elif kind in _ENDS and isinstance(event.get("response"), dict):
            self._end(event["response"])
        return piece

    def _end(self, response: Mapping[str, Any]) -> None:
        """Take in the response as it is at its end; raises ServerError where it has failed."""
        error = response.get("error")
        if error or response.get("status") == "failed":
            raise ServerError({"error": error or "the response failed, and the server does not say why"})
        self._response, self._ended = response, True
        output = response.get("output")
        if isinstance(output, list) and output:
            self._items = {number: item for number, item in enumerate(output) if isinstance(item, dict)}

    def said(self) -> Said:
        """What the answer says, once it is over."""
        items = [self._items[index] for index in sorted(self._items)]
        parts = [part for item in items if item.get("type") == "message" for part in _parts(item)]
        text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
        if not text:
            text = paired("".join("".join(self._texts[key]) for key in sorted(self._texts)))
        refusal = "".join(part["refusal"] for part in parts if isinstance(part.get("refusal"), str))
        found = [(index, item) for index, item in sorted(self._items.items()) if item.get("type") == "function_call"]
        calls = distinct(
            (str(item.get("call_id") or item.get("id") or ""), str(item["name"]), self._given(index, item))
            for index, item in found
            if item.get("name")
        )
        request = self._request
        whole = text
        if request.form is not None and self._mode == JSON_SCHEMA:
            text = unwrapped(text, request.form)
        return Said(
            text,
            calls,
            {"items": [_returned(item) for item in items]} if items else {"items": [_message(whole)]},
            self._reason(),
            ended=self._ended,
            refusal=refusal or "".join(self._refusals),
            reasoning="\n\n".join(filter(None, map(_thought, items))) or "".join(self._thoughts),
            counted=counted_as(self._response.get("usage"), "input", "output"),
            service_tier=tier if isinstance(tier := self._response.get("service_tier"), str) else None,
        )

    def _given(self, index: int, item: Mapping[str, Any]) -> str:
        """The arguments of a call; of one whose end has not come, as far as they came."""
        return arguments_text(item.get("arguments") or "".join(self._arguments.get(index, ())))

    def _reason(self) -> str | None:
        """Why the response ended, in the words of `finish`; None where nobody has said so."""
        status, details = self._response.get("status"), self._response.get("incomplete_details")
        if status == "completed":
            return "stop"
        if status == "incomplete":
            why = details.get("reason") if isinstance(details, dict) else None
            return why if isinstance(why, str) and why else "incomplete"
        return status if isinstance(status, str) and status else None


def _parts(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = item.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _thought(item: Mapping[str, Any]) -> str:
    """What a reasoning item tells of itself."""
    if item.get("type") != "reasoning":
        return ""
    summary = item.get("summary")
    parts = [*(summary if isinstance(summary, list) else ()), *_parts(item)]
    return "\n\n".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _returned(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as it goes back: of reasoning neither its status nor its content is accepted, nor without its content
    encrypted at all."""
    kind = item.get("type")
    if kind == "reasoning":
        kept = {key: item[key] for key in ("id", "encrypted_content") if item.get(key)}
        return {"type": "reasoning", **kept, "summary": item.get("summary") or []}
    if kind == "function_call":
        kept = {key: item[key] for key in ("id", "call_id", "name", "namespace") if item.get(key)}
        arguments = arguments_text(item.get("arguments"))
        return {"type": kind, **kept, "arguments": json.dumps(object_in(arguments), ensure_ascii=False)}
    if kind == "message":
        kept = {key: item[key] for key in ("id", "phase") if item.get(key)}
        texts = [_returned_part(part) for part in _parts(item)]
        return {"type": kind, **kept, "role": "assistant", "status": "completed", "content": texts}
    return dict(item)


def _returned_part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") == "refusal":
        return {"type": "refusal", "refusal": part.get("refusal") or ""}
    return {"type": "output_text", "text": part.get("text") or "", "annotations": []}


def _message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _items(exchange: Exchange) -> list[dict[str, Any]]:
    """What was said on both sides in one turn. Without its encrypted content, reasoning cannot go back, and then what
    followed it goes without its id."""
    raw = exchange.raw if isinstance(exchange.raw, dict) else {}
    items: list[dict[str, Any]] = []
    lost = False
    for item in raw.get("items") or ():
        if item.get("type") == "reasoning" and not item.get("encrypted_content"):
            lost = True
        elif lost and item.get("type") in _KEPT:
            items.append({key: value for key, value in item.items() if key != "id"})
        else:
            items.append(item)
    if not items:
        items = [_message(exchange.text)] if exchange.text else []
        items += [
            {
                "type": "function_call",
                "call_id": call.id,
                "name": call.name,
                "arguments": json.dumps(object_in(call.arguments), ensure_ascii=False),
            }
            for call in exchange.calls
        ]
    items += [
        {"type": "function_call_output", "call_id": result.call, "output": result.text} for result in exchange.results
    ]
    if exchange.told is not None:
        items.append({"role": "user", "content": exchange.told})
    return items


def _tool(form: ToolForm) -> dict[str, Any]:
    return {
        "type": "function",
        "name": form.name,
        "description": form.about,
        "parameters": for_tool(form.schema),
        "strict": False,  # left out, it would be taken for true
    }


def _structured(form: Form, mode: str | None, dialect: Dialect) -> dict[str, Any]:
    """The part of a body that asks for JSON."""
    if mode == TOOL:
        name, about, schema = answer_tool(form)
        tool = {"type": "function", "name": name, "description": about, "parameters": schema, "strict": False}
        return {"tools": [tool], "tool_choice": "required"}
    if mode == JSON_SCHEMA:
        schema, strictly = schema_sent(form, loosely=STRICT in dialect.omit)
        return {"text": {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": strictly}}}
    return {"text": {"format": {"type": "json_object"}}} if mode == JSON_OBJECT else {}

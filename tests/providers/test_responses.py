"""OpenAI's current models, through the real SDK, against a server that refuses what OpenAI refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from strict_openai import StrictOpenAI, Turn

import agentdag
from agentdag import ErrorKind, Options, RunResult, Status
from agentdag.calls import Reply, Request, Sampling
from agentdag.events import Event, NodeWarned, TurnFinished
from agentdag.plan.plan import Plan
from agentdag.providers.http import SharedHttp
from agentdag.providers.openai import OpenAIProvider
from agentdag.providers.settings import Secrets, Settings

Compile = Callable[[str], Plan]
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
APIS = pytest.mark.parametrize("api", ["responses", "chat"])


def ask(
    plan: Compile,
    strict: StrictOpenAI,
    node: str,
    *,
    api: str = "responses",
    stream: bool = False,
    provider: str = "",
    more: str = "",
    seen: list[Event] | None = None,
) -> RunResult:
    text = f"""
        providers: {{openai: {{base_url: "{strict.url}/v1", api_key: sk-strict-1, api: {api}, {provider}}}}}
        nodes:
          only: {{prompt: Say hello, retry: {{retries: 2, delay: 1ms}}, timeout: 20s, {node}}}
        {more}
    """
    observers = () if seen is None else (seen.append,)
    return agentdag.run(plan(text), options=Options(stream=stream), observers=observers)


@STREAMS
@APIS
def test_an_answer_comes_with_its_usage_and_its_service_tier(
    plan: Compile, strict: StrictOpenAI, api: str, stream: bool
) -> None:
    strict.turns = [
        Turn("Hello from the wire.", thought="Let me think." if api == "responses" else "x", tier="priority")
    ]
    asks = "model: openai/gpt-5-mini, max_tokens: 400, reasoning_effort: low"
    field = "max_tokens_field: max_completion_tokens"
    result = ask(plan, strict, asks, api=api, stream=stream, provider=field)
    node = result.nodes["only"]
    assert result.outputs == {"only": "Hello from the wire."}, node.error
    usage = node.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens) == (40, 9, 8, 5)
    assert node.service_tier == "priority"
    assert (node.ttft_s is not None) == stream
    path, body = strict.asked[0]
    assert not strict.refused
    if api == "responses":
        assert path == "/v1/responses"
        assert body["store"] is False
        assert (body["max_output_tokens"], body["reasoning"]) == (400, {"effort": "low"})
        assert node.reasoning == "Let me think."
    else:
        assert path == "/v1/chat/completions"
        assert body["reasoning_effort"] == "low"


@STREAMS
def test_reasoning_travels_with_a_conversation_over_tools(
    plan: Compile, strict: StrictOpenAI, tmp_path: Path, stream: bool
) -> None:
    (tmp_path / "tools_r.py").write_text("def search(query: str) -> str:\n    return f'found {query}'\n")
    strict.turns = [
        Turn(calls=(("search", {"query": "Rome"}), ("search", {"query": "Oslo"})), thought="I need both."),
        Turn("Rome and Oslo."),
    ]
    seen: list[Event] = []
    result = ask(
        plan,
        strict,
        "model: openai/gpt-5.6, tools: [search]",
        stream=stream,
        more="tools: {search: {call: 'tools_r:search'}}",
        seen=seen,
    )
    assert result.outputs == {"only": "Rome and Oslo."}, result.nodes["only"].error
    assert not strict.refused
    items = strict.asked[1][1]["input"]
    assert [item.get("type") for item in items[1:4]] == ["reasoning", "function_call", "function_call"]
    assert items[1] == {
        "type": "reasoning",
        "id": "rs_1",
        "encrypted_content": "gAAAAsecret",
        "summary": [{"type": "summary_text", "text": "I need both."}],
    }
    assert [item["output"] for item in items[4:]] == ["found Rome", "found Oslo"]
    turn = next(event for event in seen if isinstance(event, TurnFinished))
    assert [call.name for call in turn.exchange.calls] == ["search", "search"]


@STREAMS
@APIS
def test_a_typed_answer_is_asked_for_in_strict_form(
    plan: Compile, strict: StrictOpenAI, api: str, stream: bool
) -> None:
    strict.turns = [Turn('{"risk": "low", "note": null}')]
    output = "output: {fields: {risk: low | high, note: 'string?'}}"
    result = ask(plan, strict, f"model: openai/gpt-5-mini, {output}", api=api, stream=stream)
    assert result.outputs == {"only": {"risk": "low", "note": None}}, result.nodes["only"].error
    assert not strict.refused
    body = strict.asked[0][1]
    told = body["text"]["format"] if api == "responses" else body["response_format"]["json_schema"]
    assert told["strict"] is True


@STREAMS
@APIS
def test_plain_json_is_asked_for_in_words_that_the_api_demands(
    plan: Compile, strict: StrictOpenAI, api: str, stream: bool
) -> None:
    strict.turns = [Turn('{"a": 1}')]
    result = ask(plan, strict, "model: openai/gpt-5-mini, system: Be brief, output: json", api=api, stream=stream)
    assert result.outputs == {"only": {"a": 1}}, result.nodes["only"].error
    assert not strict.refused


@STREAMS
@APIS
def test_a_refusal_is_one(plan: Compile, strict: StrictOpenAI, api: str, stream: bool) -> None:
    strict.turns = [Turn(refusal="I will not do that.")]
    error = ask(plan, strict, "model: openai/gpt-5-mini", api=api, stream=stream).nodes["only"].error
    assert error is not None
    assert (error.kind, error.message, error.billed) == (ErrorKind.REFUSED, "I will not do that.", "yes")
    assert len(strict.asked) == 1


@STREAMS
@APIS
def test_a_cut_answer_says_so(plan: Compile, strict: StrictOpenAI, api: str, stream: bool) -> None:
    strict.turns = [Turn("Half an ans", incomplete="max_output_tokens")]
    node = ask(plan, strict, "model: openai/gpt-5-mini, max_tokens: 20", api=api, stream=stream).nodes["only"]
    assert (node.status, node.output, node.truncated) == (Status.SUCCEEDED, "Half an ans", True)


@STREAMS
def test_a_filtered_response_is_refused_and_a_failed_one_is_retried(
    plan: Compile, strict: StrictOpenAI, stream: bool
) -> None:
    strict.turns = [Turn("Half", incomplete="content_filter")]
    error = ask(plan, strict, "model: openai/gpt-5-mini", stream=stream).nodes["only"].error
    assert error is not None
    assert error.kind is ErrorKind.REFUSED
    strict.asked.clear()
    strict.turns = [Turn("Half", failed="server_error"), Turn("whole")]
    node = ask(plan, strict, "model: openai/gpt-5-mini", stream=stream).nodes["only"]
    assert (node.output, node.attempts) == ("whole", 2)
    strict.asked.clear()
    strict.turns = [Turn(failed="rate_limit_exceeded"), Turn("whole")]
    assert ask(plan, strict, "model: openai/gpt-5-mini", stream=stream).nodes["only"].output == "whole"


def test_a_repair_and_a_resume_speak_to_both_protocols(plan: Compile, strict: StrictOpenAI) -> None:
    strict.turns = [Turn('{"risk": "none"}', thought="Hm."), Turn('{"risk": "low"}')]
    result = ask(plan, strict, "model: openai/gpt-5.6, output: {fields: {risk: low | high}}", stream=True)
    assert result.outputs == {"only": {"risk": "low"}}, result.nodes["only"].error
    assert not strict.refused
    assert "JSON Schema" in json.dumps(strict.asked[1][1]["input"][-1])


def test_what_a_model_does_not_reason_about_is_not_asked_for(
    plan: Compile, strict: StrictOpenAI, tmp_path: Path
) -> None:
    (tmp_path / "tools_r.py").write_text("def now() -> str:\n    return 'noon'\n")
    strict.turns = [Turn(calls=(("now", {}),)), Turn("It is noon.")]
    tools = "tools: {now: {call: 'tools_r:now'}}"
    result = ask(plan, strict, "model: openai/gpt-4o, tools: [now]", more=tools)
    assert result.outputs == {"only": "It is noon."}, result.nodes["only"].error
    assert not strict.refused
    assert "include" not in strict.asked[0][1]


def test_the_words_of_a_refusal_the_address_and_the_key_of_the_file_are_named(
    plan: Compile, strict: StrictOpenAI
) -> None:
    node = "model: openai/gpt-5-mini, temperature: 0.3, params: {frobnicate: 1}"
    error = ask(plan, strict, node).nodes["only"].error
    assert error is not None
    assert error.kind is ErrorKind.BAD_REQUEST
    assert "Unknown parameter: 'frobnicate'" in error.message
    assert f"{strict.url}/v1/responses" in error.message
    assert "`params.frobnicate`" in error.message
    error = ask(plan, strict, "model: openai/gpt-5-mini, temperature: 0.3", api="chat").nodes["only"].error
    assert error is not None
    assert "`temperature`" in error.message
    assert not strict.asked


def test_a_parameter_that_agentdag_chose_is_put_right_once_and_reported(plan: Compile, strict: StrictOpenAI) -> None:
    text = f"""
        providers: {{openai: {{base_url: "{strict.url}/v1", api: chat}}}}
        defaults: {{model: openai/gpt-5-mini, max_tokens: 300, retry: 0}}
        limits: {{concurrency: 1}}
        nodes: {{a: {{prompt: one}}, b: {{prompt: two}}, c: {{prompt: three}}}}
    """
    seen: list[Event] = []
    result = agentdag.run(plan(text), observers=(seen.append,))
    assert result.ok, [node.error for node in result.nodes.values()]
    assert len(strict.refused) == 1
    assert [body["max_completion_tokens"] for _, body in strict.asked] == [300, 300, 300]
    warnings = [event for event in seen if isinstance(event, NodeWarned)]
    assert len(warnings) == 1
    assert "max_completion_tokens" in warnings[0].message
    assert "providers: {openai: {max_tokens_field: max_completion_tokens}}" in (warnings[0].hint or "")
    assert [node.attempts for node in result.nodes.values()] == [1, 1, 1]


def test_flex_is_sent_priced_by_what_was_given_and_left_where_it_has_no_capacity(
    plan: Compile, strict: StrictOpenAI
) -> None:
    strict.turns = [Turn("hello", tier="flex")]
    node = ask(plan, strict, "model: openai/gpt-5-mini, service_tier: flex").nodes["only"]
    assert strict.asked[0][1]["service_tier"] == "flex"
    whole = (32 * Decimal("0.25") + 8 * Decimal("0.025") + 9 * 2) / 1_000_000
    assert node.usage.cost_usd == whole / 2
    strict.asked.clear()
    none_left = {
        "error": {"message": "Resource unavailable", "type": "invalid_request_error", "code": "resource_unavailable"}
    }
    strict.turns = [lambda _: web.json_response(none_left, status=429), Turn("hello", tier="default")]
    seen: list[Event] = []
    node = ask(
        plan, strict, "", provider="service_tier: flex", more="defaults: {model: openai/gpt-5-mini}", seen=seen
    ).nodes["only"]
    assert (node.output, node.attempts, node.usage.cost_usd) == ("hello", 2, whole)
    assert [body["service_tier"] for _, body in strict.asked] == ["flex", "default"]
    assert any("no capacity" in event.message for event in seen if isinstance(event, NodeWarned))


def test_flex_that_may_not_be_retried_fails(plan: Compile, strict: StrictOpenAI) -> None:
    none_left = {"error": {"message": "Resource unavailable", "code": "resource_unavailable"}}
    strict.turns = [lambda _: web.json_response(none_left, status=429)]
    text = f"""
        providers: {{openai: {{base_url: "{strict.url}/v1", api: responses}}}}
        nodes: {{only: {{model: openai/gpt-5-mini, prompt: hi, service_tier: flex, retry: 0}}}}
    """
    error = agentdag.run(plan(text)).nodes["only"].error
    assert error is not None
    assert (error.kind, error.billed) == (ErrorKind.OVERLOADED, "no")


def _provider(base_url: str | None, **said: Any) -> OpenAIProvider:
    kind = said.pop("type", "openai")
    return OpenAIProvider(
        Settings("x", kind, SharedHttp(1), Secrets(), said.pop("environment", {}), base_url, "sk-1234567", **said)
    )


def _request(**said: Any) -> Request:
    return Request("n", 1, "gpt-5.6", "hi", sampling=Sampling(**said))


V1 = "https://acme.openai.azure.com/openai/v1"
AUTO: list[tuple[str | None, dict[str, Any], dict[str, Any], str]] = [
    (None, {}, {}, "https://api.openai.com/v1/responses"),
    (None, {}, {"seed": 7}, "https://api.openai.com/v1/chat/completions"),
    (None, {}, {"stop": ("END",)}, "https://api.openai.com/v1/chat/completions"),
    (None, {}, {"params": {"logit_bias": {}}}, "https://api.openai.com/v1/chat/completions"),
    (None, {"api": "chat"}, {}, "https://api.openai.com/v1/chat/completions"),
    (None, {"api": "responses"}, {"seed": 7}, "https://api.openai.com/v1/responses"),
    ("https://eu.api.openai.com/v1", {}, {}, "https://eu.api.openai.com/v1/responses"),
    ("http://127.0.0.1:11434/v1", {}, {}, "http://127.0.0.1:11434/v1/chat/completions"),
    ("http://127.0.0.1:11434/v1", {"api": "responses"}, {}, "http://127.0.0.1:11434/v1/responses"),
    ("https://openrouter.ai/api/v1", {}, {}, "https://openrouter.ai/api/v1/chat/completions"),
    ("https://notopenai.com/v1", {}, {}, "https://notopenai.com/v1/chat/completions"),
    ("https://acme.openai.azure.com", {"type": "azure"}, {}, f"{V1}/responses"),
    ("https://acme.openai.azure.com/openai/v1/", {"type": "azure"}, {}, f"{V1}/responses"),
    ("https://acme.openai.azure.com", {"type": "azure", "api_version": "2024-10-21"}, {}, "https://acme.openai.azure.com/openai/chat/completions"),
    ("https://acme.openai.azure.com", {"type": "azure", "api_version": "2025-04-01-preview"}, {}, "https://acme.openai.azure.com/openai/responses"),
]  # fmt: skip


@pytest.mark.parametrize(("base_url", "said", "sampling", "url"), AUTO)
def test_auto_is_responses_at_openais_and_azures_own_addresses(
    monkeypatch: pytest.MonkeyPatch, base_url: str | None, said: dict[str, Any], sampling: dict[str, Any], url: str
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    client, wire = _provider(base_url, **dict(said))._way(_request(**sampling))
    assert f"{client.base_url}{wire.path}" == url


@STREAMS
@pytest.mark.parametrize(
    ("more", "path"),
    [
        ("api: responses", "/openai/v1/responses"),
        ("api: responses, api_version: 2025-04-01-preview", "/openai/responses?api-version=2025-04-01-preview"),
        ("api: chat", "/openai/deployments/gpt-5-mini/chat/completions?api-version=2024-10-21"),
        ("api: auto", "/openai/deployments/gpt-5-mini/chat/completions?api-version=2024-10-21"),
    ],
)
def test_azure_speaks_both_protocols(plan: Compile, strict: StrictOpenAI, more: str, path: str, stream: bool) -> None:
    text = f"""
        providers: {{team: {{type: azure, base_url: "{strict.url}", api_key: "azure-key-1\\n", {more}}}}}
        nodes: {{only: {{model: team/gpt-5-mini, prompt: hi, retry: 0}}}}
    """
    result = agentdag.run(plan(text), options=Options(stream=stream))
    assert result.outputs == {"only": "hello"}, result.nodes["only"].error
    assert strict.paths() == [path]
    assert strict.keys[0]["api-key"] == "azure-key-1"


def test_limit_headers_of_responses_are_heard(plan: Compile, strict: StrictOpenAI) -> None:
    strict.headers = {"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "599"}
    http = SharedHttp(1)
    settings = Settings("x", "openai", http, Secrets(), {}, f"{strict.url}/v1", "sk-1234567", api="responses")

    async def one() -> Reply:
        try:
            return await OpenAIProvider(settings).complete(_request(), lambda _: None)
        finally:
            await http.aclose()

    reply = asyncio.run(one())
    assert reply.room["requests"].limit == 600
    assert reply.request_id == "req-1"

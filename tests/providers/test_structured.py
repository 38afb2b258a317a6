"""Answers in JSON: how each provider is asked for them, and what becomes of those that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wire import Say, WireServer

import agentdag
from agentdag import ErrorKind, Options, RunResult, Status
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]
BOTH = pytest.mark.parametrize("provider", ["openai", "anthropic"])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
FIELDS = "{fields: {risk: low | high, score: number, tags: [string]}}"
GOOD = '{"risk": "low", "score": 3, "tags": ["a"]}'


def ask(
    plan: Compile,
    wire: WireServer,
    provider: str,
    output: str,
    *,
    stream: bool = False,
    extra: str = "",
    more: str = "",
) -> RunResult:
    base = wire.openai_url if provider == "openai" else wire.url
    text = f"""
        providers: {{{provider}: {{base_url: "{base}"{more}}}}}
        nodes:
          only:
            model: {provider}/m
            prompt: Rate it
            output: {output}
            retry: {{retries: 0}}
            {extra}
    """
    return agentdag.run(plan(text), options=Options(stream=stream))


@BOTH
@STREAMS
def test_an_answer_that_fits_is_a_value(plan: Compile, wire: WireServer, provider: str, stream: bool) -> None:
    wire.script["m"] = [Say(GOOD)]
    result = ask(plan, wire, provider, FIELDS, stream=stream)
    assert result.outputs == {"only": json.loads(GOOD)}, result.nodes["only"].error
    body = wire.calls[0].body
    if provider == "openai":
        told = body["response_format"]["json_schema"]
        assert told["strict"] is True
        assert told["schema"]["required"] == ["risk", "score", "tags"]
    else:
        assert body["output_config"]["format"]["schema"]["properties"]["risk"]["enum"] == ["low", "high"]


@BOTH
@STREAMS
def test_one_that_does_not_fit_is_sent_back_once_with_what_is_wrong(
    plan: Compile, wire: WireServer, provider: str, stream: bool
) -> None:
    wire.script["m"] = [Say('{"risk": "none", "score": "three", "tags": []}'), Say(f"```json\n{GOOD}\n```")]
    result = ask(plan, wire, provider, FIELDS, stream=stream)
    node = result.nodes["only"]
    assert result.outputs == {"only": json.loads(GOOD)}, node.error
    said, told = wire.calls[1].body["messages"][-2:]
    assert said["role"] == "assistant"
    assert "three" in str(said["content"])
    text = told["content"] if provider == "openai" else told["content"][0]["text"]
    assert "$.risk: 'none' is not one of ['low', 'high']" in text
    assert "$.score: 'three' is not of type 'number'" in text
    assert (node.attempts, node.turns) == (1, 2)
    assert (node.usage.input_tokens, node.usage.output_tokens) == (80, 18)


@BOTH
def test_one_that_still_does_not_fit_is_invalid_output_and_is_tried_anew(
    plan: Compile, wire: WireServer, provider: str
) -> None:
    wire.script["m"] = [Say("no"), Say("still no"), Say("no"), Say(GOOD)]
    extra = "timeout: 30s"
    result = ask(plan, wire, provider, FIELDS, extra=extra)
    error = result.nodes["only"].error
    assert error is not None
    assert error.kind is ErrorKind.INVALID_OUTPUT
    assert "it is not JSON" in error.message
    assert len(wire.calls) == 2

    wire.script["m"] = [Say("no"), Say("still no"), Say("no"), Say(GOOD)]
    wire._turns.clear()
    text = f"""
        providers: {{{provider}: {{base_url: "{wire.openai_url if provider == "openai" else wire.url}"}}}}
        nodes:
          only: {{model: {provider}/m, prompt: Rate it, output: {FIELDS}, retry: {{retries: 1, delay: 1ms}}}}
    """
    result = agentdag.run(plan(text))
    node = result.nodes["only"]
    assert result.outputs == {"only": json.loads(GOOD)}, node.error
    assert (node.attempts, node.turns) == (2, 2)
    assert len(wire.calls) == 6
    assert len(wire.calls[4].body["messages"]) == 1, "it begins anew"


def test_a_fallback_takes_over_from_one_that_cannot_answer(plan: Compile, wire: WireServer) -> None:
    wire.script = {"m": [Say("no")], "better": [Say(GOOD)]}
    result = ask(plan, wire, "openai", FIELDS, extra="fallback: [openai/better]")
    node = result.nodes["only"]
    assert result.outputs == {"only": json.loads(GOOD)}
    assert node.fallback == 1
    assert node.fallback_error is not None
    assert node.fallback_error.kind is ErrorKind.INVALID_OUTPUT


@BOTH
@pytest.mark.parametrize("mode", ["json_object", "prompt", "tool"])
@STREAMS
def test_servers_that_differ_are_asked_in_their_own_way(
    plan: Compile, wire: WireServer, provider: str, mode: str, stream: bool
) -> None:
    wire.script["m"] = [Say(calls=(("give_answer", json.loads(GOOD)),)) if mode == "tool" else Say(GOOD)]
    result = ask(plan, wire, provider, FIELDS, stream=stream, more=f", structured: {mode}")
    assert result.outputs == {"only": json.loads(GOOD)}, result.nodes["only"].error
    body = wire.calls[0].body
    assert ("tools" in body) == (mode == "tool")
    assert ("JSON Schema" in json.dumps(body)) == (mode != "tool")
    assert "json_schema" not in json.dumps(body.get("response_format", {}))


@BOTH
def test_a_schema_that_is_no_object_is_wrapped_where_it_must_be(plan: Compile, wire: WireServer, provider: str) -> None:
    wire.script["m"] = [Say('{"value": ["a", "b"]}' if provider == "openai" else '["a", "b"]')]
    result = ask(plan, wire, provider, "{schema: {type: array, items: {type: string}}}")
    assert result.outputs == {"only": ["a", "b"]}, result.nodes["only"].error


@BOTH
def test_any_json_will_do_where_that_is_all_that_is_asked(plan: Compile, wire: WireServer, provider: str) -> None:
    wire.script["m"] = [Say("[1, NaN]"), Say("[1, 2]")]
    assert ask(plan, wire, provider, "json").outputs == {"only": [1, 2]}
    assert "NaN" in str(wire.calls[1].body["messages"][-1]["content"])


def test_a_schema_may_stand_in_a_file_or_be_that_of_a_model(
    plan: Compile, wire: WireServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "finding.json").write_text('{"type": "object", "properties": {"risk": {"type": "string"}}}')
    (tmp_path / "finding_models.py").write_text(
        "from pydantic import BaseModel, field_validator\n"
        "class Finding(BaseModel):\n"
        "    risk: str\n"
        "    score: int = 7\n"
        "    @field_validator('risk')\n"
        "    @classmethod\n"
        "    def known(cls, value):\n"
        "        if value not in {'low', 'high'}:\n"
        "            raise ValueError('no such risk')\n"
        "        return value\n"
    )
    wire.script["m"] = [Say('{"risk": "low"}')]
    assert ask(plan, wire, "openai", "{schema: finding.json}").outputs == {"only": {"risk": "low"}}
    wire.script["m"] = [Say('{"risk": "none"}'), Say('{"risk": "low"}')]
    wire._turns.clear()
    result = ask(plan, wire, "openai", '{schema: "finding_models:Finding"}')
    assert result.outputs == {"only": {"risk": "low", "score": 7}}, result.nodes["only"].error
    assert "no such risk" in wire.calls[-1].body["messages"][-1]["content"]


def test_what_a_model_of_ours_lacks_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "lacking_models.py").write_text("class Finding: ...\n")
    (tmp_path / "p.yaml").write_text(
        'nodes: {a: {prompt: hi, model: openai/m, output: {schema: "lacking_models:Finding"}}}'
    )
    with pytest.raises(agentdag.UsageError, match="cannot use the schema lacking_models:Finding"):
        agentdag.run(agentdag.load(tmp_path / "p.yaml"), options=Options(simulate=True))


def test_a_server_that_is_in_trouble_in_the_second_turn_is_asked_for_that_turn_again(
    plan: Compile, wire: WireServer
) -> None:
    wire.script["m"] = [Say("no"), "503", Say(GOOD)]
    text = f"""
        providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
        nodes:
          only: {{model: openai/m, prompt: Rate it, output: {FIELDS}, retry: {{retries: 1, delay: 1ms}}}}
    """
    node = agentdag.run(plan(text)).nodes["only"]
    assert node.status is Status.SUCCEEDED, node.error
    assert [len(call.body["messages"]) for call in wire.calls] == [1, 3, 3]
    assert (node.attempts, node.turns) == (2, 2)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 5}}, "required": ["a"]},
        {"type": "array", "minItems": 2, "items": {"anyOf": [{"type": "null"}, {"enum": ["x", "y"]}]}},
        {"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
        {"type": ["string", "null"], "minLength": 40, "maxLength": 50},
        {"const": 3},
        {"allOf": [{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}]},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 100},
        {"type": "string", "format": "date"},
    ],
    ids=str,
)
def test_the_simulator_answers_in_the_shape_that_is_asked_for(plan: Compile, schema: dict[str, Any]) -> None:
    text = f"""
        nodes:
          a: {{prompt: hi, model: openai/m, output: {{schema: {json.dumps(schema)}}}}}
          b: {{call: "json:dumps", with: {{obj: "{{{{ nodes.a.output }}}}"}}}}
    """
    result = agentdag.run(plan(text), options=Options(simulate=True, time_scale=0.001))
    assert result.ok, result.nodes["a"].error
    assert agentdag.run(plan(text), options=Options(simulate=True, time_scale=0.001)).outputs == result.outputs

"""Tool calls as servers really send them, and the conversation as it goes back to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw import SSE, Raw, RawServer, chunk, completion, refusal, sse

import agentdag
from agentdag import ErrorKind, Options, RunResult
from agentdag.events import Event, NodeWarned
from agentdag.plan.plan import Plan
from agentdag.providers.tool_calls import ToolCalls

Compile = Callable[[str], Plan]
Serve = Callable[..., RawServer]


def call(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"type": "function", "function": function, **more}


Made = list[tuple[str, str]]
ROME, OSLO = '{"city": "Rome"}', '{"city": "Oslo"}'
FRAGMENTS: list[tuple[str, list[list[dict[str, Any]]], Made]] = [
    (
        "as OpenAI streams them",
        [[call("get", "", index=0, id="a")], [call(None, '{"city"', index=0)], [call(None, ': "Rome"}', index=0)], [call("get", "", index=1, id="b")], [call(None, OSLO, index=1)]],
        [("get", ROME), ("get", OSLO)],
    ),
    ("no index, by id (openai-python#3246)", [[call("get", ROME, id="a")], [call("get", OSLO, id="b")]], [("get", ROME), ("get", OSLO)]),
    ("no index, no id", [[call("get", '{"city"')], [call(None, ': "Rome"}')]], [("get", ROME)]),
    ("no index, no id, two whole", [[call("get", ROME)], [call("get", OSLO)]], [("get", ROME), ("get", OSLO)]),
    ("all at index 0, ids differ (vercel/ai#14277)", [[call("get", ROME, index=0, id="a")], [call("get", OSLO, index=0, id="b")]], [("get", ROME), ("get", OSLO)]),
    ("all at index 0 in one delta", [[call("get", ROME, index=0, id="a"), call("get", OSLO, index=0, id="b")]], [("get", ROME), ("get", OSLO)]),
    ("all at index 0, no ids, whole", [[call("get", ROME, index=0, id="")], [call("get", OSLO, index=0, id="")]], [("get", ROME), ("get", OSLO)]),
    ("id and name in each fragment (SillyTavern#5948)", [[call("get", '{"city"', index=0, id="a")], [call("get", ': "Rome"}', index=0, id="a")]], [("get", ROME)]),
    ("a new id for each fragment", [[call("get", '{"city"', index=0, id="a1")], [call(None, ': "Rome"}', index=0, id="a2")]], [("get", ROME)]),
    ("empty id and name later (opencode#37841)", [[call("get", '{"city"', index=0, id="a")], [call("", ': "Rome"}', index=0, id="")]], [("get", ROME)]),
    ("arguments before the name (vercel/ai#15879)", [[call(None, '{"city"', index=0, id="a")], [call("get", ': "Rome"}', index=0)]], [("get", ROME)]),
    ("a name in pieces", [[call("ge", "", index=0, id="a")], [call("t", ROME, index=0)]], [("get", ROME)]),
    ("an object as arguments (TGI#2461)", [[call("get", {"city": "Rome"}, index=0, id="a")]], [("get", ROME)]),
    ("two objects at index 0", [[call("get", {"city": "Rome"}, index=0)], [call("get", {"city": "Oslo"}, index=0)]], [("get", ROME), ("get", OSLO)]),
    ("no arguments", [[call("now", None, index=0, id="a")]], [("now", "{}")]),
    ("empty arguments", [[call("now", "", index=0, id="a")]], [("now", "{}")]),
    ("null arguments", [[{"index": 0, "id": "a", "function": {"name": "now", "arguments": None}}]], [("now", "{}")]),
    ("the same id twice", [[call("get", ROME, index=0, id="a"), call("get", OSLO, index=1, id="a")]], [("get", ROME), ("get", OSLO)]),
    ("no index, no id, no arguments", [[call("now", "")], [call("get", ROME)]], [("now", "{}"), ("get", ROME)]),
    ("all at index 0, ids differ, no arguments", [[call("now", "", index=0, id="a")], [call("now", "", index=0, id="b")]], [("now", "{}"), ("now", "{}")]),
    ("no function at all", [[{"index": 0, "id": "a"}]], []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "deltas", "made"), FRAGMENTS, ids=[name for name, *_ in FRAGMENTS])
def test_fragments_become_the_calls_that_were_meant(name: str, deltas: list[list[dict[str, Any]]], made: Made) -> None:
    calls = ToolCalls()
    for delta in deltas:
        calls.take(delta)
    found = calls.calls()
    assert [(each.name, each.arguments) for each in found] == made
    assert len({each.id for each in found}) == len(found)


def test_many_calls_are_put_together_in_time_that_grows_with_their_number() -> None:
    calls = ToolCalls()
    for number in range(20_000):
        calls.take([call("get", ROME, index=number, id=f"c{number}")])
    assert len(calls.calls()) == 20_000


WHOLE: list[tuple[list[dict[str, Any]], Made]] = [
    ([call("now", ""), call("get", "")], [("now", "{}"), ("get", "{}")]),
    ([call("now", None), call("get", None)], [("now", "{}"), ("get", "{}")]),
    ([call("get", ROME, id="a"), call("get", OSLO, id="a")], [("get", ROME), ("get", OSLO)]),
    ([call("get", ROME, index=0), call("get", ROME, index=0)], [("get", ROME), ("get", ROME)]),
]


@pytest.mark.parametrize(("told", "made"), WHOLE)
def test_each_element_of_a_whole_message_is_a_call(told: list[dict[str, Any]], made: Made) -> None:
    calls = ToolCalls()
    calls.take_whole(told)
    assert [(each.name, each.arguments) for each in calls.calls()] == made
    assert len({each.id for each in calls.calls()}) == len(made)


TOOLS = '''
from pathlib import Path
def get(city: str = "nowhere", limit: int = 1) -> str:
    """Gets."""
    with (Path(__file__).parent / "ran").open("a") as file:
        file.write(f"{city} {limit};")
    return f"sunny in {city}"
'''


def ask(
    plan: Compile, tmp_path: Path, server: RawServer, *, kind: str = "openai", more: str = "", **said: Any
) -> RunResult:
    (tmp_path / "tools_c.py").write_text(TOOLS)
    base = server.url + ("/v1" if kind == "openai" else "")
    text = f"""
        providers: {{p: {{type: {kind}, base_url: "{base}", {more}}}}}
        tools: {{get: {{call: "tools_c:get"}}}}
        nodes:
          only: {{model: p/m, prompt: x, tools: [get], retry: 0, timeout: 20s, {said.pop("node", "")}}}
    """
    return agentdag.run(plan(text), options=Options(stream=said.pop("stream", False)))


def ran(tmp_path: Path) -> str:
    file = tmp_path / "ran"
    return file.read_text() if file.exists() else ""


def asks(arguments: Any, **more: Any) -> Raw:
    return completion({"content": None, "tool_calls": [call("get", arguments, id="c1")], **more}, "tool_calls")


def test_an_object_is_what_the_model_meant_and_not_nothing(plan: Compile, tmp_path: Path, serve: Serve) -> None:
    result = ask(plan, tmp_path, serve(asks({"city": "Rome", "limit": 9}), completion()))
    assert result.outputs == {"only": "hello"}
    assert ran(tmp_path) == "Rome 9;"


@pytest.mark.parametrize("arguments", ['{"city": "Ro', "[1]", '"Rome"', "city=Rome", [1], 7])
def test_arguments_that_are_none_are_reported_to_the_model_and_run_nothing(
    plan: Compile, tmp_path: Path, serve: Serve, arguments: Any
) -> None:
    server = serve(asks(arguments), completion())
    assert ask(plan, tmp_path, server).outputs == {"only": "hello"}
    assert ran(tmp_path) == ""
    said, told = server.asked[1].body["messages"][-2:]
    assert told["content"].startswith("error: ")
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {}


def test_a_call_that_was_cut_says_so_to_the_model(plan: Compile, tmp_path: Path, serve: Serve) -> None:
    cut = completion({"content": None, "tool_calls": [call("get", '{"city": "Ro', id="c1")]}, "length")
    server = serve(cut, completion())
    assert ask(plan, tmp_path, server).outputs == {"only": "hello"}
    assert "token limit" in server.asked[1].body["messages"][-1]["content"]
    assert ran(tmp_path) == ""


def test_calls_count_whatever_reason_stands_beside_them(plan: Compile, tmp_path: Path, serve: Serve) -> None:
    """ollama#7963, vllm#9209"""
    server = serve(completion({"content": None, "tool_calls": [call("get", ROME, id="c1")]}, "stop"), completion())
    assert ask(plan, tmp_path, server).outputs == {"only": "hello"}
    old = completion({"content": None, "function_call": {"name": "get", "arguments": ROME}}, "function_call")
    assert ask(plan, tmp_path, serve(old, completion())).outputs == {"only": "hello"}
    assert ran(tmp_path) == "Rome 1;Rome 1;"


def test_only_what_the_protocol_knows_goes_back(plan: Compile, tmp_path: Path, serve: Serve) -> None:
    """Groq, Cerebras and Mistral refuse the rest."""
    more = {
        "reasoning_content": "Hm.",
        "annotations": [],
        "audio": None,
        "refusal": None,
        "function_call": None,
        "x": 1,
    }
    for stream in (False, True):
        first = asks(ROME, **more)
        if stream:
            first = sse(chunk({"tool_calls": [call("get", ROME, index=0, id="c1")], **more}), chunk({}, "tool_calls"))
        server = serve(first, sse(chunk({"content": "hello"}), chunk({}, "stop")) if stream else completion())
        assert ask(plan, tmp_path, server, stream=stream).outputs == {"only": "hello"}
        said = server.asked[1].body["messages"][1]
        assert said.keys() == {"role", "content", "tool_calls"}
        assert said["tool_calls"][0].keys() == {"id", "type", "function"}


MISSING = [
    "The `reasoning_content` in the thinking mode must be passed back to the API.",
    "thinking is enabled but reasoning_content is missing in assistant tool call message at index 2",
    "Missing `reasoning_content` field in the assistant message at message index 1.",
]


@pytest.mark.parametrize("words", MISSING)
def test_reasoning_goes_back_to_servers_that_want_it(plan: Compile, tmp_path: Path, serve: Serve, words: str) -> None:
    """rig#1266, oai-compatible-copilot#202, new-api#3121"""
    server = serve(asks(ROME, reasoning_content="Hm."), refusal(words), completion())
    assert ask(plan, tmp_path, server).outputs == {"only": "hello"}
    assert server.asked[2].body["messages"][1]["reasoning_content"] == "Hm."
    assert ran(tmp_path) == "Rome 1;"


def test_a_thought_signature_goes_back_with_its_call(plan: Compile, tmp_path: Path, serve: Serve) -> None:
    """Gemini refuses a call without it (witsy#490)."""
    extra = {"google": {"thought_signature": "sig"}}
    for stream in (False, True):
        signed = call("get", ROME, id="c1", index=0, extra_content=extra)
        first = completion({"content": None, "tool_calls": [signed]}, "tool_calls")
        if stream:
            first = sse(chunk({"tool_calls": [signed]}), chunk({}, "tool_calls"))
        server = serve(first, completion())
        assert ask(plan, tmp_path, server, stream=stream).outputs == {"only": "hello"}
        assert server.asked[1].body["messages"][1]["tool_calls"][0]["extra_content"] == extra


def events(*told: dict[str, Any]) -> Raw:
    return Raw("".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in told), SSE)


def message(*blocks: dict[str, Any], stop: str | None = "end_turn") -> Raw:
    usage = {"input_tokens": 10, "output_tokens": 5}
    return Raw(
        json.dumps({"type": "message", "role": "assistant", "content": blocks, "stop_reason": stop, "usage": usage})
    )


def streamed(*blocks: tuple[dict[str, Any], list[dict[str, Any]]], stop: str = "end_turn") -> Raw:
    told: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": {"input_tokens": 10}}}]
    for index, (block, deltas) in enumerate(blocks):
        told.append({"type": "content_block_start", "index": index, "content_block": block})
        told += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        told.append({"type": "content_block_stop", "index": index})
    told.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 5}})
    return events(*told, {"type": "message_stop"})


TOOL = {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {}}
DONE = message({"type": "text", "text": "hello"})
BLANK = {"type": "text", "text": "\n\n"}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "sig-1"}
HIDDEN = {"type": "redacted_thinking", "data": "xyz"}


def test_anthropics_tool_without_arguments_has_none(plan: Compile, tmp_path: Path, serve: Serve) -> None:
    """litellm#5063: the stream brings nothing, or an empty piece."""
    for deltas in ([], [{"type": "input_json_delta", "partial_json": ""}]):
        server = serve(streamed((TOOL, deltas), stop="tool_use"), DONE)
        assert ask(plan, tmp_path, server, kind="anthropic", stream=True).outputs == {"only": "hello"}
        assert server.asked[1].body["messages"][1]["content"] == [TOOL]
    assert ran(tmp_path) == "nowhere 1;nowhere 1;"


@pytest.mark.parametrize("stream", [False, True])
def test_what_anthropic_refuses_does_not_go_back_to_it(
    plan: Compile, tmp_path: Path, serve: Serve, stream: bool
) -> None:
    """White space before a tool's use (claude-code#23369), and keys that it does not know (claude-code#4378)."""
    if stream:
        text = [{"type": "text_delta", "text": "\n\n"}]
        thinks = [{"type": "thinking_delta", "thinking": "Hm."}, {"type": "signature_delta", "signature": "sig-1"}]
        first = streamed(
            ({"type": "thinking", "thinking": "", "signature": ""}, thinks),
            (HIDDEN, []),
            ({"type": "text", "text": ""}, text),
            (TOOL | {"caller": {"type": "direct"}}, [{"type": "input_json_delta", "partial_json": ROME}]),
            stop="tool_use",
        )
    else:
        first = message(THOUGHT, HIDDEN, BLANK, TOOL | {"input": {"city": "Rome"}, "caller": {}}, stop="tool_use")
    server = serve(first, DONE)
    result = ask(plan, tmp_path, server, kind="anthropic", stream=stream, node="thinking: 2000")
    assert result.outputs == {"only": "hello"}, result.nodes["only"].error
    assert server.asked[0].body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert server.asked[0].body["max_tokens"] == 6096
    back = server.asked[1].body["messages"][1]["content"]
    assert back == [THOUGHT, HIDDEN, TOOL | {"input": {"city": "Rome"}}]
    assert ran(tmp_path) == "Rome 1;"


def test_anthropics_cut_arguments_are_reported_and_go_back_as_an_object(
    plan: Compile, tmp_path: Path, serve: Serve
) -> None:
    server = serve(
        streamed((TOOL, [{"type": "input_json_delta", "partial_json": '{"city": "Ro'}]), stop="max_tokens"), DONE
    )
    assert ask(plan, tmp_path, server, kind="anthropic", stream=True).outputs == {"only": "hello"}
    back, told = server.asked[1].body["messages"][1:]
    assert back["content"] == [TOOL]
    assert "token limit" in told["content"][0]["content"]
    assert ran(tmp_path) == ""


def test_thinking_is_asked_for_as_the_model_takes_it(plan: Compile, tmp_path: Path, serve: Serve) -> None:
    server = serve(DONE)
    ask(plan, tmp_path, server, kind="anthropic", node="thinking: adaptive, reasoning_effort: high")
    body = server.asked[0].body
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body["output_config"] == {"effort": "high"}
    ask(plan, tmp_path, server, kind="anthropic", node="thinking: disabled, temperature: 0.2")
    assert server.asked[1].body["thinking"] == {"type": "disabled"}
    assert server.asked[1].headers["anthropic-version"] == "2023-06-01"


def test_anthropics_reasons(plan: Compile, tmp_path: Path, serve: Serve) -> None:
    half = {"type": "text", "text": "half"}
    node = ask(plan, tmp_path, serve(message(half, stop="max_tokens")), kind="anthropic").nodes["only"]
    assert (node.output, node.truncated) == ("half", True)
    node = ask(plan, tmp_path, serve(message(half, stop="model_context_window_exceeded")), kind="anthropic").nodes[
        "only"
    ]
    assert node.truncated
    error = ask(plan, tmp_path, serve(message(half, stop="pause_turn")), kind="anthropic").nodes["only"].error
    assert error is not None
    assert (error.kind, "`pause_turn`" in error.message) == (ErrorKind.BAD_RESPONSE, True)
    assert ask(plan, tmp_path, serve(message(half, stop=None)), kind="anthropic").outputs == {"only": "half"}


def test_anthropics_structured_output_that_a_server_does_not_know_becomes_a_tool(
    plan: Compile, tmp_path: Path, serve: Serve
) -> None:
    no = Raw(
        json.dumps(
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": "output_config.format: Extra inputs are not permitted",
                },
            }
        ),
        status=400,
    )
    given = {"type": "tool_use", "id": "toolu_9", "name": "give_answer", "input": {"a": 1}}
    server = serve(no, message(given, stop="tool_use"))
    result = ask(plan, tmp_path, server, kind="anthropic", node="output: {fields: {a: integer}}")
    assert result.outputs == {"only": {"a": 1}}, result.nodes["only"].error
    assert server.asked[1].body["tools"][-1]["name"] == "give_answer"


def test_a_call_that_was_cut_before_its_arguments_runs_nothing(plan: Compile, tmp_path: Path, serve: Serve) -> None:
    for arguments in ("", None, "{}"):
        cut = completion({"content": None, "tool_calls": [call("get", arguments, id="c1")]}, "length")
        server = serve(cut, completion())
        assert ask(plan, tmp_path, server).outputs == {"only": "hello"}
        assert "cut at its token limit before the arguments came" in server.asked[1].body["messages"][-1]["content"]
    server = serve(streamed((TOOL, []), stop="max_tokens"), DONE)
    assert ask(plan, tmp_path, server, kind="anthropic", stream=True).outputs == {"only": "hello"}
    assert ran(tmp_path) == ""


def test_tools_that_nobody_has_offered_are_no_answer(plan: Compile, serve: Serve) -> None:
    wants = {"tool_calls": [call("get", ROME, id="c1")]}
    server = serve(completion({"content": None, **wants}, "tool_calls"), completion({"content": "hi", **wants}))
    text = f"""
        providers: {{p: {{type: openai, base_url: "{server.url}/v1"}}}}
        nodes: {{only: {{model: p/m, prompt: x, retry: {{retries: 1, delay: 1ms}}}}}}
    """
    node = agentdag.run(plan(text)).nodes["only"]
    assert (node.output, node.attempts) == ("hi", 2)


def test_a_secret_that_a_model_repeats_is_in_no_event(
    plan: Compile, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_KEY", "canary-secret-55")
    (tmp_path / "tools_c.py").write_text(TOOLS)
    leak = {"content": "I use canary-secret-55", "reasoning_content": "canary-secret-55?"}
    server = serve(
        completion({**leak, "tool_calls": [call("get", {"city": "canary-secret-55"}, id="c1")]}, "tool_calls"),
        completion({"content": "hello"}),
    )
    text = f"""
        providers: {{p: {{type: openai, base_url: "{server.url}/v1", api_key: "${{TEAM_KEY}}"}}}}
        tools: {{get: {{call: "tools_c:get"}}}}
        nodes: {{only: {{model: p/m, prompt: x, tools: [get], retry: 0}}}}
    """
    seen: list[Any] = []
    assert agentdag.run(plan(text), observers=(seen.append,)).ok
    assert "canary-secret-55" not in repr(seen)
    assert "canary-secret-55" in json.dumps(server.asked[1].body)


def test_calls_that_are_announced_and_do_not_come_are_told(plan: Compile, serve: Serve, tmp_path: Path) -> None:
    server = serve(completion({"content": "I shall look."}, "tool_calls"))
    seen: list[Event] = []
    (tmp_path / "looks.py").write_text("def look() -> str:\n    return 'x'\n")
    text = f"""
        providers: {{p: {{type: openai, base_url: "{server.url}/v1"}}}}
        tools: {{look: {{call: "looks:look"}}}}
        nodes: {{only: {{model: p/m, prompt: x, tools: [look]}}}}
    """
    assert agentdag.run(plan(text), observers=(seen.append,)).outputs == {"only": "I shall look."}
    (warning,) = (event for event in seen if isinstance(event, NodeWarned))
    assert "says that it calls tools" in warning.message

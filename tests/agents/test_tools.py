"""Agents: a model, its tools, turn by turn; against the real SDKs over a wire-true server."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.recorder import Recorder
from program import agentdag as program
from program import kill, started
from wire import Say, WireServer

import agentdag
from agentdag import ErrorKind, NodeSettled, Options, Status
from agentdag.events import ToolFinished, ToolStarted
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]
BOTH = pytest.mark.parametrize("provider", ["openai", "anthropic"])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])

TOOLS = """
import asyncio, time
from typing import Annotated
from pydantic import Field

def search(query: Annotated[str, Field(description="What to look for")], limit: int = 3) -> list[str]:
    '''Searches the archive.'''
    return [f"{query} {n}" for n in range(limit)]

async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"slept {seconds}"

def boom() -> str:
    raise ValueError("no luck")

def store(text: str) -> str:
    with open("stored", "a") as file:
        file.write(text + "\\n")
    return "stored"

def big() -> str:
    return "x" * 1000

def both(first, second) -> dict:
    return {"first": first, "second": second}
"""


def ask(
    plan: Compile,
    wire: WireServer,
    tmp_path: Path,
    script: list[Any],
    *,
    provider: str = "openai",
    tools: str = "search: {call: 'TOOLS:search'}",
    extra: str = "",
    stream: bool = False,
    seen: Recorder | None = None,
) -> NodeSettled:
    module = f"tools_{tmp_path.name.replace('-', '_').replace('[', '').replace(']', '')}"
    (tmp_path / f"{module}.py").write_text(TOOLS)
    base = wire.openai_url if provider == "openai" else wire.url
    names = [line.split(":")[0].strip() for line in textwrap.dedent(tools).strip().splitlines()]
    indented = textwrap.indent(textwrap.dedent(tools).strip(), "  ").replace("TOOLS:", f"{module}:")
    text = (
        f'providers: {{{provider}: {{base_url: "{base}"}}}}\ntools:\n{indented}\n'
        f"nodes:\n  a:\n    model: {provider}/m\n    prompt: Find out\n    tools: [{', '.join(names)}]\n"
        f"    retry: 0\n{textwrap.indent(textwrap.dedent(extra), '    ')}"
    )
    wire.script["m"] = script
    observers = () if seen is None else (seen,)
    return agentdag.run(plan(text), options=Options(stream=stream), observers=observers).nodes["a"]


def told(wire: WireServer, call: int = -1) -> list[str]:
    """The results of tools that the model was told in *call*."""
    found = []
    for message in wire.calls[call].body["messages"]:
        if message["role"] == "tool":
            found.append(message["content"])
        elif isinstance(message["content"], list):
            found += [block["content"] for block in message["content"] if block["type"] == "tool_result"]
    return found


@BOTH
@STREAMS
def test_it_works_with_its_tools_until_it_answers(
    plan: Compile, wire: WireServer, tmp_path: Path, provider: str, stream: bool
) -> None:
    script = [
        Say("Let me look.", (("search", {"query": "pumps"}), ("search", {"query": "valves", "limit": 1})), "hm"),
        Say(calls=(("search", {"query": "seals"}),)),
        Say("Done."),
    ]
    seen = Recorder()
    node = ask(plan, wire, tmp_path, script, provider=provider, stream=stream, seen=seen)
    assert node.output == "Done.", node.error
    assert (node.turns, node.attempts, node.usage.input_tokens) == (3, 1, 120)
    assert told(wire) == ['["pumps 0", "pumps 1", "pumps 2"]', '["valves 0"]', '["seals 0", "seals 1", "seals 2"]']
    tool = wire.calls[0].body["tools"][0]
    tool = tool.get("function", tool)
    schema = tool.get("parameters") or tool["input_schema"]
    assert (tool["name"], tool["description"]) == ("search", "Searches the archive.")
    assert schema["properties"]["query"]["description"] == "What to look for"
    assert schema["required"] == ["query"]
    assert [event.tool for event in seen.of(ToolStarted)] == ["search"] * 3
    assert all(event.error is None and event.latency_s >= 0 for event in seen.of(ToolFinished))


@BOTH
def test_typed_answers_and_tools_go_together(plan: Compile, wire: WireServer, tmp_path: Path, provider: str) -> None:
    script = [Say(calls=(("search", {"query": "x"}),)), Say("no json"), Say('{"n": 3}')]
    node = ask(plan, wire, tmp_path, script, provider=provider, extra="output: {fields: {n: integer}}")
    assert node.output == {"n": 3}, node.error
    assert node.turns == 3


def test_what_goes_wrong_in_a_tool_is_told_to_the_model_and_to_nobody_else(
    plan: Compile, wire: WireServer, tmp_path: Path
) -> None:
    tools = (
        "search: {call: 'TOOLS:search'}\nboom: {call: 'TOOLS:boom'}\nnap: {call: 'TOOLS:nap'}\nbig: {call: 'TOOLS:big'}"
    )
    calls = (
        ("boom", {}),
        ("nap", {"seconds": 600}),
        ("search", {"query": 3, "limit": "many"}),
        ("big", {}),
        ("search", {"query": "q", "limit": 1}),
    )
    extra = "tool_timeout: 200ms\ntool_output_limit: 10"
    node = ask(plan, wire, tmp_path, [Say(calls=calls), Say("Done.")], tools=tools, extra=extra)
    assert node.output == "Done.", node.error
    results = told(wire)
    assert results[0].startswith("error: ValueError: no luck")
    assert results[1] == "error: no answer within 0.2 s"
    assert "query: Input should be a valid string" in results[2]
    assert results[3] == "xxxxxxxxxx… (cut: 1,000 characters in all)"
    assert results[4] == '["q 0"]'


def test_calls_that_cannot_be_made_are_told_twice_and_then_the_node_fails(
    plan: Compile, wire: WireServer, tmp_path: Path
) -> None:
    bad = [Say(calls=(("search", "{no json"),)), Say(calls=(("serch", {}),))]
    node = ask(plan, wire, tmp_path, [*bad, Say("Sorry.")])
    assert node.output == "Sorry.", node.error
    assert "not JSON" in told(wire)[0]
    assert "there is no tool serch; there are search" in told(wire)[1]
    wire._turns.clear()
    error = ask(plan, wire, tmp_path, [*bad, Say(calls=(("search", "[]"),)), Say("never")]).error
    assert error is not None
    assert (error.kind, "cannot be made" in error.message) == (ErrorKind.TOOL, True)


@BOTH
def test_at_the_last_turn_it_has_to_answer(plan: Compile, wire: WireServer, tmp_path: Path, provider: str) -> None:
    more = Say(calls=(("search", {"query": "x"}),))
    node = ask(plan, wire, tmp_path, [more, more, Say("With what I have.")], provider=provider, extra="max_turns: 3")
    assert node.output == "With what I have."
    choices = [call.body.get("tool_choice") for call in wire.calls]
    assert choices == [None, None, "none" if provider == "openai" else {"type": "none"}]
    wire._turns.clear()
    error = ask(plan, wire, tmp_path, [more], provider=provider, extra="max_turns: 2").error
    assert error is not None
    assert (error.kind, error.message) == (ErrorKind.TOOL, "no answer within 2 turns")


def test_independent_tools_run_at_once_and_a_diamond_takes_its_critical_path(
    plan: Compile, wire: WireServer, tmp_path: Path
) -> None:
    nap = "nap: {call: 'TOOLS:nap'}"
    wide = Say(calls=tuple(("nap", {"seconds": 0.2}) for _ in range(8)))
    seen = Recorder()
    assert ask(plan, wire, tmp_path, [wide, Say("ok")], tools=nap, seen=seen).output == "ok"
    begun, ended = [event.at for event in seen.of(ToolStarted)], [event.at for event in seen.of(ToolFinished)]
    assert max(begun) < min(ended), "all of them were under way at once"


def test_results_can_be_passed_on_within_one_turn(plan: Compile, wire: WireServer, tmp_path: Path) -> None:
    tools = "search: {call: 'TOOLS:search'}\nboth: {call: 'TOOLS:both'}\nboom: {call: 'TOOLS:boom'}"
    calls = (
        ("both", {"first": "$2", "second": "saw ${3}"}),
        ("search", {"query": "a", "limit": 2}),
        ("search", {"query": "b", "limit": 1}),
        ("both", {"first": "$boom", "second": 1}),
        ("boom", {}),
    )
    ask(plan, wire, tmp_path, [Say(calls=calls), Say("ok")], tools=tools)
    results = told(wire)
    assert json.loads(results[0]) == {"first": ["a 0", "a 1"], "second": 'saw ["b 0"]'}
    assert results[3] == "error: not run: $boom failed"


def test_writers_of_one_thing_never_overlap(plan: Compile, wire: WireServer, tmp_path: Path) -> None:
    calls = Say(calls=tuple(("nap", {"seconds": 0.01 * (5 - n)}) for n in range(5)))
    seen = Recorder()
    ask(plan, wire, tmp_path, [calls, Say("ok")], tools="nap: {call: 'TOOLS:nap', writes: [bed]}", seen=seen)
    order = [
        (type(event).__name__, event.call) for event in seen.events if isinstance(event, (ToolStarted, ToolFinished))
    ]
    expected = [(kind, f"call_{n}") for n in range(5) for kind in ("ToolStarted", "ToolFinished")]
    assert order == expected


def test_tools_share_the_runs_slots_and_hold_up_nobody_while_they_work(
    plan: Compile, wire: WireServer, tmp_path: Path
) -> None:
    calls = Say(calls=tuple(("nap", {"seconds": 0.02}) for _ in range(4)))
    seen = Recorder()
    node = ask(plan, wire, tmp_path, [calls, Say("ok")], tools="nap: {call: 'TOOLS:nap'}", seen=seen)
    assert node.status is Status.SUCCEEDED
    text = "limits: {concurrency: 1}\n"
    module = next(tmp_path.glob("tools_*.py")).stem
    text += f'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\ntools: {{nap: {{call: "{module}:nap"}}}}\n'
    text += "nodes: {a: {model: openai/m, prompt: x, tools: [nap]}}"
    wire._turns.clear()
    assert agentdag.run(plan(text)).nodes["a"].output == "ok", "a cap of one is no deadlock"


def test_a_tool_that_writes_is_asked_about_before_it_is_repeated(tmp_path: Path, wire: WireServer) -> None:
    (tmp_path / "tools_resumed.py").write_text(
        "import os, time\n"
        "def store(text: str) -> str:\n"
        "    with open('stored', 'a') as file:\n        file.write(text + ' ')\n"
        "    time.sleep(600 if text == 'b' and not os.path.exists('go') else 0)\n"
        "    return 'stored ' + text\n"
    )
    (tmp_path / "p.yaml").write_text(
        f'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\n'
        'tools: {store: {call: "tools_resumed:store", writes: [notes]}}\n'
        "nodes: {a: {model: openai/m, prompt: x, tools: [store]}}"
    )
    wire.script["m"] = [Say(calls=(("store", {"text": "a"}), ("store", {"text": "b"}))), Say("ok")]
    process = started("run", "p.yaml", cwd=tmp_path)
    until = time.monotonic() + 30
    while not (tmp_path / "stored").exists() or "b" not in (tmp_path / "stored").read_text():
        assert time.monotonic() < until
    kill(process)
    (tmp_path / "go").touch()
    done = program("resume", "last", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "may have had an effect" in done.stderr
    done = program("resume", "last", "--repeat", "a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stored").read_text() == "a b b ", "what had ended is not done again"
    assert len(wire.calls) == 2, "the model is not asked again for what it had said"
    assert told(wire) == ["stored a", "stored b"]


def test_what_is_passed_on_is_the_same_after_a_kill(tmp_path: Path, wire: WireServer) -> None:
    (tmp_path / "tools_passed.py").write_text(
        "import json, os, time\n"
        "def zip_code() -> str:\n    return '90210'\n"
        "def rows() -> list[str]:\n    return ['x' * 9] * 100\n"
        "def keep(code: str, rows: list[str]) -> str:\n"
        "    open('began', 'w').close()\n"
        "    time.sleep(0 if os.path.exists('go') else 600)\n"
        "    json.dump([code, len(rows)], open('kept', 'w'))\n"
        "    return 'kept'\n"
    )
    (tmp_path / "p.yaml").write_text(
        f'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\n'
        'tools: {zip: {call: "tools_passed:zip_code"}, rows: {call: "tools_passed:rows"}, '
        'keep: {call: "tools_passed:keep"}}\n'
        "nodes: {a: {model: openai/m, prompt: x, tools: [zip, rows, keep], tool_output_limit: 100}}"
    )
    calls = (("zip", {}), ("rows", {}), ("keep", {"code": "$zip", "rows": "$rows"}))
    wire.script["m"] = [Say(calls=calls), Say("ok")]
    process = started("run", "p.yaml", cwd=tmp_path)
    until = time.monotonic() + 30
    while not (tmp_path / "began").exists():
        assert time.monotonic() < until
    kill(process)
    (tmp_path / "go").touch()
    done = program("resume", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "kept").read_text()) == ["90210", 100]


def test_the_simulator_calls_what_is_harmless_and_plays_what_writes(plan: Compile, tmp_path: Path) -> None:
    (tmp_path / "tools_played.py").write_text(TOOLS)
    text = """
        tools:
          search: {call: "tools_played:search"}
          store: {call: "tools_played:store", writes: [notes]}
          files: {mcp: {command: [no-such-server]}}
        nodes: {a: {model: openai/m, prompt: x, tools: [search, store, files]}}
    """
    seen = Recorder()
    result = agentdag.run(plan(text), options=Options(simulate=True, time_scale=0.001), observers=(seen,))
    assert result.ok, result.nodes["a"].error
    results = {event.tool: event.result for event in seen.of(ToolFinished)}
    assert results["search"].startswith('["simulated query 0"')
    assert results["store"].startswith("[simulated] store was called with")
    assert results["files"].startswith("[simulated] files")
    assert not (tmp_path / "stored").exists()


def test_what_is_wrong_with_a_tool_is_told_before_the_run(plan: Compile, tmp_path: Path) -> None:
    (tmp_path / "tools_wrong.py").write_text("def f(x, /): ...\n")
    text = 'tools: {t: {call: "tools_wrong:f"}}\nnodes: {a: {model: openai/m, prompt: x, tools: [t]}}'
    with pytest.raises(agentdag.UsageError, match="can only be given by position"):
        agentdag.run(plan(text), options=Options(simulate=True))

"""Every kind of node under every way to fail, in one run: each fails in its own words, and hurts none of its siblings."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from engine.recorder import Recorder
from loopback import Loopback
from wire import Say, WireServer

import agentdag
from agentdag import ErrorKind, Options, Status
from agentdag.events import NodeSettled
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]

FUNCTIONS = """
import asyncio, sys, threading, time

RELEASE = threading.Event()

def good(x=1):
    return x

async def good_async(x=1):
    await asyncio.sleep(0)
    return x

def raises():
    raise ValueError("no good")

async def raises_async():
    raise ValueError("no good")

def leaves():
    sys.exit(3)

def breaks():
    raise KeyboardInterrupt

async def cancels():
    raise asyncio.CancelledError

class Odd(BaseException):
    pass

def odd_sync():
    raise Odd("strange")

async def odd_async():
    raise Odd("strange")

async def breaks_async():
    raise KeyboardInterrupt

async def generator_exit():
    raise GeneratorExit

def group():
    raise BaseExceptionGroup("many", [Odd("one")])

def unplain():
    return object()

def endless():
    RELEASE.wait(60)

async def endless_async():
    await asyncio.sleep(3600)

async def blocks_then_ends():
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        return "kept on"

def odd(x):
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x

def deep():
    return deep()

def tool(x: int) -> int:
    "Doubles a number."
    if x < 0:
        raise ValueError("negative")
    return 2 * x
"""
CHILD = """
inputs: {n: {type: integer, default: 1}}
nodes:
  a: {call: "kinds_of_trouble:odd", with: {x: "{{ inputs.n }}"}}
  b: {call: "kinds_of_trouble:good", with: {x: "{{ nodes.a.output }}"}}
outputs: {b: "{{ nodes.b.output }}"}
"""
SLOW_CHILD = 'nodes: {a: {call: "kinds_of_trouble:endless_async"}}'
PYTHON = json.dumps(sys.executable)


class Trouble(Loopback):
    """A remote agent that answers each path in its own way."""

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/{way}", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        match request.match_info["way"]:
            case "missing" | "broken" as way:
                return web.Response(status=404 if way == "missing" else 500, text="so it is")
            case "reset":
                assert request.transport is not None
                request.transport.abort()
            case "stall":
                await asyncio.sleep(3600)
            case "huge":
                answer = web.StreamResponse()
                await answer.prepare(request)
                for _ in range(400):
                    await answer.write(b"x" * 2**17)
                return answer
            case "away":
                return web.Response(status=302, headers={"Location": "/away"})
            case "words":
                return web.Response(text="no JSON")
        return web.json_response({"ok": True})


def call(function: str, more: str = "") -> str:
    return f'call: "kinds_of_trouble:{function}"{more}'


def program(text: str, more: str = "") -> str:
    return f"command: [{PYTHON}, -c, {json.dumps(text)}]{more}"


GOOD = {
    "call": call("good"),
    "call_async": call("good_async"),
    "command": program("print('fine')"),
    "http": "http: {url: 'URL/fine', allow_private: true}",
    "pipeline": "pipeline: kinds_child.yaml, with: {n: 2}",
    "foreach": call("odd", ", with: {x: '{{ item }}'}, foreach: [2, 4, 6]"),
    "repeat": call("good", ", with: {x: '{{ (previous or 0) + 1 }}'}, repeat: {until: '{{ output == 3 }}'}"),
    "prompt": "prompt: hi, model: openai/fine",
    "tools": "prompt: hi, model: openai/tooled, tools: [double]",
    "typed": "prompt: hi, model: openai/typed, output: {fields: {n: integer}}",
}
BAD = {
    "call_raises": (call("raises"), ErrorKind.FUNCTION, "ValueError: no good"),
    "call_raises_async": (call("raises_async"), ErrorKind.FUNCTION, "ValueError: no good"),
    "call_leaves": (call("leaves"), ErrorKind.FUNCTION, "SystemExit"),
    "call_breaks": (call("breaks"), ErrorKind.FUNCTION, "KeyboardInterrupt"),
    "call_odd": (call("odd_sync"), ErrorKind.FUNCTION, "Odd: strange"),
    "call_odd_async": (call("odd_async"), ErrorKind.FUNCTION, "Odd: strange"),
    "call_breaks_async": (call("breaks_async"), ErrorKind.FUNCTION, "KeyboardInterrupt"),
    "call_generator_exit": (call("generator_exit"), ErrorKind.FUNCTION, "GeneratorExit"),
    "call_group": (call("group"), ErrorKind.FUNCTION, "BaseExceptionGroup: many"),
    "call_cancels": (call("cancels"), ErrorKind.INTERNAL, "cancelled itself"),
    "call_unplain": (call("unplain"), ErrorKind.FUNCTION, "object"),
    "call_deep": (call("deep"), ErrorKind.FUNCTION, "RecursionError"),
    "call_endless": (call("endless", ", timeout: 300ms"), ErrorKind.TIMEOUT, "within 0.3 s"),
    "call_endless_async": (call("endless_async", ", timeout: 300ms"), ErrorKind.TIMEOUT, "within 0.3 s"),
    "call_misfit": (call("good", ", output: {fields: {n: integer}}"), ErrorKind.INVALID_OUTPUT, "object"),
    "call_template": (call("good", ", with: {x: '{{ 1 // 0 }}'}"), ErrorKind.TEMPLATE, "ZeroDivisionError"),
    "command_exits": (program("import sys; sys.exit('went wrong')"), ErrorKind.COMMAND, "exit code 1: went wrong"),
    "command_killed": (
        program("import os; os.kill(os.getpid(), 9)"),
        ErrorKind.COMMAND,
        "killed by SIGKILL",
    ),
    "command_endless": (program("import time; time.sleep(600)", ", timeout: 1s"), ErrorKind.TIMEOUT, "1 s"),
    "command_floods": (
        program("import sys\nwhile True: sys.stdout.write('x' * 2**20)"),
        ErrorKind.COMMAND,
        "printed more than",
    ),
    "command_missing": ("command: ['{{ inputs.nothing }}']", ErrorKind.COMMAND, "cannot run"),
    "command_misfit": (program("print('no JSON')", ", output: json"), ErrorKind.INVALID_OUTPUT, "JSON"),
    "http_missing": ("http: {url: 'URL/missing', allow_private: true}", ErrorKind.HTTP, "404"),
    "http_broken": ("http: {url: 'URL/broken', allow_private: true}, retry: 0", ErrorKind.SERVER, "500"),
    "http_reset": ("http: {url: 'URL/reset', allow_private: true}, retry: 0", ErrorKind.CONNECTION, ""),
    "http_stall": ("http: {url: 'URL/stall', allow_private: true}, retry: 0, timeout: 300ms", ErrorKind.TIMEOUT, ""),
    "http_huge": ("http: {url: 'URL/huge', allow_private: true}, retry: 0", ErrorKind.BAD_RESPONSE, "MiB"),
    "http_away": ("http: {url: 'URL/away', allow_private: true}, retry: 0", ErrorKind.HTTP, "redirect"),
    "http_private_wide": ("http: {url: 'http://\uff11\uff12\uff17\u30020.0.1:{{ inputs.port }}/fine'}, retry: 0", ErrorKind.HTTP, "private"),
    "command_infinite": (program("print('1e999')", ", output: json"), ErrorKind.INVALID_OUTPUT, "too large"),
    "http_private": ("http: {url: '{{ inputs.server }}/fine'}, retry: 0", ErrorKind.HTTP, "private"),
    "http_misfit": ("http: {url: 'URL/words', allow_private: true}, output: json", ErrorKind.INVALID_OUTPUT, "JSON"),
    "pipeline_fails": ("pipeline: kinds_child.yaml, with: {n: 3}", ErrorKind.FUNCTION, "a failed: ValueError: 3 is odd"),
    "pipeline_inputs": ("pipeline: kinds_child.yaml, with: {n: '{{ [] }}'}", ErrorKind.TEMPLATE, "its inputs"),
    "pipeline_endless": ("pipeline: kinds_slow.yaml, timeout: 300ms", ErrorKind.TIMEOUT, "no end within 0.3 s"),
    "foreach_item": (call("odd", ", with: {x: '{{ item }}'}, foreach: [2, 3, 4]"), ErrorKind.FUNCTION, "1 of 3 items"),
    "foreach_text": (call("odd", ", with: {x: 1}, foreach: '{{ 7 + 0 }}'"), ErrorKind.TEMPLATE, "a list is due"),
    "foreach_quorum": (
        call("odd", ", with: {x: '{{ item }}'}, foreach: {items: [1, 3, 4], barrier: {wait_for: 2}}"),
        ErrorKind.BARRIER,
        "2 must succeed",
    ),
    "repeat_until": (call("good", ", repeat: {until: '{{ output.n > 1 }}'}"), ErrorKind.TEMPLATE, "until: "),
    "when_text": (call("good", ", when: '{{ 1 + 1 }}'"), ErrorKind.TEMPLATE, "true or false is due"),
    "prompt_refused": ("prompt: hi, model: openai/refused, retry: 0", ErrorKind.BAD_REQUEST, "told"),
    "prompt_misfit": ("prompt: hi, model: openai/misfit, output: {fields: {n: integer}}, retry: 0", ErrorKind.INVALID_OUTPUT, "n"),
    "tools_turns": ("prompt: hi, model: openai/turns, tools: [double], max_turns: 2, retry: 0", ErrorKind.TOOL, "turns"),
    "tools_mcp": ("prompt: hi, model: openai/mcp, tools: [dead], retry: 0", ErrorKind.TOOL, "cannot be reached"),
    "save_folder": (call("good", ", save: taken"), ErrorKind.SAVE, "taken"),
}  # fmt: skip


def test_no_kind_of_node_hurts_another(plan: Compile, wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "kinds_of_trouble.py").write_text(FUNCTIONS)
    (tmp_path / "kinds_child.yaml").write_text(CHILD)
    (tmp_path / "kinds_slow.yaml").write_text(SLOW_CHILD)
    (tmp_path / "taken").mkdir()
    doubles = ("double", {"x": 4})
    wire.script |= {
        "tooled": [Say(calls=(doubles, ("double", {"x": -1}))), Say("done")],
        "turns": [Say(calls=(doubles,))],
        "typed": [Say('{"n": 1}')],
        "misfit": [Say('{"m": 1}')],
        "refused": ["400"],
    }
    remote = Trouble()
    remote.serve()
    nodes = [f"  {name}: {{{node}}}" for name, node in GOOD.items()]
    nodes += [f"  {name}: {{{node}, continue_on_failure: true}}" for name, (node, _, _) in BAD.items()]
    text = f"""
        inputs: {{nothing: {{default: no-such-program-anywhere}}, server: {{default: "{remote.url}"}},
          port: {{default: "{remote.url.rpartition(":")[2]}"}}}}
        providers: {{openai: {{base_url: "{wire.openai_url}", api_key: k}}}}
        limits: {{concurrency: 12}}
        tools:
          double: {{call: "kinds_of_trouble:tool"}}
          dead: {{mcp: {{command: [{PYTHON}, -c, "raise SystemExit(1)"]}}}}
        nodes:
    """
    recorder = Recorder()
    try:
        whole = plan(textwrap.dedent(text) + "\n".join(nodes).replace("URL", remote.url))
        result = agentdag.run(whole, options=Options(), observers=(recorder,))
    finally:
        remote.stop()
    assert result.ok
    assert {name: result.nodes[name].status for name in GOOD} == dict.fromkeys(GOOD, Status.SUCCEEDED)
    assert result.nodes["tools"].output == "done"
    errors = {name: result.nodes[name].error for name in BAD}
    told = {name: error and (error.kind, error.message) for name, error in errors.items()}
    amiss = {
        name: told[name]
        for name, (_, kind, words) in BAD.items()
        if (error := errors[name]) is None or error.kind is not kind or words not in error.message
    }
    assert not amiss
    settled = [event.node for event in recorder.of(NodeSettled)]
    assert len(settled) == len(set(settled))

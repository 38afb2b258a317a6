"""Tools of real MCP servers, over pipes and over HTTP: many at once, killed, hanging, flooding."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import is_gone
from program import agentdag as program
from program import interrupt, started
from wire import Say, WireServer

import agentdag
from agentdag import ErrorKind, NodeSettled
from agentdag.agents.mcp import McpServer, McpSettings, UnreachableError
from agentdag.errors import FinalError
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]
SERVER = Path(__file__).parent / "mcp_server.py"
COMMAND = json.dumps([sys.executable, str(SERVER), "stdio"])


def settings(tmp_path: Path) -> McpSettings:
    return McpSettings("t", (sys.executable, str(SERVER), "stdio"), cwd=tmp_path)


@contextlib.contextmanager
def http_server(tmp_path: Path) -> Iterator[str]:
    """The address of the server, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(SERVER), "http", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    try:
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < until
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(10)


def ask(plan: Compile, wire: WireServer, mcp: str, script: list[Say], extra: str = "") -> NodeSettled:
    wire.script["m"] = list(script)
    text = f"""
        providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
        tools: {{t: {{mcp: {mcp}}}}}
        nodes: {{a: {{model: openai/m, prompt: x, tools: [t], retry: 0{extra}}}}}
    """
    return agentdag.run(plan(text)).nodes["a"]


def told(wire: WireServer) -> list[str]:
    return [message["content"] for message in wire.calls[-1].body["messages"] if message["role"] == "tool"]


@pytest.mark.parametrize("over", ["stdio", "http"])
def test_a_model_works_with_the_tools_of_a_server(plan: Compile, wire: WireServer, tmp_path: Path, over: str) -> None:
    script = [Say(calls=(("t_echo", {"text": "hello"}), ("t_fail", {}), ("t_pid", {}))), Say("ok")]
    with http_server(tmp_path) if over == "http" else contextlib.nullcontext("") as url:
        mcp = f'{{url: "{url}"}}' if url else f"{{command: {COMMAND}}}"
        node = ask(plan, wire, mcp, script)
    assert node.output == "ok", node.error
    names = [tool["function"]["name"] for tool in wire.calls[0].body["tools"]]
    assert {"t_echo", "t_fail", "t_pid"} <= set(names)
    results = told(wire)
    assert results[0] == "hello"
    assert results[1].startswith("error: fail: ")
    if over == "stdio":
        assert is_gone(int(results[2])), "it ends with the run"


def test_only_those_that_the_file_names_are_offered(plan: Compile, wire: WireServer) -> None:
    ask(plan, wire, f"{{command: {COMMAND}, only: [echo]}}", [Say("ok")])
    assert [tool["function"]["name"] for tool in wire.calls[0].body["tools"]] == ["t_echo"]
    error = ask(plan, wire, f"{{command: {COMMAND}, only: [ecko]}}", [Say("ok")]).error
    assert error is not None
    assert "has no tool ecko" in error.message


@pytest.mark.parametrize("over", ["stdio", "http"])
def test_fifty_calls_at_once(tmp_path: Path, over: str) -> None:
    async def main(server: McpServer) -> list[str]:
        try:
            return await asyncio.gather(*(server.call("echo", {"text": str(number)}) for number in range(50)))
        finally:
            await server.aclose()

    with http_server(tmp_path) if over == "http" else contextlib.nullcontext("") as url:
        server = McpServer(McpSettings("t", url=url) if url else settings(tmp_path))
        assert asyncio.run(main(server)) == [str(number) for number in range(50)]


def test_one_that_dies_is_started_again_until_it_dies_too_often(tmp_path: Path) -> None:
    clock = [0.0]

    async def said(server: McpServer, tool: str) -> str:
        try:
            return await asyncio.wait_for(server.call(tool, {}), 30)
        except FinalError as error:
            return f"error: {error.failure.message}"
        except UnreachableError as error:
            return f"lost: {error.failure.message}"

    async def main() -> list[str]:
        server = McpServer(settings(tmp_path), lambda: clock[0])
        try:
            heard = [await said(server, tool) for tool in ("pid", "die", "pid", "die", "pid", "die", "pid")]
            clock[0] = 61.0
            return [*heard, await said(server, "pid")]
        finally:
            await server.aclose()

    first, died, second, _, third, _, over, later = asyncio.run(main())
    assert len({first, second, third, later}) == 4
    assert died.startswith("error: die: the server died")
    assert over.startswith("lost: the MCP server `t` died 3 times within 60 s")
    assert all(is_gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_calls_that_were_out_when_it_died_fail_at_once(tmp_path: Path) -> None:
    async def main() -> list[object]:
        server = McpServer(settings(tmp_path))
        try:
            calls = [server.call("hang", {}) for _ in range(3)]
            return await asyncio.wait_for(asyncio.gather(*calls, server.call("die", {}), return_exceptions=True), 30)
        finally:
            await server.aclose()

    assert all(isinstance(result, FinalError) for result in asyncio.run(main()))


def test_one_that_hangs_costs_its_timeout_and_no_more(plan: Compile, wire: WireServer) -> None:
    calls = Say(calls=(("t_hang", {}), ("t_echo", {"text": "x"})))
    script = [calls, Say(calls=(("t_echo", {"text": "y"}),)), Say("ok")]
    node = ask(plan, wire, f"{{command: {COMMAND}}}", script, ", tool_timeout: 2s")
    assert node.output == "ok", node.error
    assert told(wire) == ["error: no answer within 2 s", "x", "y"]


def test_a_flood_is_cut_before_the_model_pays_for_it(plan: Compile, wire: WireServer) -> None:
    script = [Say(calls=(("t_flood", {"characters": 3_000_000}),)), Say("ok")]
    node = ask(plan, wire, f"{{command: {COMMAND}}}", script, ", tool_output_limit: 100")
    assert node.output == "ok", node.error
    assert told(wire) == [f"{'x' * 100}… (cut: 3,000,000 characters in all)"]


def test_a_server_that_does_not_start_fails_its_nodes_with_its_last_words(plan: Compile, wire: WireServer) -> None:
    dies = json.dumps([sys.executable, "-c", "import sys; sys.exit('no licence')"])
    text = f"""
        providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
        tools: {{t: {{mcp: {{command: {dies}}}}}}}
        nodes:
          a: {{model: openai/m, prompt: x, tools: [t], retry: {{retries: 1, delay: 1ms}}}}
          b: {{model: openai/m, prompt: x}}
    """
    result = agentdag.run(plan(text))
    error = result.nodes["a"].error
    assert error is not None
    assert error.kind is ErrorKind.TOOL
    assert "the MCP server `t` cannot be reached" in error.message
    assert "no licence" in error.message
    assert result.nodes["b"].output is not None


def test_an_interrupt_leaves_no_server_behind(tmp_path: Path, wire: WireServer) -> None:
    (tmp_path / "p.yaml").write_text(
        f'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\n'
        f"tools: {{t: {{mcp: {{command: {COMMAND}}}}}}}\n"
        "nodes: {a: {model: openai/m, prompt: x, tools: [t]}}\n"
    )
    wire.script["m"] = [Say(calls=(("t_pid", {}),)), "stall"]
    process = started("run", "p.yaml", "--no-store", cwd=tmp_path)
    wire.await_calls(2)
    interrupt(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert is_gone(int((tmp_path / "pids").read_text()))
    assert program("validate", "p.yaml", cwd=tmp_path).returncode == 0

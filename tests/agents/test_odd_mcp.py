"""MCP servers as they are in the wild: names, schemas, results, starts, deaths and floods that no client can choose."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import is_gone
from program import interrupt, started
from raw import SSE, Raw, RawServer
from wire import Say, WireServer

import agentdag
from agentdag import ErrorKind, NodeSettled
from agentdag.agents.mcp import McpServer, McpSettings, UnreachableError
from agentdag.errors import CallError, FinalError
from agentdag.language.tools import McpSpec
from agentdag.plan.mcp_files import ServerProblem, server_in
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]
Serve = Callable[..., RawServer]
ODD = Path(__file__).parent / "odd_mcp_server.py"
WHOLE = Path(__file__).parent / "mcp_server.py"
NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")


def command(*mode: str) -> str:
    return json.dumps([sys.executable, str(ODD), *mode])


def server(tmp_path: Path, *mode: str, start_s: float = 30.0) -> McpServer:
    return McpServer(McpSettings("t", (sys.executable, str(ODD), *mode), cwd=tmp_path, start_s=start_s))


def with_server(tmp_path: Path, mode: str, act: Callable[[McpServer], Any], **settings: float) -> Any:
    async def main() -> Any:
        one = server(tmp_path, mode, **settings)
        try:
            return await asyncio.wait_for(act(one), 60)
        finally:
            await one.aclose()

    return asyncio.run(main())


def ask(
    plan: Compile, wire: WireServer, mcp: str, script: list[Say | str], *, retry: str = "0", extra: str = ""
) -> NodeSettled:
    wire.script["m"] = list(script)
    wire._turns.clear()
    wire.calls.clear()
    text = f"""
        providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
        tools: {{t: {{mcp: {mcp}}}}}
        nodes: {{a: {{model: openai/m, prompt: x, tools: [t], retry: {{retries: {retry}, delay: 1ms}}{extra}}}}}
    """
    return agentdag.run(plan(text)).nodes["a"]


def told(wire: WireServer) -> list[str]:
    return [message["content"] for message in wire.calls[-1].body["messages"] if message["role"] == "tool"]


def test_names_are_sent_as_providers_accept_them_and_called_as_the_server_has_them(
    plan: Compile, wire: WireServer
) -> None:
    node = ask(plan, wire, f"{{command: {command('names')}}}", ["ok"])
    assert node.output is not None, node.error
    names = [tool["function"]["name"] for tool in wire.calls[0].body["tools"]]
    assert len(set(names)) == 4
    assert all(NAME.match(name) for name in names)
    assert names[0] == "t_files_read_all_of_it"
    node = ask(plan, wire, f"{{command: {command('names')}}}", [Say(calls=((names[2], {"x": 1}),)), "ok"])
    assert told(wire) == ['{"x": 1}'], node.error


def test_one_bad_tool_does_not_lose_the_others(plan: Compile, wire: WireServer) -> None:
    ask(plan, wire, f"{{command: {command('schemas')}}}", ["ok"])
    sent = {tool["function"]["name"]: tool["function"]["parameters"] for tool in wire.calls[0].body["tools"]}
    assert [*sent] == [
        f"t_{name}" for name in ("none", "empty", "bare", "null", "array", "union", "hints", "required", "output")
    ]
    assert all(schema["type"] == "object" and isinstance(schema["properties"], dict) for schema in sent.values())
    assert sent["t_array"]["properties"]["a"] == {"type": "array", "items": {}}
    assert sent["t_union"]["properties"].keys() == {"a", "b"}
    assert "anyOf" not in sent["t_union"]


def test_a_tool_whose_output_breaks_its_own_schema_has_run_all_the_same(tmp_path: Path) -> None:
    assert with_server(tmp_path, "schemas", lambda one: one.call("output", {"x": 1})) == '{"x": 1}'


def test_the_parts_of_a_result_are_told_in_their_order(tmp_path: Path) -> None:
    text = with_server(tmp_path, "parts", lambda one: one.call("echo", {}))
    assert text.split("\n") == [
        "first",
        "file:///a.txt:",
        "inside",
        "b.pdf: the report <file:///b.pdf>",
        "(image: image/png, 6 bytes, not shown)",
        "(file:///c.bin: of an unknown kind, 6 bytes, not shown)",
        '{"type": "hologram", "depth": 3}',
        "last",
    ]


@pytest.mark.parametrize(
    ("shape", "value"), [("text", "just text"), ("nothing", ""), ("list", "[1, 2]"), ("value", {"a": 1})]
)
def test_sloppy_results_are_results(tmp_path: Path, shape: str, value: object) -> None:
    assert with_server(tmp_path, "sloppy", lambda one: one.call("echo", {"shape": shape})) == value


def test_bytes_that_are_no_utf8_do_not_silence_the_connection(tmp_path: Path) -> None:
    async def twice(one: McpServer) -> list[str]:
        return [await one.call("echo", {}), await one.call("echo", {})]

    assert with_server(tmp_path, "latin", twice) == ["caf\ufffd", "caf\ufffd"]


def test_words_that_are_no_messages_are_passed_over(tmp_path: Path) -> None:
    assert with_server(tmp_path, "noise", lambda one: one.call("echo", {})) == "quiet now"


def test_a_huge_result_is_refused_and_the_connection_lives(tmp_path: Path) -> None:
    async def beside(one: McpServer) -> tuple[str, str]:
        call = asyncio.ensure_future(one.call("echo", {"megabytes": 43}))
        small = await one.call("echo", {"megabytes": 1})
        with pytest.raises(FinalError) as caught:
            await call
        return caught.value.failure.message, small

    message, small = with_server(tmp_path, "huge", beside)
    assert "larger than 8 MiB" in message
    assert len(small) == 2**20


def test_a_server_may_take_as_long_to_start_as_the_file_says(plan: Compile, wire: WireServer, tmp_path: Path) -> None:
    error = ask(plan, wire, f"{{command: {command('late', '600')}, start_timeout: 300ms}}", ["ok"]).error
    assert error is not None
    assert error.kind is ErrorKind.TOOL
    assert "within 0.3 s (`start_timeout`)" in error.message
    assert McpSpec(command=["x"]).start_timeout == 30.0
    assert ask(plan, wire, f"{{command: {command('late', '0.2')}, start_timeout: 60s}}", ["ok"]).error is None


@pytest.mark.parametrize("mode", ["mute", "pages"])
def test_one_that_never_tells_its_tools_fails_within_its_time(tmp_path: Path, mode: str) -> None:
    with pytest.raises(UnreachableError) as caught:
        with_server(tmp_path, mode, lambda one: one.tools(), start_s=1.0 if mode == "mute" else 30.0)
    assert ("within 1 s" if mode == "mute" else "more than 100 pages") in caught.value.failure.message


def test_the_same_page_again_ends_the_list(tmp_path: Path) -> None:
    assert {tool.name for tool in with_server(tmp_path, "same-page", lambda one: one.tools())} == {"echo"}


def test_a_flood_on_stderr_is_drained(tmp_path: Path) -> None:
    assert with_server(tmp_path, "flood", lambda one: one.call("echo", {"x": 1})) == '{"x": 1}'


def test_a_lost_call_is_told_once_and_a_server_that_stays_away_fails_the_attempt(
    plan: Compile, wire: WireServer, tmp_path: Path
) -> None:
    calls = Say(calls=(("t_echo", {}),))
    node = ask(plan, wire, f"{{command: {command('once')}}}", [calls, calls, "ok"], retry="1")
    assert node.error is not None
    assert node.output is None
    assert node.error.kind is ErrorKind.TOOL
    assert "cannot be reached" in node.error.message
    assert "the licence is used up" in node.error.message
    told_once = [text for text in told(wire) if "died" in text]
    assert len(told_once) == 1
    assert not any("cannot be reached" in text for text in told(wire))


def test_what_has_run_beside_a_lost_tool_is_not_run_again(plan: Compile, wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "notes.py").write_text(
        "from pathlib import Path\n"
        "def store(text: str) -> str:\n"
        "    with (Path(__file__).parent / 'stored').open('a') as file:\n"
        "        file.write(text)\n"
        "    return 'stored'\n"
    )
    both = Say(calls=(("store", {"text": "x"}), ("t_echo", {})))
    wire.script["m"] = [Say(calls=(("t_echo", {}),)), both, "ok"]
    text = f"""
        providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
        tools: {{t: {{mcp: {{command: {command("once")}}}}}, store: {{call: "notes:store", writes: [n]}}}}
        nodes: {{a: {{model: openai/m, prompt: x, tools: [t, store], retry: {{retries: 2, delay: 1ms}}}}}}
    """
    assert agentdag.run(plan(text)).nodes["a"].error is not None
    assert (tmp_path / "stored").read_text() == "x"


WORDS = ["paid, but session 42 not found in the ledger", "issue #12 is already closed", "disconnected from the bank"]


@pytest.mark.parametrize("words", WORDS)
def test_the_words_of_a_tool_are_no_sign_of_a_lost_server(tmp_path: Path, words: str) -> None:
    async def twice(one: McpServer) -> list[str]:
        heard = []
        for _ in range(2):
            with pytest.raises(FinalError) as caught:
                await one.call("echo", {"words": words})
            heard.append(caught.value.failure.message)
        return heard

    assert with_server(tmp_path, "words", twice) == [f"echo: {words}"] * 2
    assert (tmp_path / "calls").read_text().split() == ["call", "call"]


def test_one_that_is_frozen_is_ended_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentdag.agents.mcp.ANSWERS_WITHIN_S", 0.2)

    async def hang(one: McpServer) -> None:
        for number in (1, 2):
            task = asyncio.ensure_future(one.call("echo", {}))
            while len(starts()) < number:  # noqa: ASYNC110 - written by another process
                await asyncio.sleep(0.01)
            session = one._session
            task.cancel()
            await asyncio.wait({task})
            assert session is not None
            await session.over.wait()

    def starts() -> list[str]:
        file = tmp_path / "starts"
        return file.read_text().split() if file.exists() else []

    with_server(tmp_path, "frozen", hang)
    assert len(set(starts())) == 2
    assert all(is_gone(int(pid)) for pid in starts())


def test_one_that_ends_between_two_calls_is_started_again_for_the_second(tmp_path: Path) -> None:
    async def twice(one: McpServer) -> list[str]:
        first = await one.call("echo", {})
        assert one._session is not None
        while not one._session.gone:  # noqa: ASYNC110 - its pipe tells of it
            await asyncio.sleep(0.01)
        return [first, await one.call("echo", {})]

    assert len(set(with_server(tmp_path, "leaves", twice))) == 2


def test_two_servers_that_stay_away_are_both_asked_again(plan: Compile, wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    mcp = "mcp: {command: %s, cwd: %s}"
    script = [Say(calls=(("a_echo", {}), ("b_echo", {}))), Say(calls=(("a_echo", {}), ("b_echo", {}))), "ok"]
    wire.script["m"] = script
    text = f"""
        providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
        tools: {{a: {{{mcp % (command("once"), "a")}}}, b: {{{mcp % (command("once"), "b")}}}}}
        nodes: {{a: {{model: openai/m, prompt: x, tools: [a, b], retry: {{retries: 1, delay: 1ms}}}}}}
    """
    error = agentdag.run(plan(text)).nodes["a"].error
    assert error is not None
    assert "cannot be reached" in error.message
    assert not any("cannot be reached" in text for text in told(wire))


def over_http(call: Callable[[dict[str, Any]], Raw]) -> Callable[[Any], Raw]:
    """What a server over HTTP answers that has one tool, `echo`, and sessions; *call* answers the calls of it."""

    def says(body: Any) -> Raw:
        method = (body or {}).get("method")
        if method == "initialize":
            result: dict[str, Any] = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "x", "version": "1"},
            }
        elif method == "tools/list":
            result = {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}
        elif method == "tools/call":
            return call(body)
        elif body is None or "id" not in body:
            return Raw("", status=202 if body else 405)
        else:
            error = {"code": -32601, "message": "Method not found"}
            return Raw(json.dumps({"jsonrpc": "2.0", "id": body["id"], "error": error}))
        return Raw(
            json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": result}), headers={"mcp-session-id": "first"}
        )

    return says


def echoed(body: dict[str, Any], text: str) -> Raw:
    return Raw(
        json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": {"content": [{"type": "text", "text": text}]}})
    )


def heard_over_http(url: str, calls: int) -> list[str]:
    """What so many calls come to, one after another."""

    async def main() -> list[str]:
        one, heard = McpServer(McpSettings("t", url=f"{url}/mcp")), []
        try:
            for _ in range(calls):
                try:
                    heard.append(await asyncio.wait_for(one.call("echo", {}), 30))
                except FinalError as error:
                    heard.append(f"error: {error.failure.message}")
        finally:
            await one.aclose()
        return heard

    return asyncio.run(main())


def test_a_huge_body_over_http_is_refused(serve: Serve) -> None:
    server_ = serve(over_http(lambda body: echoed(body, "x" * (9 * 2**20))))
    (heard,) = heard_over_http(server_.url, 1)
    assert "larger than 8 MiB" in heard


@pytest.mark.parametrize("status", [400, 404])
def test_a_session_that_the_server_has_forgotten_is_opened_anew(serve: Serve, status: int) -> None:
    called: list[str] = []

    def call(body: dict[str, Any]) -> Raw:
        called.append("call")
        return Raw("Bad Request: no such session", status=status) if len(called) == 2 else echoed(body, "hello")

    server_ = serve(over_http(call))
    assert heard_over_http(server_.url, 3) == ["hello"] * 3
    assert len(called) == 4
    assert sum(asked.body is not None and asked.body.get("method") == "initialize" for asked in server_.asked) == 2


def test_a_forgotten_session_loses_none_of_the_calls_that_are_out_together(serve: Serve) -> None:
    def call(body: dict[str, Any]) -> Raw:
        called.append("call")
        restarted = 1 < len(called) <= 5
        return Raw("no such session", status=404) if restarted else echoed(body, "hello")

    async def main() -> list[str]:
        one = McpServer(McpSettings("t", url=f"{server_.url}/mcp"))
        try:
            first = await one.call("echo", {})
            return [first, *await asyncio.gather(*(one.call("echo", {}) for _ in range(4)))]
        finally:
            await one.aclose()

    called: list[str] = []
    server_ = serve(over_http(call))
    assert asyncio.run(main()) == ["hello"] * 5
    assert sum(asked.body is not None and asked.body.get("method") == "initialize" for asked in server_.asked) == 2


def test_a_call_whose_answer_is_lost_is_not_made_again(serve: Serve) -> None:
    called: list[str] = []

    def call(body: dict[str, Any]) -> Raw:
        called.append("call")
        return Raw(": the end\n\n", SSE) if len(called) == 2 else echoed(body, "hello")

    first, lost, then = heard_over_http(serve(over_http(call)).url, 3)
    assert (first, then) == ("hello", "hello")
    assert lost.startswith("error: echo: ")
    assert len(called) == 3


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _http(port: int, tmp_path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, str(WHOLE), "http", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until
        else:
            return process


def test_an_http_server_that_was_restarted_is_reached_again(tmp_path: Path) -> None:
    async def main() -> list[str]:
        one = McpServer(McpSettings("t", url=f"http://127.0.0.1:{port}/mcp"))
        heard: list[str] = []
        process = _http(port, tmp_path)
        try:
            heard.append(await one.call("echo", {"text": "before"}))
            process.kill()
            process.wait()
            for _ in range(2):
                try:
                    heard.append(await one.call("echo", {"text": "while it is away"}))
                except CallError as error:
                    heard.append(type(error).__name__)
            process = _http(port, tmp_path)
            heard.append(await one.call("echo", {"text": "after"}))
        finally:
            await one.aclose()
            process.kill()
            process.wait()
        return heard

    port = _port()
    heard = asyncio.run(main())
    assert heard[0] == "before"
    assert "UnreachableError" in heard[1:3]
    assert heard[-1] == "after"


def test_an_interrupt_lets_the_tools_that_are_out_finish(tmp_path: Path, wire: WireServer) -> None:
    """They have the same 10 s as calls of models: what they did is on record, and a resume does not do it again."""
    (tmp_path / "slow.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "def store(text: str) -> str:\n"
        "    Path('begun').write_text(text)\n"
        "    while not Path('go').exists():\n"
        "        time.sleep(0.01)\n"
        "    with Path('done').open('a') as file:\n"
        "        file.write(text)\n"
        "    return 'stored'\n"
    )
    (tmp_path / "p.yaml").write_text(
        f'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\n'
        'tools: {store: {call: "slow:store", writes: [notes]}}\n'
        "nodes: {a: {model: openai/m, prompt: x, tools: [store]}}\n"
    )
    wire.script["m"] = [Say(calls=(("store", {"text": "x"}),)), "ok"]
    process = started("run", "p.yaml", "--store", "s", cwd=tmp_path)
    until = time.monotonic() + 30
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until
    interrupt(process)
    (tmp_path / "go").write_text("")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert (tmp_path / "done").read_text() == "x"
    run = re.search(r"agentdag resume (\S+)", errors)
    assert run is not None, errors
    again = started("resume", run[1], "--store", "s", cwd=tmp_path)
    _, errors = again.communicate(timeout=30)
    assert again.returncode == 0, errors
    assert (tmp_path / "done").read_text() == "x"
    assert is_gone(process.pid)


FILES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"mcpServers": {"fs": {"command": "npx", "args": ["-y", "server", "${workspaceFolder}"], "env": {"K": "${env:KEY}"}}}},
        "fs",
        {"command": ["npx", "-y", "server", "/w"], "env": {"K": "${KEY}"}},
    ),
    (
        {"servers": {"web": {"type": "http", "url": "https://x.example/mcp", "headers": {"A": "Bearer ${T:-none}"}}}},
        "web",
        {"url": "https://x.example/mcp", "headers": {"A": "Bearer ${T:-none}"}},
    ),
    ({"mcpServers": {"g": {"httpUrl": "https://g.example/mcp"}}}, "g", {"url": "https://g.example/mcp", "headers": {}}),
    (
        {"mcpServers": {"c": {"command": "${userHome}/bin/s", "cwd": "tools", "timeout": 60000}}},
        "c",
        {"command": ["${HOME}/bin/s"], "env": {}, "cwd": "tools"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "name", "told"), FILES)
def test_a_server_is_read_as_other_clients_write_it(file: dict[str, Any], name: str, told: dict[str, Any]) -> None:
    assert server_in(json.dumps(file), name, Path("/w")) == told


PROBLEMS = [
    ("nothing", "it is not JSON"),
    ("{}", "no `mcpServers`"),
    ('{"mcpServers": {"files": {"command": "x"}}}', "no server `t`"),
    ('{"mcpServers": {"t": {}}}', "no command and no url"),
    ('{"mcpServers": {"t": {"command": "x", "disabled": true}}}', "is disabled"),
    ('{"mcpServers": {"t": {"type": "sse", "url": "http://x"}}}', "speaks SSE"),
    ('{"mcpServers": {"t": {"command": "x", "args": ["${input:token}"]}}}', "${input:token}"),
]


@pytest.mark.parametrize(("text", "words"), PROBLEMS)
def test_a_file_that_does_not_say_how_to_reach_it_is_refused(text: str, words: str) -> None:
    with pytest.raises(ServerProblem, match=re.escape(words)):
        server_in(text, "t", Path())


def test_a_file_is_used_and_its_variables_are_filled_in(
    plan: Compile, wire: WireServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_MODE", "parts")
    entry = {"command": sys.executable, "args": [str(ODD), "${ODD_MODE}"]}
    (tmp_path / ".mcp.json").write_text(json.dumps({"mcpServers": {"odd": entry}}))
    node = ask(plan, wire, "{file: .mcp.json, server: odd}", [Say(calls=(("t_echo", {}),)), "ok"])
    assert node.error is None
    assert told(wire)[0].startswith("first")

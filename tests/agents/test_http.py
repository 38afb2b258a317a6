"""Requests to remote agents, against a real server: what they answer, how they fail, and where they never go."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from loopback import Loopback

import agentdag
from agentdag import ErrorKind, NodeSettled, Options, Status
from agentdag.language.addresses import is_private
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]


class Remote(Loopback):
    """A remote agent on loopback. `say` holds what it answers, one after another, the last repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.say: list[Callable[[], web.StreamResponse]] = [lambda: web.json_response({"ok": True})]
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.arrived = threading.Event()
        self.serve()

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/{rest:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        self.arrived.set()
        answer = self.say[min(len(self.asked), len(self.say)) - 1]()
        if request.path == "/hang":
            await asyncio.sleep(3600)
        return answer


@pytest.fixture
def remote() -> Iterator[Remote]:
    server = Remote()
    yield server
    server.stop()


def ask(plan: Compile, remote: Remote, http: str = "", *, extra: str = "", path: str = "/ask") -> NodeSettled:
    text = f"""
        inputs: {{question: {{default: "why? ü"}}}}
        nodes:
          a:
            http: {{url: "{remote.url}{path}", allow_private: true{http}}}
            retry: {{retries: 1, delay: 1ms}}
            timeout: 20s
            {extra}
    """
    return agentdag.run(plan(text)).nodes["a"]


def answers(remote: Remote, *bodies: Any, status: int = 200, **more: Any) -> None:
    remote.say = [lambda body=body: web.json_response(body, status=status, **more) for body in bodies]


def test_json_is_sent_and_an_answer_in_json_is_a_value(plan: Compile, remote: Remote) -> None:
    answers(remote, {"memo": "because"})
    node = ask(plan, remote, ', json: {q: "{{ inputs.question }}", n: [1, "{{ 1 + 1 }}"]}')
    assert node.output == {"memo": "because"}, node.error
    method, path, headers, body = remote.asked[0]
    assert (method, path, headers["Content-Type"]) == ("POST", "/ask", "application/json")
    assert json.loads(body) == {"q": "why? ü", "n": [1, 2]}


def test_text_stays_text_and_so_does_json_where_the_file_says_so(plan: Compile, remote: Remote) -> None:
    remote.say = [lambda: web.Response(text="plain ü")]
    assert ask(plan, remote).output == "plain ü"
    assert remote.asked[0][0] == "GET"
    answers(remote, {"a": 1})
    assert ask(plan, remote, extra="output: text").output == '{"a": 1}'


def test_an_answer_is_checked_like_any_other(plan: Compile, remote: Remote) -> None:
    answers(remote, {"score": "x"}, {"score": 4})
    node = ask(plan, remote, extra="output: {fields: {score: number}}")
    assert (node.output, node.attempts) == ({"score": 4}, 2)


def test_headers_hold_secrets_that_are_never_on_record(
    plan: Compile, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_KEY", "key-0123456789")
    remote.say = [lambda: web.Response(text=f"you said {remote.asked[-1][2]['Authorization']}")]
    node = ask(plan, remote, ', headers: {Authorization: "Bearer ${AGENT_KEY}", X-Q: "{{ run.id }}"}')
    assert remote.asked[0][2]["Authorization"] == "Bearer key-0123456789"
    assert node.output == "you said Bearer [secret]"


@pytest.mark.parametrize(
    ("status", "kind", "asked"),
    [
        (429, ErrorKind.RATE_LIMIT, 2),
        (500, ErrorKind.SERVER, 2),
        (503, ErrorKind.SERVER, 2),
        (529, ErrorKind.OVERLOADED, 2),
        (401, ErrorKind.AUTH, 1),
        (403, ErrorKind.AUTH, 1),
        (404, ErrorKind.HTTP, 1),
        (413, ErrorKind.TOO_LONG, 1),
    ],
)
def test_a_status_is_an_error_of_ours(plan: Compile, remote: Remote, status: int, kind: ErrorKind, asked: int) -> None:
    answers(remote, {"error": "told by the agent"}, status=status)
    error = ask(plan, remote).error
    assert error is not None
    assert (error.kind, error.status, len(remote.asked)) == (kind, status, asked)
    assert "told by the agent" in error.message


def test_the_time_that_it_asks_for_is_waited(plan: Compile, remote: Remote) -> None:
    remote.say = [
        lambda: web.Response(status=429, headers={"Retry-After": "0.3"}),
        lambda: web.json_response("at last"),
    ]
    node = ask(plan, remote)
    assert node.output == "at last"
    assert node.waits["retry"] >= 0.3
    remote.asked.clear()
    remote.say = [lambda: web.Response(status=503, headers={"Retry-After": "900"})]
    assert ask(plan, remote).attempts == 1, "nobody waits for so long"


def test_what_the_agent_says_it_took_counts(plan: Compile, remote: Remote) -> None:
    answers(remote, {"text": "x", "usage": {"prompt_tokens": 11, "completion_tokens": 5, "cost_usd": 0.25}})
    node = ask(plan, remote)
    assert (node.usage.input_tokens, node.usage.output_tokens, node.usage.cost_usd) == (11, 5, Decimal("0.25"))
    answers(remote, {"usage": {"input_tokens": -3, "output_tokens": "many", "cost_usd": "NaN"}})
    node = ask(plan, remote)
    assert (node.usage.input_tokens, node.usage.output_tokens, node.usage.cost_usd) == (0, 0, None)


def test_it_counts_against_the_budget(plan: Compile, remote: Remote) -> None:
    answers(remote, {"usage": {"input_tokens": 900, "output_tokens": 50}})
    text = f"""
        budget: {{tokens: 1000}}
        nodes:
          a: {{http: {{url: "{remote.url}/", allow_private: true}}}}
          b: {{prompt: hi, model: simulated/m, needs: [a], max_tokens: 500}}
    """
    result = agentdag.run(plan(text))
    assert result.nodes["b"].status is Status.SKIPPED
    assert result.exit_code == 3


def test_a_connection_that_breaks_is_tried_again(plan: Compile, remote: Remote) -> None:
    def broken() -> web.StreamResponse:
        raise ConnectionResetError

    remote.say = [broken, lambda: web.json_response(1)]
    assert ask(plan, remote).output == 1
    remote.stop()
    error = ask(plan, remote).error
    assert error is not None
    assert error.kind is ErrorKind.CONNECTION


def test_a_hang_is_cut_at_the_timeout(plan: Compile, remote: Remote) -> None:
    text = f'nodes: {{a: {{http: {{url: "{remote.url}/hang", allow_private: true}}, timeout: 300ms, retry: 0}}}}'
    node = agentdag.run(plan(text)).nodes["a"]
    assert node.status is Status.TIMED_OUT


def test_a_huge_answer_and_one_that_lies_are_refused(
    plan: Compile, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdag.agents.http.MAX_BODY_BYTES", 1000)
    remote.say = [lambda: web.Response(text="x" * 1001)]
    error = ask(plan, remote).error
    assert error is not None
    assert (error.kind, error.final) == (ErrorKind.BAD_RESPONSE, True)
    remote.say = [lambda: web.Response(text="{no", content_type="application/json")]
    error = ask(plan, remote).error
    assert error is not None
    assert (error.kind, "is not" in error.message) == (ErrorKind.BAD_RESPONSE, True)
    remote.say = [lambda: web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})]
    error = ask(plan, remote).error
    assert error is not None
    assert "compressed" in error.message


def test_a_request_without_a_body_follows_redirects_and_keeps_its_headers_to_itself(
    plan: Compile, remote: Remote
) -> None:
    other = Remote()
    try:
        remote.say = [lambda: web.Response(status=302, headers={"Location": f"{other.url}/there"})]
        assert ask(plan, remote, ", headers: {X-Key: mine}").output == {"ok": True}
        assert "X-Key" not in other.asked[0][2]
        error = ask(plan, remote, ", json: {a: 1}").error
        assert error is not None
        assert f"redirects to {other.url}/there" in error.message
        remote.say = [lambda: web.Response(status=302, headers={"Location": "/round"})]
        error = ask(plan, remote).error
        assert error is not None
        assert "more than 5 times" in error.message
    finally:
        other.stop()


def test_private_addresses_are_refused_by_name_by_number_and_behind_an_input(plan: Compile, remote: Remote) -> None:
    port = remote.url.rpartition(":")[2]
    text = 'inputs: {to: {}}\nnodes: {a: {http: {url: "{{ inputs.to }}"}, retry: 0}}'
    for host in ("127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"):
        error = agentdag.run(plan(text), {"to": f"http://{host}:{port}/"}).nodes["a"].error
        assert error is not None, host
        assert error.kind is ErrorKind.HTTP, (host, error)
        assert "allow_private" in error.message or "no address" in error.message
    assert not remote.asked


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.1", "fe80::1%eth0", "fd00::1", "0.0.0.0", "224.0.0.1", "64:ff9b::7f00:1", "x.local"]
)
def test_what_is_private(host: str) -> None:
    assert is_private(host)


@pytest.mark.parametrize("host", ["93.184.216.34", "example.com", "2606:4700::1111"])
def test_what_is_public(host: str) -> None:
    assert not is_private(host)


def test_the_simulator_stands_in_for_it(plan: Compile) -> None:
    text = 'nodes: {a: {http: {url: "https://example.com/"}, output: {fields: {n: integer}}}}'
    result = agentdag.run(plan(text), options=Options(simulate=True, time_scale=0.001))
    assert isinstance(result.outputs["a"]["n"], int)

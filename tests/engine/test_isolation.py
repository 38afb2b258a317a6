"""No agent can hurt another: real calls through both SDKs, every fault at once, and the calls counted at the server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from engine.recorder import Recorder
from wire import ANSWER, WireServer

import agentdag
from agentdag import ErrorKind, NodeSettled, Options, RunResult, Status
from agentdag.calls import Request
from agentdag.events import NodeHedged
from agentdag.limits.policy import RetryBudget
from agentdag.plan.plan import Plan
from agentdag.providers import registry
from agentdag.providers.http import SharedHttp
from agentdag.providers.settings import Secrets, Settings

Compile = Callable[[str], Plan]
KEY = "sk-canary-0123456789"
FINAL = ["400", "401", "403", "404", "413", "huge", "429:retry-after=300", "coded:429,insufficient_quota,spent"]
"""What is asked once and never again."""
LIMITED = ["429", "429:retry-after=0", "429:retry-after-ms=1"]
"""What is asked as often as the file says, and draws nothing from the run's retry budget."""
TRANSIENT = [
    "500",
    "502",
    "503",
    "504",
    "529",
    "reset",
    "reset:before",
    "html",
    "raw:truncated",
    "raw:empty",
    "raw:utf8",
]
HANGING = ["stall", "stall:begun", "stall:alive"]
QUICK = "retry: {retries: 2, delay: 1ms, max_delay: 5s}"


def providers(wire: WireServer) -> str:
    return (
        f'providers: {{openai: {{base_url: "{wire.openai_url}", api_key: {KEY}}}, '
        f'anthropic: {{base_url: "{wire.url}", api_key: {KEY}}}}}'
    )


def ran(plan: Plan, recorder: Recorder | None = None, *, stream: bool = False) -> RunResult:
    recorder = recorder or Recorder()
    result = agentdag.run(plan, options=Options(stream=stream), observers=(recorder,))
    recorder.check(len(plan.nodes))
    return result


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_hundred_siblings_of_which_forty_fail_in_every_way_there_is(
    plan: Compile, wire: WireServer, stream: bool
) -> None:
    ways = [*FINAL, *LIMITED, *TRANSIENT, *HANGING]
    faults = (ways + ways)[:40]
    lines = [providers(wire), "limits: {concurrency: 20}", f"defaults: {{{QUICK}}}", "nodes:"]
    for number in range(100):
        provider = "openai" if number % 3 else "anthropic"
        fault = faults[number // 2] if number < 80 and number % 2 else "ok"
        wire.script[f"m{number}"] = [fault]
        timeout = "{attempt: 400ms, idle: 200ms}" if fault in HANGING else "{attempt: 60s}"
        lines.append(
            f"  n{number}: {{model: {provider}/m{number}, prompt: hi, timeout: {timeout}, continue_on_failure: true}}"
        )
    result = ran(plan("\n".join(lines)), stream=stream)
    failed = {name: node for name, node in result.nodes.items() if node.status is not Status.SUCCEEDED}
    assert len(result.nodes) == 100
    assert len(failed) == 40
    assert all(node.output == ANSWER for name, node in result.nodes.items() if name not in failed)
    for name, node in result.nodes.items():
        assert wire.count(f"m{name[1:]}") == node.attempts, name
    retried = 0
    for name, node in failed.items():
        fault = wire.script[f"m{name[1:]}"][0]
        assert node.error is not None
        if fault in FINAL:
            assert node.attempts == 1, fault
        elif fault in LIMITED:
            assert node.attempts == 3, fault
        else:
            assert 1 <= node.attempts <= 3, fault
            retried += node.attempts - 1
    budget = RetryBudget(100)
    assert budget.left <= retried <= budget.left + 60 // budget.REFILL


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("stall", "no answer within 0.5 s"),
        ("stall:begun", "the stream was silent for 0.2 s"),
        ("stall:alive", "the stream was silent for 0.2 s"),
    ],
)
def test_silence_is_cut_at_its_own_limit_and_asked_again_as_often_as_configured(
    plan: Compile, wire: WireServer, provider: str, fault: str, told: str
) -> None:
    wire.script["m"] = [fault]
    text = f"{providers(wire)}\nnodes: {{a: {{model: {provider}/m, prompt: hi, {QUICK}, timeout: {{attempt: 500ms, idle: 200ms}}}}}}"
    result = ran(plan(text))
    error = result.nodes["a"].error
    assert error is not None
    assert (error.kind, error.message, error.billed) == (ErrorKind.TIMEOUT, told, "maybe")
    assert result.nodes["a"].status is Status.TIMED_OUT
    assert wire.count("m") == result.nodes["a"].attempts == 3


def storm(wire: WireServer, fault: str, nodes: int = 100) -> str:
    lines = [providers(wire), "limits: {concurrency: 50}", f"defaults: {{{QUICK}}}", "nodes:"]
    for number in range(nodes):
        wire.script[f"m{number}"] = [fault, "ok"]
        lines.append(f"  n{number}: {{model: openai/m{number}, prompt: hi}}")
    return "\n".join(lines)


def test_a_storm_of_429s_ends_with_every_node_settled_and_every_call_counted(plan: Compile, wire: WireServer) -> None:
    result = ran(plan(storm(wire, "429:retry-after-ms=5")))
    assert result.ok
    assert len(wire.calls) == 200


def test_a_storm_of_529s_is_not_answered_with_a_storm_of_retries(plan: Compile, wire: WireServer) -> None:
    result = ran(plan(storm(wire, "529")))
    succeeded = sum(node.status is Status.SUCCEEDED for node in result.nodes.values())
    assert len(result.nodes) == 100
    assert len(wire.calls) == 100 + succeeded
    assert RetryBudget(100).left <= succeeded <= 30


@pytest.mark.parametrize(
    "header", ["retry-after=300", "retry-after=Fri, 01 Jan 2100 00:00:00 GMT", "retry-after-ms=300000"]
)
def test_whoever_asks_for_too_long_a_wait_is_not_waited_for(plan: Compile, wire: WireServer, header: str) -> None:
    wire.script["m"] = [f"429:{header}", "ok"]
    text = f"{providers(wire)}\nnodes: {{a: {{model: openai/m, prompt: hi, retry: 3, fallback: [openai/other]}}}}"
    result = ran(plan(text))
    assert (wire.count("m"), wire.count("other")) == (1, 1)
    node = result.nodes["a"]
    assert (node.status, node.model, node.fallback, node.attempts) == (Status.SUCCEEDED, "openai/other", 1, 2)
    assert node.fallback_error is not None
    assert node.fallback_error.kind is ErrorKind.RATE_LIMIT
    assert (node.fallback_error.retry_after_s or 0) >= 300


def test_fallbacks_are_asked_in_order_each_with_its_own_retries(plan: Compile, wire: WireServer) -> None:
    wire.script |= {"m": ["500"], "second": ["401"], "third": ["503", "ok"]}
    text = f"""{providers(wire)}
defaults: {{retry: {{retries: 1, delay: 1ms}}}}
nodes:
  a: {{model: openai/m, prompt: first, fallback: [openai/second, {{model: anthropic/third, prompt: shorter}}, openai/never]}}
"""
    recorder = Recorder()
    result = ran(plan(text), recorder)
    assert [wire.count(model) for model in ("m", "second", "third", "never")] == [2, 1, 2, 0]
    assert [call.prompt for call in wire.calls] == ["first", "first", "first", "shorter", "shorter"]
    node = result.nodes["a"]
    assert (node.model, node.fallback, node.attempts) == ("anthropic/third", 2, 5)
    assert node.fallback_error is not None
    assert node.fallback_error.kind is ErrorKind.AUTH


def test_when_all_fallbacks_fail_the_last_says_why(plan: Compile, wire: WireServer) -> None:
    wire.script |= {"m": ["500"], "other": ["404"]}
    text = f"{providers(wire)}\nnodes: {{a: {{model: openai/m, prompt: hi, retry: 0, fallback: [openai/other]}}}}"
    result = ran(plan(text))
    node = result.nodes["a"]
    assert node.status is Status.FAILED
    assert node.error is not None
    assert node.error.kind is ErrorKind.BAD_REQUEST
    assert node.fallback_error is not None
    assert node.fallback_error.kind is ErrorKind.SERVER


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_hedge_answers_for_a_call_that_hangs(plan: Compile, wire: WireServer, provider: str) -> None:
    wire.script["m"] = ["stall", "ok"]
    text = (
        f"{providers(wire)}\nnodes: {{a: {{model: {provider}/m, prompt: hi, hedge: {{after: 100ms}}, timeout: 60s}}}}"
    )
    recorder = Recorder()
    result = ran(plan(text), recorder)
    node = result.nodes["a"]
    assert (node.status, node.output, node.attempts, node.hedges) == (Status.SUCCEEDED, ANSWER, 1, 1)
    assert wire.count("m") == 2
    assert node.usage.cost_usd is None, "what the call that lost has cost is not known"
    (hedged,) = recorder.of(NodeHedged)
    assert hedged.after_s >= 0.1
    assert result.elapsed_s < 30


def test_what_a_join_leaves_behind_is_hung_up_on(plan: Compile, wire: WireServer) -> None:
    wire.script["hangs"] = ["stall"]
    text = f"""{providers(wire)}
nodes:
  a: {{model: openai/m, prompt: hi}}
  b: {{model: openai/hangs, prompt: hi}}
  c: {{model: anthropic/hangs, prompt: hi}}
  join: {{needs: [a, b, c], barrier: {{wait_for: any}}, model: openai/m, prompt: "{{% for n in needs.values() if n.ok %}}{{{{ n.output }}}}{{% endfor %}}"}}
"""
    recorder = Recorder()
    result = ran(plan(text), recorder)
    assert result.ok
    for name in "bc":
        late = result.nodes[name]
        assert (late.status, late.usage.cost_usd) == (Status.LATE, None)
    order = [event.node for event in recorder.of(NodeSettled)]
    assert set(order[1:3]) == {"b", "c"}
    assert wire.calls[-1].prompt == ANSWER


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("provider", "rounds"), [("openai", 100), ("anthropic", 20)])
def test_ten_thousand_cancelled_calls_leave_nothing_behind(provider: str, rounds: int) -> None:
    """No connection, no task, no file descriptor; fewer calls of the second, whose connections are the same."""
    untouched = descriptors()
    wire = WireServer(script={"m": ["stall:begun"]}).start()
    at_once = 100

    async def main() -> None:
        http = SharedHttp(at_once)
        base = wire.openai_url if provider == "openai" else wire.url
        settings = Settings(
            name=provider, type=provider, http=http, secrets=Secrets(), environment={}, base_url=base, api_key=KEY
        )
        asked = registry.create(settings)
        request = Request("n", 1, "m", "hi", stream=True)
        began = asyncio.Semaphore(0)

        async def call(number: int) -> None:
            task = asyncio.create_task(asked.complete(request, lambda _: began.release()))
            if number % 2:
                await began.acquire()  # half of them in mid-stream, half before or while they connect
            else:
                for _ in range(number % 40):
                    await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        for _ in range(rounds):
            await asyncio.gather(*(call(number) for number in range(at_once)))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asked.aclose()
        await http.aclose()

    asyncio.run(main())
    wire.stop()
    gc.collect()
    assert descriptors() <= untouched

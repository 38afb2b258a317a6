"""Runs under rates, budgets and queues: as fast as the server allows, never dearer than the budget, and told why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from program import agentdag, kill, started
from virtual import run_virtually

import agentdag as api
from agentdag import Options, RunStatus, Status, UsageError
from agentdag.errors import ErrorKind
from agentdag.events import BudgetLow, Event, NodeSettled, NodeStarted, NodeWaiting, RunFinished, RunProgress
from agentdag.plan.plan import Plan
from tests.wire import Limits, WireServer

PlanOf = Callable[[str], Plan]


def siblings(wire: WireServer, count: int, *, provider: str = "openai", limits: str = "", more: str = "") -> str:
    url = wire.openai_url if provider == "openai" else wire.url
    nodes = "\n".join(f"  n{number}: {{prompt: Say {number}, model: {provider}/m{more}}}" for number in range(count))
    return (
        f'providers: {{{provider}: {{base_url: "{url}", prices: {{input: 1, output: 10}}{limits}}}}}\n'
        f"limits: {{concurrency: {count}}}\nnodes:\n{nodes}\n"
    )


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("told", [{}, {"headers": True}, {"retry_after_s": 0.2}], ids=str)
def test_a_storm_of_429s_loses_nobody(plan: PlanOf, wire: WireServer, provider: str, told: dict[str, Any]) -> None:
    wire.limits = Limits(rate=50, burst=10, **told)
    result = api.run(plan(siblings(wire, 60, provider=provider)))
    assert {node.status for node in result.nodes.values()} == {Status.SUCCEEDED}
    assert 60 <= len(wire.calls) <= 90
    assert sum(node.waits.get("rate", 0) for node in result.nodes.values()) > 5
    assert any(node.attempts > 1 for node in result.nodes.values())


def test_a_declared_rate_is_kept(plan: PlanOf, wire: WireServer) -> None:
    wire.limits = Limits(rate=50, burst=60)
    result = api.run(plan(siblings(wire, 60, limits=", rpm: 3000, headroom: 0.9")))
    assert result.ok
    assert len(wire.calls) == 60
    assert wire.limits.refused == 0


def test_a_limit_on_calls_at_once_is_found(plan: PlanOf, wire: WireServer) -> None:
    wire.limits = Limits(concurrency=4)
    wire.latency_s = 0.02
    result = api.run(plan(siblings(wire, 40)))
    assert result.ok
    assert wire.peak <= 4


def test_a_declared_concurrency_of_a_provider_is_exact(plan: PlanOf, wire: WireServer) -> None:
    wire.latency_s = 0.02
    text = siblings(wire, 30, limits=", concurrency: 9, models: {m: {concurrency: 3}}")
    assert api.run(plan(text)).ok
    assert wire.peak == 3


def test_a_pause_that_is_named_holds_for_everybody(plan: PlanOf, wire: WireServer) -> None:
    """One call is refused for 0.7 s; those that have not been sent wait as well, and use up no retry."""
    wire.script["m"] = ["429:retry-after=0.7", "ok"]
    text = siblings(wire, 3, more=", retry: 1").replace("concurrency: 3", "concurrency: 1")
    result = api.run(plan(text))
    assert result.ok
    assert len(wire.calls) == 4
    assert all(node.waits["rate"] > 0.5 for node in result.nodes.values())
    assert sorted(node.attempts for node in result.nodes.values()) == [1, 1, 2]


def test_nobody_waits_for_a_pause_beyond_their_patience(plan: PlanOf, wire: WireServer) -> None:
    wire.script["m"] = ["429:retry-after=300"]
    text = siblings(wire, 5, more=", fallback: [openai/other]").replace("concurrency: 5", "concurrency: 1")
    result = api.run(plan(text))
    assert result.ok
    assert wire.count("m") == 1
    assert wire.count("other") == 5
    errors = [node.fallback_error for node in result.nodes.values()]
    assert sum("not asked: the provider wants to be left alone for" in str(error) for error in errors) == 4


def test_a_prompt_above_a_minutes_tokens_fails_at_once(plan: PlanOf, wire: WireServer) -> None:
    text = siblings(wire, 2, limits=", tpm: 400").replace("Say 1", f"'{'word ' * 2000}'")
    result = api.run(plan(text))
    error = result.nodes["n1"].error
    assert error is not None
    assert error.kind is ErrorKind.TOO_LONG
    assert error.message.startswith("not asked: it needs about")
    assert result.nodes["n0"].status is Status.SUCCEEDED
    assert len(wire.calls) == 1


def test_waiting_for_a_rate_holds_no_slot(plan: PlanOf) -> None:
    """With a cap of 1, ten calls at one a second and one call beside them, which does not wait for them."""
    rated = [f"  s{n}: {{prompt: hi, model: slow/m, priority: high, expect: {{latency: 10ms}}}}" for n in range(10)]
    text = "\n".join(
        [
            "providers: {slow: {type: simulated, rpm: 60, burst: 1, headroom: 1}}",
            "limits: {concurrency: 1}",
            "nodes:",
            *rated,
            "  q: {prompt: hi, model: simulated/m, expect: {latency: 10ms}}",
        ]
    )
    told: list[Event] = []
    result = run_virtually(api.arun(plan(text), {}, observers=(told.append,)))
    assert result.elapsed_s == pytest.approx(9.01, abs=0.01)
    assert result.nodes["q"].waits.get("slot", 0) < 0.02
    assert result.nodes["s9"].waits["rate"] == pytest.approx(9.0, abs=0.2)
    waits = [event for event in told if isinstance(event, NodeWaiting) and event.node == "s9" and event.on == "rate"]
    assert [event.seconds for event in waits] == [pytest.approx(9.0, abs=0.2)]
    waiting = [event.waiting for event in told if isinstance(event, RunProgress)]
    assert waiting[0]["rate"] in {8, 9}  # the second is let go just then
    assert waiting[0]["slot"] == 0


def test_a_short_queue_keeps_the_order_and_tells_its_depth(plan: PlanOf) -> None:
    text = "limits: {concurrency: 2, queue: 3}\nnodes:\n" + "\n".join(
        f"  n{number}: {{prompt: hi, model: simulated/m, expect: {{latency: {20 - number}s}}}}" for number in range(20)
    )
    order: list[str] = []
    told: list[RunProgress] = []

    def note(event: Event) -> None:
        if isinstance(event, RunProgress):
            told.append(event)
        elif isinstance(event, NodeStarted):
            order.append(event.node)

    result = run_virtually(api.arun(plan(text), {}, options=Options(simulate=True), observers=(note,)))
    assert result.ok
    assert order == [f"n{number}" for number in range(20)]
    assert told[0].queued == told[0].waiting["slot"] == 18


CHAIN = """
providers: {mine: {type: simulated, prices: {input: 1, output: 10}}, cheap: {type: simulated, prices: {input: 0, output: 1}}}
tiers: {small: cheap/s, large: mine/l}
defaults: {tier: large, max_tokens: 1000}
nodes:
  a: {prompt: one, expect: {latency: 1s, tokens: 1000}}
  b: {prompt: "two {{ nodes.a.output }}", expect: {latency: 1s, tokens: 1000}}
  c: {prompt: "three {{ nodes.b.output }}", expect: {latency: 1s, tokens: 1000}}
  extra: {prompt: "four {{ nodes.b.output }}", priority: low, expect: {latency: 1s, tokens: 1000}}
  end: {needs: [c, extra], prompt: "{{ nodes.c.output }}", expect: {latency: 1s, tokens: 1000}}
"""


def run_with(plan: PlanOf, budget: str, told: list[Event] | None = None, **options: Any) -> api.RunResult:
    observers = () if told is None else (told.append,)
    text = CHAIN + (f"budget: {budget}\n" if budget else "")
    return run_virtually(api.arun(plan(text), {}, options=Options(**options), observers=observers))


def test_a_budget_that_is_spent_skips_the_rest(plan: PlanOf) -> None:
    result = run_with(plan, "{cost: 0.025}")
    assert result.status is RunStatus.OUT_OF_BUDGET
    assert result.exit_code == 3
    assert {name: node.reason for name, node in result.nodes.items()} == {
        "a": None,
        "b": None,
        "c": "budget",
        "extra": "budget",
        "end": "budget",
    }
    assert result.usage.cost_usd is not None
    assert Decimal("0.02") < result.usage.cost_usd < Decimal("0.025")


@pytest.mark.parametrize("budget", ["{cost: 0}", "{tokens: 0}", "{tokens: 1000}"])
def test_a_budget_of_nothing_makes_no_call(plan: PlanOf, budget: str) -> None:
    result = run_with(plan, budget)
    assert result.exit_code == 3
    assert {node.status for node in result.nodes.values()} == {Status.SKIPPED}
    assert result.usage.input_tokens == 0


def test_a_low_budget_downgrades_shrinks_and_sheds(plan: PlanOf) -> None:
    told: list[Event] = []
    result = run_with(plan, "{cost: 0.026, when_low: {at: 75%, do: [downgrade, shrink, shed]}}", told)
    assert result.ok
    nodes = result.nodes
    assert [nodes[name].model for name in ("a", "b", "c", "end")] == ["mine/l", "mine/l", "cheap/s", "cheap/s"]
    assert nodes["c"].degraded == ("downgrade", "shrink")
    assert (nodes["c"].usage.output_tokens or 0) < 1000
    assert nodes["c"].finish_reason == "length"
    assert (nodes["extra"].status, nodes["extra"].reason) == (Status.SKIPPED, "budget")
    (low,) = [event for event in told if isinstance(event, BudgetLow)]
    assert low.share == pytest.approx(0.77, abs=0.01)
    assert low.actions == ("downgrade", "shed", "shrink")


def test_a_low_budget_may_stop_what_runs(plan: PlanOf) -> None:
    result = run_with(plan, "{cost: 1, when_low: {at: 1%, do: [stop]}}")
    assert result.status is RunStatus.OUT_OF_BUDGET
    assert result.nodes["a"].status is Status.SUCCEEDED
    assert {node.reason for name, node in result.nodes.items() if name != "a"} == {"budget"}


def test_a_call_that_does_not_fit_waits_while_others_are_in_flight(plan: PlanOf) -> None:
    """Each reserves a thousand tokens and takes a hundred: with room for two reservations all five get their turn."""
    nodes = "\n".join(f"  n{n}: {{prompt: hi, expect: {{latency: 1s, tokens: 100}}}}" for n in range(5))
    text = f"budget: {{tokens: 2500}}\ndefaults: {{model: simulated/m, max_tokens: 1000}}\nnodes:\n{nodes}\n"
    result = run_virtually(api.arun(plan(text), {}))
    assert result.ok
    assert result.elapsed_s == pytest.approx(3.0, abs=0.1)
    assert sorted(round(node.waits.get("budget", 0)) for node in result.nodes.values()) == [0, 0, 1, 1, 2]


def test_a_fallback_that_the_budget_can_pay_takes_over(plan: PlanOf) -> None:
    text = CHAIN + "budget: {cost: 0.005}\n"
    text = text.replace("{prompt: one,", "{prompt: one, fallback: [small],")
    result = run_virtually(api.arun(plan(text), {}))
    assert result.nodes["a"].status is Status.SUCCEEDED
    assert result.nodes["a"].model == "cheap/s"
    assert result.exit_code == 3


def test_a_node_has_a_budget_of_its_own(plan: PlanOf) -> None:
    text = CHAIN.replace("{prompt: one,", "{prompt: one, budget: {cost: 0.001},")
    result = run_virtually(api.arun(plan(text), {}))
    assert result.status is RunStatus.FAILED
    error = result.nodes["a"].error
    assert error is not None
    assert error.kind is ErrorKind.BUDGET


def test_every_attempt_is_paid_for(plan: PlanOf, wire: WireServer) -> None:
    """What may have been billed is charged in full: the third attempt does not fit any more."""
    wire.script["m"] = ["reset:body"]
    text = siblings(wire, 1, more=", max_tokens: 100, retry: {retries: 2, delay: 1ms}") + "budget: {tokens: 400}\n"
    result = api.run(plan(text))
    assert len(wire.calls) == 2
    assert result.exit_code == 3
    error = result.nodes["n0"].error
    assert error is not None
    assert "not tried again: the budget has too little left" in error.message


def test_a_model_without_a_price_is_refused_before_any_call(plan: PlanOf, wire: WireServer) -> None:
    text = siblings(wire, 1).replace(", prices: {input: 1, output: 10}", "")
    with pytest.raises(UsageError, match="no price is known for openai/m"):
        api.run(plan(text), options=Options(budget={"cost": "1"}))
    assert not wire.calls
    assert api.run(plan(text), options=Options(budget={"tokens": "100000"})).ok


def test_tiers_are_exchanged_and_priced(plan: PlanOf) -> None:
    told: list[Event] = []
    assert run_with(plan, "", told, tiers={"large": "cheap/x"}).nodes["a"].model == "cheap/x"
    assert run_with(plan, "", told, tiers={"*": "simulated/fast"}).nodes["end"].model == "simulated/fast"
    for wrong, why in (({"lrge": "cheap/x"}, "there is no tier"), ({"large": "x"}, "names no model"), ({"large": "nobody/x"}, "there is no provider")):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            run_with(plan, "", told, tiers=wrong)


def test_what_everything_on_the_top_tier_would_have_cost_is_told(plan: PlanOf) -> None:
    told: list[Event] = []
    text = CHAIN.replace("{prompt: one,", "{prompt: one, tier: small,")
    run_virtually(api.arun(plan(text), {}, observers=(told.append,)))
    finished = told[-1]
    assert isinstance(finished, RunFinished)
    assert finished.top_tier_usd is not None
    assert finished.usage.cost_usd is not None
    assert finished.usage.input_tokens is not None
    assert finished.top_tier_usd > finished.usage.cost_usd
    spent = sum(event.usage.output_tokens or 0 for event in told if isinstance(event, NodeSettled))
    assert finished.top_tier_usd == pytest.approx(Decimal(spent * 10 + finished.usage.input_tokens) / 1_000_000)


def test_one_prompt_warms_the_cache_for_those_that_begin_alike(plan: PlanOf, wire: WireServer) -> None:
    wire.latency_s = 0.05
    nodes = "\n".join(
        f'  n{n}: {{prompt: "{{{{ inputs.text }}}}\\nQuestion {n}", model: anthropic/m}}' for n in range(4)
    )
    text = f"""
providers: {{anthropic: {{base_url: "{wire.url}"}}}}
inputs: {{text: {{default: x}}}}
defaults: {{cache_warm: true}}
nodes:
{nodes}
  other: {{prompt: "Something else", model: anthropic/m}}
"""
    result = api.run(plan(text), {"text": "word " * 1000})
    assert result.ok
    shared = [call.body["messages"][0]["content"] for call in wire.calls if isinstance(call.body["messages"][0]["content"], list)]  # fmt: skip
    assert len(shared) == 4
    kept = {(blocks[0]["text"].strip(), str(blocks[0]["cache_control"])) for blocks in shared}
    assert kept == {(("word " * 1000).strip(), "{'type': 'ephemeral'}")}
    waited = [node.waits.get("cache", 0) > 0 for name, node in result.nodes.items() if name != "other"]
    assert sorted(waited) == [False, True, True, True]
    short = api.run(plan(text), {"text": "word"})
    assert all("cache" not in node.waits for node in short.nodes.values())


def test_where_the_first_fails_another_goes_first(plan: PlanOf, wire: WireServer) -> None:
    wire.script["m"] = ["400", "ok"]
    nodes = "\n".join(f'  n{n}: {{prompt: "{{{{ inputs.text }}}}\\nQuestion {n}", model: openai/m}}' for n in range(3))
    text = f"""
providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
inputs: {{text: {{default: x}}}}
defaults: {{cache_warm: true}}
nodes:
{nodes}
"""
    result = api.run(plan(text), {"text": "word " * 1000})
    assert [node.status for node in result.nodes.values()].count(Status.SUCCEEDED) == 2
    assert len(wire.calls) == 3


def totals(file: Path) -> Iterator[int]:
    for line in file.read_text().splitlines():
        usage = json.loads(line)["usage"]
        yield usage["input_tokens"] + usage["output_tokens"]


def test_a_killed_run_goes_on_within_the_same_budget(wire: WireServer, tmp_path: Path) -> None:
    """What was out when it was killed counts in full: two answers and two calls in doubt leave room for one more."""
    wire.script["hang"] = ["stall"]
    url = wire.openai_url
    (tmp_path / "p.yaml").write_text(f"""
providers: {{openai: {{base_url: "{url}"}}}}
budget: {{tokens: 750}}
defaults: {{max_tokens: 100}}
nodes:
  a: {{prompt: one, model: openai/m}}
  b: {{prompt: "two {{{{ nodes.a.output }}}}", model: openai/m}}
  c: {{prompt: "three {{{{ nodes.b.output }}}}", model: openai/hang}}
  d: {{prompt: "four {{{{ nodes.b.output }}}}", model: openai/hang}}
""")
    run = started("run", "p.yaml", cwd=tmp_path)
    wire.await_calls(2, "hang")
    kill(run)
    wire.script["hang"] = ["ok"]
    before = len(wire.calls)
    done = agentdag("resume", "last", "--format", "json", cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 3, done.stderr
    assert len(wire.calls) == before + 1
    ended = {event["node"]: event["status"] for event in events if event["type"] == "node.settled"}
    assert sorted(ended[name] for name in ("c", "d")) == ["skipped", "succeeded"]
    raised = agentdag("resume", "last", "--budget", "tokens=2000", cwd=tmp_path)
    assert raised.returncode == 0, raised.stderr
    assert len(wire.calls) == before + 2


def test_a_batch_shares_the_budget_of_the_command_line(tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"prompt": f"Say {number}"}) for number in range(20))
    (tmp_path / "rows.jsonl").write_text(rows + '\n"and a text"\n')
    common = ["rows.jsonl", "-o", "out.jsonl", "--model", "openai/gpt-5-mini", "-c", "4", "--max-tokens", "300"]
    done = agentdag("pool", *common, "--simulate", "--time-scale", "0.01", "--budget", "tokens=3000", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert sum(totals(tmp_path / "out.jsonl")) <= 3000
    resumed = agentdag("resume", "last", "--budget", "tokens=100000", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(line["row"] for line in lines if line["status"] == "succeeded") == list(range(1, 22))
    assert "asked: and a text" in next(line["outputs"]["answer"] for line in lines if line["row"] == 21)


def test_what_the_budget_bounds_asks_for_less_when_less_is_left(plan: PlanOf) -> None:
    """Each is bounded by all of the budget, so they go one after another, and each takes a little."""
    nodes = "\n".join(f"  {name}: {{prompt: Say {name}.}}" for name in "abcd")
    text = f"budget: {{tokens: 3000}}\ndefaults: {{model: simulated/m}}\nnodes:\n{nodes}\n"
    result = api.run(plan(text), options=Options(time_scale=0.001, simulate=True))
    assert (result.status, result.usage.output_tokens) == (RunStatus.SUCCEEDED, 800)


def test_a_join_that_lacked_money_sees_what_is_there_when_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("""
budget: {tokens: 10}
defaults: {model: openai/gpt-5-mini, max_tokens: 50}
nodes:
  a: {prompt: Say a., continue_on_failure: true}
  b: {prompt: Say b., continue_on_failure: true}
  join: {needs: [a, b], prompt: "missing: {{ missing | join(',') }}; {{ needs.a.ok and needs.b.ok }}"}
outputs: {all: "{{ nodes.join.output }}"}
""")
    spent = agentdag("run", "p.yaml", "--simulate", "--time-scale", "0.01", cwd=tmp_path)
    assert spent.returncode == 3, spent.stderr
    done = agentdag("resume", "last", "--budget", "tokens=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "missing: ; true" in done.stdout


def test_rows_that_have_begun_are_paid_before_new_ones(tmp_path: Path) -> None:
    """Few of the second, dear calls can be reserved at once; meanwhile no money goes to the first calls of new rows."""
    (tmp_path / "p.yaml").write_text("""
defaults: {model: simulated/m}
inputs: {name: {}}
nodes:
  first: {prompt: "Begin {{ inputs.name }}", max_tokens: 100}
  last: {prompt: "End {{ nodes.first.output }}", max_tokens: 1000, expect: {tokens: 100}}
""")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"name": f"n{number}"}) for number in range(30)))
    common = ["--batch", "rows.jsonl", "-o", "out.jsonl", "--simulate", "--time-scale", "0.01", "-c", "4"]
    done = agentdag("run", "p.yaml", *common, "--budget", "tokens=4000", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    ended = [json.loads(line)["status"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ended.count("succeeded") >= 10
    assert len(ended) - ended.count("succeeded") <= 8
    assert "not begun" in done.stderr


def test_rates_hold_for_all_rows_of_a_batch_together(wire: WireServer, tmp_path: Path) -> None:
    wire.limits = Limits(rate=40, burst=10)
    (tmp_path / "rows.jsonl").write_text("\n".join(f'"Say {number}"' for number in range(40)))
    url = ["--base-url", wire.openai_url, "--model", "openai/m", "-c", "20", "--no-store"]
    done = agentdag("pool", "rows.jsonl", "-o", "out.jsonl", *url, cwd=tmp_path, OPENAI_API_KEY="sk-test-key")
    assert done.returncode == 0, done.stderr
    assert len(wire.calls) <= 60


def test_the_clock_of_simulated_rates_is_scaled(plan: PlanOf) -> None:
    nodes = "\n".join(f"  n{n}: {{prompt: hi, model: openai/m, expect: {{latency: 10ms}}}}" for n in range(13))
    text = f"providers: {{openai: {{rpm: 60, headroom: 1}}}}\nlimits: {{concurrency: 13}}\nnodes:\n{nodes}\n"
    began: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, NodeStarted):
            began.append(event.at)

    options = Options(simulate=True, time_scale=0.1)
    result = run_virtually(api.arun(plan(text), {}, options=options, observers=(note,)))
    assert result.ok
    assert [round(at, 2) for at in began] == [0.0] * 10 + [0.1, 0.2, 0.3]


def test_an_engine_and_its_pool_are_one() -> None:
    """Nothing is left behind: no alarm keeps a loop from ending."""

    async def main() -> None:
        pool = api.AgentPool(1)
        async with pool:
            await pool.submit(asyncio.sleep, 0.001)
        assert pool.statistics().in_flight == 0

    asyncio.run(main())

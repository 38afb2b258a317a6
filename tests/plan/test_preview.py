"""`run --dry-run`: order, prompts, tokens and cost, told without any call."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal

import pytest

from agentdag import Options, UsageError
from agentdag.plan.plan import Plan
from agentdag.session import foreseen

PlanOf = Callable[[str], Plan]

TWO = """\
inputs: {company: {}}
nodes:
  market:
    prompt: "Describe the market of {{ inputs.company }}."
    model: openai/gpt-5-mini
    max_tokens: 1000
    expect: {latency: 10s, tokens: 400}
    retry: 1
  memo:
    system: "Write for {{ inputs.company }}."
    prompt: "Sum up: {{ nodes.market.output }}"
    model: local/m
    expect: {latency: 5s}
    retry: 0
providers:
  local: {type: openai, base_url: "http://127.0.0.1:1/v1", prices: {input: 1, output: 10}}
"""


def test_prompts_are_rendered_where_they_can_be(plan: PlanOf) -> None:
    market, memo = foreseen(plan(TWO), {"company": "Acme"}).steps
    assert market.prompt == "Describe the market of Acme."
    assert (market.waits_for, memo.waits_for) == ((), ("market",))
    assert memo.system == "Write for Acme."
    assert memo.prompt == "Sum up: {{ nodes.market.output }}"
    assert (market.start_s, memo.start_s) == (0, 10)


def test_low_is_what_is_expected_and_high_every_retry_of_the_longest_answers(plan: PlanOf) -> None:
    seen = foreseen(plan(TWO), {"company": "Acme"})
    market, memo = seen.steps
    prompt_tokens = market.low.input_tokens
    assert prompt_tokens is not None
    assert market.low.output_tokens == 400
    assert (market.high.input_tokens, market.high.output_tokens) == (2 * prompt_tokens, 2000)
    assert market.low.cost_usd == (prompt_tokens * Decimal("0.25") + 400 * 2) / 1_000_000
    assert memo.low.input_tokens is not None
    assert memo.high.input_tokens is not None
    assert memo.high.input_tokens - memo.low.input_tokens == 600, "the longest answer of market, not the expected one"
    assert (memo.low.output_tokens, memo.high.output_tokens) == (200, 800)
    assert memo.low.cost_usd == Decimal(memo.low.input_tokens + 10 * 200) / 1_000_000
    assert seen.low.cost_usd == market.low.cost_usd + memo.low.cost_usd
    assert seen.takes_s == 15


def test_what_nobody_knows_the_price_of_is_named(plan: PlanOf) -> None:
    seen = foreseen(plan(TWO.replace(", prices: {input: 1, output: 10}", "")), {"company": "Acme"})
    assert seen.unpriced == ["local/m"]
    assert seen.low.cost_usd == seen.steps[0].low.cost_usd


def test_the_simulator_tells_what_the_models_would_cost_that_it_plays(plan: PlanOf) -> None:
    seen = foreseen(plan(TWO), {"company": "Acme"}, Options(simulate=True, time_scale=0.1))
    assert seen.low.cost_usd == foreseen(plan(TWO), {"company": "Acme"}).low.cost_usd
    assert seen.unpriced == []
    assert seen.takes_s == pytest.approx(1.5)


def test_a_template_that_fails_already_is_told(plan: PlanOf) -> None:
    text = "inputs: {n: {type: integer}}\nnodes: {a: {prompt: '{{ 10 // inputs.n }}', model: openai/gpt-5-mini}}"
    (step,) = foreseen(plan(text), {"n": 0}).steps
    assert step.error is not None
    assert "ZeroDivision" in step.error


def test_arguments_of_functions_are_evaluated(plan: PlanOf) -> None:
    text = "inputs: {s: {default: a < b}}\nnodes: {a: {call: 'html:escape', with: {s: '{{ inputs.s }}'}}}"
    (step,) = foreseen(plan(text), {}).steps
    assert step.arguments == {"s": "a < b"}
    assert json.dumps(step.arguments)


def test_inputs_are_as_due_as_for_a_run(plan: PlanOf) -> None:
    with pytest.raises(UsageError, match="`company` is required"):
        foreseen(plan(TWO), {})


def test_the_high_cost_counts_all_that_may_be_asked(plan: PlanOf) -> None:
    """Retries, hedges, passes, and each fallback at its own price."""
    text = """
    providers: {dear: {type: openai, base_url: "http://127.0.0.1:1/v1", prices: {input: 1, output: 10}}, cheap: {type: openai, base_url: "http://127.0.0.1:1/v1", prices: {input: 0, output: 1}}}
    nodes:
      a: {prompt: hi, model: simulated/m}
      b: {prompt: hi, model: simulated/m}
      join:
        needs: [a, b]
        barrier: progressive
        prompt: hi
        model: dear/m
        max_tokens: 1000
        retry: 1
        hedge: {after: 10s, max: 2}
        fallback: [cheap/m]
    """
    join = foreseen(plan(text)).steps[-1]
    calls = 2 * 3 * 2
    assert join.high.output_tokens == 2 * calls * 1000
    tokens_in = Decimal(join.high.input_tokens or 0) / 2
    assert join.high.cost_usd == (calls * 1000 * 11 + tokens_in) / 1_000_000

"""`run --dry-run`: order, prompts, tokens and cost, told without any call."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

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


ROUNDS = """
inputs: {cities: {type: array, default: [Rome, Oslo, Bern]}}
defaults: {model: openai/gpt-5-mini, max_tokens: 100, retry: 0}
nodes:
  each: {prompt: "Say {{ item }} at {{ index }}", foreach: "{{ inputs.cities }}", expect: {tokens: 50}}
  next: {prompt: "Sum {{ item }}", foreach: "{{ nodes.each.output }}", expect: {tokens: 50}}
  all: {prompt: "{{ nodes.each.output }}"}
  again: {prompt: "Better than {{ previous or 'nothing' }}", repeat: {until: "{{ output == 'x' }}", max: 4}}
  typed: {prompt: "hi", output: json}
  never: {prompt: "hi", when: "{{ inputs.cities | length > 5 }}"}
  child: {pipeline: child.yaml, with: {topic: "{{ item }}", found: "{{ nodes.all.output }}"}, foreach: [p, q]}
"""
INNER = """
inputs: {topic: {}, found: {}}
defaults: {model: openai/gpt-5-mini, max_tokens: 100, retry: 0}
nodes:
  look: {prompt: "Look at {{ inputs.topic }}", expect: {latency: 3s}}
  write: {prompt: "Write {{ inputs.found }} {{ nodes.look.output }}"}
"""


def test_items_passes_and_pipelines_count(plan: PlanOf, tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(INNER)
    steps = {step.name: step for step in foreseen(plan(ROUNDS), {}).steps}
    assert steps["each"].prompt == "Say Rome at 0"
    assert steps["each"].items == 3
    assert (steps["each"].low.output_tokens, steps["each"].high.output_tokens) == (150, 300)
    assert steps["next"].items is None
    assert steps["next"].prompt == "Sum {{ item }}"
    assert (steps["again"].low.output_tokens, steps["again"].high.output_tokens) == (100, 400)
    assert steps["again"].prompt == "Better than nothing"
    assert steps["typed"].high.output_tokens == 200, "one more turn may mend it"
    assert steps["never"].skipped
    assert steps["child.look"].prompt == "Look at p"
    assert steps["child.look"].low.output_tokens == 200
    assert steps["child.write"].waits_for == ("child.look", "all")
    assert steps["child.write"].start_s == steps["child"].start_s + 3
    assert foreseen(plan(ROUNDS), {}).uncounted == ["next"]


def test_in_lock_step_the_nodes_of_a_pipeline_begin_with_it(plan: PlanOf, tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(INNER.replace("inputs.topic", "inputs"))
    steps = {step.name: step for step in foreseen(plan(ROUNDS + "schedule: waves\n"), {}).steps}
    assert steps["child.look"].start_s == steps["child"].start_s == 2
    assert steps["child.look"].waits_for == ("all",), "it reads all inputs, and one of them is not known"


def test_the_turns_of_a_tool_user_send_again_what_was_said(plan: PlanOf, tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("def f(x: int) -> int:\n    'f'\n    return x\n")
    text = """
        tools: {f: {call: "t:f"}}
        nodes:
          a: {prompt: x, model: openai/gpt-5-mini, max_tokens: 100, tools: [f], max_turns: 3, retry: 0,
              tool_output_limit: 350}
    """
    (step,) = foreseen(plan(text), {}).steps
    assert step.low.input_tokens is not None
    assert step.high.output_tokens == 300
    assert step.high.input_tokens == 3 * step.low.input_tokens + (1 + 2) * (100 + 100)

"""Bounds of nodes that are made of others: budgets, timeouts, fallbacks and the end at the first failure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.recorder import Recorder
from virtual import run_virtually

import agentdag
from agentdag import ErrorKind, Options, RunResult, Status
from agentdag.events import NodeStarted
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]

STEPS = """
import asyncio
async def takes(seconds, fails=False):
    await asyncio.sleep(seconds)
    if fails:
        raise ValueError("no good")
    return seconds
"""
CHILD = """
inputs: {seconds: {type: number, default: 1}, fails: {type: boolean, default: false}}
nodes:
  a: {call: "bound_steps:takes", with: {seconds: "{{ inputs.seconds }}", fails: "{{ inputs.fails }}"}}
  b: {call: "bound_steps:takes", with: {seconds: 1}, needs: [a]}
outputs: {b: "{{ nodes.b.output }}"}
"""
ASKING = """
defaults: {model: simulated/m}
nodes:
  one: {prompt: hi, max_tokens: 100, expect: {tokens: 90, latency: 1s}}
  two: {prompt: "{{ nodes.one.output }}", max_tokens: 100, expect: {tokens: 90, latency: 1s}}
"""


@pytest.fixture
def whole(plan: Compile, tmp_path: Path) -> Compile:
    (tmp_path / "bound_steps.py").write_text(STEPS)
    (tmp_path / "child.yaml").write_text(CHILD)
    (tmp_path / "asking.yaml").write_text(ASKING)
    return lambda text: plan(textwrap.dedent(text))


def run(plan: Plan, *seen: Recorder, **options: Any) -> RunResult:
    return run_virtually(agentdag.arun(plan, options=Options(**options), observers=seen))


@pytest.mark.parametrize(
    "node",
    [
        "prompt: hi, max_tokens: 100, expect: {tokens: 90, latency: 1s}, foreach: [1, 2, 3, 4, 5, 6, 7, 8]",
        "pipeline: asking.yaml, foreach: [1, 2, 3, 4, 5, 6]",
        'pipeline: asking.yaml, repeat: {until: "{{ false }}", max: 6}',
    ],
    ids=["foreach", "foreach of pipelines", "repeat of a pipeline"],
)
def test_its_own_budget_bounds_all_that_a_node_is_made_of(whole: Compile, node: str) -> None:
    text = f"""
        defaults: {{model: simulated/m}}
        nodes:
          a: {{{node}, budget: {{tokens: 800}}, continue_on_failure: true}}
          b: {{prompt: hi, expect: {{latency: 9s}}}}
    """
    result = run(whole(text), simulate=True)
    assert result.ok, "only the node's own budget is spent"
    node_ = result.nodes["a"]
    assert node_.status is Status.FAILED
    assert node_.error is not None
    assert node_.error.kind is ErrorKind.BUDGET
    assert "the budget of a" in node_.error.message
    used = (node_.usage.input_tokens or 0) + (node_.usage.output_tokens or 0)
    assert 90 <= used <= 800


def test_a_total_bounds_all_items_and_an_attempt_each_pass(whole: Compile) -> None:
    text = """
        nodes:
          many: {call: "bound_steps:takes", with: {seconds: 3}, foreach: {items: [1, 2, 3, 4, 5, 6], concurrency: 2}, timeout: {total: 5s}, continue_on_failure: true}
          rounds: {pipeline: child.yaml, with: {seconds: 2}, repeat: {until: "{{ false }}", max: 3}, timeout: 4s}
          late: {pipeline: child.yaml, with: {seconds: 4}, repeat: {until: "{{ false }}", max: 3}, timeout: 4s, continue_on_failure: true}
          in_all: {pipeline: child.yaml, with: {seconds: 2}, repeat: {until: "{{ false }}", max: 9}, timeout: {total: 7s}, continue_on_failure: true}
    """
    result = run(whole(text))
    status = {name: node.status for name, node in result.nodes.items() if "." not in name}
    assert status == {
        "many": Status.TIMED_OUT,
        "rounds": Status.SUCCEEDED,
        "late": Status.TIMED_OUT,
        "in_all": Status.TIMED_OUT,
    }
    assert result.nodes["rounds"].passes == 3
    assert result.nodes["many"].latency_s == pytest.approx(5, abs=0.1)
    assert str(result.nodes["many"].error and result.nodes["many"].error.message) == "no end within 5 s"


def test_a_pipeline_out_of_time_has_fallbacks_unless_its_total_is_over(whole: Compile) -> None:
    text = """
        nodes:
          other: {pipeline: child.yaml, with: {seconds: 9}, timeout: 4s, fallback: [{call: "bound_steps:takes", with: {seconds: 2}}]}
          over: {pipeline: child.yaml, with: {seconds: 9}, timeout: {total: 4s}, fallback: [{call: "bound_steps:takes", with: {seconds: 2}}]}
    """
    result = run(whole(text))
    assert result.nodes["other"].output == 2
    assert result.nodes["over"].status is Status.TIMED_OUT


FAILING = 'call: "bound_steps:takes", with: {seconds: 1, fails: true}'


@pytest.mark.parametrize(
    ("node", "stops"),
    [
        ("pipeline: child.yaml, with: {seconds: 1, fails: true}", True),
        ('call: "bound_steps:takes", with: {seconds: 1, fails: "{{ item == 2 }}"}, foreach: [1, 2, 3]', True),
        ('pipeline: child.yaml, with: {seconds: 1, fails: "{{ item == 2 }}"}, foreach: [1, 2, 3]', True),
        ('call: "bound_steps:takes", with: {seconds: 1, fails: "{{ item == 2 }}"}, foreach: {items: [1, 2, 3], on_item_failure: null}', False),
        ("pipeline: child.yaml, with: {seconds: 1, fails: true}, continue_on_failure: true", False),
        ('pipeline: child.yaml, with: {seconds: 1, fails: true}, fallback: [{call: "bound_steps:takes", with: {seconds: 1}}]', False),
    ],
)  # fmt: skip
def test_the_first_required_failure_is_seen_wherever_it_is(whole: Compile, node: str, stops: bool) -> None:
    text = f"""
        limits: {{concurrency: 9, fail_fast: true}}
        nodes:
          a: {{{node}}}
          slow: {{call: "bound_steps:takes", with: {{seconds: 3}}}}
          after: {{call: "bound_steps:takes", with: {{seconds: 1}}, needs: [slow]}}
    """
    seen = Recorder()
    result = run(whole(text), seen)
    began = {event.node for event in seen.of(NodeStarted)}
    assert ("after" not in began) == stops
    assert result.ok != stops
    if stops:
        assert str(result.nodes["after"].reason).startswith("fail_fast: a")


@pytest.mark.parametrize("barrier", ["{timeout: 5s}", "progressive", "{deadline: 3s}"])
def test_a_join_whose_dependencies_were_not_to_run_is_skipped(whole: Compile, barrier: str) -> None:
    text = f"""
        defaults: {{model: simulated/m}}
        nodes:
          a: {{prompt: x, when: false}}
          b: {{prompt: x, when: false}}
          c: {{prompt: x, needs: [a, b], barrier: {barrier}}}
    """
    result = run(whole(text), simulate=True)
    assert result.ok
    assert result.nodes["c"].status is Status.SKIPPED


def test_an_empty_list_needs_no_time(whole: Compile) -> None:
    text = """
        nodes: {a: {call: "bound_steps:takes", with: {seconds: 1}, foreach: {items: "{{ [] }}", barrier: {timeout: 5s}}}}
    """
    assert run(whole(text)).nodes["a"].output == []

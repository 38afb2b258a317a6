"""Where barriers decide, the forecast is a play; and the engine does what was played."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual import simulated

from agentdag.events import Status
from agentdag.plan.compile import compile_text
from agentdag.plan.forecast import makespan_s
from agentdag.plan.plan import Plan
from agentdag.providers.registry import provider_types

LOOP = "{% for name, node in needs.items() if node.ok %}{{ name }} {% endfor %}"


def compiled(text: str) -> Plan:
    found = compile_text(text, Path("p.yaml"), provider_types=provider_types())
    assert found.plan is not None, found.findings
    return found.plan


@st.composite
def barriers(draw: st.DrawFn, size: int, *, progressive: bool) -> str:
    said: list[str] = []
    if draw(st.booleans()):
        said.append(f"timeout: {draw(st.integers(1, 40_000))}ms")
    if draw(st.integers(0, 3)) == 0:
        said.append(f"deadline: {draw(st.integers(1, 90_000))}ms")
    if draw(st.booleans()):
        said.append(f"wait_for: {draw(st.integers(1, size))}")
    if progressive and draw(st.booleans()):
        said.append("progressive: true")
    if draw(st.integers(0, 3)) == 0:
        said.append("stragglers: keep")
    return f"{{{', '.join([*said, 'min: 0'])}}}" if said else "all"


@st.composite
def pipelines(draw: st.DrawFn, *, progressive: bool = True) -> str:
    size = draw(st.integers(2, 14))
    cap, schedule = (
        draw(st.integers(1, size)),
        draw(st.sampled_from(["eager", "eager", "waves", "{waves: {timeout: 7s}}"])),
    )
    lines = [f"limits: {{concurrency: {cap}}}", f"schedule: {schedule}"]
    lines += ["defaults: {model: openai/gpt-5-mini, timeout: 10h}", "nodes:"]
    for node in range(size):
        needs = draw(st.lists(st.integers(0, node - 1), unique=True, max_size=5)) if node else []
        listed = ", ".join(f"n{each}" for each in needs)
        barrier = draw(barriers(len(needs), progressive=progressive)) if needs else "all"
        # durations to the millisecond, each of another remainder: no two ends coincide
        lasts = draw(st.integers(1, 90)) * 1000 + 7 * node + 1
        lines.append(
            f"  n{node}: {{prompt: {json.dumps(LOOP)}, needs: [{listed}], barrier: {barrier}, expect: {{latency: {lasts}ms}}}}"
        )
    return "\n".join(lines)


@settings(max_examples=300)
@given(pipelines())
def test_the_forecast_is_what_the_engine_does(text: str) -> None:
    plan = compiled(text)
    told, result = plan.forecast(), simulated(plan)
    assert result.elapsed_s == pytest.approx(told.makespan_s, rel=1e-6)
    late = {plan.nodes[number].id for number in told.late}
    assert late == {name for name, node in result.nodes.items() if node.status is Status.LATE}
    lost = {plan.nodes[number].id for number in told.lost}
    assert lost == {name for name, node in result.nodes.items() if node.status in {Status.FAILED, Status.SKIPPED}}


@settings(max_examples=200)
@given(pipelines(), st.data())
def test_no_order_beats_the_lower_bound(text: str, data: st.DataObject) -> None:
    plan = compiled(text)
    told = plan.forecast()
    ranks = data.draw(st.permutations(range(len(plan.nodes))))
    rules = replace(plan.rules, priorities=ranks)
    assert makespan_s(plan.graph, plan.durations_s, rules) >= told.lower_bound_s - 1e-6


@settings(max_examples=200)
@given(pipelines(), st.data())
def test_a_node_may_take_longer_by_its_slack(text: str, data: st.DataObject) -> None:
    plan = compiled(text)
    told = plan.forecast()
    number = data.draw(st.integers(0, len(plan.nodes) - 1))
    node, slack_s = plan.nodes[number], max(0.0, min(told.slack_s[number], 1000.0) - 1e-6)
    longer = plan.lasting({node.id: node.expected_s + slack_s})
    assert longer.forecast().critical_path_s <= told.critical_path_s + 1e-6


@settings(max_examples=200)
@given(pipelines(progressive=False))
def test_the_critical_path_is_a_way_through_the_graph_that_ends_last(text: str) -> None:
    plan = compiled(text)
    told = plan.forecast()
    path = list(told.critical_path)
    assert all(before in plan.graph.needs[after] for before, after in pairwise(path))
    free = replace(plan, concurrency=99, schedule="eager").forecast()
    assert free.ends_s[path[-1]] == pytest.approx(told.critical_path_s)


def swarm(barrier: str, *seconds: float) -> Plan:
    lines = ["defaults: {model: openai/gpt-5-mini}", "limits: {concurrency: 99}", "nodes:"]
    lines += [f"  s{n}: {{prompt: hi, expect: {{latency: {lasts}s}}}}" for n, lasts in enumerate(seconds)]
    needs = ", ".join(f"s{n}" for n in range(len(seconds)))
    lines.append(f'  join: {{needs: [{needs}], barrier: {barrier}, prompt: "{LOOP}", expect: {{latency: 5s}}}}')
    return compiled("\n".join(lines))


@pytest.mark.parametrize(
    ("barrier", "makespan_s", "late", "path"),
    [
        ("all", 45, [], ["s3", "join"]),
        ("{wait_for: 2}", 25, ["s2", "s3"], ["s1", "join"]),
        ("{wait_for: any}", 15, ["s1", "s2", "s3"], ["s0", "join"]),
        ("{timeout: 32s}", 37, ["s3"], ["s3", "join"]),
        ("{deadline: 32s}", 37, ["s3"], ["s3", "join"]),
        ("{wait_for: 3, timeout: 12s}", 17, ["s1", "s2", "s3"], ["s1", "join"]),
        ("{wait_for: 2, stragglers: keep}", 40, [], ["s3"]),
        ("progressive", 45, [], ["s3", "join"]),
        ("{progressive: true, wait_for: 3}", 35, ["s3"], ["s2", "join"]),
    ],
)
def test_each_barrier_is_played(barrier: str, makespan_s: float, late: list[str], path: list[str]) -> None:
    plan = swarm(barrier, 10, 20, 30, 40)
    told = plan.forecast()
    assert told.makespan_s == makespan_s
    assert [plan.nodes[number].id for number in sorted(told.late)] == late
    assert all(math.isinf(told.slack_s[number]) for number in told.late), "they may take as long as they like"
    assert [plan.nodes[number].id for number in told.critical_path] == path


def test_a_barrier_that_does_not_open_in_time_is_told() -> None:
    told = swarm("{timeout: 15s, min: 2}", 10, 20, 30).forecast()
    assert sorted(told.lost) == [3]
    assert sorted(told.late) == [1, 2]

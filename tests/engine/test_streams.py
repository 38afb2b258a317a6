"""A `foreach` over the output of another one: item by item, where nothing needs the whole list."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from engine.recorder import Recorder
from virtual import run_virtually

import agentdag
from agentdag import Options, RunResult, Status
from agentdag.events import NodeExpanded, NodeSettled, NodeStarted
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]

STEPS = """
import asyncio
async def first(seconds):
    await asyncio.sleep(seconds)
    if seconds == 7:
        raise ValueError("seven")
    return seconds
async def second(seconds, of=0):
    await asyncio.sleep(11 - seconds)
    return seconds * 100
"""


def streamed(plan: Compile, tmp_path: Path, text: str, seconds: list[int], *seen: Recorder) -> RunResult:
    (tmp_path / "stream_steps.py").write_text(STEPS)
    whole = plan("inputs: {s: {type: array}}\n" + textwrap.dedent(text))
    return run_virtually(agentdag.arun(whole, {"s": seconds}, options=Options(), observers=seen))


TWO_STEPS = """
    nodes:
      a: {call: "stream_steps:first", with: {seconds: "{{ item }}"}, foreach: "{{ inputs.s }}"}
      b: {call: "stream_steps:second", with: {seconds: "{{ item }}"}, foreach: "{{ nodes.a.output }}"}
"""


def test_a_foreach_over_a_foreach_starts_item_by_item(plan: Compile, tmp_path: Path) -> None:
    seen = Recorder()
    result = streamed(plan, tmp_path, TWO_STEPS, [1, 10, 5], seen)
    assert result.ok
    assert result.nodes["b"].output == [100, 1000, 500]
    assert result.elapsed_s == pytest.approx(11, abs=0.1), "10 + 10 with a join between them"
    assert result.critical_path_s == pytest.approx(11, abs=0.1)
    assert [event.items for event in seen.of(NodeExpanded)] == [3, 3]
    began = {event.node: event.at for event in seen.of(NodeStarted)}
    assert [began[f"b[{index}]"] for index in range(3)] == pytest.approx([1, 10, 5], abs=0.1)


@pytest.mark.parametrize(
    "text",
    [
        TWO_STEPS.replace("nodes.a.output }}", "nodes.a.output | reverse | list }}"),
        TWO_STEPS.replace(
            '{{ item }}"}, foreach: "{{ n', '{{ item }}", of: "{{ nodes.a.output | length }}"}, foreach: "{{ n'
        ),
        TWO_STEPS.replace('"{{ nodes.a.output }}"', '"{{ nodes.a.output }}", when: "{{ nodes.a.ok }}"'),
        TWO_STEPS.replace("    nodes:", "    schedule: waves\n    nodes:"),
    ],
    ids=["order", "template", "when", "waves"],
)
def test_what_reads_the_whole_list_waits_for_it(plan: Compile, tmp_path: Path, text: str) -> None:
    result = streamed(plan, tmp_path, text, [1, 10, 5])
    assert sorted(result.nodes["b"].output) == [100, 500, 1000]
    assert result.elapsed_s == pytest.approx(20, abs=0.1)


def test_another_dependency_is_waited_for_and_what_came_before_is_there(plan: Compile, tmp_path: Path) -> None:
    text = TWO_STEPS.replace("nodes.a.output }}", "nodes.a.output }}", 1) + (
        '      c: {call: "stream_steps:first", with: {seconds: 4}}\n'
    )
    text = text.replace('foreach: "{{ nodes.a.output }}"', 'foreach: "{{ nodes.a.output }}", needs: [a, c]')
    seen = Recorder()
    result = streamed(plan, tmp_path, text, [1, 10, 5], seen)
    began = {event.node: event.at for event in seen.of(NodeStarted)}
    assert result.nodes["b"].output == [100, 1000, 500]
    assert [began[f"b[{index}]"] for index in range(3)] == pytest.approx([4, 10, 5], abs=0.1)


def test_a_chain_of_three_streams_through(plan: Compile, tmp_path: Path) -> None:
    text = TWO_STEPS + (
        '      c: {call: "json:dumps", with: {obj: "{{ item }}"}, foreach: "{{ nodes.b.output }}"}\n'
        '      d: {call: "json:dumps", with: {obj: "{{ nodes.c.output }}"}}\n'
    )
    seen = Recorder()
    result = streamed(plan, tmp_path, text, [1, 10, 5], seen)
    ends = {event.node: event.at for event in seen.of(NodeSettled)}
    assert ends["c[0]"] == pytest.approx(11, abs=0.1)
    assert result.nodes["d"].output == '["100", "1000", "500"]'
    assert result.critical_path_s == pytest.approx(11, abs=0.2)


def test_a_failed_item_begins_nothing_more_and_what_runs_comes_to_its_end(plan: Compile, tmp_path: Path) -> None:
    seen = Recorder()
    result = streamed(plan, tmp_path, TWO_STEPS, [1, 7, 9], seen)
    ends = {event.node: event for event in seen.of(NodeSettled)}
    assert result.nodes["a"].status is Status.FAILED
    assert result.nodes["b"].status is Status.SKIPPED
    assert result.nodes["b"].reason == "a failed"
    assert ends["b[0]"].output == 100, "paid for, and kept"
    assert set(ends) == {"a", "b", "a[0]", "a[1]", "a[2]", "b[0]"}


def test_items_without_a_result_come_as_null_when_all_are_known(plan: Compile, tmp_path: Path) -> None:
    text = TWO_STEPS.replace('"{{ inputs.s }}"', '{items: "{{ inputs.s }}", on_item_failure: "null"}').replace(
        '"stream_steps:second", with: {seconds: "{{ item }}"}', '"json:dumps", with: {obj: "{{ item }}"}'
    )
    result = streamed(plan, tmp_path, text, [1, 7, 9])
    assert result.nodes["b"].output == ["1", "null", "9"]


def test_an_interrupt_stops_both_ends_of_a_stream(plan: Compile, tmp_path: Path) -> None:
    text = "limits: {timeout: 6s}\n" + textwrap.dedent(TWO_STEPS)
    result = streamed(plan, tmp_path, text, [1, 10, 5])
    assert result.nodes["a"].status is Status.CANCELLED
    assert result.nodes["b"].status is Status.CANCELLED


def test_a_stream_whose_follower_nobody_wants_is_cut(plan: Compile, tmp_path: Path) -> None:
    text = TWO_STEPS + (
        '      c: {call: "stream_steps:first", with: {seconds: 2}}\n'
        '      d: {call: "json:dumps", with: {obj: 1}, needs: [b, c], barrier: {wait_for: 1}}\n'
    )
    result = streamed(plan, tmp_path, text, [1, 10, 5])
    assert result.ok
    assert result.elapsed_s == pytest.approx(2, abs=0.1)
    assert {result.nodes[name].status for name in "ab"} == {Status.LATE}

"""Advice is kept: what a lint, a what-if or the sensitivity promises, the engine delivers."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual import simulated

from agentdag.plan.advice import Advice, advise, lints, sensitivity, what_if
from agentdag.plan.compile import compile_text
from agentdag.plan.draw import caps
from agentdag.plan.plan import Plan
from agentdag.providers.registry import provider_types

PlanOf = Callable[[str], Plan]


def pipeline(
    seconds: Sequence[float], reads: Sequence[Sequence[int]], waits: Sequence[Sequence[int]], *, top: str = ""
) -> str:
    """Nodes n0, n1, ...: each reads some of the nodes before it, and waits for others without reading them."""
    lines = [top, "defaults: {model: openai/gpt-5-mini, timeout: 10h}", "nodes:"]
    for number, lasts in enumerate(seconds):
        prompt = " ".join(["do it", *(f"{{{{ nodes.n{each}.output }}}}" for each in reads[number])])
        needs = [f"n{each}" for each in (*reads[number], *waits[number])]
        listed = f", needs: [{', '.join(needs)}]" if waits[number] else ""
        lines.append(f"  n{number}: {{prompt: {json.dumps(prompt)}, expect: {{latency: {lasts}s}}{listed}}}")
    return "\n".join(lines)


def compiled(text: str) -> Plan:
    from pathlib import Path

    found = compile_text(text, Path("p.yaml"), provider_types=provider_types())
    assert found.plan is not None, found.findings
    return found.plan


def without(text: str, edges: Sequence[tuple[str, str]]) -> str:
    """The pipeline with *edges* taken out of its `needs`."""
    lines = text.splitlines()
    for node, need in edges:
        index = next(i for i, line in enumerate(lines) if line.startswith(f"  {node}:"))
        lines[index] = re.sub(rf"(needs: \[.*?)\b{need}\b(?:, )?", r"\1", lines[index])
    return "\n".join(lines)


def applied(text: str, advice: Advice) -> str:
    """*text* with the advice followed."""
    match advice.code:
        case "AD501" | "AD502" | "AD503":
            return without(text, advice.edges)
        case "AD504":
            (cap,) = re.findall(r"concurrency: (\d+)", advice.hint)
            return re.sub(r"concurrency: \d+", f"concurrency: {cap}", text)
        case "AD508":
            return text.replace("schedule: waves", "schedule: eager")
        case "AD509":
            node = advice.path[1]
            return re.sub(rf"(  {node}: .*latency: )([\d.]+)s", lambda match: f"{match[1]}{float(match[2]) / 2}s", text)
    raise AssertionError(advice.code)


def assert_delivered(text: str, *advised: Advice) -> None:
    before = simulated(compiled(text))
    assert before.ok
    for advice in advised:
        after = simulated(compiled(applied(text, advice)))
        assert after.ok
        assert before.elapsed_s - after.elapsed_s == pytest.approx(advice.saves_s, rel=0.03, abs=1e-3)


LEGAL_WAITS = pipeline([30, 45, 40, 20], [[], [0], [0], [1, 2]], [[], [], [1], []])


def test_the_example_of_the_issue() -> None:
    (advice,) = lints(compiled(LEGAL_WAITS))
    assert advice.code == "AD501"
    assert "`n2` waits for `n1` but never reads it: without that the run takes 95 s, not 135 s" in advice.message
    assert (advice.saves_s, advice.edges) == (40, (("n2", "n1"),))
    assert_delivered(LEGAL_WAITS, advice)


@pytest.mark.parametrize(
    ("text", "code", "saves"),
    [
        (pipeline([10, 60, 5, 30], [[], [], [0, 1], [0]], [[], [], [], [2]]), "AD502", 30),
        (pipeline([30, 25, 35], [[], [], []], [[], [0], [1]]), "AD503", 55),
        (pipeline([30, 30, 30], [[], [], []], [[], [0], [0]]), "AD501", 30),
        (pipeline([30] * 4, [[]] * 4, [[]] * 4, top="limits: {concurrency: 2}"), "AD504", 30),
        (pipeline([10, 40, 30], [[], [], [0]], [[]] * 3, top="schedule: waves"), "AD508", 30),
        (pipeline([80, 10], [[], [0]], [[], []]), "AD509", 40),
    ],
)
def test_each_kind_of_advice_is_kept(text: str, code: str, saves: float) -> None:
    (advice,) = [each for each in advise(compiled(text)) if each.code == code][:1]
    assert advice.saves_s == saves
    assert_delivered(text, advice)


def test_advice_is_ranked_and_never_saves_nothing() -> None:
    found = advise(compiled(LEGAL_WAITS))
    assert [each.saves_s for each in found] == sorted((each.saves_s for each in found), reverse=True)
    assert all(each.saves_s > 0 for each in found)
    assert advise(compiled(pipeline([0, 0], [[], [0]], [[], []]))) == []


def test_a_wait_for_or_of_a_function_is_left_alone(plan: PlanOf) -> None:
    text = """\
        defaults: {model: openai/gpt-5-mini}
        nodes:
          page: {call: "html:escape", with: {s: hi}, expect: {latency: 30s}}
          tell: {prompt: Tell them., needs: [page], expect: {latency: 30s}}
          note: {call: "html:escape", with: {s: told}, needs: [tell], expect: {latency: 30s}}
        """
    assert lints(plan(text)) == []


def test_a_wait_that_only_two_removals_together_shorten_is_told_once() -> None:
    text = pipeline([30, 10, 10, 5], [[], [], [], [1, 2]], [[], [0], [0], []])
    (advice,) = lints(compiled(text))
    assert set(advice.edges) == {("n1", "n0"), ("n2", "n0")}
    assert_delivered(text, advice)


@st.composite
def pipelines(draw: st.DrawFn) -> str:
    size = draw(st.integers(2, 9))
    seconds = [float(draw(st.integers(1, 60))) for _ in range(size)]
    before = [draw(st.lists(st.integers(0, n - 1), unique=True, max_size=3)) if n else [] for n in range(size)]
    reads = [[each for each in edges if draw(st.booleans())] for edges in before]
    waits = [[each for each in edges if each not in read] for edges, read in zip(before, reads, strict=True)]
    cap, schedule = draw(st.sampled_from([1, 2, 3, 8])), draw(st.sampled_from(["eager", "eager", "waves"]))
    return pipeline(seconds, reads, waits, top=f"limits: {{concurrency: {cap}}}\nschedule: {schedule}")


@settings(max_examples=100)
@given(pipelines())
def test_all_advice_on_any_graph_is_kept(text: str) -> None:
    assert_delivered(text, *advise(compiled(text)))


@settings(max_examples=150)
@given(pipelines())
def test_the_forecast_is_what_the_engine_does(text: str) -> None:
    plan = compiled(text)
    result = simulated(plan)
    assert result.elapsed_s == pytest.approx(plan.forecast().makespan_s, rel=1e-6)
    assert result.critical_path_s == pytest.approx(plan.forecast().critical_path_s, rel=1e-6)


@settings(max_examples=100)
@given(pipelines(), st.data())
def test_a_what_if_is_what_the_engine_does(text: str, data: st.DataObject) -> None:
    plan = compiled(text)
    node = data.draw(st.sampled_from(plan.nodes)).id
    changes: Mapping[str, float] = {node: float(data.draw(st.integers(0, 90)))}
    changed = re.sub(rf"(  {node}: .*latency: )[\d.]+s", rf"\g<1>{changes[node]}s", text)
    assert plan.lasting(changes).forecast() == compiled(changed).forecast()
    assert simulated(compiled(changed)).elapsed_s == pytest.approx(plan.lasting(changes).forecast().makespan_s)


def test_the_what_if_of_the_issue() -> None:
    plan = compiled(pipeline([30, 45, 40, 35, 20], [[], [0], [0], [], [1, 2, 3]], [[]] * 5))
    assert what_if(plan, {"n1": 10.0}) == "with n1 at 10 s the critical path becomes n0, n2, n4: 90 s"
    assert what_if(plan, {"n3": 10.0}) == "with n3 at 10 s the critical path stays n0, n1, n4: 95 s"
    capped = compiled(pipeline([30, 45], [[], []], [[], []], top="limits: {concurrency: 1}"))
    assert what_if(capped, {"n0": 5.0}).endswith("45 s, and with 1 at once the run takes 50 s")


@settings(max_examples=100)
@given(pipelines())
def test_the_sensitivity_is_what_the_engine_does(text: str) -> None:
    plan = compiled(text)
    for each in sensitivity(plan):
        (lasts,) = [node.expected_s for node in plan.nodes if node.id == each.node]
        gone = plan.lasting({each.node: 0.0}).forecast().makespan_s
        assert plan.forecast().makespan_s - gone == pytest.approx(each.up_to_s)
        shorter = plan.lasting({each.node: lasts - 1}).forecast().makespan_s
        assert plan.forecast().makespan_s - shorter == pytest.approx(each.per_second_s)


@settings(max_examples=60)
@given(pipelines())
def test_the_makespans_by_cap_are_what_the_engine_does(text: str) -> None:
    for cap, seconds in caps(compiled(text)):
        again = re.sub(r"concurrency: \d+", f"concurrency: {cap}", text)
        assert simulated(compiled(again)).elapsed_s == pytest.approx(seconds)


def test_large_graphs_are_looked_at_in_bounded_work() -> None:
    chance = random.Random(5)
    size = 3000
    reads = [[chance.randrange(max(0, n - 40), n)] if n else [] for n in range(size)]
    waits = [[chance.randrange(max(0, n - 40), n)] if n and chance.random() < 0.5 else [] for n in range(size)]
    waits = [[w for w in wait if w not in read] for wait, read in zip(waits, reads, strict=True)]
    found = advise(compiled(pipeline([chance.randint(1, 60) for _ in range(size)], reads, waits)))
    assert found

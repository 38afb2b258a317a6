"""The sample `research_swarm.yaml` on good days and bad ones, in virtual time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from engine.recorder import Recorder
from virtual import run_virtually

import agentdag
from agentdag import ErrorKind, NodeSettled, Options, RunResult, Status
from agentdag.events import BarrierOpened, Reason
from agentdag.plan.compile import compile_text
from agentdag.providers.registry import provider_types
from agentdag.views.summary import summary

FILE = Path(__file__).parent.parent.parent / "pipelines" / "research_swarm.yaml"
SHIPPED = FILE.read_text(encoding="utf-8")
GOOD_DAY = re.sub(r"\n    simulate: .*", "", SHIPPED)
SOURCES = ["filings", "press", "patents", "jobs", "reviews", "forums", "courts", "customs", "talks", "rivals"]


def ran(text: str) -> tuple[RunResult, Recorder]:
    compiled = compile_text(text, FILE, provider_types=provider_types())
    assert compiled.plan is not None, compiled.findings
    recorder = Recorder()
    scale = 0.01  # fewer progress events are told
    result = run_virtually(
        agentdag.arun(compiled.plan, options=Options(simulate=True, time_scale=scale), observers=(recorder,))
    )
    recorder.check(14)
    return result, recorder


def injected(text: str, simulate: str, *nodes: str) -> str:
    """*text* in which *nodes* are played as *simulate* says."""
    for node in nodes:
        text = re.sub(rf"(\n  {node}: \{{.*)\}}", rf"\1, simulate: {simulate}}}", text)
        text = re.sub(rf"(\n  {node}:\n(?:    .*\n|\n)*?)(    expect:)", rf"\1    simulate: {simulate}\n\2", text)
    return text


def statuses(result: RunResult, status: Status) -> set[str]:
    return {name for name, node in result.nodes.items() if node.status is status}


def opened(recorder: Recorder, node: str) -> BarrierOpened:
    found: BarrierOpened = [event for event in recorder.of(BarrierOpened) if event.node == node][-1]
    return found


def test_as_shipped_it_survives_two_dead_sources_a_straggler_and_a_dead_writer() -> None:
    result, recorder = ran(SHIPPED)
    assert result.ok
    assert statuses(result, Status.FAILED) == {"forums", "talks"}
    assert statuses(result, Status.LATE) == {"courts"}
    findings = opened(recorder, "findings")
    assert (findings.reason, len(findings.arrived), findings.late) == (Reason.TIMEOUT, 7, ("courts",))
    assert set(findings.missing) == {"forums", "talks", "courts"}
    assert result.nodes["brief"].passes > 3
    assert result.nodes["report"].model == "openai/gpt-5"
    assert result.nodes["report"].fallback == 1
    assert result.outputs["brief"]
    assert result.outputs["report"]


def test_on_a_good_day_eight_of_ten_are_enough_and_nobody_is_cut_whom_the_brief_still_reads() -> None:
    result, recorder = ran(GOOD_DAY)
    assert statuses(result, Status.SUCCEEDED) == set(result.nodes)
    findings = opened(recorder, "findings")
    assert (findings.reason, len(findings.arrived)) == (Reason.QUORUM, 8)
    assert round(findings.at / 0.01, 3) == 28.0
    assert opened(recorder, "brief").reason is Reason.ALL
    assert result.elapsed_s / 0.01 == pytest.approx(73.0)


@pytest.mark.parametrize("dead", [1, 3, 5])
def test_it_goes_on_with_whatever_has_come(dead: int) -> None:
    result, recorder = ran(injected(GOOD_DAY, "{fail: [refused]}", *SOURCES[:dead]))
    assert result.ok
    assert statuses(result, Status.FAILED) == set(SOURCES[:dead])
    assert len(opened(recorder, "findings").missing) >= dead


def test_with_fewer_than_five_there_is_no_report_and_the_brief_is_kept() -> None:
    result, _ = ran(injected(GOOD_DAY, "{fail: [refused]}", *SOURCES[:6]))
    assert not result.ok
    error = result.nodes["findings"].error
    assert error is not None
    assert error.kind is ErrorKind.BARRIER
    assert error.message == "5 must succeed, and 4 of 10 can"
    assert result.nodes["report"].status is Status.SKIPPED
    assert result.outputs["brief"]
    assert result.outputs["report"] is None


def test_every_source_a_straggler_costs_no_more_than_the_barrier_allows() -> None:
    result, _ = ran(injected(GOOD_DAY, "{latency: 110s}", *SOURCES))
    assert statuses(result, Status.LATE) == set(SOURCES)
    assert {result.nodes[name].status for name in ("brief", "findings")} == {Status.FAILED}
    assert result.elapsed_s / 0.01 == pytest.approx(45.0)


def test_the_report_does_without_its_critic() -> None:
    result, _ = ran(injected(GOOD_DAY, "{fail: [refused]}", "critic"))
    assert result.ok
    assert result.nodes["report"].status is Status.SUCCEEDED


def test_the_readme_tells_the_truth_about_it() -> None:
    """All that does not depend on chance and on the clock."""
    readme = (FILE.parent.parent / "README.md").read_text(encoding="utf-8")
    told = readme.partition("research_swarm.yaml --simulate --time-scale 0.1\n```\n```\n")[2].partition("\n```")[0]
    compiled = compile_text(SHIPPED, FILE, provider_types=provider_types())
    assert compiled.plan is not None
    recorder = Recorder()
    options = Options(simulate=True, time_scale=0.1)
    run_virtually(agentdag.arun(compiled.plan, options=options, observers=(recorder,)))
    lines = summary(recorder.events[-1], recorder.of(NodeSettled), recorder.of(BarrierOpened))
    assert [line.plain for line in lines][: len(told.splitlines())] == told.splitlines()

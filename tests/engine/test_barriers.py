"""What a join sees, whom it leaves behind, and what becomes of the run: whole runs in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from engine.recorder import Recorder
from virtual import run_virtually

import agentdag
from agentdag import ErrorKind, NodeSettled, NodeStarted, Options, RunResult, RunStatus, Status
from agentdag.events import BarrierOpened, PassFinished, Reason, RunProgress
from agentdag.plan.plan import Plan
from agentdag.session import Session

Compile = Callable[[str], Plan]

SEES = "{% for name, node in needs.items() %}{{ name }}:{{ node.status }} {% endfor %}missing:{{ missing | join(',') }}"


def ran(plan: Plan, recorder: Recorder | None = None) -> RunResult:
    """The run on the simulator, in no time; its times are those of the file."""
    recorder = recorder or Recorder()
    result = run_virtually(agentdag.arun(plan, options=Options(simulate=True), observers=(recorder,)))
    recorder.check(len(plan.nodes))
    return result


def saw(recorder: Recorder, node: str) -> str:
    """What the prompt of *node* said, as the simulator echoes it."""
    (settled,) = [event for event in recorder.of(NodeSettled) if event.node == node]
    return settled.output.partition("was asked: ")[2]


def joined(barrier: str, a: str = "", b: str = "", *, join: str = "", more: str = "") -> str:
    """`join` over `a` (10 s) and `b` (20 s), and whatever else."""
    return f"""
defaults: {{model: simulated/m, retry: 0}}
nodes:
  a: {{prompt: hi, expect: {{latency: 10s}}{a}}}
  b: {{prompt: hi, expect: {{latency: 20s}}{b}}}
  join: {{needs: [a, b], barrier: {barrier}, prompt: "{SEES}", expect: {{latency: 5s}}{join}}}
{more}
"""


FAIL, HANG = ", simulate: {fail: [server]}", ", timeout: 4s"
OPTIONAL = ", continue_on_failure: true"
STRICT = ["all", "{timeout: 1h}"]
LENIENT = ["{wait_for: 1}", "progressive"]
RAN, SKIPPED = Status.SUCCEEDED, Status.SKIPPED


@pytest.mark.parametrize("fault", [FAIL, HANG], ids=["failed", "timed out"])
@pytest.mark.parametrize(
    ("barrier", "optional", "joins", "succeeds"),
    [
        *((barrier, "", SKIPPED, False) for barrier in STRICT),
        *((barrier, "", RAN, True) for barrier in LENIENT),
        *((barrier, OPTIONAL, RAN, True) for barrier in (*STRICT, *LENIENT)),
    ],
)
def test_a_dependency_that_failed(
    plan: Compile, fault: str, barrier: str, optional: str, joins: Status, succeeds: bool
) -> None:
    result = ran(plan(joined(barrier, fault + optional)))
    assert result.nodes["join"].status is joins
    assert result.ok is succeeds
    if joins is SKIPPED:
        assert result.nodes["join"].reason == "a failed"
        assert result.nodes["b"].status is Status.SUCCEEDED, "its sibling finishes"


@pytest.mark.parametrize(
    ("barrier", "optional", "joins"),
    [
        *((barrier, "", SKIPPED) for barrier in STRICT),
        *((barrier, OPTIONAL, RAN) for barrier in STRICT),
        *((barrier, "", RAN) for barrier in LENIENT),
    ],
)
def test_a_dependency_that_was_skipped_because_of_a_failure_upstream(
    plan: Compile, barrier: str, optional: str, joins: Status
) -> None:
    upstream = f"  root: {{prompt: hi, model: simulated/m{FAIL}}}"
    recorder = Recorder()
    result = ran(plan(joined(barrier, f", needs: [root]{optional}", more=upstream)), recorder)
    assert result.nodes["a"].status is Status.SKIPPED
    assert result.nodes["join"].status is joins
    assert not result.ok, "the failure that began it was required"
    if joins is RAN:
        assert "a:skipped b:succeeded missing:a" in saw(recorder, "join")


def test_a_dependency_that_was_skipped_behind_one_that_may_fail_hurts_nobody(plan: Compile) -> None:
    upstream = f"  root: {{prompt: hi, model: simulated/m{FAIL}{OPTIONAL}}}"
    result = ran(plan(joined("all", ", needs: [root]", more=upstream)))
    assert result.nodes["a"].status is Status.SUCCEEDED, "others go on without an optional node"
    assert result.ok


@pytest.mark.parametrize(
    "barrier", ["{timeout: 15s}", "{wait_for: 1}", "{deadline: 15s}", "{progressive: true, timeout: 15s}"]
)
def test_a_dependency_that_is_late(plan: Compile, barrier: str) -> None:
    recorder = Recorder()
    result = ran(plan(joined(barrier)), recorder)
    assert result.ok
    assert result.nodes["b"].status is Status.LATE
    assert result.nodes["b"].reason == "join went on without it"
    assert result.nodes["b"].error is None
    assert saw(recorder, "join") == "a:succeeded b:late missing:b"


def test_a_required_failure_that_joins_did_without_still_fails_what_reads_it_otherwise(plan: Compile) -> None:
    text = joined("{wait_for: 1}", FAIL, more="  other: {prompt: '{{ nodes.a.output }}'}")
    result = ran(plan(text))
    assert result.nodes["join"].status is Status.SUCCEEDED
    assert result.nodes["other"].status is Status.SKIPPED
    assert not result.ok


def test_an_output_that_is_lost_by_a_required_failure_fails_the_run(plan: Compile) -> None:
    text = joined(
        "{wait_for: 1}", FAIL, more="outputs: {raw: '{{ nodes.a.output }}', joined: '{{ nodes.join.output }}'}"
    )
    result = ran(plan(text))
    assert result.outputs["joined"]
    assert result.outputs["raw"] is None
    assert not result.ok


def test_fail_fast_does_not_stop_for_what_a_quorum_does_without(plan: Compile) -> None:
    result = ran(plan("limits: {fail_fast: true}" + joined("{wait_for: 1}", FAIL)))
    assert result.ok
    result = ran(
        plan("limits: {fail_fast: true}" + joined("{wait_for: 2}", FAIL, more="  z: {needs: [b], prompt: hi}"))
    )
    assert not result.ok
    assert result.nodes["z"].status is Status.SKIPPED


def settled_at(recorder: Recorder) -> dict[str, float]:
    return {event.node: round(event.at, 3) for event in recorder.of(NodeSettled)}


@pytest.mark.parametrize(
    ("barrier", "reason", "opened_s"),
    [
        ("all", Reason.ALL, 20.0),
        ("{wait_for: 2}", Reason.ALL, 20.0),
        ("{wait_for: any}", Reason.QUORUM, 10.0),
        ("{timeout: 12s}", Reason.TIMEOUT, 12.0),
        ("{timeout: 30s}", Reason.ALL, 20.0),
        ("{deadline: 11s}", Reason.TIMEOUT, 11.0),
        ("{timeout: 12s, deadline: 11s}", Reason.TIMEOUT, 11.0),
        ("{wait_for: 2, timeout: 15s}", Reason.TIMEOUT, 15.0),
        ("{wait_for: 1, timeout: 15s}", Reason.QUORUM, 10.0),
        ("{timeout: 15s, min: 2}", None, 15.0),
        ("{deadline: 5s}", None, 5.0),
        ("{timeout: 5s, min: 0}", Reason.TIMEOUT, 5.0),
    ],
)
def test_when_and_why_each_barrier_opens(plan: Compile, barrier: str, reason: Reason | None, opened_s: float) -> None:
    recorder = Recorder()
    result = ran(plan(joined(barrier)), recorder)
    opened = recorder.of(BarrierOpened)
    if reason is None:
        assert not opened
        assert result.nodes["join"].error is not None
        assert result.nodes["join"].error.kind is ErrorKind.BARRIER
        assert settled_at(recorder)["join"] == opened_s
        assert not result.ok
    else:
        assert [(event.reason, round(event.at, 3)) for event in opened] == [(reason, opened_s)]
        assert result.ok
        assert result.elapsed_s == pytest.approx(opened_s + 5)


def test_a_timeout_counts_from_when_the_last_dependency_was_launched(plan: Compile) -> None:
    """Not from when the first was, and not anew with each attempt."""
    text = joined("{timeout: 12s}", more="  root: {prompt: hi, expect: {latency: 30s}}").replace(
        "b: {", "b: {needs: [root], "
    )
    recorder = Recorder()
    ran(plan(text), recorder)
    assert round(recorder.of(BarrierOpened)[0].at, 3) == 42.0
    text = joined(
        "{timeout: 45s}", ", retry: {retries: 3, delay: 0s}, simulate: {fail: [server, server, server]}"
    ).replace("latency: 20s", "latency: 99s")
    recorder = Recorder()
    ran(plan(text), recorder)
    assert round(recorder.of(BarrierOpened)[0].at, 3) == 45.0


def test_the_same_dependency_may_be_late_for_one_join_and_in_time_for_another(plan: Compile) -> None:
    more = f'  patient: {{needs: [a, b], prompt: "{SEES}", expect: {{latency: 1s}}}}'
    recorder = Recorder()
    result = ran(plan(joined("{wait_for: 1}", join=", retry: 1, simulate: {fail: [server]}", more=more)), recorder)
    assert result.nodes["b"].status is Status.SUCCEEDED
    assert saw(recorder, "join") == "a:succeeded b:late missing:b"
    assert saw(recorder, "patient") == "a:succeeded b:succeeded missing:"


def test_what_a_join_saw_is_frozen_for_its_retries_and_fallbacks(plan: Compile) -> None:
    """`b` is there long before the fallback asks, and yet it was late."""
    join = ", retry: {retries: 1, delay: 0s}, simulate: {fail: [server, server]}, fallback: [{prompt: 'now {{ nodes.b.status }} {{ missing }}'}]"
    recorder = Recorder()
    result = ran(
        plan(joined("{wait_for: 1, stragglers: keep}", join=join).replace("latency: 5s", "latency: 50s")), recorder
    )
    assert result.nodes["b"].status is Status.SUCCEEDED
    assert saw(recorder, "join") == 'now late ["b"]'
    assert result.nodes["join"].fallback == 1


def test_late_dependencies_take_with_them_what_nobody_else_wants(plan: Compile) -> None:
    text = """
    defaults: {model: simulated/m}
    nodes:
      fast: {prompt: hi, expect: {latency: 5s}}
      root: {prompt: hi, expect: {latency: 50s}}
      shared: {prompt: hi, expect: {latency: 50s}}
      wanted: {prompt: hi, expect: {latency: 50s}}
      slow: {needs: [root, shared, wanted], prompt: hi}
      other: {needs: [shared], prompt: hi}
      join: {needs: [fast, slow], barrier: {wait_for: 1}, prompt: hi, expect: {latency: 1s}}
    outputs: {wanted: "{{ nodes.wanted.output }}"}
    """
    recorder = Recorder()
    result = ran(plan(text), recorder)
    late = {name for name, node in result.nodes.items() if node.status is Status.LATE}
    assert late == {"slow", "root"}
    assert settled_at(recorder)["root"] == 5.0
    assert result.nodes["slow"].attempts == 0
    assert {node.reason for node in result.nodes.values() if node.status is Status.LATE} == {"join went on without it"}
    assert result.ok


def test_stragglers_that_are_kept_finish_and_are_not_seen(plan: Compile) -> None:
    recorder = Recorder()
    result = ran(plan(joined("{wait_for: 1, stragglers: keep}")), recorder)
    assert result.nodes["b"].status is Status.SUCCEEDED
    assert saw(recorder, "join") == "a:succeeded b:late missing:b"
    assert result.elapsed_s == pytest.approx(20)
    assert result.critical_path_s == pytest.approx(20)


def test_a_quorum_that_cannot_be_reached_is_decided_at_once(plan: Compile) -> None:
    recorder = Recorder()
    result = ran(plan(joined("{wait_for: 2}", FAIL)), recorder)
    assert settled_at(recorder)["join"] == 10.0
    error = result.nodes["join"].error
    assert error is not None
    assert error.message == "2 must succeed, and 1 of 2 can"
    assert result.nodes["b"].status is Status.LATE
    assert result.nodes["b"].reason == "join gave up"
    assert not result.ok


def test_a_node_that_is_only_read_is_awaited_whatever_the_quorum(plan: Compile) -> None:
    text = joined("{wait_for: 1}", more="  c: {prompt: hi, expect: {latency: 30s}}").replace(
        "missing:", "{{ nodes.c.output }}"
    )
    recorder = Recorder()
    assert ran(plan(text), recorder).ok
    (opened,) = recorder.of(BarrierOpened)
    assert (round(opened.at, 3), opened.arrived, opened.reason) == (30.0, ("a", "b"), Reason.ALL)
    result = ran(plan(text.replace("latency: 30s}", "latency: 30s}, simulate: {fail: [server]}")))
    assert result.nodes["join"].status is Status.SKIPPED
    assert result.nodes["join"].reason == "c failed"


def test_waves_open_barriers_by_their_rules_and_wait_no_longer_than_they_may(plan: Compile) -> None:
    text = joined("{wait_for: 1}", more="  long: {prompt: hi, expect: {latency: 60s}}")
    recorder = Recorder()
    result = ran(plan("schedule: waves" + text), recorder)
    assert result.nodes["b"].status is Status.LATE
    assert result.elapsed_s == pytest.approx(65), "the next wave begins when all of this one has settled"
    result = ran(plan("schedule: {waves: {timeout: 25s}}" + text))
    assert result.elapsed_s == pytest.approx(60), "the join starts at 25 s, and the straggler runs on"
    assert result.nodes["long"].status is Status.SUCCEEDED


def test_the_measured_critical_path_counts_what_a_join_has_waited_for(plan: Compile) -> None:
    result = ran(plan(joined("{timeout: 15s}")))
    assert result.critical_path_s == pytest.approx(20), "15 s of b and 5 s of its own"
    assert result.sequential_s == pytest.approx(10 + 15 + 5)


PASSES = """
defaults: {model: simulated/m, retry: 0}
nodes:
  a: {prompt: hi, expect: {latency: 10s}}
  b: {prompt: hi, expect: {latency: 14s}}
  c: {prompt: hi, expect: {latency: 16s}}
  d: {prompt: hi, expect: {latency: 40s}%s}
  join:
    needs: [a, b, c, d]
    barrier: %s
    expect: {latency: 8s}
    prompt: "{{ needs.values() | selectattr('ok') | list | length }} pending {{ pending | join(',') }} missing {{ missing | join(',') }}"
  after: {prompt: "{{ nodes.join.output }}", expect: {latency: 1s}}
"""


def test_a_progressive_join_runs_again_on_what_has_arrived(plan: Compile) -> None:
    recorder = Recorder()
    result = ran(plan(PASSES % ("", "progressive")), recorder)
    opened = [
        (round(e.at, 3), e.reason, len(e.arrived), e.pending) for e in recorder.of(BarrierOpened) if e.node == "join"
    ]
    assert opened == [
        (10.0, Reason.ARRIVAL, 1, ("b", "c", "d")),
        (18.0, Reason.ARRIVAL, 3, ("d",)),  # b and c came during the first pass
        (40.0, Reason.ALL, 4, ()),
    ]
    assert [event.pass_number for event in recorder.of(PassFinished)] == [1, 2, 3]
    assert saw(recorder, "join") == "4 pending missing"
    join = result.nodes["join"]
    assert (join.passes, join.attempts, join.usage.output_tokens) == (3, 3, 600)
    assert result.elapsed_s == pytest.approx(49), "what depends on it waits for the last pass"


def test_a_last_failure_makes_one_more_pass(plan: Compile) -> None:
    recorder = Recorder()
    result = ran(plan(PASSES % (FAIL, "progressive")), recorder)
    assert result.nodes["join"].passes == 3
    assert saw(recorder, "join") == "3 pending missing d"
    assert result.ok


def test_a_failure_in_between_makes_no_pass_of_its_own(plan: Compile) -> None:
    text = (PASSES % ("", "progressive")).replace(
        "c: {prompt: hi, expect: {latency: 16s}", "c: {prompt: hi, expect: {latency: 25s}, simulate: {fail: [server]}"
    )
    recorder = Recorder()
    result = ran(plan(text), recorder)
    assert [round(e.at, 3) for e in recorder.of(BarrierOpened) if e.node == "join"] == [10.0, 18.0, 40.0]
    assert result.nodes["join"].passes == 3


def test_time_ends_the_arrivals_of_a_progressive_join(plan: Compile) -> None:
    recorder = Recorder()
    result = ran(plan(PASSES % ("", "{progressive: true, timeout: 30s}")), recorder)
    opened = [e for e in recorder.of(BarrierOpened) if e.node == "join"]
    assert [(round(e.at, 3), e.reason, e.late) for e in opened[2:]] == [(30.0, Reason.TIMEOUT, ("d",))]
    assert saw(recorder, "join") == "3 pending missing d"
    assert result.nodes["d"].status is Status.LATE


def module(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / f"{name}.py").write_text(text)


GROWS = """
import asyncio
calls = []
async def grow(previous, seen, pending):
    calls.append((previous, seen, pending))
    await asyncio.sleep(3)
    if len(calls) in FAILS:
        raise ValueError(f"pass {len(calls)} fails")
    return f"{previous or ''}+{len(seen)}"
"""
GROWING = """
defaults: {model: simulated/m, retry: 0}
nodes:
  a: {prompt: hi, expect: {latency: 10s}}
  b: {prompt: hi, expect: {latency: 20s}}
  c: {prompt: hi, expect: {latency: 30s}}
  join:
    needs: [a, b, c]
    barrier: progressive
    call: %s:grow
    with:
      previous: "{{ previous }}"
      seen: "{{ needs.values() | selectattr('ok') | map(attribute='output') | list }}"
      pending: "{{ pending }}"
"""


@pytest.mark.parametrize(
    ("fails", "output", "previous"),
    [
        ((), "+1+2+3", [None, "+1", "+1+2"]),
        ((2,), "+1+3", [None, "+1", "+1"]),
        ((3,), "+1+2", [None, "+1", "+1+2"]),
        ((1, 2), "+3", [None, None, None]),
        ((1, 2, 3), None, [None, None, None]),
    ],
)
def test_a_pass_reads_the_one_before_and_a_failed_one_does_not_lose_it(
    plan: Compile, tmp_path: Path, fails: tuple[int, ...], output: str | None, previous: list[str | None]
) -> None:
    name = f"grows_{len(fails)}_{sum(fails)}"
    module(tmp_path, name, GROWS.replace("FAILS", str(fails)))
    recorder = Recorder()
    result = ran(plan(GROWING % name), recorder)
    import sys

    assert [call[0] for call in sys.modules[name].calls] == previous
    assert [call[2] for call in sys.modules[name].calls] == [["b", "c"], ["c"], []]
    assert [event.error is None for event in recorder.of(PassFinished)] == [n not in fails for n in (1, 2, 3)]
    join = result.nodes["join"]
    if output is None:
        assert join.error is not None
        assert join.error.message.startswith("ValueError: pass 3 fails")
        assert not result.ok
    else:
        assert (join.status, join.output) == (Status.SUCCEEDED, output)
        assert result.ok


def stopped(plan: Plan, at_s: float, times: int = 1) -> tuple[RunResult, Recorder]:
    """The run with SIGINT after *at_s* seconds, in virtual time."""
    recorder = Recorder()

    async def main() -> RunResult:
        session = Session(plan, options=Options(simulate=True), observers=(recorder,))
        for _ in range(times):
            asyncio.get_running_loop().call_later(at_s, session.interrupt, 2)
        result = await session.run()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = run_virtually(main())
    recorder.check(len(plan.nodes))
    return result, recorder


def test_an_interrupt_during_a_join_opens_nothing_more(plan: Compile) -> None:
    result, recorder = stopped(plan(joined("{timeout: 12s}")), 11.0)
    assert result.exit_code == 130
    assert result.nodes["join"].status is Status.SKIPPED
    assert result.nodes["b"].status is Status.SUCCEEDED, "it was in flight and had 10 s to finish"
    assert not recorder.of(BarrierOpened)


def test_an_interrupt_during_a_retry_wait_cuts_the_wait(plan: Compile) -> None:
    text = joined("all", ", retry: {retries: 1, delay: 1h, max_delay: 1h}, simulate: {fail: [server]}")
    result, _ = stopped(plan(text), 11.0)
    assert result.nodes["a"].status is Status.CANCELLED
    assert result.elapsed_s == pytest.approx(20)


@pytest.mark.parametrize(("at_s", "finishes"), [(12.0, True), (21.0, False)])
def test_an_interrupt_of_a_progressive_join_keeps_its_last_good_pass(
    plan: Compile, at_s: float, finishes: bool
) -> None:
    """During its first pass, which may finish, and between two passes."""
    text = (
        (PASSES % ("", "progressive"))
        .replace("latency: 40s", "latency: 90s")
        .replace("latency: 16s", "latency: 80s")
        .replace("latency: 14s", "latency: 70s")
    )
    result, recorder = stopped(plan(text), at_s)
    join = result.nodes["join"]
    assert (join.status, join.passes) == (Status.CANCELLED, 1)
    assert join.output is not None
    assert "1 pending b,c,d" in join.output
    assert result.elapsed_s == pytest.approx(at_s + 10), "the others had 10 s"
    assert len(recorder.of(PassFinished)) == 1
    assert result.outputs == {"after": None}


def test_a_second_interrupt_cuts_a_pass(plan: Compile) -> None:
    result, _ = stopped(plan(PASSES % ("", "progressive")), 12.0, times=2)
    assert result.elapsed_s == pytest.approx(12.0)
    assert result.nodes["join"].status is Status.CANCELLED
    assert result.nodes["join"].output is None


def test_the_runs_timeout_ends_joins_and_passes(plan: Compile) -> None:
    result = ran(plan("limits: {timeout: 12s}" + PASSES % ("", "progressive")))
    assert result.status is RunStatus.FAILED
    assert result.elapsed_s == pytest.approx(12.0)


def test_a_late_progressive_join_is_cut_between_and_during_its_passes(plan: Compile) -> None:
    text = (PASSES % ("", "progressive")).replace(
        "after: {",
        "quick: {prompt: hi, expect: {latency: %ss}}\n  after: {needs: [quick, join], barrier: {wait_for: 1}, ",
    )
    for quick_s in (5, 12, 25):
        result = ran(plan(text.replace("%s", str(quick_s)).replace("{{ nodes.join.output }}", "{{ missing }}")))
        assert result.nodes["join"].status is Status.LATE
        assert result.nodes["d"].status is Status.LATE
        assert result.ok


def test_no_more_than_the_cap_runs_through_passes_and_late_cuts(plan: Compile) -> None:
    recorder = Recorder()
    result = ran(plan("limits: {concurrency: 2}" + PASSES % ("", "{progressive: true, wait_for: 3}")), recorder)
    assert result.ok
    running, most = 0, 0
    for event in recorder.events:
        running += isinstance(event, NodeStarted)
        running -= isinstance(event, PassFinished) or (
            isinstance(event, NodeSettled) and event.passes == 1 and event.attempts > 0 and event.node != "join"
        )
        most = max(most, running)
    assert most == 2


def test_a_join_in_events_is_plain_json(plan: Compile) -> None:
    import json

    recorder = Recorder()
    ran(plan(joined("{timeout: 15s}")), recorder)
    told = [json.loads(agentdag.events.event_json(event)) for event in recorder.events]
    (opened,) = [event for event in told if event["type"] == "barrier.opened"]
    assert (opened["reason"], opened["arrived"], opened["missing"], opened["late"]) == ("timeout", ["a"], ["b"], ["b"])
    (late,) = [event for event in told if event["type"] == "node.settled" and event["status"] == "late"]
    assert late["reason"] == "join went on without it"
    assert "output" not in late


def test_a_quorum_over_a_full_queue_leaves_behind_what_has_not_begun(plan: Compile) -> None:
    """Two that end at once, one that has just been given a slot, one that waits for it."""
    lines = ["limits: {concurrency: 2}", "defaults: {model: simulated/m, retry: 0}", "nodes:"]
    lines += [f"  {name}: {{prompt: hi, expect: {{latency: 10s}}}}" for name in "abxy"]
    text = "\n".join([*lines, "  j: {needs: [a, b, x, y], barrier: {wait_for: 2}, prompt: hi}"])
    result = ran(plan(text))
    assert result.ok
    assert {name for name, node in result.nodes.items() if node.status is Status.LATE} == {"x", "y"}
    assert result.elapsed_s == pytest.approx(11.0)
    assert agentdag.run(plan(text), options=Options(simulate=True, time_scale=0.0001)).ok


def test_a_wave_that_is_empty_when_it_begins_costs_no_time(plan: Compile) -> None:
    text = """
    schedule: {waves: {timeout: 10s}}
    defaults: {model: simulated/m, retry: 0}
    nodes:
      f: {prompt: hi, expect: {latency: 1s}, simulate: {fail: [server]}}
      s: {prompt: hi, expect: {latency: 100s}}
      x: {needs: [f], prompt: hi, continue_on_failure: true}
      z: {needs: [x], prompt: hi, expect: {latency: 1s}}
    """
    recorder = Recorder()
    ran(plan(text), recorder)
    assert settled_at(recorder)["z"] == 11.0


def test_the_author_of_a_kept_pass_is_its_own(plan: Compile, tmp_path: Path) -> None:
    module(
        tmp_path,
        "authors",
        "calls = []\nasync def once():\n    calls.append(1)\n    if len(calls) > 1: raise ValueError\n    return 'good'\nasync def never(): raise ValueError\n",
    )
    text = """
    defaults: {model: simulated/m, retry: 0}
    nodes:
      a: {prompt: hi, expect: {latency: 10s}}
      b: {prompt: hi, expect: {latency: 20s}}
      join: {needs: [a, b], barrier: progressive, call: "authors:once", fallback: [{call: "authors:never"}]}
    """
    join = ran(plan(text)).nodes["join"]
    assert (join.status, join.output, join.passes, join.fallback) == (Status.SUCCEEDED, "good", 2, 0)


@pytest.mark.parametrize("fault", ["raise asyncio.CancelledError", "raise ValueError"])
def test_a_pass_that_cancels_itself_does_not_lose_the_one_before(plan: Compile, tmp_path: Path, fault: str) -> None:
    name = f"cancels_{len(fault)}"
    module(
        tmp_path,
        name,
        f"import asyncio\ncalls = []\nasync def once():\n    calls.append(1)\n    if len(calls) > 1: {fault}\n    return 'good'\n",
    )
    text = f"""
    defaults: {{model: simulated/m, retry: 0}}
    nodes:
      a: {{prompt: hi, expect: {{latency: 10s}}}}
      b: {{prompt: hi, expect: {{latency: 20s}}}}
      join: {{needs: [a, b], barrier: progressive, call: "{name}:once"}}
    """
    result = ran(plan(text))
    assert (result.nodes["join"].output, result.nodes["join"].passes) == ("good", 2)
    assert result.ok


STUBBORN = """
import asyncio
async def stay(seconds):
    end = asyncio.get_running_loop().time() + seconds
    while (left := end - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            pass
    return "stayed"
"""


@pytest.mark.parametrize(
    ("how", "status", "elapsed_s"),
    [
        ("timeout: 3s", Status.TIMED_OUT, 3 + 5 + 1),
        ("continue_on_failure: true, timeout: {attempt: 1h, total: 3s}", Status.TIMED_OUT, 3 + 5 + 1),
    ],
)
def test_a_function_that_does_not_stop_at_its_timeout_is_left_behind(
    plan: Compile, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, status: Status, elapsed_s: float
) -> None:
    module(tmp_path, "stubborn", STUBBORN)
    text = f"""
    defaults: {{model: simulated/m}}
    nodes:
      a: {{call: "stubborn:stay", with: {{seconds: 30}}, retry: {{retries: 2, on: [timeout]}}, fallback: [{{call: "stubborn:stay", with: {{seconds: 1}}}}], continue_on_failure: true, {how.removeprefix("continue_on_failure: true, ")}}}
      b: {{needs: [a], prompt: hi, expect: {{latency: 1s}}}}
    """
    result = ran(plan(text))
    assert (result.nodes["a"].status, result.nodes["a"].attempts) == (status, 1)
    assert result.nodes["a"].error is not None
    assert result.nodes["a"].error.message == "it did not stop when its time was up"
    assert result.nodes["b"].status is Status.SUCCEEDED
    assert result.elapsed_s == pytest.approx(elapsed_s)
    assert "node a does not stop although it was cancelled" in caplog.text


def test_a_straggler_that_does_not_stop_holds_up_neither_the_join_nor_the_end(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "stubborn", STUBBORN)
    text = """
    limits: {concurrency: 2}
    defaults: {model: simulated/m}
    nodes:
      a: {prompt: hi, expect: {latency: 2s}}
      s: {call: "stubborn:stay", with: {seconds: 60}}
      join: {needs: [a, s], barrier: {wait_for: 1}, prompt: hi, expect: {latency: 1s}}
    """
    recorder = Recorder()
    result = ran(plan(text), recorder)
    assert settled_at(recorder)["join"] == 3.0
    assert result.nodes["s"].status is Status.LATE
    assert result.elapsed_s == pytest.approx(7.0), "5 s after it was cut nobody waits for it any more"


def test_a_second_interrupt_waits_for_nobody(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "stubborn", STUBBORN)
    made = plan("nodes: {s: {call: 'stubborn:stay', with: {seconds: 60}}}")

    async def main() -> RunResult:
        session = Session(made)
        for _ in range(2):
            asyncio.get_running_loop().call_later(1.0, session.interrupt, 2)
        return await session.run()

    result = run_virtually(main())
    assert (result.exit_code, result.nodes["s"].status) == (130, Status.CANCELLED)
    assert result.elapsed_s < 1.5


def test_a_hedge_that_is_out_alone_is_no_wait_for_a_retry(plan: Compile, tmp_path: Path) -> None:
    """The first call gave its slot back at 10 s; until 12 s only its hedge is out."""
    module(tmp_path, "slow_twice", "import asyncio\nasync def hang(): await asyncio.sleep(100)\n")
    text = "nodes: {a: {call: 'slow_twice:hang', idempotent: true, timeout: 10s, hedge: {after: 2s}}}"
    recorder = Recorder()
    ran(plan(text), recorder)
    told = {round(event.at): (event.in_flight, event.waiting["retry"]) for event in recorder.of(RunProgress)}
    assert (told[9], told[11]) == ((2, 0), (1, 0))

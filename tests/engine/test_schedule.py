"""Properties of the schedule: any graph, any order of outcomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdag.engine.schedule import Schedule, State
from agentdag.events import Status
from agentdag.plan.graph import build_graph

OUTCOMES = st.sampled_from([Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED])


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    size = draw(st.integers(1, 30))
    return [draw(st.lists(st.integers(0, node - 1), unique=True, max_size=4)) if node else [] for node in range(size)]


@given(graphs(), st.data(), st.booleans())
def test_each_node_settles_once_none_starts_early_none_is_forgotten(
    needs: list[list[int]], data: st.DataObject, waves: bool
) -> None:
    graph = build_graph(needs)
    assert graph is not None
    optional = [data.draw(st.booleans()) for _ in needs]
    schedule = Schedule(graph, optional, waves=waves)
    settled: dict[int, Status] = {}
    ready: list[int] = []
    running: list[int] = []
    started: set[int] = set()
    while not schedule.done:
        new = schedule.take_ready()
        assert not set(new) & started
        assert not set(new) & set(ready)
        ready += new
        for node in new:
            assert all(before in settled for before in needs[node]), "started early"
            assert all(settled[b] is Status.SUCCEEDED or optional[b] for b in needs[node]), (
                "started without what it needs"
            )
            if waves:
                earlier = [other for other in range(len(needs)) if graph.wave_of[other] < graph.wave_of[node]]
                assert all(other in settled for other in earlier), "started before its wave"
        assert ready or running, "nothing can happen, and yet it is not done"
        if ready and (not running or data.draw(st.booleans())):
            node = ready.pop(data.draw(st.integers(0, len(ready) - 1)))
            schedule.start(node)
            started.add(node)
            running.append(node)
        else:
            node = running.pop(data.draw(st.integers(0, len(running) - 1)))
            status = data.draw(OUTCOMES)
            assert node not in settled
            settled[node] = status
            for skipped in schedule.settle(node, status):
                assert skipped not in settled
                assert skipped not in started
                cause = schedule.cause(skipped)
                assert settled[cause] is not Status.SUCCEEDED
                assert not optional[cause] or settled[cause] is Status.SKIPPED
                settled[skipped] = Status.SKIPPED
    assert set(settled) == set(range(len(needs)))
    for node in range(len(needs)):
        possible = all(settled[b] is Status.SUCCEEDED or optional[b] for b in needs[node])
        assert (node in started) == possible


@given(graphs(), st.integers(0, 30))
def test_abandoning_settles_everything_that_has_not_begun(needs: list[list[int]], begun: int) -> None:
    graph = build_graph(needs)
    assert graph is not None
    schedule = Schedule(graph, [False] * len(needs))
    running = schedule.take_ready()[:begun]
    for node in running:
        schedule.start(node)
    left = schedule.abandon()
    assert sorted([*left, *running]) == list(range(len(needs)))
    assert schedule.take_ready() == []
    for node in running:
        assert schedule.settle(node, Status.CANCELLED) == []
    assert schedule.done


CHAIN = [[], [0], [1]]


def test_a_failure_skips_what_needs_it_and_names_the_cause() -> None:
    graph = build_graph([*CHAIN, []])
    assert graph is not None
    schedule = Schedule(graph, [False] * 4)
    assert schedule.take_ready() == [0, 3]
    schedule.start(0)
    assert schedule.settle(0, Status.FAILED) == [1, 2]
    assert [schedule.cause(node) for node in (1, 2)] == [0, 0]
    assert schedule.state(3) is State.READY


def test_an_optional_failure_lets_others_go_on() -> None:
    graph = build_graph(CHAIN)
    assert graph is not None
    schedule = Schedule(graph, [True, False, False])
    schedule.start(schedule.take_ready()[0])
    assert schedule.settle(0, Status.TIMED_OUT) == []
    assert schedule.take_ready() == [1]


def test_a_skipped_node_that_is_optional_does_not_stop_its_dependants() -> None:
    graph = build_graph(CHAIN)
    assert graph is not None
    schedule = Schedule(graph, [False, True, False])
    schedule.start(schedule.take_ready()[0])
    assert schedule.settle(0, Status.FAILED) == [1]
    assert schedule.take_ready() == [2]


def test_an_illegal_move_is_a_bug_that_shows() -> None:
    graph = build_graph(CHAIN)
    assert graph is not None
    schedule = Schedule(graph, [False] * 3)
    with pytest.raises(AssertionError, match="cannot go from WAITING to RUNNING"):
        schedule.start(2)

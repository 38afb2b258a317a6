"""The arithmetic of a graph: critical path, slack, makespan, bounds; by example and by property."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdag.plan.forecast import Forecast, forecast, gains_s, makespan_s
from agentdag.plan.graph import build_graph, find_cycles, width
from agentdag.plan.play import Rules

NEEDS = [[], [0], [0], [], [1, 2, 3]]
SECONDS = [30.0, 45.0, 40.0, 35.0, 20.0]


def told(cap: int = 8, schedule: str = "eager") -> Forecast:
    graph = build_graph(NEEDS)
    assert graph is not None
    return forecast(graph, SECONDS, Rules(cap, schedule))


def test_the_due_diligence_figures() -> None:
    found = told()
    assert (found.sequential_s, found.waves_s, found.critical_path_s) == (170, 100, 95)
    assert list(found.critical_path) == [0, 1, 4]
    assert list(found.slack_s) == [0, 0, 5, 40, 0]
    assert found.makespan_s == 95


@pytest.mark.parametrize(
    ("cap", "schedule", "expected"),
    [(1, "eager", 170), (2, "eager", 95), (3, "eager", 95), (8, "waves", 100), (1, "waves", 170), (2, "waves", 100)],
)
def test_makespan_under_a_cap(cap: int, schedule: str, expected: float) -> None:
    assert told(cap, schedule).makespan_s == expected


@st.composite
def graphs(draw: st.DrawFn, largest: int = 25) -> list[list[int]]:
    size = draw(st.integers(1, largest))
    return [draw(st.lists(st.integers(0, node - 1), unique=True, max_size=4)) if node else [] for node in range(size)]


@given(graphs(), st.data(), st.integers(1, 9), st.sampled_from(["eager", "waves"]))
def test_bounds_hold_for_every_graph(needs: list[list[int]], data: st.DataObject, cap: int, schedule: str) -> None:
    seconds = data.draw(st.lists(st.integers(0, 50).map(float), min_size=len(needs), max_size=len(needs)))
    graph = build_graph(needs)
    assert graph is not None
    found = forecast(graph, seconds, Rules(cap, schedule))
    assert found.lower_bound_s <= found.makespan_s + 1e-9
    assert found.makespan_s <= found.sequential_s + 1e-9
    if schedule == "eager":  # Graham's bound on list scheduling
        assert found.makespan_s <= found.sequential_s / cap + (1 - 1 / cap) * found.critical_path_s + 1e-9
    assert sum(seconds[node] for node in found.critical_path) == found.critical_path_s
    path = list(found.critical_path)
    assert all(before in needs[after] for before, after in pairwise(path))
    assert all(found.slack_s[node] == 0 for node in path)
    assert all(slack >= 0 for slack in found.slack_s)


@given(graphs(12), st.data())
def test_slack_is_exactly_how_long_a_node_may_take_longer(needs: list[list[int]], data: st.DataObject) -> None:
    seconds = [float(data.draw(st.integers(1, 9))) for _ in needs]
    graph = build_graph(needs)
    assert graph is not None
    found = forecast(graph, seconds, Rules(99))
    node = data.draw(st.integers(0, len(needs) - 1))
    longer = [*seconds]
    longer[node] += found.slack_s[node]
    assert forecast(graph, longer, Rules(99)).critical_path_s == found.critical_path_s
    longer[node] += 1
    assert forecast(graph, longer, Rules(99)).critical_path_s == found.critical_path_s + 1


@given(graphs())
def test_waves_are_the_longest_path_from_a_root(needs: list[list[int]]) -> None:
    graph = build_graph(needs)
    assert graph is not None
    for node, before in enumerate(needs):
        assert graph.wave_of[node] == max((graph.wave_of[d] + 1 for d in before), default=0)
    assert sorted(node for wave in graph.waves for node in wave) == list(range(len(needs)))
    assert not find_cycles(needs)


@given(graphs(), st.data())
def test_a_closed_way_is_found_as_a_cycle(needs: list[list[int]], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(needs) - 1))
    last = data.draw(st.integers(first, len(needs) - 1))
    looped = [list(before) for before in needs]
    looped[first].append(last)
    if last not in _reach(needs, first) | {first}:
        looped[last].append(first)
    assert build_graph(looped) is None
    for cycle in find_cycles(looped):
        assert all(after in looped[before] for before, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    assert find_cycles(looped)


def _reach(needs: list[list[int]], node: int) -> set[int]:
    """Everything that depends on *node*."""
    found = {node}
    for other in range(node + 1, len(needs)):
        if found & set(needs[other]):
            found.add(other)
    return found - {node}


def test_graphs_of_any_depth_are_walked_without_recursion() -> None:
    chain = [[node - 1] if node else [] for node in range(50_000)]
    graph = build_graph(chain)
    assert graph is not None
    assert forecast(graph, [1.0] * len(chain), Rules(3)).makespan_s == 50_000
    chain[0].append(49_999)
    assert len(find_cycles(chain)[0]) == 50_000


@given(graphs(14), st.data())
def test_the_gain_of_a_node_is_what_the_critical_path_loses_without_its_time(
    needs: list[list[int]], data: st.DataObject
) -> None:
    seconds = [float(data.draw(st.integers(0, 9))) for _ in needs]
    graph = build_graph(needs)
    assert graph is not None
    whole = forecast(graph, seconds, Rules(99)).critical_path_s
    for node, gain in enumerate(gains_s(graph, seconds)):
        none = [*seconds]
        none[node] = 0.0
        assert whole - forecast(graph, none, Rules(99)).critical_path_s == gain


@given(graphs(10), st.data())
def test_no_durations_let_more_nodes_run_at_once_than_the_width(needs: list[list[int]], data: st.DataObject) -> None:
    graph = build_graph(needs)
    assert graph is not None
    wide = width(graph)
    assert wide >= max(len(wave) for wave in graph.waves)
    seconds = [float(data.draw(st.integers(1, 9))) for _ in needs]
    assert makespan_s(graph, seconds, Rules(wide)) == forecast(graph, seconds, Rules(99)).critical_path_s


def test_the_width_of_known_graphs() -> None:
    for needs, wide in ([[], [0], [1]], 1), ([[], [], []], 3), (NEEDS, 3), ([[], [0], [0], [1, 2]], 2):
        graph = build_graph(needs)
        assert graph is not None
        assert width(graph) == wide


def test_starts_are_when_the_nodes_may_and_can() -> None:
    assert list(told(cap=8).starts_s) == [0, 30, 30, 0, 75]
    assert list(told(cap=1).starts_s) == [0, 30, 75, 115, 150]
    assert list(told(cap=8, schedule="waves").starts_s) == [0, 35, 35, 0, 80]


@given(graphs(9))
def test_the_width_is_that_of_the_largest_set_of_nodes_that_may_run_at_once(needs: list[list[int]]) -> None:
    graph = build_graph(needs)
    assert graph is not None
    sets = (chosen for size in range(1, len(needs) + 1) for chosen in combinations(range(len(needs)), size))
    free = (chosen for chosen in sets if all(b not in _reach(needs, a) for a, b in combinations(chosen, 2)))
    assert width(graph) == max(map(len, free))

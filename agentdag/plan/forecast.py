"""How long a run takes: pure arithmetic on a graph and the duration of each of its nodes.

Critical path and slack: Kelley and Walker, "Critical-Path Planning and Scheduling", 1959.
Under a cap, the order is list scheduling by the longest remaining path; the engine's is the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentdag.plan.graph import Edges, Graph

Durations = Sequence[float]
"""Seconds of each node, in node order."""
DUST_S = 1e-9
"""Below this, a difference comes from adding floats."""
EXACT_WIDTH = 200
TERMS = {
    "critical path": "The longest way through the graph: the run cannot be shorter, whatever else runs beside it.",
    "slack": "How much longer a node may take, or later it may start, without the critical path becoming longer.",
    "wave": "The nodes whose longest way from the beginning has as many edges; wave 0 needs nothing.",
    "makespan": "How long the whole run takes under its schedule, with no more nodes at once than the cap allows.",
    "width": "How many nodes can run at once at the most, however long they take: a larger cap changes nothing.",
}
"""What the words of a forecast mean, for people."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a graph with known durations takes, in seconds; nodes are numbers.

    `starts_s` says when each node starts under the cap, `slack_s` how much later it may start without the
    critical path becoming longer.
    """

    sequential_s: float
    waves_s: float
    critical_path_s: float
    critical_path: Sequence[int]
    slack_s: Sequence[float]
    starts_s: Sequence[float]
    makespan_s: float
    lower_bound_s: float


def forecast(
    graph: Graph, durations: Durations, *, cap: int, schedule: str = "eager", priorities: Sequence[int] = ()
) -> Forecast:
    """All totals of *graph*; `makespan_s` is of *schedule* (`eager` or `waves`) under *cap*.

    *priorities* are 0 for high, 1 normal and 2 low, in node order; none at all means all are equal.
    """
    remaining = remaining_s(graph, durations)
    length = max(remaining, default=0.0)
    work = sum(durations)
    starts = _starts_s(graph, durations, remaining, cap=cap, schedule=schedule, priorities=priorities)
    return Forecast(
        sequential_s=work,
        waves_s=waves_s(graph, durations),
        critical_path_s=length,
        critical_path=critical_path(graph, remaining),
        slack_s=_slack(graph, durations, remaining, length),
        starts_s=starts,
        makespan_s=_end(starts, durations),
        lower_bound_s=max(length, work / cap),
    )


def remaining_s(graph: Graph, durations: Durations) -> list[float]:
    """For each node the longest path from its start to the end of the run."""
    remaining = list(durations)
    for node in reversed(graph.order):
        after = graph.dependants[node]
        if after:
            remaining[node] += max(remaining[dependant] for dependant in after)
    return remaining


def waves_s(graph: Graph, durations: Durations) -> float:
    """Seconds of all waves in lock-step, under no cap: of each wave its longest node."""
    return sum(max(durations[node] for node in wave) for wave in graph.waves)


def earliest_s(graph: Graph, durations: Durations) -> list[float]:
    """For each node when it can start at the earliest, under no cap."""
    earliest = [0.0] * len(durations)
    for node in graph.order:
        end = earliest[node] + durations[node]
        for dependant in graph.dependants[node]:
            earliest[dependant] = max(earliest[dependant], end)
    return earliest


def critical_path(graph: Graph, remaining: Sequence[float]) -> list[int]:
    """The nodes of one longest path, from first to last; of equals, the first in the file."""
    path: list[int] = []
    choices = graph.waves[0] if graph.waves else ()
    while choices:
        best = max(choices, key=remaining.__getitem__)
        path.append(best)
        choices = graph.dependants[best]
    return path


def _slack(graph: Graph, durations: Durations, remaining: Sequence[float], length: float) -> list[float]:
    earliest = earliest_s(graph, durations)
    slack = (length - earliest[node] - remaining[node] for node in range(len(durations)))
    return [0.0 if abs(seconds) < DUST_S else seconds for seconds in slack]


def makespan_s(
    graph: Graph, durations: Durations, *, cap: int, schedule: str = "eager", priorities: Sequence[int] = ()
) -> float:
    """Seconds that *schedule* takes when at most *cap* nodes run at once."""
    remaining = remaining_s(graph, durations)
    return _end(_starts_s(graph, durations, remaining, cap=cap, schedule=schedule, priorities=priorities), durations)


def _starts_s(
    graph: Graph,
    durations: Durations,
    remaining: Sequence[float],
    *,
    cap: int,
    schedule: str,
    priorities: Sequence[int],
) -> list[float]:
    """When each node starts; of the ready, priority and then the longest remaining path goes first."""
    ranks = [(priorities[node] if priorities else 1, -remaining[node]) for node in range(len(durations))]
    starts = [0.0] * len(durations)
    if schedule == "eager":
        _drain(graph, durations, ranks, cap, graph.waves[0] if graph.waves else (), starts, follow=True)
        return starts
    now = 0.0
    for wave in graph.waves:
        now = _drain(graph, durations, ranks, cap, wave, starts, follow=False, now=now)
    return starts


def _end(starts: Sequence[float], durations: Durations) -> float:
    return max((start + duration for start, duration in zip(starts, durations, strict=True)), default=0.0)


def _drain(  # noqa: PLR0913 - one simulation, and where it stands
    graph: Graph,
    durations: Durations,
    ranks: Sequence[tuple[float, float]],
    cap: int,
    first: Sequence[int],
    starts: list[float],
    *,
    follow: bool,
    now: float = 0.0,
) -> float:
    """Run *first* from *now* on, and with *follow* all that becomes ready; fills in *starts*, returns the end."""
    ready = [(*ranks[node], arrival, node) for arrival, node in enumerate(first)]
    heapq.heapify(ready)
    missing = [len(before) for before in graph.needs] if follow else []
    running: list[tuple[float, int]] = []
    arrival = len(ready)
    while ready or running:
        while ready and len(running) < cap:
            node = heapq.heappop(ready)[-1]
            starts[node] = now
            heapq.heappush(running, (now + durations[node], node))
        now = running[0][0]
        while running and running[0][0] == now:
            node = heapq.heappop(running)[1]
            for dependant in graph.dependants[node] if follow else ():
                missing[dependant] -= 1
                if not missing[dependant]:
                    arrival += 1
                    heapq.heappush(ready, (*ranks[dependant], arrival, dependant))
    return now


def width(graph: Graph) -> int:
    """How many nodes can run at once at the most, however long they take; above EXACT_WIDTH nodes, no fewer.

    The least number of chains that cover the graph: of a chain's nodes only one runs at a time. Dilworth,
    "A Decomposition Theorem for Partially Ordered Sets", 1950.
    """
    size = len(graph.needs)
    exact = size <= EXACT_WIDTH
    before = _ancestors(graph) if exact else graph.needs
    follower: dict[int, int] = {}  # the node that continues the chain of another
    joined = sum(_continue(node, before, follower, set(), deep=exact) for node in graph.order)
    return size - joined


def _ancestors(graph: Graph) -> list[Sequence[int]]:
    """For each node all that must have settled before it."""
    found: list[Sequence[int]] = [()] * len(graph.needs)
    for node in graph.order:
        found[node] = sorted({each for need in graph.needs[node] for each in (need, *found[need])})
    return found


def _continue(node: int, before: Edges, follower: dict[int, int], seen: set[int], *, deep: bool) -> bool:
    """Let *node* continue a chain, with *deep* by moving others to other chains; Kuhn's augmenting paths, 1955."""
    free = next((each for each in before[node] if each not in follower), None)
    if free is not None:
        follower[free] = node
        return True
    for each in before[node] if deep else ():
        if each not in seen:
            seen.add(each)
            if _continue(follower[each], before, follower, seen, deep=True):
                follower[each] = node
                return True
    return False


def gains_s(graph: Graph, durations: Durations) -> list[float]:
    """How much shorter the critical path gets where each node takes no time at all.

    Up to there, each second taken off a node takes one off the run. The longest path that avoids a node
    is the longest that steps over its place in topological order.
    """
    earliest, remaining = earliest_s(graph, durations), remaining_s(graph, durations)
    length = max(remaining, default=0.0)
    place = {node: index for index, node in enumerate(graph.order)}
    over: list[tuple[float, int]] = []
    gains = [0.0] * len(durations)
    steps = sorted(_steps(graph, durations, earliest, remaining, place), reverse=True)
    for index, node in enumerate(graph.order):
        while steps and steps[-1][0] < index:
            _, last, seconds = steps.pop()
            heapq.heappush(over, (-seconds, last))
        while over and over[0][1] <= index:
            heapq.heappop(over)
        avoiding = -over[0][0] if over else 0.0
        gain = min(durations[node], length - avoiding)
        gains[node] = gain if gain > DUST_S else 0.0
    return gains


def _steps(
    graph: Graph, durations: Durations, earliest: Sequence[float], remaining: Sequence[float], place: dict[int, int]
) -> Iterator[tuple[int, int, float]]:
    """Each edge, and each way in and out of the graph: the places between which it lies, and its longest path."""
    for node in graph.order:
        if not graph.needs[node]:
            yield -1, place[node], remaining[node]
        end = earliest[node] + durations[node]
        if not graph.dependants[node]:
            yield place[node], len(place), end
        for dependant in graph.dependants[node]:
            yield place[node], place[dependant], end + remaining[dependant]

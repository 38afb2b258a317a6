"""How long a run takes: pure arithmetic on a graph and the duration of each of its nodes.

Critical path and slack: Kelley and Walker, "Critical-Path Planning and Scheduling", 1959.
Under a cap, the order is list scheduling by the longest remaining path; the engine's is the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from agentdag.plan.graph import Graph

Durations = Sequence[float]
"""Seconds of each node, in node order."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a graph with known durations takes, in seconds; nodes are numbers."""

    sequential_s: float
    waves_s: float
    critical_path_s: float
    critical_path: Sequence[int]
    slack_s: Sequence[float]
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
    ranks = [(priorities[node] if priorities else 1, -remaining[node]) for node in range(len(durations))]
    return Forecast(
        sequential_s=work,
        waves_s=sum(max(durations[node] for node in wave) for wave in graph.waves),
        critical_path_s=length,
        critical_path=critical_path(graph, remaining),
        slack_s=_slack(graph, durations, remaining, length),
        makespan_s=makespan_s(graph, durations, ranks, cap=cap, schedule=schedule),
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
    """How much later each node may start without the run taking longer."""
    earliest = [0.0] * len(durations)
    for node in graph.order:
        for dependant in graph.dependants[node]:
            earliest[dependant] = max(earliest[dependant], earliest[node] + durations[node])
    slack = (length - earliest[node] - remaining[node] for node in range(len(durations)))
    return [0.0 if abs(seconds) < 1e-9 else seconds for seconds in slack]


def makespan_s(
    graph: Graph, durations: Durations, ranks: Sequence[tuple[float, float]], *, cap: int, schedule: str
) -> float:
    """Seconds that *schedule* takes when at most *cap* nodes run at once;
    of the ready, the smallest rank starts first."""
    if schedule == "eager":
        return _drain(graph, durations, ranks, cap, graph.waves[0] if graph.waves else (), follow=True)
    return sum(_drain(graph, durations, ranks, cap, wave, follow=False) for wave in graph.waves)


def _drain(
    graph: Graph,
    durations: Durations,
    ranks: Sequence[tuple[float, float]],
    cap: int,
    first: Sequence[int],
    *,
    follow: bool,
) -> float:
    """Run *first*, and with *follow* all that becomes ready, and return when the last one ends."""
    ready = [(*ranks[node], arrival, node) for arrival, node in enumerate(first)]
    heapq.heapify(ready)
    missing = [len(before) for before in graph.needs] if follow else []
    running: list[tuple[float, int]] = []
    now, arrival = 0.0, len(ready)
    while ready or running:
        while ready and len(running) < cap:
            node = heapq.heappop(ready)[-1]
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

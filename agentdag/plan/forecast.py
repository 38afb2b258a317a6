"""How long a run takes: arithmetic on a graph and the duration of each node, and a play where barriers decide.

Critical path and slack: Kelley and Walker, "Critical-Path Planning and Scheduling", 1959.
Under a cap, the order is list scheduling by the longest remaining path; the engine's is the same.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from agentdag.plan.graph import Graph
from agentdag.plan.play import Played, Rules, play

Durations = Sequence[float]
"""Seconds of each node, in node order."""
DUST_S = 1e-9
"""Below this, a difference comes from adding floats."""
TERMS = {
    "critical path": "The longest way through the graph: the run cannot be shorter, whatever else runs beside it.",
    "slack": "How much longer a node may take, or later it may start, without the critical path becoming longer.",
    "barrier": "The rule by which a node with several dependencies, a join, opens: see the key `barrier`.",
    "quorum": "How many dependencies must have succeeded for a join to open without the rest: `wait_for`.",
    "straggler": "A dependency that takes much longer than the others; a quorum or a timeout leaves it behind.",
    "wave": "The nodes whose longest way from the beginning has as many edges; wave 0 needs nothing.",
    "makespan": "How long the whole run takes under its schedule, with no more nodes at once than the cap allows.",
    "width": "How many nodes can run at once at the most, however long they take: a larger cap changes nothing.",
}
"""What the words of a forecast mean, for people."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a graph with known durations takes, in seconds; nodes are numbers.

    `starts_s` and `ends_s` say when each node starts and ends under the cap, `slack_s` how much longer it may take
    without the critical path becoming longer, infinite where its joins do without it. `late` are those that joins will
    not wait for, `lost` those that will not run because a barrier never opens.
    """

    sequential_s: float
    waves_s: float
    critical_path_s: float
    critical_path: Sequence[int]
    slack_s: Sequence[float]
    starts_s: Sequence[float]
    ends_s: Sequence[float]
    makespan_s: float
    lower_bound_s: float
    late: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()


def forecast(graph: Graph, durations: Durations, rules: Rules) -> Forecast:
    """All totals of *graph*; `makespan_s` is what *rules* make of it."""
    if rules.terms is not None:
        return _with_barriers(graph, durations, rules)
    remaining = remaining_s(graph, durations)
    length = max(remaining, default=0.0)
    work = sum(durations)
    starts = _starts_s(graph, durations, remaining, rules)
    ends = [start + duration for start, duration in zip(starts, durations, strict=True)]
    return Forecast(
        sequential_s=work,
        waves_s=waves_s(graph, durations),
        critical_path_s=length,
        critical_path=critical_path(graph, remaining),
        slack_s=_slack(graph, durations, remaining, length),
        starts_s=starts,
        ends_s=ends,
        makespan_s=max(ends, default=0.0),
        lower_bound_s=max(length, work / rules.cap),
    )


def _with_barriers(graph: Graph, durations: Durations, rules: Rules) -> Forecast:
    """As `forecast`, where barriers decide: what happens is played, under the cap and under none."""
    remaining = remaining_s(graph, durations)
    played = play(graph, durations, remaining, rules)
    free = play(graph, durations, remaining, rules.free())
    in_waves = play(graph, durations, remaining, replace(rules.free(), schedule="waves"))
    once = play(graph, durations, remaining, rules.free().without_passes())
    return Forecast(
        sequential_s=sum(durations),
        waves_s=in_waves.makespan_s,
        critical_path_s=free.makespan_s,
        critical_path=_path_of(graph, free),
        slack_s=_slack_of(graph, durations, rules, free),
        starts_s=played.starts_s,
        ends_s=played.ends_s,
        makespan_s=played.makespan_s,
        lower_bound_s=min(once.makespan_s, free.makespan_s, played.makespan_s),
        late=frozenset(played.late),
        lost=frozenset(played.lost),
    )


def _path_of(graph: Graph, played: Played) -> list[int]:
    """Backwards from what ended last: of each node what it started upon."""
    starts = played.starts_s
    ran = [node for node, passes in enumerate(played.passes_s) if passes]
    path = [max(ran, key=lambda node: (played.ends_s[node], -node))] if ran else []
    while path:
        node = path[-1]
        start = played.passes_s[node][-1]
        ran = [need for need in graph.needs[node] if played.passes_s[need]]
        before = [need for need in ran if starts[need] < start or played.ends_s[need] <= start]
        if not before:
            break
        path.append(max(before, key=partial(_awaited, played, start, node in played.timed)))
    return path[::-1]


def _awaited(played: Played, start: float, timed: bool, need: int) -> tuple[float, bool, int]:  # noqa: FBT001
    """Of the needs of a node that began at *start*, the largest is what it waited for: a late one, if *timed*."""
    behind = need in played.late or played.ends_s[need] > start
    return min(played.ends_s[need], start), behind == timed, -need


def _slack_of(graph: Graph, durations: Durations, rules: Rules, played: Played) -> list[float]:
    """How much longer each node may take before anything ends later; infinite where its joins do without it."""
    latest_end = [math.inf if node in played.late else played.makespan_s for node in range(len(durations))]
    latest_start = [math.inf] * len(durations)
    for node in reversed(graph.order):
        if not played.passes_s[node]:
            continue
        start = min(latest_start[node], latest_end[node] - len(played.passes_s[node]) * durations[node])
        for need in graph.needs[node]:
            latest_end[need] = min(latest_end[need], _needed_s(graph, rules, played, (need, node, start)))
            if node in played.timed and played.passes_s[need]:
                latest_start[need] = min(latest_start[need], _launched_s(rules, played, need, node, start))
    return [
        max(0.0, latest_end[node] - played.ends_s[node]) / len(starts) if starts else 0.0
        for node, starts in enumerate(played.passes_s)
    ]


def _needed_s(graph: Graph, rules: Rules, played: Played, edge: tuple[int, int, float]) -> float:
    """When *need* has to end so that *node* can still start, for as many passes as it takes: the three in *edge*."""
    need, node, start = edge
    if need in played.late:
        return math.inf
    if node in played.late:
        return start
    if rules.barrier(node).progressive:  # what comes during a pass is taken along by the next
        end = played.ends_s[need]
        return next((begun for begun in played.passes_s[node] if begun >= end), end)
    return math.inf if played.opens_without(graph, rules, node, need) <= start else start


def _launched_s(rules: Rules, played: Played, need: int, node: int, start: float) -> float:
    """When *need* has to be launched so that the timeout of *node*, which counts from there, opens it by *start*."""
    barrier, launched = rules.barrier(node), played.passes_s[need][0]
    if barrier.progressive:
        return launched
    return math.inf if barrier.timeout_s is None else max(start - barrier.timeout_s, launched)


def critical_path_s(graph: Graph, durations: Durations, remaining: Sequence[float], rules: Rules) -> float:
    """Seconds of a run under no cap; *remaining* is the longest path from each node to the end."""
    if rules.terms is not None:
        return play(graph, durations, remaining, rules.free()).makespan_s
    return max(remaining, default=0.0)


def remaining_s(graph: Graph, durations: Durations) -> list[float]:
    """For each node the longest path from its start to the end of the run."""
    remaining = list(durations)
    for node in reversed(graph.order):
        after = graph.dependants[node]
        if after:
            remaining[node] += max(remaining[dependant] for dependant in after)
    return remaining


def measured_path_s(graph: Graph, latencies: Durations, spent: Mapping[tuple[int, int], float]) -> float:
    """The longest path of a run that has been. *spent* holds, for a need and a join that went on without it, the
    seconds that the need had taken by then: so much of it the join has waited for.
    """
    if not spent:
        return max(remaining_s(graph, latencies), default=0.0)
    starts = [0.0] * len(latencies)
    longest = 0.0
    for node in graph.order:
        for need in graph.needs[node]:
            lasted = min(latencies[need], spent.get((need, node), latencies[need]))
            starts[node] = max(starts[node], starts[need] + lasted)
        longest = max(longest, starts[node] + latencies[node])
    return longest


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


def makespan_s(graph: Graph, durations: Durations, rules: Rules) -> float:
    """Seconds that a run takes under *rules*."""
    remaining = remaining_s(graph, durations)
    if rules.terms is not None:
        return play(graph, durations, remaining, rules).makespan_s
    starts = _starts_s(graph, durations, remaining, rules)
    return max((start + duration for start, duration in zip(starts, durations, strict=True)), default=0.0)


def _starts_s(graph: Graph, durations: Durations, remaining: Sequence[float], rules: Rules) -> list[float]:
    """When each node starts; of the ready, priority and then the longest remaining path goes first."""
    ranks = rules.ranks(remaining)
    starts = [0.0] * len(durations)
    if rules.schedule == "eager":
        _drain(graph, durations, ranks, rules.cap, graph.waves[0] if graph.waves else (), starts, follow=True)
        return starts
    now = 0.0
    for wave in graph.waves:
        now = _drain(graph, durations, ranks, rules.cap, wave, starts, follow=False, now=now)
    return starts


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

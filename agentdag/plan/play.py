"""A run played in no time: the engine's own schedule, driven by how long each node is expected to take.

Every node succeeds. Where barriers decide who is waited for, no formula says how long a run takes; this does.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agentdag.events import Reason, Status
from agentdag.plan.barrier import ALL, Barrier
from agentdag.plan.graph import Graph
from agentdag.plan.news import Cut, Ended, Opened, Rested, Terms
from agentdag.plan.schedule import Schedule, State


@dataclass(frozen=True, slots=True)
class Rules:
    """How a run proceeds. *terms* are None where all barriers are plain; *priorities* are 0, 1, 2, none: all equal."""

    cap: int
    schedule: str = "eager"
    priorities: Sequence[int] = ()
    terms: Sequence[Terms] | None = None
    wave_timeout_s: float | None = None

    def ranks(self, remaining: Sequence[float]) -> list[tuple[int, float]]:
        """Who goes first: priority, then the longest remaining path; smaller is earlier."""
        return [(self.priorities[node] if self.priorities else 1, -left) for node, left in enumerate(remaining)]

    def barrier(self, node: int) -> Barrier:
        return self.terms[node].barrier if self.terms is not None else ALL

    def free(self) -> Rules:
        """The same with no cap, and each node started as soon as it can."""
        return replace(self, cap=max(1, len(self.terms or ())), schedule="eager")

    def without_passes(self) -> Rules:
        """The same with progressive joins that run once, when nothing more is to come: no run is shorter."""
        terms = [each._replace(barrier=replace(each.barrier, progressive=False)) for each in self.terms or ()]
        return replace(self, terms=terms)


@dataclass(slots=True)
class Played:
    """What happened, in seconds; nodes are numbers. `passes_s` holds when each node started, each time."""

    passes_s: list[list[float]]
    ends_s: list[float]
    opened_s: dict[int, float] = field(default_factory=dict)
    timed: set[int] = field(default_factory=set)
    """The joins that time has opened."""
    late: set[int] = field(default_factory=set)
    """The nodes that a join went on without."""
    lost: set[int] = field(default_factory=set)
    """The nodes that never ran because a barrier did not open."""
    _joins: dict[int, tuple[list[float], float]] = field(default_factory=dict)

    @property
    def starts_s(self) -> list[float]:
        """When each node started; when it was decided that it does not, where it did not."""
        return [starts[0] if starts else end for starts, end in zip(self.passes_s, self.ends_s, strict=True)]

    @property
    def makespan_s(self) -> float:
        return max(self.ends_s, default=0.0)

    def opens_without(self, graph: Graph, rules: Rules, node: int, need: int) -> float:
        """When *node* would have opened had *need* never ended; infinite where it would have waited for it."""
        terms = (rules.terms or ())[node]
        counted = graph.needs[node] if terms.counted is None else terms.counted
        if need not in counted:
            return math.inf
        barrier = terms.barrier
        arrived, launched_s = self._arrivals(node, counted)
        place = bisect_left(arrived, self.ends_s[need])
        ends = [math.inf]
        quorum = None if barrier.wait_for is None else max(barrier.wait_for, barrier.minimum)
        if quorum is not None and len(arrived) > quorum:
            ends.append(arrived[quorum - 1] if place >= quorum else arrived[quorum])
        if len(arrived) > barrier.minimum:
            if barrier.timeout_s is not None:
                ends.append(launched_s + barrier.timeout_s)
            if barrier.deadline_s is not None:
                ends.append(barrier.deadline_s)
        return min(ends)

    def _arrivals(self, node: int, counted: Sequence[int]) -> tuple[list[float], float]:
        """When the needs of *node* ended that were in time, sorted, and when the last was launched, if all were."""
        if node not in self._joins:
            arrived = sorted(self.ends_s[each] for each in counted if each not in self.late)
            launched = (self.passes_s[each][0] if self.passes_s[each] else math.inf for each in counted)
            self._joins[node] = arrived, max(launched, default=0.0)
        return self._joins[node]


def play(graph: Graph, durations: Sequence[float], remaining: Sequence[float], rules: Rules) -> Played:
    """What a run of *graph* under *rules* comes to; *remaining* is the longest path from each node to the end."""
    return _Player(graph, durations, rules.ranks(remaining), rules).run()


class _Player:
    def __init__(
        self, graph: Graph, durations: Sequence[float], ranks: Sequence[tuple[int, float]], rules: Rules
    ) -> None:
        size = len(durations)
        self._durations = durations
        self._ranks = ranks
        self._cap = rules.cap
        self._schedule = Schedule(
            graph,
            rules.terms or [Terms()] * size,
            waves=rules.schedule == "waves",
            wave_timeout_s=rules.wave_timeout_s,
        )
        self._ready: list[tuple[int, float, int, int]] = []
        self._arrived = 0
        self._running: list[tuple[float, int]] = []
        self._played = Played([[] for _ in range(size)], [0.0] * size)

    def run(self) -> Played:
        now = 0.0
        self._hear(now)
        while not self._schedule.done:
            self._launch(now)
            wakes_s = self._schedule.wakes_at_s
            ends_s = self._running[0][0] if self._running else math.inf
            now = max(now, min(ends_s, math.inf if wakes_s is None else wakes_s))
            if ends_s > now:
                self._schedule.tick(now)
                self._hear(now)
            while self._running and self._running[0][0] <= now:
                self._end(heapq.heappop(self._running)[1], now)
                self._hear(now)
        return self._played

    def _launch(self, now: float) -> None:
        while self._ready and len(self._running) < self._cap:
            node = heapq.heappop(self._ready)[-1]
            if self._schedule.state(node) is State.READY:
                self._schedule.start(node, now)
                self._played.passes_s[node].append(now)
                heapq.heappush(self._running, (now + self._durations[node], node))
                self._hear(now)

    def _end(self, node: int, now: float) -> None:
        self._played.ends_s[node] = now
        if self._schedule.is_progressive(node):
            self._schedule.rest(node, now)
        else:
            self._schedule.settle(node, Status.SUCCEEDED, now)

    def _hear(self, now: float) -> None:
        """Take in what followed."""
        played = self._played
        while news := self._schedule.take_news():
            for each in news:
                match each:
                    case Opened(node, reason):
                        played.opened_s[node] = now
                        if reason is Reason.TIMEOUT:
                            played.timed.add(node)
                    case Ended(node, status):
                        (played.late if status is Status.LATE else played.lost).add(node)
                        played.ends_s[node] = now
                    case Cut(node):
                        played.late.add(node)
                        played.ends_s[node] = now
                        self._running = [(end, each) for end, each in self._running if each != node]
                        heapq.heapify(self._running)
                        self._schedule.settle(node, Status.LATE, now)
                    case Rested(node):
                        self._schedule.settle(node, Status.SUCCEEDED, now)
        for node in self._schedule.take_ready():
            self._arrived += 1
            heapq.heappush(self._ready, (*self._ranks[node], self._arrived, node))

"""The nodes that are ready and have no slot yet: in line for one, or held back by `limits.queue`."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from agentdag.engine.ahead import Ahead, Safely
from agentdag.engine.run import Run
from agentdag.engine.scope import Instance
from agentdag.limits.rates import Lane
from agentdag.limits.slots import NO_NEED, Rank, Seat, Slots

Launch = Callable[[Instance, Seat, float], None]
"""Told the node that has its slot, its seat, and when it became ready, in seconds of the run."""


class Queue:
    """All that wait, best first; *launch* is called with each that gets its slot, *safely*."""

    def __init__(self, run: Run, slots: Slots, launch: Launch, safely: Safely) -> None:
        self._run = run
        self._slots = slots
        self._launch = launch
        self._safely = safely
        self.ahead = Ahead(slots.cap, safely)
        self._seats: dict[Instance, Seat] = {}
        """Of those in line."""
        self._on: Counter[Lane | None] = Counter()
        """How many are in line for each lane."""
        self._held_back: dict[Instance, float] = {}
        """Those that are not in line yet, and since when they are ready."""
        self._backlog: dict[Lane | None, list[tuple[Rank, int, Instance]]] = {}
        """Of those, and of some that were: a heap for each lane."""
        self._arrivals = 0
        self.deepest = 0
        """The most that have waited at once."""

    def __len__(self) -> int:
        return len(self._seats) + len(self._held_back)

    @property
    def held_back(self) -> int:
        """How many wait outside of the line."""
        return len(self._held_back)

    @property
    def seats(self) -> Iterator[Seat]:
        """Of those that are in line."""
        return iter(self._seats.values())

    def add(self, instances: Iterable[Instance]) -> None:
        """These became ready now."""
        run, now = self._run, self._run.now()
        unbounded = run.plan.queue is None
        for instance in instances:
            model = instance.node.model
            lane = None if model is None else run.lanes(model)
            if unbounded:
                self._line_up(instance, lane, now)
            else:
                self._held_back[instance] = now
                self._arrivals += 1
                heapq.heappush(self._backlog.setdefault(lane, []), (instance.rank, self._arrivals, instance))
        if not unbounded:
            for lane in self._backlog:
                self._feed(lane)

    def hand_out(self) -> None:
        """Give out the slots that are free, best first."""
        self._slots.hand_out()
        self.deepest = max(self.deepest, len(self))

    def _feed(self, lane: Lane | None) -> None:
        """Let as many into line, best first, as `limits.queue` allows: so many for each lane, that nobody waits for
        another's."""
        backlog, most = self._backlog.get(lane), self._run.plan.queue or 0
        while backlog and self._on[lane] < most:
            _, _, instance = heapq.heappop(backlog)
            ready_at = self._held_back.pop(instance, None)
            if ready_at is not None:
                self._line_up(instance, lane, ready_at)

    def _line_up(self, instance: Instance, lane: Lane | None, ready_at: float) -> None:
        run, node = self._run, instance.node
        need = NO_NEED
        if lane is not None and lane.counts_tokens:
            need = run.estimates.typical(node.id, str(node.model))
        seat = Seat(self._slots, instance.rank, lane, need)
        seat.patience_s = node.policy.max_delay_s
        self._seats[instance] = seat
        self._on[lane] += 1
        seat.request(partial(self._safely, partial(self._granted, instance, seat, ready_at)))
        if run.log is not None and run.budget is None and node.may_repeat and node.repeat is None:
            self.ahead.add(instance, seat)

    def _granted(self, instance: Instance, seat: Seat, ready_at: float) -> None:
        del self._seats[instance]
        self._on[seat.lane] -= 1
        self._feed(seat.lane)
        self._launch(instance, seat, ready_at)

    def leave(self, instance: Instance) -> None:
        """*instance* waits no more, if it did."""
        self._held_back.pop(instance, None)
        seat = self._seats.pop(instance, None)
        if seat is not None:
            self._on[seat.lane] -= 1
            self.ahead.take(instance)
            seat.leave()
            self._feed(seat.lane)

    def clear(self) -> None:
        """Nobody waits any more."""
        for seat in self._seats.values():
            seat.leave()
        self._seats.clear()
        self._on.clear()
        self._held_back.clear()
        self._backlog.clear()
        self.ahead.clear()

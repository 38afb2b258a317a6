"""Deadlines for many calls with one timer: an attempt that is not done in time is cancelled.

An `asyncio.timeout` for each costs more than an instant call itself. As there, a deadline that fires at
the same time as a cancellation from outside does not swallow it.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Any

LET_GO_S = 5.0
"""How long what was cancelled may take to stop before nobody waits for it any more."""


class Deadline:
    """One attempt's time limit, which is also cut where its stream falls silent for *idle_s*.

    `done` is set by whoever entered it, when the attempt has ended.
    """

    __slots__ = (
        "_cancelling",
        "_idle_s",
        "_limit",
        "_owner",
        "_task",
        "_told",
        "asker",
        "done",
        "expired",
        "idle",
        "when",
    )

    def __init__(self, owner: Deadlines, limit: float, idle_s: float | None, asker: object) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        self._owner = owner
        self.asker = asker
        self._task = task
        self._cancelling = task.cancelling()
        self._limit = limit
        self._idle_s = idle_s
        self.when = limit
        """When it is looked at next; a stream that speaks may move its end beyond that."""
        self._told = False
        self.done = False
        self.expired = False
        self.idle: float | None = None
        """When the stream will have been silent for too long; None until it begins."""

    def heard(self) -> None:
        """The stream has begun, or a piece of the answer came."""
        if self._idle_s is not None:
            first = self.idle is None
            self.idle = self._owner.time() + self._idle_s
            if first and self.idle < self.when:
                self.when = self.idle
                self._owner.add(self)

    def is_due(self, now: float) -> bool:
        """Whether its time is up; if not, `when` is the time at which it may be."""
        self.when = self._limit if self.idle is None else min(self._limit, self.idle)
        return self.when <= now

    @property
    def fell_silent(self) -> bool:
        """Of one that expired: whether it was for silence."""
        return self.idle is not None and self.idle < self._limit

    def expire(self) -> None:
        self.expired = True
        self._task.cancel()

    @property
    def swallowed(self) -> bool:
        """Whether it expired, and nobody has said so yet."""
        return self.expired and not self._told

    def ran_out(self) -> bool:
        """Whether the cancellation that was just caught is this deadline's, and nobody else's."""
        self._told = True
        return self.expired and self._task.uncancel() <= self._cancelling


class Deadlines:
    """All deadlines of one run, the earliest on the loop's timer.

    *on_stuck* is told the asker of an attempt that goes on, although it was cancelled `LET_GO_S` ago.
    """

    def __init__(self, on_stuck: Callable[[object], None] = lambda _: None) -> None:
        self.on_stuck = on_stuck
        self._heap: list[tuple[float, int, Deadline]] = []
        self._entered = 0
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, seconds: float, idle_s: float | None = None, asker: object = None) -> Deadline:
        """Cancel the current task in *seconds*, or after *idle_s* of silence, unless the deadline is done by then."""
        deadline = Deadline(self, self.time() + seconds, idle_s, asker)
        heap = self._heap
        while heap and heap[0][2].done:
            heapq.heappop(heap)
        self.add(deadline)
        return deadline

    def add(self, deadline: Deadline) -> None:
        """Look at *deadline* when its `when` has come."""
        self._entered += 1
        heapq.heappush(self._heap, (deadline.when, self._entered, deadline))
        if self._heap[0][2] is deadline:
            self._set_timer()

    def close(self) -> None:
        """Nothing is cancelled any more."""
        if self._timer is not None:
            self._timer.cancel()

    @staticmethod
    def time() -> float:
        """Seconds on the clock of the loop."""
        return time.monotonic()

    def _set_timer(self) -> None:
        """Wake at the earliest deadline; a timer that fires early only sets the next one."""
        if self._timer is not None:
            if self._timer.when() <= self._heap[0][0] and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self.time()
        while self._heap and (self._heap[0][2].done or self._heap[0][0] <= now):
            deadline = heapq.heappop(self._heap)[2]
            if deadline.done:
                continue
            if deadline.expired:
                self.on_stuck(deadline.asker)
                continue
            if deadline.is_due(now):
                deadline.expire()
                deadline.when = now + LET_GO_S
            self.add(deadline)
        if self._heap:
            self._set_timer()

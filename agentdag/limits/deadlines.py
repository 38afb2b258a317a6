"""Deadlines for many calls with one timer: an attempt that is not done in time is cancelled.

An `asyncio.timeout` for each costs more than an instant call itself. As there, a deadline that fires at
the same time as a cancellation from outside does not swallow it.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Any


class Deadline:
    """One attempt's time limit; `done` is set by whoever entered it, when the attempt has ended."""

    __slots__ = ("_cancelling", "_task", "done", "expired", "when")

    def __init__(self, when: float) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self.when = when
        self.done = False
        self.expired = False

    def __lt__(self, other: Deadline) -> bool:
        return self.when < other.when

    def expire(self) -> None:
        self.expired = True
        self._task.cancel()

    def ran_out(self) -> bool:
        """Whether the cancellation that was just caught is this deadline's, and nobody else's."""
        return self.expired and self._task.uncancel() <= self._cancelling


class Deadlines:
    """All deadlines of one run, the earliest on the loop's timer."""

    def __init__(self) -> None:
        self._heap: list[Deadline] = []
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, seconds: float) -> Deadline:
        """Cancel the current task in *seconds*, unless the deadline is done by then."""
        loop = asyncio.get_running_loop()
        deadline = Deadline(loop.time() + seconds)
        self._forget_done()
        heapq.heappush(self._heap, deadline)
        if self._heap[0] is deadline:
            self._set_timer(loop)
        return deadline

    def close(self) -> None:
        """Nothing is cancelled any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _forget_done(self) -> None:
        heap = self._heap
        while heap and heap[0].done:
            heapq.heappop(heap)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake at the earliest deadline; a timer that fires early only sets the next one."""
        if self._timer is not None:
            if self._timer.when() <= self._heap[0].when and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = loop.call_at(self._heap[0].when, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._heap and (self._heap[0].done or self._heap[0].when <= now):
            deadline = heapq.heappop(self._heap)
            if not deadline.done:
                deadline.expire()
        if self._heap:
            self._set_timer(loop)

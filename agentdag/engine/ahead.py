"""First attempts put on record while their nodes still wait for a slot: a slot need not wait for the disk."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from functools import partial

from agentdag.engine.attempts import NodeLife
from agentdag.engine.run import Run
from agentdag.limits.slots import Rank, Seat

Safely = Callable[[Callable[[], None]], None]
"""Calls what it is given, and takes what that raises."""


class Ahead:
    """The nodes that wait for a slot and may be written ahead: as many as can be at work at once, best first.

    *safely* calls what it is given, and takes what that raises.
    """

    def __init__(self, run: Run, cap: int, safely: Safely) -> None:
        self._run = run
        self._cap = cap
        self._safely = safely
        self._waiting: dict[int, Seat] = {}
        self._best: list[tuple[Rank, int]] = []
        """Of those that wait, and of some that did: a heap."""
        self._written: dict[int, NodeLife] = {}
        self._due = False

    def add(self, number: int, rank: Rank, seat: Seat) -> None:
        """The node *number* waits."""
        self._waiting[number] = seat
        heapq.heappush(self._best, (rank, number))

    def take(self, number: int) -> NodeLife | None:
        """*number* waits no more; its life, where that was written ahead."""
        self._waiting.pop(number, None)
        return self._written.pop(number, None)

    def clear(self) -> None:
        """Nobody waits any more."""
        self._waiting.clear()
        self._best.clear()
        self._written.clear()

    def go_on_soon(self) -> None:
        """Write once whoever has a slot has begun to act."""
        if self._best and not self._due:
            self._due = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, partial(self._safely, self._go_on))

    def _go_on(self) -> None:
        self._due = False
        while self._best and len(self._written) < self._cap:
            _, number = heapq.heappop(self._best)
            seat = self._waiting.pop(number, None)
            if seat is not None:
                life = self._written[number] = NodeLife(self._run, self._run.plan.nodes[number], seat)
                life.announce()

"""First attempts put on record while their nodes still wait for a slot: a slot need not wait for the disk."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from functools import partial

from agentdag.engine.attempts import NodeLife
from agentdag.engine.scope import Instance
from agentdag.limits.slots import Rank, Seat

Safely = Callable[[Callable[[], None]], None]
"""Calls what it is given, and takes what that raises."""


class Ahead:
    """The nodes that wait for a slot and may be written ahead: as many as can be at work at once, best first.

    *safely* calls what it is given, and takes what that raises.
    """

    def __init__(self, cap: int, safely: Safely) -> None:
        self._cap = cap
        self._arrivals = 0
        self._safely = safely
        self._waiting: dict[Instance, Seat] = {}
        self._best: list[tuple[Rank, int, Instance]] = []
        """Of those that wait, and of some that did: a heap."""
        self._written: dict[Instance, NodeLife] = {}
        self._due = False

    def add(self, instance: Instance, seat: Seat) -> None:
        """*instance* waits."""
        self._waiting[instance] = seat
        self._arrivals += 1
        heapq.heappush(self._best, (instance.rank, self._arrivals, instance))

    def take(self, instance: Instance) -> NodeLife | None:
        """*instance* waits no more; its life, where that was written ahead."""
        self._waiting.pop(instance, None)
        return self._written.pop(instance, None)

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
            _, _, instance = heapq.heappop(self._best)
            seat = self._waiting.pop(instance, None)
            if seat is not None:
                life = self._written[instance] = NodeLife(instance, seat)
                life.announce()

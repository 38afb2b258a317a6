"""Who may act now: a cap on what runs at once, and one order for all who wait.

The order is priority, then the longest remaining path, then arrival. Whoever has been passed over
`MAX_OVERTAKEN` times goes next, so nothing starves. This file knows no clock; only `Seat.take` a loop.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

MAX_OVERTAKEN = 1000

Rank = tuple[int, float]
"""Priority (0 high, 1 normal, 2 low), then minus the seconds of the longest remaining path; smaller goes first."""


class Place(Enum):
    """Where a seat stands."""

    AWAY = auto()
    WAITING = auto()
    HELD = auto()


class Slots:
    """At most *cap* seats are held at once.

    `Seat.request` only queues; slots are given by `hand_out`, so that all that became ready together is
    compared before the first one starts. *wake* is called when a slot came back while somebody waits;
    whoever owns the loop then calls `hand_out`. *idle* is called when one came back and nobody waits.
    """

    def __init__(self, cap: int, wake: Callable[[], None], idle: Callable[[], None] = lambda: None) -> None:
        self.cap = cap
        self.held = 0
        self.waiting = 0
        self._wake = wake
        self._idle = idle
        self._heap: list[tuple[int, float, int, Seat]] = []
        self._arrivals: deque[tuple[int, int, Seat]] = deque()
        self._arrived = 0
        self._granted = 0

    def queue(self, seat: Seat) -> int:
        """*seat* waits from now on; returns its number among all arrivals."""
        self._arrived += 1
        heapq.heappush(self._heap, (*seat.rank, self._arrived, seat))
        self._arrivals.append((self._granted, self._arrived, seat))
        self.waiting += 1
        return self._arrived

    def release(self) -> None:
        """A slot comes back."""
        self.held -= 1
        if self.waiting:
            self._wake()
        else:
            self._idle()

    def hand_out(self) -> None:
        """Give free slots, best first."""
        while self.held < self.cap and self.waiting:
            seat = self._next()
            self.held += 1
            self.waiting -= 1
            self._granted += 1
            seat.granted()

    def _next(self) -> Seat:
        arrivals = self._arrivals
        while not arrivals[0][2].waits_since(arrivals[0][1]):
            arrivals.popleft()
        granted_before, _, oldest = arrivals[0]
        if self._granted - granted_before >= MAX_OVERTAKEN and self._granted % 2:  # one of two: the order still counts
            return oldest
        while True:
            _, _, arrival, seat = heapq.heappop(self._heap)
            if seat.waits_since(arrival):
                return seat


class Seat:
    """One node's claim on a slot: taken and given back as often as it acts."""

    __slots__ = ("_grant", "_slots", "arrival", "place", "rank")

    def __init__(self, slots: Slots, rank: Rank) -> None:
        self._slots = slots
        self._grant: Callable[[], None] | None = None
        self.rank = rank
        self.place = Place.AWAY
        self.arrival = 0

    @property
    def held(self) -> bool:
        return self.place is Place.HELD

    def waits_since(self, arrival: int) -> bool:
        """Whether it waits, and is the one that queued as number *arrival*."""
        return self.place is Place.WAITING and self.arrival == arrival

    def request(self, grant: Callable[[], None]) -> None:
        """Queue for a slot; *grant* is called by `Slots.hand_out` once it is held."""
        self._grant = grant
        self.place = Place.WAITING
        self.arrival = self._slots.queue(self)

    def granted(self) -> None:
        """The slot is this seat's."""
        self.place = Place.HELD
        grant, self._grant = self._grant, None
        if grant is not None:
            grant()

    def leave(self) -> None:
        """Give the slot back, or the place in the queue."""
        place, self.place = self.place, Place.AWAY
        if place is Place.HELD:
            self._slots.release()
        elif place is Place.WAITING:
            self._slots.waiting -= 1

    async def take(self) -> None:
        """Wait until the slot is held."""
        seated: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.request(lambda: None if seated.cancelled() else seated.set_result(None))
        self._slots.hand_out()
        try:
            await seated
        except asyncio.CancelledError:
            self.leave()
            raise

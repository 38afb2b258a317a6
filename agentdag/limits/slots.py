"""Who may act now: a cap on what runs at once, and one order for all who wait.

The order is priority, then the longest remaining path, then arrival. Whoever has been passed over
`MAX_OVERTAKEN` times goes next, so nothing starves. This file knows no clock and no loop.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

MAX_OVERTAKEN = 1000


@dataclass(frozen=True, slots=True, order=True)
class Rank:
    """Where one stands in the queue: smaller goes first. `priority` is 0 for high, 1 normal, 2 low."""

    priority: int
    minus_remaining_s: float
    """The longest remaining path, in seconds, negated."""


class _Place(Enum):
    WAITING = auto()
    GRANTED = auto()
    WITHDRAWN = auto()


class Ticket:
    """One place in the queue."""

    __slots__ = ("grant", "granted_before", "key", "place")

    def __init__(self, key: tuple[int, float, int], grant: Callable[[], None], granted_before: int) -> None:
        self.key = key
        self.grant = grant
        self.granted_before = granted_before
        self.place = _Place.WAITING

    def __lt__(self, other: Ticket) -> bool:
        return self.key < other.key


class Slots:
    """At most *cap* slots are held at once.

    `request` only queues; slots are handed out by `hand_out`, so that all that became ready together is
    compared before the first one starts. *wake* is called when a slot came back while somebody waits;
    whoever owns the loop then calls `hand_out`.
    """

    def __init__(self, cap: int, wake: Callable[[], None]) -> None:
        self.cap = cap
        self.held = 0
        self.waiting = 0
        self._wake = wake
        self._heap: list[Ticket] = []
        self._arrivals: deque[Ticket] = deque()
        self._arrived = 0
        self._granted = 0

    def request(self, rank: Rank, grant: Callable[[], None]) -> Ticket:
        """Queue for a slot; *grant* is called by `hand_out` when it is held."""
        self._arrived += 1
        ticket = Ticket((rank.priority, rank.minus_remaining_s, self._arrived), grant, self._granted)
        heapq.heappush(self._heap, ticket)
        self._arrivals.append(ticket)
        self.waiting += 1
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Leave the queue; nothing happens where the slot was granted or the place given up before."""
        if ticket.place is _Place.WAITING:
            ticket.place = _Place.WITHDRAWN
            self.waiting -= 1

    def release(self) -> None:
        """Give a slot back."""
        self.held -= 1
        if self.waiting:
            self._wake()

    def hand_out(self) -> None:
        """Grant free slots, best first."""
        while self.held < self.cap and self.waiting:
            ticket = self._next()
            ticket.place = _Place.GRANTED
            self.held += 1
            self.waiting -= 1
            self._granted += 1
            ticket.grant()

    def _next(self) -> Ticket:
        arrivals = self._arrivals
        while arrivals[0].place is not _Place.WAITING:
            arrivals.popleft()
        if self._granted - arrivals[0].granted_before >= MAX_OVERTAKEN and self._granted % 2:
            return arrivals.popleft()
        while True:
            ticket = heapq.heappop(self._heap)
            if ticket.place is _Place.WAITING:
                return ticket

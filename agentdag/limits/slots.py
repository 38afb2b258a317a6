"""Who may act now: a cap on what runs at once, a lane for each model on its key, and one order for all who wait.

The order is priority, then the longest remaining path, then arrival. Whoever has been passed over
`MAX_OVERTAKEN` times goes next, so nothing starves. Who waits for a lane holds up nobody on another, and no slot.
This file has no clock of its own; only `Seat.take` needs a loop.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from agentdag.limits.rates import Lane, Need, Permit

MAX_OVERTAKEN = 1000

Rank = tuple[int, float]
"""Priority (0 high, 1 normal, 2 low), then minus the seconds of the longest remaining path; smaller goes first."""
NO_NEED = Need()


class Place(Enum):
    """Where a seat stands."""

    AWAY = auto()
    WAITING = auto()
    HELD = auto()


class _Line:
    """All who wait for one lane; those who need none stand in a line of their own."""

    __slots__ = ("_blocked_s", "_careful", "_heap", "arrivals", "blocked_at", "lane", "waiting")

    def __init__(self, lane: Lane | None) -> None:
        self.lane = lane
        self._heap: list[_Waiting] = []
        self._careful: list[_Waiting] = []
        """Those that must not be refused again: they let others find out how the lane is."""
        self.arrivals: deque[tuple[int, int, Seat]] = deque()
        self.waiting = 0
        self.blocked_at: float | None = None
        """Since when it is the lane that holds up the line, and not the want of a slot."""
        self._blocked_s = 0.0

    def push(self, seat: Seat, arrival: int, granted: int) -> None:
        """*seat* waits, as number *arrival* of all, when so many had been granted."""
        heapq.heappush(self._careful if seat.careful else self._heap, (*seat.rank, arrival, seat))
        self.arrivals.append((granted, arrival, seat))
        self.waiting += 1

    def best(self) -> Seat:
        """The first by rank; somebody waits."""
        usual = _top(self._heap)
        if usual is not None and not self._careful:  # by far the most
            return usual[3]
        careful = _top(self._careful)
        if careful is None or usual is None:
            top = usual or careful
        else:
            top = min(usual, careful) if self.lane is None or self.lane.is_calm else usual
        assert top is not None
        return top[3]

    def oldest(self) -> tuple[int, int, Seat]:
        """Who came first: how many had been granted by then, its number, and itself; somebody waits."""
        arrivals = self.arrivals
        while True:
            first = arrivals[0]
            if first[2].place is Place.WAITING and first[2].arrival == first[1]:
                return first
            arrivals.popleft()

    def wait_s(self, now: float) -> float:
        """Seconds until the lane lets its first go, with a slot at hand."""
        if self.lane is None:
            return 0.0
        best = self.best()
        if self.lane.is_vain(best.patience_s, now):
            return 0.0  # it goes through without a permit, and hears so
        wait_s = self.lane.wait_s(best.need, now, careful=best.careful)
        if wait_s > 0 or self.blocked_at is not None:
            self.mark(now, blocked=wait_s > 0)
        return wait_s

    def mark(self, now: float, *, blocked: bool) -> None:
        """From now on it is the lane that holds up the line, or not."""
        if blocked:
            self.blocked_at = now if self.blocked_at is None else self.blocked_at
        elif self.blocked_at is not None:
            self._blocked_s += now - self.blocked_at
            self.blocked_at = None

    def blocked_s(self, now: float) -> float:
        """For how many seconds in all the lane has held up the line."""
        return self._blocked_s + (0.0 if self.blocked_at is None else now - self.blocked_at)


_Waiting = tuple[int, float, int, "Seat"]
"""Rank, arrival, and who."""


def _top(heap: list[_Waiting]) -> _Waiting | None:
    """The first of *heap* that still waits."""
    while heap:
        first = heap[0]
        if first[3].place is Place.WAITING and first[3].arrival == first[2]:
            return first
        heapq.heappop(heap)
    return None


class Slots:
    """At most *cap* seats are held at once.

    `Seat.request` only queues; slots are given by `hand_out`, so that all that became ready together is
    compared before the first one starts. *wake* is called when a slot came back while somebody waits;
    whoever owns the loop then calls `hand_out`, and again after as many seconds as *alarm* is told, when a lane opens
    by itself. *idle* is called when a slot came back and nobody waits.
    """

    def __init__(
        self,
        cap: int,
        wake: Callable[[], None],
        idle: Callable[[], None] = lambda: None,
        *,
        alarm: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.cap = cap
        self.held = 0
        self.waiting = 0
        self.clock = clock
        self._wake = wake
        self._idle = idle
        self._alarm = alarm
        self.plain = _Line(None)
        """Those who need no lane."""
        self._only_plain = [self.plain]
        self._lines: dict[Lane, _Line] = {}
        self._arrived = 0
        self._granted = 0

    def line(self, lane: Lane | None) -> _Line:
        """The line for *lane*."""
        if lane is None:
            return self.plain
        if lane not in self._lines:
            self._lines[lane] = _Line(lane)
        return self._lines[lane]

    def queue(self, seat: Seat, line: _Line, arrival: int) -> int:
        """*seat* waits in *line* from now on, as number *arrival* of all, a new one where that is 0; returns it."""
        if not arrival:
            self._arrived += 1
            arrival = self._arrived
        line.push(seat, arrival, self._granted)
        self.waiting += 1
        return arrival

    def unqueue(self, line: _Line) -> None:
        """Somebody in *line* waits no more."""
        line.waiting -= 1
        self.waiting -= 1

    def release(self) -> None:
        """A slot comes back."""
        self.held -= 1
        if self.waiting:
            self._wake()
        else:
            self._idle()

    def hand_out(self) -> None:
        """Give free slots, best first, to whoever's lane is open."""
        now = 0.0
        while self.held < self.cap and self.waiting:
            open_ = self._only_plain
            if self._lines:
                now = self.clock()
                open_ = self._open(now)
                if not open_:
                    return
            seat = self._next(open_)
            self.held += 1
            self._granted += 1
            self.unqueue(seat.line)
            seat.granted(now)
        if self._lines and self.waiting:
            now = self.clock()
            for line in self._lines.values():
                if line.blocked_at is not None:
                    line.mark(now, blocked=False)

    def _open(self, now: float) -> list[_Line]:
        """The lines in which somebody waits who may go; where there are none, the alarm is set."""
        open_, soonest_s = [self.plain] if self.plain.waiting else [], math.inf
        for line in self._lines.values():
            if line.waiting:
                wait_s = line.wait_s(now)
                if wait_s > 0:
                    soonest_s = min(soonest_s, wait_s)
                else:
                    open_.append(line)
        if not open_ and soonest_s < math.inf:
            self._alarm(soonest_s)
        return open_

    def _next(self, lines: list[_Line]) -> Seat:
        """Who goes next of *lines*: whoever was passed over too often, in one of two cases; else the best."""
        alone = len(lines) == 1
        if self._granted % 2:
            first = lines[0].oldest() if alone else min((line.oldest() for line in lines), key=lambda each: each[1])
            granted_before, _, oldest = first
            if self._granted - granted_before >= MAX_OVERTAKEN:
                return oldest
        return lines[0].best() if alone else min((line.best() for line in lines), key=lambda s: (*s.rank, s.arrival))


class Seat:
    """One node's claim on a slot, and on *lane*: taken and given back as often as it acts."""

    __slots__ = (
        "_blocked_s",
        "_grant",
        "_slots",
        "arrival",
        "careful",
        "line",
        "need",
        "patience_s",
        "permit",
        "place",
        "rank",
        "rate_s",
    )

    def __init__(self, slots: Slots, rank: Rank, lane: Lane | None = None, need: Need = NO_NEED) -> None:
        self._slots = slots
        self._grant: Callable[[], None] | None = None
        self._blocked_s = 0.0
        self.line = slots.line(lane)
        self.need = need
        self.patience_s = math.inf
        """It does not wait for a lane whose provider has asked to be left alone for longer."""
        self.careful = False
        """Whether it must not be refused again."""
        self.rank = rank
        self.place = Place.AWAY
        self.arrival = 0
        self.permit: Permit | None = None
        """What is reserved on the lane for the next call, until that is sent; none where it is not to wait so long."""
        self.rate_s = 0.0
        """For how long the lane held it up when it waited last."""

    @property
    def lane(self) -> Lane | None:
        return self.line.lane

    def request(self, grant: Callable[[], None], *, again: bool = False) -> None:
        """Queue for a slot; *grant* is called by `Slots.hand_out` once it is held.

        *again* is for whoever was refused: it keeps its place before those who came later.
        """
        self._grant = grant
        self.place = Place.WAITING
        line = self.line
        if line.lane is not None:
            self._blocked_s = line.blocked_s(self._slots.clock())
        self.arrival = self._slots.queue(self, line, self.arrival if again else 0)

    def granted(self, now: float) -> None:
        """The slot is this seat's, and what it needs of its lane is reserved."""
        self.place = Place.HELD
        line = self.line
        if line.lane is not None:
            self.rate_s = line.blocked_s(now) - self._blocked_s
            if not line.lane.is_vain(self.patience_s, now):
                self.permit = line.lane.take(self.need, now)
        grant, self._grant = self._grant, None
        if grant is not None:
            grant()

    def move(self, lane: Lane | None, need: Need) -> None:
        """Ask for *need* of *lane* from the next time on; what is reserved and not sent is given back."""
        self._give_back()
        self.line = self._slots.line(lane)
        self.need = need

    def exchange(self, need: Need) -> bool:
        """Ask for *need*, more or less than before; whether what is held is right for that, or nothing is held."""
        self.need = need
        if self.permit is None:
            return self.place is not Place.HELD
        lane, now = self.permit.lane, self._slots.clock()
        self._give_back()
        if lane.wait_s(need, now) > 0:
            return False
        self.permit = lane.take(need, now)
        return True

    def sent(self) -> Permit | None:
        """The call goes out: what was reserved for it is its own from now on."""
        permit, self.permit = self.permit, None
        if permit is not None:
            permit.lane.sent(permit, self._slots.clock())
        return permit

    def leave(self) -> None:
        """Give the slot back, or the place in the queue."""
        place, self.place = self.place, Place.AWAY
        self._give_back()
        if place is Place.HELD:
            self._slots.release()
        elif place is Place.WAITING:
            self._slots.unqueue(self.line)

    def _give_back(self) -> None:
        permit, self.permit = self.permit, None
        if permit is not None:
            permit.lane.give_back(permit)

    async def take(self, *, again: bool = False) -> None:
        """Wait until the slot is held."""
        seated: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.request(lambda: None if seated.cancelled() else seated.set_result(None), again=again)
        self._slots.hand_out()
        try:
            await seated
        except asyncio.CancelledError:
            self.leave()
            raise

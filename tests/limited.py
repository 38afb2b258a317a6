"""Servers with limits, in virtual time: what a lane makes of what they allow and refuse."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from agentdag.limits.rates import Lane, Need, Permit, Quotas

ROUND_TRIP_S = 0.003
RETRIES = 2
UNDECLARED = Quotas()


@dataclass
class Server:
    """A token bucket of *burst* calls at *rate* a second, *at_once* in flight, each call taking *latency_s*; or, with
    *window_s*, so many calls a fixed window."""

    rate: float = 10.0
    burst: int = 10
    at_once: int | None = None
    latency_s: float = 0.05
    retry_after_s: float | None = None
    window_s: float | None = None
    _level: float = field(init=False)
    _at: float = 0.0
    _held: int = 0
    _in_window: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._level = float(self.burst)

    def lets_in(self, now: float) -> bool:
        if self.at_once is not None and self._held >= self.at_once:
            return False
        if self.window_s is not None:
            window = int(now // self.window_s)
            if self._in_window.get(window, 0) >= self.rate * self.window_s:
                return False
            self._in_window[window] = self._in_window.get(window, 0) + 1
        else:
            self._level = min(self.burst, self._level + self.rate * (now - self._at))
            self._at = now
            if self._level < 1:
                return False
            self._level -= 1
        self._held += 1
        return True

    def done(self) -> None:
        self._held -= 1


class Outcome(NamedTuple):
    """How many requests it took, how long, and how many calls were lost."""

    requests: int
    elapsed_s: float
    lost: int


class _Call(NamedTuple):
    number: int
    used: int = 0
    """Retries that it has used up."""
    permit: Permit | None = None


class Siblings:
    """*calls* on one lane against *server*, in the order in which a line of `slots` lets them go."""

    def __init__(self, server: Server, calls: int, quotas: Quotas, cap: int, seed: int) -> None:
        self.server = server
        self.lane = Lane(quotas, chance=Random(seed))
        self.now = 0.0
        self.requests = self.ended = self.lost = 0
        self._events: list[tuple[float, int, str, _Call]] = []
        self._line, self._careful = deque(_Call(number) for number in range(calls)), deque[_Call]()
        self._free, self._posted, self._alarm = cap, 0, math.inf

    def run(self) -> Outcome:
        calls = len(self._line)
        self._send()
        while self.ended + self.lost < calls:
            self.now, _, what, call = heapq.heappop(self._events)
            getattr(self, what)(call)
        assert self.lane.in_flight.out == 0
        return Outcome(self.requests, self.now, self.lost)

    def _post(self, after_s: float, what: str, call: _Call) -> None:
        self._posted += 1
        heapq.heappush(self._events, (self.now + after_s, self._posted, what, call))

    def _send(self) -> None:
        lane = self.lane
        while (self._line or self._careful) and self._free:
            first = self._careful if self._careful and (not self._line or lane.is_calm) else self._line
            wait_s = lane.wait_s(Need(), self.now, careful=first is self._careful)
            if wait_s > 1e-9:
                if self.now + wait_s < self._alarm - 1e-9:
                    self._alarm = self.now + wait_s
                    self._post(wait_s, "wake", first[0])
                return
            call = first.popleft()
            self._free, self.requests = self._free - 1, self.requests + 1
            permit = lane.take(Need(), self.now)
            lane.sent(permit, self.now)
            self._post(ROUND_TRIP_S / 2, "arrive", call._replace(permit=permit))

    def wake(self, _call: _Call) -> None:
        self._alarm = math.inf
        self._send()

    def arrive(self, call: _Call) -> None:
        let_in = self.server.lets_in(self.now)
        self._post(self.server.latency_s if let_in else ROUND_TRIP_S / 2, "done" if let_in else "refuse", call)

    def done(self, call: _Call) -> None:
        self.server.done()
        self._post(ROUND_TRIP_S / 2, "answer", call)

    def answer(self, call: _Call) -> None:
        assert call.permit is not None
        self._free, self.ended = self._free + 1, self.ended + 1
        self.lane.answered(call.permit)
        self._send()

    def refuse(self, call: _Call) -> None:
        assert call.permit is not None
        self._free += 1
        used = call.used + self.lane.refused(call.permit, self.now, after_s=self.server.retry_after_s)
        if used > RETRIES:
            self.lost += 1
        elif used == RETRIES:
            self._careful.append(_Call(call.number, used))
        else:
            self._line.appendleft(_Call(call.number, used))
        self._send()


def drive(server: Server, calls: int = 100, *, quotas: Quotas = UNDECLARED, cap: int = 100, seed: int = 0) -> Outcome:
    """What becomes of *calls* siblings that are sent to *server* on one lane."""
    return Siblings(server, calls, quotas, cap, seed).run()

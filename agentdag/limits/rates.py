"""When a call may go to one model on one key: what was declared, what the server tells, and what it taught.

Requests and tokens are reserved together before a call and put right by its answer. Of nothing that was declared is
more admitted in any window of a minute than a minute's quota, as far as the reservations are right.
Pure: no loop, no clock; times come in as arguments, in seconds on one clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from agentdag.calls import Room
from agentdag.limits.pace import FIRST_IN_FLIGHT, InFlight, Pace

MINUTE_S = 60.0
BURST_S = 10.0
"""So many seconds of quota may go at once ..."""
BURST_CALLS = 10
"""... but no more calls than these ..."""
LARGE_BURST_S = 0.5
"""... or than so many seconds of a large quota: servers count it by the second, and calls arrive in bunches."""
OVERLOAD_PAUSE_S = 1.0
"""The longest pause after a first overload that names none; it doubles with each."""
LONGEST_PAUSE_S = 30.0
HOPELESS = 8
"""After so many refusals in a row, with ever longer pauses between them, whoever would wait fails instead."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a minute allows, as declared; None where nothing is said. `headroom` is the share that is used.

    A minute lasts `minute_s`: less where time is scaled.
    """

    rpm: int | None = None
    tpm: int | None = None
    input_tpm: int | None = None
    output_tpm: int | None = None
    concurrency: int | None = None
    headroom: float = 0.9
    burst: int | None = None
    minute_s: float = MINUTE_S

    @property
    def says_anything(self) -> bool:
        """Whether anything at all was declared."""
        return any(each is not None for each in (self.rpm, self.tpm, self.input_tpm, self.output_tpm, self.concurrency))


class Need(NamedTuple):
    """What a call takes of its lane, in tokens: estimated before, counted after."""

    input_tokens: int = 0
    output_tokens: int = 0


class Sent(NamedTuple):
    """What a lane has sent in all."""

    calls: int = 0
    need: Need = Need()

    def since(self, before: Sent, name: str) -> int:
        """How much of what *name* counts was sent after *before*."""
        if name == "requests":
            return self.calls - before.calls
        return MEASURES[name](self.need) - MEASURES[name](before.need)


Measure = Callable[[Need], int]
MEASURES: Mapping[str, Measure] = {
    "requests": lambda _: 1,
    "tokens": lambda need: need.input_tokens + need.output_tokens,
    "input_tokens": lambda need: need.input_tokens,
    "output_tokens": lambda need: need.output_tokens,
}
"""What is counted, and how much of it a call takes."""


class Permit:
    """One call's reservation on its lane; it is sent, or given back."""

    __slots__ = ("by_then", "is_news", "lane", "need", "number", "sent_at")

    def __init__(self, lane: Lane, need: Need, number: int) -> None:
        self.lane = lane
        self.need = need
        self.number = number
        self.sent_at: float | None = None
        self.is_news = True
        """Of one that was refused: whether that says anything new."""
        self.by_then = Sent()
        """What the lane had sent when it was, this call among it."""


class Bucket:
    """A token bucket of one thing that is counted, and what the last minute took of it.

    Where it was declared, `most` bounds a minute; a server's own word of what is left bounds nothing but the level.
    """

    def __init__(self, name: str, rate: float, capacity: float, most: float, minute_s: float) -> None:
        self.name = name
        self.of = MEASURES[name]
        self.rate = rate
        self.capacity = self.level = capacity
        self.most = most
        self.minute_s = minute_s
        self.in_minute = 0
        """Reserved and not sent, or sent within the last minute."""
        self._at = -math.inf

    def fill(self, now: float) -> None:
        if now > self._at:
            if self._at > -math.inf:
                self.level = min(self.capacity, self.level + self.rate * (now - self._at))
            self._at = now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until the bucket holds *amount*, or is full: what is larger than the bucket is then owed."""
        self.fill(now)
        short = min(amount, self.capacity) - self.level
        return 0.0 if short <= 1e-9 else short / self.rate

    def window_wait_s(self, amount: float, log: OrderedDict[Permit, None], now: float) -> float:
        """Seconds until the last minute leaves room for *amount*, if nothing is given back before."""
        over = self.in_minute + amount - self.most
        if over <= 0:
            return 0.0
        for permit in log:
            if permit.sent_at is not None:
                over -= self.of(permit.need)
                if over <= 0:
                    return max(0.0, permit.sent_at + self.minute_s - now)
        return self.minute_s  # what is not sent yet makes room a minute after it is, if not before

    def told(self, remaining: int, sent_at: float, since: int, now: float) -> None:
        """The server had *remaining* left when it took a call that was sent at *sent_at*; *since* went out after it."""
        self.fill(now)
        left = remaining + self.rate * (now - sent_at) - since
        self.level = min(self.level, left) if self.most < math.inf else min(self.capacity, left)


def _rate(quotas: Quotas) -> float | None:
    """Calls a second, where they were declared."""
    return None if quotas.rpm is None else quotas.headroom * quotas.rpm / quotas.minute_s


def _plus(a: Need, b: Need) -> Need:
    return Need(a.input_tokens + b.input_tokens, a.output_tokens + b.output_tokens)


def _declared(quotas: Quotas) -> list[Bucket]:
    """A bucket for each quota."""
    told = {
        "requests": quotas.rpm,
        "tokens": quotas.tpm,
        "input_tokens": quotas.input_tpm,
        "output_tokens": quotas.output_tpm,
    }
    buckets = []
    for name, most in told.items():
        if most is not None:
            rate = quotas.headroom * most / quotas.minute_s
            burst = rate * BURST_S * quotas.minute_s / MINUTE_S
            if name == "requests":
                large = rate * LARGE_BURST_S * quotas.minute_s / MINUTE_S
                burst = max(1.0, quotas.burst or min(burst, max(BURST_CALLS, large)))
            buckets.append(Bucket(name, rate, burst, most, quotas.minute_s))
    return buckets


class Lane:
    """One model on one key. Asked with `wait_s`, entered with `take`, told of each call's end."""

    def __init__(self, quotas: Quotas = Quotas(), *, chance: Random | None = None, learns: bool = True) -> None:
        self.quotas = quotas
        self.counts_tokens = False
        """Whether what a call needs makes any difference."""
        self._buckets: list[Bucket] = []
        self._count(_declared(quotas))
        self._log: OrderedDict[Permit, None] = OrderedDict()
        self._chance = chance or Random()  # noqa: S311 - no secret in it
        self._pace = Pace(self._chance, _rate(quotas))
        knows_nothing = learns and not quotas.says_anything
        most = math.inf if quotas.concurrency is None else quotas.concurrency
        self.in_flight = InFlight(FIRST_IN_FLIGHT if knows_nothing else math.inf, most)
        self.paused_until = -math.inf
        self._overloads = 0
        self._refusals = 0
        """In a row, those that were no news aside."""
        self._sent = 0
        self._total = Sent()
        self._known = 0
        """The number of the last call that was sent before the last refusal was known."""
        self._asked_until = -math.inf

    def declare(self, quotas: Quotas) -> None:
        """Keep to *quotas* as well, from now on."""
        self.quotas = quotas
        self._count(_declared(quotas))
        self._pace.declared = _rate(quotas)

    def _count(self, buckets: list[Bucket]) -> None:
        """Count with *buckets* as well; what was counted with others of the same name is not any more."""
        names = {bucket.name for bucket in buckets}
        self._buckets = [*buckets, *(bucket for bucket in self._buckets if bucket.name not in names)]
        self.counts_tokens = any(bucket.name != "requests" for bucket in self._buckets)

    def too_large(self, need: Need) -> str | None:
        """Why a call of *need* can never go, if it cannot."""
        for bucket in self._buckets:
            if (amount := bucket.of(need)) > bucket.most:
                what = bucket.name.replace("_", " ")
                return f"it needs about {amount:,} {what}, and a minute allows {bucket.most:,.0f}"
        return None

    def wait_s(self, need: Need, now: float, *, careful: bool = False) -> float:
        """Seconds until a call of *need* may go; infinite until another one ends. A *careful* one has been refused
        before, and may not be tried again."""
        wait = max(self.paused_until - now, self._pace.wait_s(now, careful=careful))
        if self._buckets:
            self._forget(now)
            for bucket in self._buckets:
                amount = min(bucket.of(need), bucket.most)  # more never fits, as whoever asks for it is told
                wait = max(wait, bucket.wait_s(amount, now), bucket.window_wait_s(amount, self._log, now))
        return wait if wait > 0 else self.in_flight.wait_s(now, careful=careful)

    def _forget(self, now: float) -> None:
        """What was sent more than a minute ago counts no more."""
        while self._log:
            oldest = next(iter(self._log))
            if oldest.sent_at is None or oldest.sent_at + self.quotas.minute_s > now:
                break
            del self._log[oldest]
            for bucket in self._buckets:
                bucket.in_minute -= bucket.of(oldest.need)

    def take(self, need: Need, now: float) -> Permit:
        """Reserve what a call of *need* takes; it is sent at once, or given back."""
        self._sent += 1
        permit = Permit(self, need, self._sent)
        self.in_flight.taken()
        self._pace.taken(now)
        for bucket in self._buckets:
            bucket.fill(now)
            bucket.level -= bucket.of(need)
            bucket.in_minute += bucket.of(need)
        if self._buckets:
            self._log[permit] = None
        return permit

    def sent(self, permit: Permit, now: float) -> None:
        """The call of *permit* goes out."""
        permit.sent_at = now
        calls, need = self._total
        permit.by_then = self._total = Sent(calls + 1, _plus(need, permit.need) if self.counts_tokens else need)
        if permit in self._log:
            self._log.move_to_end(permit)

    def give_back(self, permit: Permit) -> None:
        """The call of *permit* is not made after all."""
        self.in_flight.returned()
        self._pace.returned()
        for bucket in self._buckets:
            bucket.level = min(bucket.capacity, bucket.level + bucket.of(permit.need))
            bucket.in_minute -= bucket.of(permit.need)
        self._log.pop(permit, None)

    def correct(self, permit: Permit, need: Need) -> None:
        """What the call of *permit* really takes, as is known now."""
        before, permit.need = permit.need, need
        for bucket in self._buckets:
            more = bucket.of(need) - bucket.of(before)
            bucket.level -= more
            if permit in self._log:
                bucket.in_minute += more

    def told(self, permit: Permit, room: Room, now: float) -> None:
        """The server said with an answer how much room there is."""
        known = {bucket.name for bucket in self._buckets}
        for name, gauge in room.items():
            if name not in known and gauge.limit and gauge.remaining is not None:
                rate = self.quotas.headroom * gauge.limit / self.quotas.minute_s
                bucket = Bucket(name, rate, gauge.limit, math.inf, self.quotas.minute_s)
                bucket.fill(now)
                self._count([bucket])
        for bucket in self._buckets:
            left = room[bucket.name].remaining if bucket.name in room else None
            if left is not None and permit.sent_at is not None:
                bucket.told(left, permit.sent_at, self._total.since(permit.by_then, bucket.name), now)

    def answered(self, permit: Permit) -> None:
        """The call of *permit* was answered, well or badly, but not for want of room."""
        self.in_flight.returned()
        self.in_flight.succeeded()
        self._pace.succeeded(since=permit.number > self._known)
        self._overloads = self._refusals = 0

    def ended(self) -> None:
        """A call came to nothing that tells of no limit: a timeout, a broken connection, a cancellation."""
        self.in_flight.returned()

    def refused(self, permit: Permit, now: float, *, after_s: float | None = None) -> bool:
        """The server refused the call of *permit* for its rate (429), and asks to wait *after_s*, where it says so.

        Returns whether that is news: not of a call that went out before an earlier refusal was known.
        """
        self.in_flight.returned()
        if after_s:
            self.paused_until = max(self.paused_until, now + after_s)
            self._asked_until = max(self._asked_until, now + after_s)
        if permit.number <= self._known:
            self.in_flight.refused_too()
            self._pace.refused_too()
            return False
        self._known = self._sent
        for_the_rate = not self.in_flight.refused(now)
        sent_at = now if permit.sent_at is None else permit.sent_at
        pause_s = self._pace.refused(sent_at, now, for_the_rate=for_the_rate)
        self.paused_until = max(self.paused_until, now + pause_s)
        self._refusals += 1
        return True

    @property
    def is_calm(self) -> bool:
        """Whether enough went well since the last refusal that one may go which must not be refused again."""
        return self._pace.is_calm

    def is_vain(self, patience_s: float, now: float) -> bool:
        """Whether nobody needs to wait: it would take more than *patience_s*, or nothing has gone through for long."""
        paused = now < self.paused_until
        return paused and (self._refusals >= HOPELESS or self._asked_until - now > patience_s)

    def overloaded(self, permit: Permit, now: float, *, after_s: float | None = None) -> None:
        """The server is short of capacity (529): fewer at once, after a pause."""
        self.in_flight.returned()
        if permit.number <= self._known and not after_s:
            return
        self._known = self._sent
        if after_s is None:
            longest_s = min(LONGEST_PAUSE_S, OVERLOAD_PAUSE_S * 2.0**self._overloads)
            after_s = self._chance.uniform(longest_s / 2, longest_s)
        else:
            self._asked_until = max(self._asked_until, now + after_s)
        self._overloads += 1
        self.paused_until = max(self.paused_until, now + after_s)
        self.in_flight.overloaded(self.paused_until)

    def asked_s(self, now: float) -> float:
        """Seconds for which the server has asked to be left alone."""
        return max(0.0, self._asked_until - now)

"""How fast and how broadly a server may be asked that has not said so: learned from what it refuses.

A refusal says that the server's token bucket was empty at that moment. Between two refusals it has therefore let
through exactly what ran into it, and their quotient is its rate, whatever the size of its bucket. Between refusals
the rate grows, slowly at first, until the next one measures it again.

How many calls may be out at once follows Netflix' concurrency-limits (https://github.com/Netflix/concurrency-limits)
in that it grows only while it is used and falls on a refusal. It does not follow it in going by latencies: those of a
model tell of the length of its answers, not of its load. It falls to what the server held when it refused, instead of
by a constant share; and where a server has held more before, its refusal was about the rate, and nothing falls.

Pure: times come in as arguments, in seconds on one clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from random import Random

FIRST_IN_FLIGHT = 16
"""How many calls may be out at once before anything is known."""
PROBE_S = 0.5
"""How long all must go well before more may be out at once."""
LONGEST_PROBE_S = 30.0
GROWTH_PROBES = 2.0
"""By what the number in flight grows while nothing was ever refused."""
GROWTH = 0.5
"""By so many each answer adds to that number: by half in the time of one, for all that are out when a refusal comes
are refused with it."""
CAREFUL_GROWTH = 1.5
"""By what it grows after that."""
GUESSED_OVER_S = 1.0
"""The first guess: what went through before the first refusal is what goes through in so many seconds."""
DOUBTFUL, FIRM = 5.0, 50.0
"""After so many successes a guessed, or a measured, rate has grown by the factor e."""
FIRM_DISTANCE, DOUBTFUL_DISTANCE = 1.25, 5.0
"""How many times the usual distance a careful call keeps from the one before it, where the rate was measured or not."""
CALM = 2
"""Successes since the last refusal after which a careful call no longer lets others go first."""
ENOUGH = 20
"""Calls let through over which a rate is measured; older ones are forgotten."""
FIRM_FROM = 5
"""Calls let through from which a rate counts as measured."""
TAIL = 64
"""Last calls before a refusal that are looked at one by one."""
LONGEST_PAUSE_S = 30.0
SLOWEST = 1 / 60
"""Calls a second: however long nothing goes through, one is tried that often."""
LARGEST_EXPONENT = 20.0


@dataclass(slots=True)
class _Span:
    """From one refusal to the next: how many calls were let through in how many seconds, of which the last
    `active_s` after the pause; and the send times of the last ones, in seconds before the refusal."""

    through: int
    whole_s: float
    active_s: float
    tail_s: tuple[float, ...]

    def rate(self, bucket: float) -> float:
        """Calls a second of a server whose bucket holds *bucket* calls, at the least.

        Where it ran over before it was asked faster, the last calls alone tell more than all of them.
        """
        rates = [self.through / self.whole_s] if self.whole_s > 0 else []
        if self.active_s > 0:
            rates.append((self.through - bucket) / self.active_s)
        last = len(self.tail_s)
        rates += [(last - number - bucket) / ago for number, ago in enumerate(self.tail_s) if ago > 0]
        return max(rates, default=0.0)


class Pace:
    """A rate that is unbounded until the first refusal, and learned from then on; *declared* is what it ought to be,
    in calls a second, where somebody said."""

    def __init__(self, chance: Random, declared: float | None = None) -> None:
        self._chance = chance
        self.declared = declared
        self._measured = math.inf
        self._firm = False
        self._most = math.inf
        """While nothing goes through at all: the rate at which that was found."""
        self._successes = 0
        self._failures = 0
        """Refusals in a row without a success between them."""
        self._bucket = 0
        """What went through before the first refusal: more than that the server's bucket does not hold."""
        self._bucket_s = 0.0
        self._spans: deque[_Span] = deque()
        self._level = 1.0
        self._at = 0.0
        self._refused_at: float | None = None
        self._begun_at: float | None = None
        """When the first call since the last refusal was sent."""
        self._times: deque[float] = deque(maxlen=TAIL)
        self._sent_at = -math.inf
        self._through = 0
        """Calls sent since the last refusal, and not refused."""

    @property
    def rate(self) -> float:
        """Calls a second at this moment; infinite while nothing was refused."""
        if self._refused_at is None:
            return math.inf
        patience = FIRM if self._firm else DOUBTFUL
        growth = math.exp(min(LARGEST_EXPONENT, (self._successes / patience) ** 2))
        return min(self._measured, self._most) * growth

    @property
    def is_calm(self) -> bool:
        """Whether enough went well since the last refusal."""
        return self._refused_at is None or self._successes >= CALM

    def wait_s(self, now: float, *, careful: bool = False) -> float:
        """Seconds until the next call may go; a *careful* one, which must not be refused again, keeps its distance."""
        if self._refused_at is None:
            return 0.0
        self._fill(now)
        wait_s = 0.0 if self._level >= 1 - 1e-9 else (1 - self._level) / self.rate
        if careful:
            distance_s = (FIRM_DISTANCE if self._firm else DOUBTFUL_DISTANCE) / min(self._measured, self._most)
            wait_s = max(wait_s, self._sent_at + min(distance_s, LONGEST_PAUSE_S) - now)
        return wait_s

    def _fill(self, now: float) -> None:
        if self._refused_at is not None and now > self._at:
            self._level = min(1.0, self._level + self.rate * (now - self._at))
        self._at = now

    def taken(self, now: float) -> None:
        """A call is about to be sent."""
        self._fill(now)
        self._level -= 1
        self._through += 1
        if self._begun_at is None:
            self._begun_at = now
        self._times.append(now)
        self._sent_at = now

    def returned(self) -> None:
        """A call that was to be sent was not."""
        self._level = min(1.0, self._level + 1)
        self._through -= 1
        if self._times:
            self._times.pop()

    def succeeded(self, *, since: bool) -> None:
        """A call was answered; *since* says whether it was sent after the last refusal."""
        self._failures = 0
        if since and self._refused_at is not None:
            self._successes += 1
            self._most = math.inf

    def refused_too(self) -> None:
        """One more call was refused that was sent before the last refusal was known."""
        if self._spans:
            self._spans[-1].through -= 1
        else:
            self._bucket -= 1
        self._measure()

    def refused(self, sent_at: float, now: float, *, for_the_rate: bool) -> float:
        """A call sent at *sent_at* was refused; returns for how long nothing should be sent.

        *for_the_rate* says whether it cannot have been for how many were out.
        """
        self._through -= 1
        begun_at = sent_at if self._begun_at is None else self._begun_at
        active_s = sent_at - begun_at
        if self._refused_at is None:
            self._bucket, self._bucket_s = self._through, active_s
            if self.declared is not None:  # what went through besides the rate
                self._bucket = round(max(1.0, self._through - self.declared * active_s))
        else:
            whole_s = sent_at - self._refused_at
            if self._through <= 0 and for_the_rate:
                self._failures += 1
                self._most = max(SLOWEST, min(self.rate / 2, 1 / max(whole_s, 1e-3)))
            tail_s = tuple(sent_at - each for each in self._times if each < sent_at)
            self._spans.append(_Span(self._through, whole_s, active_s, tail_s))
        self._successes = 0
        self._refused_at, self._begun_at, self._through = sent_at, None, 0
        self._times.clear()
        self._level, self._at = 0.0, now
        self._measure()
        pause_s: float = self._chance.uniform(0.5, 1) * 2.0 ** min(self._failures, 6) / self.rate
        return min(LONGEST_PAUSE_S, pause_s)

    def _measure(self) -> None:
        """The rate by the spans of the last `ENOUGH` calls, or a guess."""
        spans = self._spans
        while len(spans) > 1 and sum(span.through for span in spans) - spans[0].through >= ENOUGH:
            spans.popleft()
        bucket = max(1, self._bucket)
        told = [(span.through, span.rate(bucket)) for span in spans if span.through > 0]
        through = sum(number for number, _ in told)
        seconds = sum(number / rate for number, rate in told if rate > 0)
        self._firm = through >= FIRM_FROM
        guess = bucket / max(GUESSED_OVER_S, self._bucket_s) if self.declared is None else self.declared
        self._measured = through / seconds if seconds > 0 else guess


class InFlight:
    """How many calls may be out at once: *most* where that was declared, else found out."""

    def __init__(self, first: float, most: float = math.inf) -> None:
        self.most = most
        self.limit = min(first, most)
        self.out = 0
        self._held = 0
        """How many the server has held at once, as far as is known."""
        self._probe_s = PROBE_S
        self._probe_at = math.inf
        self._ever_refused = False
        self._fell = False

    def wait_s(self, now: float, *, careful: bool = False) -> float:
        """Seconds until one more may be out, unless one ends before that; a *careful* one is never out beside more
        than the server has held."""
        if careful and self._ever_refused and self.out >= max(1, self._held):
            return math.inf
        if self.out < self.limit:
            return 0.0
        if self.limit >= self.most:
            return math.inf
        if now < self._probe_at:
            self._probe_at = min(self._probe_at, now + self._probe_s)
            return self._probe_at - now
        self._held = max(self._held, self.out)
        growth = CAREFUL_GROWTH if self._ever_refused else GROWTH_PROBES
        self.limit = min(self.most, max(self.limit + 1, math.floor(self.limit * growth)))
        self._probe_at = now + self._probe_s
        return 0.0

    def taken(self) -> None:
        self.out += 1

    def returned(self) -> None:
        self.out -= 1

    def succeeded(self) -> None:
        """A call was answered; while nothing was ever refused, more may be out if as many are wanted."""
        if not self._ever_refused and self.out + 1 >= self.limit / 2:
            self.limit = min(self.most, self.limit + GROWTH)

    def refused(self, now: float) -> bool:
        """A call was refused; whether that may be for how many were out."""
        self._fell = self.out >= max(1, self._held - 1) or not self._ever_refused
        if self._fell:
            self._fall(self.out)
            if self._ever_refused:
                self._probe_s = min(LONGEST_PROBE_S, 2 * self._probe_s)
            self._probe_at = now + self._probe_s
        self._ever_refused = True
        return self._fell

    def refused_too(self) -> None:
        """One more of those that were out was refused."""
        if self._fell:
            self._fall(self.out)

    def overloaded(self, until: float) -> None:
        """The server is short of capacity, whatever it has held before, and is left alone *until* then."""
        self._ever_refused = True
        self._fall(self.out // 2)
        self._probe_at = until + self._probe_s

    def _fall(self, to: int) -> None:
        self.limit = max(1, min(self.limit, to))
        self._held = int(self.limit)

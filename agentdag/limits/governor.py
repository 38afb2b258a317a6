"""The one door through which every call goes: slot, attempt timeout, retries.

It takes plain callables and knows neither agents nor providers. Nothing that only waits holds a slot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Generic, Protocol, TypeVar

from agentdag.errors import CallError, ErrorKind, Failure
from agentdag.limits.deadlines import Deadlines
from agentdag.limits.slots import Place, Seat, Slots

T = TypeVar("T")

_SHUTTING = frozenset({ErrorKind.AUTH, ErrorKind.QUOTA})
FORBIDDEN = 403
"""This one call was not allowed; others with the same key may be."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How one call is bounded and repeated. `on` are the kinds of failure that are repeated."""

    timeout_s: float
    retries: int
    delay_s: float
    max_delay_s: float
    on: frozenset[ErrorKind]


class Listener(Protocol):
    """Who is told of a call's life."""

    def started(self, attempt: int) -> None: ...

    def retrying(self, attempt: int, wait_s: float, failure: Failure) -> None: ...

    def waited(self, on: str, seconds: float) -> None: ...


@dataclass(slots=True)
class Call(Generic[T]):
    """What became of one call: its last attempt's result or failure, and how long that attempt took."""

    attempts: int = 0
    latency_s: float = 0.0
    result: T | None = None
    failure: Failure | None = None
    doubtful: bool = False
    """Whether an attempt failed that may have been billed."""


@dataclass
class Governor:
    """Admits calls for one run. *chance* spreads retries."""

    slots: Slots
    chance: Random = field(default_factory=Random)
    shut: dict[str, Failure] = field(default_factory=dict)
    """Lanes (a model on a key) that the provider has closed for the rest of the run, and why."""
    closing: bool = False
    """Whether the run is ending: what fails now is not tried again."""
    deadlines: Deadlines = field(default_factory=Deadlines)

    async def call(
        self, act: Callable[[int], Awaitable[T]], *, policy: Policy, seat: Seat, lane: str | None, listener: Listener
    ) -> Call[T]:
        """Run *act* with the attempt's number (from 1) until it succeeds or the policy gives up.

        Failures are values; only cancellation is raised. The slot is given back at the end.
        """
        call: Call[T] = Call()
        try:
            while True:
                if seat.place is not Place.HELD:
                    asked = time.monotonic()
                    await seat.take()
                    listener.waited("slot", time.monotonic() - asked)
                if lane is not None and lane in self.shut:
                    shut = self.shut[lane]
                    call.failure = Failure(shut.kind, f"not asked: {shut.message}", shut.provider)
                    return call
                call.attempts += 1
                listener.started(call.attempts)
                begun = time.monotonic()
                call.failure = None
                deadline = self.deadlines.enter(policy.timeout_s)
                try:
                    call.result = await act(call.attempts)
                except asyncio.CancelledError:
                    if not deadline.ran_out():
                        raise
                    message = f"no answer within {policy.timeout_s:g} s"
                    provider = None if lane is None else lane.partition("/")[0]
                    call.failure = Failure(ErrorKind.TIMEOUT, message, provider, billed="maybe" if provider else "no")
                except CallError as error:
                    call.failure = error.failure
                finally:
                    deadline.done = True
                call.latency_s = time.monotonic() - begun
                if call.failure is None:
                    return call
                call.doubtful |= call.failure.billed != "no"
                wait_s = self._give_up_or_wait_s(call.failure, call.attempts, lane, policy)
                if wait_s is None:
                    return call
                seat.leave()
                listener.retrying(call.attempts, wait_s, call.failure)
                await asyncio.sleep(wait_s)
                listener.waited("retry", wait_s)
        finally:
            seat.leave()

    def _give_up_or_wait_s(self, failure: Failure, attempt: int, lane: str | None, policy: Policy) -> float | None:
        """Seconds until the next attempt, or None; what closes a lane for the run is remembered."""
        if lane is not None and failure.kind in _SHUTTING and failure.status != FORBIDDEN:
            self.shut[lane] = failure
        return None if self.closing else delay_s(failure, attempt, policy, self.chance)


def delay_s(failure: Failure, attempt: int, policy: Policy, chance: Random) -> float | None:
    """Seconds to wait after the failed 1-based *attempt*; None means give up.

    Exponential with full jitter, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/,
    but never less than the provider asked for; it gives up where that is more than the policy's longest delay.
    """
    if attempt > policy.retries or failure.final or failure.kind not in policy.on:
        return None
    asked = failure.retry_after_s or 0.0
    if asked > policy.max_delay_s:
        return None
    return max(asked, chance.uniform(0, min(policy.max_delay_s, policy.delay_s * 2.0 ** (attempt - 1))))

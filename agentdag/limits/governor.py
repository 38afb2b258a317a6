"""The one door through which every call goes: slot, attempt timeout, retries.

It takes plain callables and knows neither agents nor providers. Nothing that only waits holds a slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Generic, Protocol, TypeVar

from agentdag.errors import CallError, ErrorKind, Failure
from agentdag.limits.slots import Rank, Slots, Ticket

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


class Seat:
    """One node's claim on a slot: taken and given back as often as it acts."""

    __slots__ = ("_slots", "_ticket", "held", "rank")

    def __init__(self, slots: Slots, rank: Rank) -> None:
        self._slots = slots
        self.rank = rank
        self.held = False
        self._ticket: Ticket | None = None

    def request(self, grant: Callable[[], None]) -> None:
        """Queue for the slot; *grant* is called once it is held."""

        def granted() -> None:
            self.held = True
            grant()

        self._ticket = self._slots.request(self.rank, granted)

    def leave(self) -> None:
        """Give the slot back, or the place in the queue."""
        if self.held:
            self.held = False
            self._slots.release()
        elif self._ticket is not None:
            self._slots.withdraw(self._ticket)

    async def take(self) -> None:
        """Wait until the slot is held."""
        if self.held:
            return
        seated: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.request(lambda: None if seated.cancelled() else seated.set_result(None))
        self._slots.hand_out()
        try:
            await seated
        except asyncio.CancelledError:
            self.leave()
            raise


@dataclass
class Governor:
    """Admits calls for one run. *chance* spreads retries."""

    slots: Slots
    chance: Random = field(default_factory=Random)
    shut: dict[str, Failure] = field(default_factory=dict)
    """Lanes (a model on a key) that the provider has closed for the rest of the run, and why."""
    closing: bool = False
    """Whether the run is ending: what fails now is not tried again."""

    async def call(
        self, act: Callable[[int], Awaitable[T]], *, policy: Policy, seat: Seat, lane: str | None, listener: Listener
    ) -> Call[T]:
        """Run *act* with the attempt's number (from 1) until it succeeds or the policy gives up.

        Failures are values; only cancellation is raised. The slot is given back at the end.
        """
        call: Call[T] = Call()
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not seat.held:
                    asked = loop.time()
                    await seat.take()
                    listener.waited("slot", loop.time() - asked)
                if lane is not None and lane in self.shut:
                    call.failure = self.shut[lane]
                    return call
                call.attempts += 1
                listener.started(call.attempts)
                begun = loop.time()
                await _attempt(act, call, policy.timeout_s)
                call.latency_s = loop.time() - begun
                seat.leave()
                if call.failure is None:
                    return call
                if lane is not None and call.failure.kind in _SHUTTING and call.failure.status != FORBIDDEN:
                    self.shut[lane] = call.failure
                wait_s = delay_s(call.failure, call.attempts, policy, self.chance)
                if wait_s is None or self.closing:
                    return call
                listener.retrying(call.attempts, wait_s, call.failure)
                await asyncio.sleep(wait_s)
                listener.waited("retry", wait_s)
        finally:
            seat.leave()


async def _attempt(act: Callable[[int], Awaitable[T]], call: Call[T], timeout_s: float) -> None:
    """One attempt, its outcome put into *call*."""
    call.failure = None
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            call.result = await act(call.attempts)
    except TimeoutError:
        call.failure = Failure(ErrorKind.TIMEOUT, f"no answer within {timeout_s:g} s", billed="maybe")
    except CallError as error:
        call.failure = error.failure


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

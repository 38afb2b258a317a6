"""The one door through which every call goes: slot, attempt timeout, hedges, retries.

It takes plain callables and knows neither agents nor providers. Nothing that only waits holds a slot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Generic, NamedTuple, TypeVar

from agentdag.errors import CallError, ErrorKind, Failure
from agentdag.limits.deadlines import Deadline, Deadlines
from agentdag.limits.policy import UNBOUNDED, Allowance, Hedge, Policy, RetryBudget, delay_s
from agentdag.limits.slots import Place, Seat, Slots

T = TypeVar("T")

_SHUTTING = frozenset({ErrorKind.AUTH, ErrorKind.QUOTA})
FORBIDDEN = 403
"""This one call was not allowed; others with the same key may be."""
IDLE_SLOTS_ONLY = (9, 0.0)
"""The rank of a hedge: behind everybody who waits for a slot."""


class Turn:
    """Whoever calls: bounds, place in the queue, what is left of the time in all. It is told of its calls' life."""

    __slots__ = (
        "allowance",
        "attempts_before",
        "doubtful",
        "hedges",
        "in_flight",
        "let_go",
        "policy",
        "recorded",
        "seat",
    )

    def __init__(self, policy: Policy, seat: Seat, allowance: Allowance = UNBOUNDED) -> None:
        self.policy = policy
        self.seat = seat
        self.allowance = allowance
        self.attempts_before = 0
        """Attempts that were made before the present call: numbers go on from there."""
        self.in_flight = False
        """Whether a call is out at this moment."""
        self.doubtful = False
        """Whether an attempt or a hedge of the present call came to nothing and may have been billed."""
        self.hedges = 0
        """How many calls were made beside others, in all."""
        self.let_go = False
        """Whether nobody waits for it any more."""
        self.recorded = False
        """Whether each call is to be admitted before it is made."""

    async def admit(self, attempt: int, hedge_after_s: float | None = None) -> None:
        """Return when the attempt, or a hedge of it, may be made: when it is on record."""

    def started(self, attempt: int) -> None:
        """An attempt begins."""

    def hedged(self, attempt: int, after_s: float) -> None:
        """The same call is made again beside one that is not answered *after_s* after it began."""

    def retrying(self, attempt: int, wait_s: float, failure: Failure) -> None:
        """An attempt failed; the next begins in *wait_s*."""

    def waited(self, on: str, seconds: float) -> None:
        """*seconds* were spent waiting on a slot or a retry."""


class Attempt(NamedTuple):
    """What an act is told of itself. `number` counts from 1, over all calls of the node; `hedge` is 0 for the first
    call of an attempt, then 1, 2 ..."""

    number: int
    hedge: int
    deadline: Deadline

    def heard(self) -> None:
        """The answer's stream has begun, or a piece of it came."""
        self.deadline.heard()


Act = Callable[[Attempt], Awaitable[T]]


class _Answer(NamedTuple, Generic[T]):
    """What one call came to, and how long it took."""

    latency_s: float
    result: T | None
    failure: Failure | None


@dataclass(slots=True)
class Call(Generic[T]):
    """What became of one call: its last attempt's result or failure, and how long that attempt took."""

    attempts: int = 0
    latency_s: float = 0.0
    result: T | None = None
    failure: Failure | None = None
    doubtful: bool = False
    """Whether an attempt or a hedge that came to nothing may have been billed."""


@dataclass
class Governor:
    """Admits calls for one run. *chance* spreads retries."""

    slots: Slots
    chance: Random = field(default_factory=Random)
    retries: RetryBudget = field(default_factory=lambda: RetryBudget(0))
    shut: dict[str, Failure] = field(default_factory=dict)
    """Lanes (a model on a key) that the provider has closed for the rest of the run, and why."""
    closing: bool = False
    """Whether the run is ending: what fails now is not tried again."""
    deadlines: Deadlines = field(default_factory=Deadlines)

    async def call(self, act: Act[T], turn: Turn, lane: str | None = None) -> Call[T]:
        """Run *act* until it succeeds or the turn's policy gives up.

        Failures are values; only cancellation is raised. The slot is given back at the end.
        """
        call: Call[T] = Call()
        seat = turn.seat
        turn.doubtful = False
        try:
            while True:
                if seat.place is not Place.HELD:
                    asked = time.monotonic()
                    await seat.take()
                    turn.waited("slot", time.monotonic() - asked)
                if lane is not None and lane in self.shut:
                    shut = self.shut[lane]
                    call.failure = Failure(shut.kind, f"not asked: {shut.message}", shut.provider)
                    return call
                call.attempts += 1
                number = turn.attempts_before + call.attempts
                if turn.recorded:
                    await turn.admit(number)
                turn.started(number)
                turn.in_flight = True
                if turn.policy.hedge is None:
                    answer = await self._ask(act, turn, lane, number)
                    if turn.allowance is not UNBOUNDED:
                        turn.allowance.spend(answer.latency_s)
                else:
                    begun = time.monotonic()
                    answer = await _Race(self, act, turn, lane, number).run(turn.policy.hedge)
                    turn.allowance.spend(time.monotonic() - begun)
                turn.in_flight = False
                call.latency_s, call.result, call.failure = answer.latency_s, answer.result, answer.failure
                turn.doubtful |= answer.failure is not None and answer.failure.billed != "no"
                call.doubtful = turn.doubtful
                if answer.failure is None:
                    self.retries.succeeded()
                    return call
                wait_s = self._give_up_or_wait_s(call, answer.failure, lane, turn)
                if wait_s is None:
                    return call
                seat.leave()
                turn.retrying(number, wait_s, answer.failure)
                await asyncio.sleep(wait_s)
                turn.allowance.spend(wait_s)
                turn.waited("retry", wait_s)
        finally:
            seat.leave()

    async def _ask(
        self, act: Act[T], turn: Turn, lane: str | None, number: int, hedge: int = 0, spent_s: float = 0.0
    ) -> _Answer[T]:
        """One call within its bounds; *spent_s* of the turn's time are gone already."""
        policy, left_s = turn.policy, turn.allowance.left_s - spent_s
        result, failure = None, None
        begun = time.monotonic()
        deadline = self.deadlines.enter(min(policy.attempt_s, left_s), policy.timeout.idle_s, turn)
        try:
            result = await act(Attempt(number, hedge, deadline))
        except asyncio.CancelledError:
            if not deadline.ran_out():
                raise
            failure = _timeout(policy, deadline, left_s, turn.allowance, lane)
        except CallError as error:
            failure = error.failure
        finally:
            deadline.done = True
        if deadline.swallowed:  # the act was cut, and let something else show
            deadline.ran_out()
            failure = failure and _timeout(policy, deadline, left_s, turn.allowance, lane)
        return _Answer(time.monotonic() - begun, result, failure)

    def is_open(self, lane: str | None) -> bool:
        """Whether a further call may be made on *lane*."""
        return not self.closing and lane not in self.shut

    def _give_up_or_wait_s(self, call: Call[T], failure: Failure, lane: str | None, turn: Turn) -> float | None:
        """Seconds until the next attempt, or None; what closes a lane for the run is remembered."""
        if lane is not None and failure.kind in _SHUTTING and failure.status != FORBIDDEN:
            self.shut[lane] = failure
        wait_s = None if self.closing or turn.let_go else delay_s(failure, call.attempts, turn.policy, self.chance)
        if wait_s is None:
            return None
        why = None
        if wait_s >= turn.allowance.left_s:
            why = f"no time is left of the node's {turn.allowance.total_s:g} s"
        elif not self.retries.allows(failure):
            why = "the run's retry budget is spent"
        if why is not None:
            call.failure = replace(failure, message=f"{failure.message} (not tried again: {why})")
            return None
        return wait_s


def _timeout(policy: Policy, deadline: Deadline, left_s: float, allowance: Allowance, lane: str | None) -> Failure:
    """How an attempt ended that was cut; where the node's whole time is over, there is no other."""
    provider = None if lane is None else lane.partition("/")[0]
    whole = left_s < policy.attempt_s and not deadline.fell_silent
    if deadline.fell_silent:
        message = f"the stream was silent for {policy.timeout.idle_s:g} s"
    elif whole:
        message = f"no answer within the node's {allowance.total_s:g} s in all"
    else:
        message = f"no answer within {policy.attempt_s:g} s"
    return Failure(ErrorKind.TIMEOUT, message, provider, billed="maybe" if provider else "no", final=whole)


class _Race(Generic[T]):
    """One attempt as several identical calls: the first good answer wins, the others are cancelled and booked."""

    def __init__(self, governor: Governor, act: Act[T], turn: Turn, lane: str | None, number: int) -> None:
        self._governor = governor
        self._act = act
        self._turn = turn
        self._lane = lane
        self._number = number
        self._begun = time.monotonic()
        self._out: set[asyncio.Task[_Answer[T] | None]] = set()
        self._in_line: set[asyncio.Task[_Answer[T] | None]] = set()
        """Hedges that wait for an idle slot."""

    async def run(self, hedge: Hedge) -> _Answer[T]:
        """The first good answer, or the failure of whatever was out last."""
        first = asyncio.create_task(self._call(0))
        self._out = {first}
        made = 0
        try:
            while True:
                late_s = hedge.after_s if made < hedge.most else None
                done, _ = await asyncio.wait(self._out, timeout=late_s, return_when=asyncio.FIRST_COMPLETED)
                self._out -= done
                answers = [answer for task in done if (answer := task.result()) is not None]
                good = next((answer for answer in answers if answer.failure is None), None)
                if good is not None:
                    return good
                if answers and self._out <= self._in_line:
                    return answers[-1]
                if first in done:
                    self._turn.seat.leave()  # what is still out has slots of its own
                if not done:
                    made += 1
                    if self._governor.is_open(self._lane):
                        spare = asyncio.create_task(self._spare(made))
                        self._out.add(spare)
                        self._in_line.add(spare)
        finally:
            await self._drop_rest()

    async def _call(self, hedge: int) -> _Answer[T] | None:
        spent_s = time.monotonic() - self._begun
        return await self._governor._ask(  # noqa: SLF001 - a part of it
            self._act, self._turn, self._lane, self._number, hedge, spent_s
        )

    async def _spare(self, number: int) -> _Answer[T] | None:
        """The same call again, as soon as a slot is idle; None where it is not made after all."""
        seat = Seat(self._governor.slots, IDLE_SLOTS_ONLY)
        try:
            await seat.take()
            if not self._governor.is_open(self._lane):
                return None
            after_s = time.monotonic() - self._begun
            if self._turn.recorded:
                await self._turn.admit(self._number, after_s)
                if not self._governor.is_open(self._lane):
                    return None
            task = asyncio.current_task()
            self._in_line = {each for each in self._in_line if each is not task}
            self._turn.hedges += 1
            self._turn.hedged(self._number, after_s)
            return await self._call(number)
        finally:
            seat.leave()

    async def _drop_rest(self) -> None:
        """Cancel what is still out, and remember that it may be billed."""
        self._turn.doubtful |= self._lane is not None and bool(self._out - self._in_line)
        for task in self._out:
            task.cancel()
        if self._out:
            await asyncio.wait(self._out)

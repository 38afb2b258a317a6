"""The one door through which every call goes: budget, rate, slot, attempt timeout, hedges, retries.

It takes plain callables and knows neither agents nor providers. Nothing that only waits holds a slot.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import TypeVar

from agentdag.calls import NOTHING, Amount
from agentdag.errors import CallError, ErrorKind, Failure
from agentdag.limits.budget import Reservation
from agentdag.limits.deadlines import Deadline, Deadlines
from agentdag.limits.policy import UNBOUNDED, RetryBudget, delay_s
from agentdag.limits.race import Race
from agentdag.limits.slots import Place, Seat, Slots
from agentdag.limits.turn import NO_CLAIM, NO_TICKET, Act, Answer, Attempt, Call, Claim, Ticket, Turn, ticket_of
from agentdag.limits.warmth import Warmth

T = TypeVar("T")

_SHUTTING = frozenset({ErrorKind.AUTH, ErrorKind.QUOTA})
_PACED = frozenset({ErrorKind.RATE_LIMIT, ErrorKind.OVERLOADED})
"""Failures after which it is the lane that says when the next attempt may be made."""
FORBIDDEN = 403
"""This one call was not allowed; others with the same key may be."""


@dataclass
class Governor:
    """Admits calls for one run. *chance* spreads retries."""

    slots: Slots
    chance: Random = field(default_factory=Random)
    retries: RetryBudget = field(default_factory=lambda: RetryBudget(0))
    shut: dict[str, Failure] = field(default_factory=dict)
    """Models on a key that the provider has closed for the rest of the run, and why."""
    closing: bool = False
    """Whether the run is ending: what fails now is not tried again."""
    denied: bool = False
    """Whether anything was not tried again for that reason."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    warmth: Warmth = field(default_factory=lambda: Warmth(lambda: time.monotonic()))  # noqa: PLW0108 - as of now

    async def call(self, act: Act[T], turn: Turn, claim: Claim = NO_CLAIM) -> Call[T]:
        """Run *act* until it succeeds or the turn's policy gives up; each attempt takes *claim*.

        Failures are values; only cancellation is raised. The slot is given back at the end.
        """
        call: Call[T] = Call()
        turn.doubtful = False
        again = False
        if claim.prefix is not None and not await self._goes_first(turn, claim.prefix):
            claim = claim._replace(prefix=None)
        try:
            while True:
                ticket = await self._admitted(call, turn, claim, again=again)
                if ticket is None:
                    return call
                turn.started(turn.number)
                turn.in_flight, begun = True, time.monotonic()
                if turn.policy.hedge is None:
                    answer = await self._ask(act, turn, claim, ticket)
                else:
                    ask, is_open = partial(self._ask, act, turn, claim), partial(self._is_open, claim)
                    race = Race(ask, turn, claim, self.slots, is_open)
                    answer = await race.run(turn.policy.hedge, ticket)
                turn.in_flight = False
                if turn.allowance is not UNBOUNDED:
                    turn.allowance.spend(time.monotonic() - begun)
                call.latency_s, call.result, call.failure, used = answer
                if answer.failure is not None and used is not None:
                    call.spent += used
                turn.doubtful |= answer.failure is not None and answer.failure.billed != "no" and used is None
                call.doubtful = turn.doubtful
                if answer.failure is None:
                    self.retries.succeeded()
                    return call
                call.spared += ticket.permit is not None and not ticket.permit.is_news
                wait_s = self._give_up_or_wait_s(call, answer.failure, turn, claim)
                if wait_s is None:
                    return call
                again = await self._next_try(turn, claim, answer.failure, wait_s)
        finally:
            turn.seat.leave()
            if claim.prefix is not None:
                self.warmth.left(claim.prefix, answered=call.failure is None)

    def go_on(self) -> None:
        """Whoever is about to make a further call asks first: raises CancelledError where the run is ending."""
        if self.closing:
            self.denied = True
            raise asyncio.CancelledError

    async def again(self, failure: Failure, tries: int, turn: Turn, claim: Claim) -> Failure | None:
        """Return when what came to *failure*, *tries* times so far, may be done anew: None, or why it may not."""
        call: Call[object] = Call(tries, failure=failure)
        wait_s = self._give_up_or_wait_s(call, failure, turn, claim)
        if wait_s is None:
            return call.failure
        await self._next_try(turn, claim, failure, wait_s)
        return None

    async def _next_try(self, turn: Turn, claim: Claim, failure: Failure, wait_s: float) -> bool:
        """Return when the next attempt is due; whether it is the lane's to say when that is."""
        turn.seat.leave()
        lane = turn.seat.lane
        if failure.kind in _PACED and lane is not None:
            paced_s = lane.wait_s(claim.need, self.slots.clock())
            turn.retrying(turn.number, paced_s if paced_s < math.inf else 0.0, failure)
            return True
        turn.retrying(turn.number, wait_s, failure)
        await asyncio.sleep(wait_s)
        turn.waited("retry", wait_s)
        turn.allowance.spend(wait_s)
        return False

    async def _goes_first(self, turn: Turn, prefix: str) -> bool:
        """Whether the turn's call is the first of all that begin alike; else wait until that one has been read."""
        if self.warmth.must_wait(prefix):
            begun, turn.away_for = time.monotonic(), "cache"
            turn.seat.leave()
            await self.warmth.wait(prefix)
            turn.away_for = "retry"
            turn.waited("cache", time.monotonic() - begun)
        return self.warmth.enter(prefix)

    async def _admitted(self, call: Call[T], turn: Turn, claim: Claim, *, again: bool) -> Ticket | None:
        """Wait until an attempt may be made: for the budget, its lane, at last a slot. None where it may not."""
        seat, lane = turn.seat, claim.lane
        if lane is not None and lane.counts_tokens and (why := lane.too_large(claim.need)) is not None:
            call.failure = Failure(ErrorKind.TOO_LONG, f"not asked: {why}", claim.provider, final=True)
            return None
        seat.patience_s = turn.policy.max_delay_s
        seat.careful = again and call.attempts - call.spared >= turn.policy.retries
        if lane is not seat.lane:
            seat.leave()
            seat.move(lane, claim.need)
        elif lane is not None and lane.counts_tokens and not seat.exchange(claim.need):
            seat.leave()
        reservation = None
        if turn.purse is not None and claim.worst != NOTHING:
            reservation = await self._reserved(call, turn, claim.worst)
            if reservation is None:
                return None
            turn.reserved = claim.worst
        try:
            if seat.place is not Place.HELD:
                await self._take(turn, again=again)
            if self._is_turned_away(call, seat, claim):
                return None
            call.attempts += 1
            turn.number = turn.attempts_before + call.attempts
            if turn.recorded:
                await turn.admit(turn.number)
            ticket, reservation = ticket_of(seat, reservation), None
            return ticket
        finally:
            if reservation is not None:
                reservation.release()

    def _is_turned_away(self, call: Call[T], seat: Seat, claim: Claim) -> bool:
        """Whether whoever has its *seat* is not to ask after all, and why."""
        if claim.lane is not None and seat.permit is None:  # let through to be told
            asked_s = claim.lane.asked_s(self.slots.clock())
            why = "the provider refuses everything"
            if asked_s > seat.patience_s:
                why = f"the provider wants to be left alone for {asked_s:.0f} s"
            failure = Failure(ErrorKind.RATE_LIMIT, f"not asked: {why}", claim.provider, final=True)
            call.failure = call.failure or failure
            return True
        shut = None if claim.model is None else self.shut.get(claim.model)
        if shut is not None:
            call.failure = Failure(shut.kind, f"not asked: {shut.message}", shut.provider)
            return True
        return False

    async def _take(self, turn: Turn, *, again: bool) -> None:
        """Wait for a slot, and tell for what it was."""
        seat, begun = turn.seat, time.monotonic()
        await seat.take(again=again)
        waited_s = time.monotonic() - begun
        rate_s = min(waited_s, seat.rate_s)
        if rate_s > 0:
            turn.waited("rate", rate_s)
        turn.waited("slot", waited_s - rate_s)

    async def _reserved(self, call: Call[T], turn: Turn, worst: Amount) -> Reservation | None:
        """What the turn's purse sets aside for an attempt, at once or when others are settled; None where it cannot."""
        assert turn.purse is not None
        reservation = turn.purse.reserve(worst)
        if reservation is None and turn.purse.may_fit(worst):
            begun = time.monotonic()
            turn.seat.leave()
            turn.away_for = "budget"
            with turn.purse.awaited():
                while reservation is None and turn.purse.may_fit(worst):
                    looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    turn.purse.when_settled(partial(_look, looked))
                    await looked
                    reservation = turn.purse.reserve(worst)
            turn.away_for = "retry"
            turn.waited("budget", time.monotonic() - begun)
        if reservation is None:
            small = turn.purse.too_small(worst) or turn.purse
            small.was_short = True
            why = f"not asked: it may take {worst.text()}, and {small.name} has {small.left_text()} left"
            turn.unfunded = True
            if call.failure is None:
                call.failure = Failure(ErrorKind.BUDGET, why, final=True)
            else:
                message = f"{call.failure.message} (not tried again: the budget has too little left)"
                call.failure = replace(call.failure, message=message)
        return reservation

    async def _ask(
        self,
        act: Act[T],
        turn: Turn,
        claim: Claim,
        ticket: Ticket,
        *,
        hedge: int = 0,
        spent_s: float = 0.0,
    ) -> Answer[T]:
        """One call within its bounds; *spent_s* of the turn's time are gone already. What it took is settled."""
        policy, left_s = turn.policy, turn.allowance.left_s - spent_s
        result, failure, ended = None, None, False
        begun = time.monotonic()
        if ticket is not NO_TICKET:
            turn.tickets.add(ticket)
        deadline = self.deadlines.enter(min(policy.attempt_s, left_s), policy.timeout.idle_s, turn)
        warm = None if claim.prefix is None or hedge else partial(self.warmth.warmed, claim.prefix)
        attempt = Attempt(turn.number, hedge, deadline, warm)
        try:
            result = await act(attempt)
            ended = True
        except asyncio.CancelledError:
            if not deadline.ran_out():
                raise
            failure, ended = _timeout(turn, claim, deadline, left_s), True
        except CallError as error:
            failure, ended = error.failure, True
            attempt.room = attempt.room or error.room
        finally:
            deadline.done = True
            if ticket is not NO_TICKET:
                ticket.settle(turn, attempt, failure, self.slots.clock(), ended=ended)
                turn.tickets.discard(ticket)
        if deadline.swallowed:  # the act was cut, and let something else show
            deadline.ran_out()
            failure = failure and _timeout(turn, claim, deadline, left_s)
        return Answer(time.monotonic() - begun, result, failure, attempt.usage)

    def _is_open(self, claim: Claim) -> bool:
        """Whether a further call may be made of whom *claim* asks."""
        return not self.closing and claim.model not in self.shut

    def _give_up_or_wait_s(self, call: Call[T], failure: Failure, turn: Turn, claim: Claim) -> float | None:
        """Seconds until the next attempt, or None; who does not answer for the rest of the run is remembered."""
        if claim.model is not None and failure.kind in _SHUTTING and failure.status != FORBIDDEN:
            self.shut[claim.model] = failure
        used = call.attempts - call.spared
        wait_s = None if turn.let_go else delay_s(failure, used, turn.policy, self.chance)
        if wait_s is None:
            return None
        if self.closing:
            self.denied = True
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


def _look(looked: asyncio.Future[None]) -> None:
    if not looked.done():
        looked.set_result(None)


def _timeout(turn: Turn, claim: Claim, deadline: Deadline, left_s: float) -> Failure:
    """How an attempt ended that was cut; where the node's whole time is over, there is no other."""
    policy, provider = turn.policy, claim.provider
    whole = left_s < policy.attempt_s and not deadline.fell_silent
    if deadline.fell_silent:
        message = f"the stream was silent for {policy.timeout.idle_s:g} s"
    elif whole:
        message = f"no answer within the node's {turn.allowance.total_s:g} s in all"
    else:
        message = f"no answer within {policy.attempt_s:g} s"
    return Failure(ErrorKind.TIMEOUT, message, provider, billed="maybe" if provider else "no", final=whole)

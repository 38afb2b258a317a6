"""The one door through which every call goes: budget, rate, slot, attempt timeout, hedges, retries.

It takes plain callables and knows neither agents nor providers. Nothing that only waits holds a slot.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Generic, NamedTuple, TypeVar

from agentdag.calls import NOTHING, Amount, Room, Usage
from agentdag.errors import CallError, ErrorKind, Failure
from agentdag.limits.budget import Budget, Reservation
from agentdag.limits.deadlines import Deadline, Deadlines
from agentdag.limits.policy import UNBOUNDED, Allowance, Hedge, Policy, RetryBudget, delay_s
from agentdag.limits.rates import Lane, Need, Permit
from agentdag.limits.slots import NO_NEED, Place, Seat, Slots
from agentdag.limits.warmth import Warmth

T = TypeVar("T")

_SHUTTING = frozenset({ErrorKind.AUTH, ErrorKind.QUOTA})
_PACED = frozenset({ErrorKind.RATE_LIMIT, ErrorKind.OVERLOADED})
"""Failures after which it is the lane that says when the next attempt may be made."""
FORBIDDEN = 403
"""This one call was not allowed; others with the same key may be."""
LOSERS_S = 1.0
"""How long the answer waits for the calls beside it to stop."""
IDLE_SLOTS_ONLY = (9, 0.0)
"""The rank of a hedge: behind everybody who waits for a slot."""


class Turn:
    """Whoever calls: bounds, place in the queue, what is left of the time in all. It is told of its calls' life."""

    __slots__ = (
        "allowance",
        "attempts_before",
        "away_for",
        "charged",
        "doubtful",
        "hedges",
        "in_flight",
        "let_go",
        "policy",
        "purse",
        "recorded",
        "reserved",
        "seat",
        "tickets",
        "unfunded",
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
        self.purse: Budget | None = None
        """What its calls are paid from, where that is bounded."""
        self.reserved: Amount | None = None
        """What was set aside in the purse for the present attempt."""
        self.charged = NOTHING
        """What its calls were charged to the purse, in all."""
        self.away_for = "retry"
        """What it waits for while it neither has a slot nor waits for one."""
        self.tickets: set[Ticket] = set()
        """Of the calls that are out."""
        self.unfunded = False
        """Whether a call was not made because the purse has too little left."""

    def abandon(self, now: float) -> None:
        """Nobody waits for its calls any more, which do not stop: what they were admitted with is settled."""
        for ticket in self.tickets:
            ticket.settle(self, None, None, now, ended=False)
        self.tickets.clear()

    async def admit(self, attempt: int, hedge_after_s: float | None = None) -> None:
        """Return when the attempt, or a hedge of it, may be made: when it is on record."""

    def started(self, attempt: int) -> None:
        """An attempt begins."""

    def hedged(self, attempt: int, after_s: float) -> None:
        """The same call is made again beside one that is not answered *after_s* after it began."""

    def retrying(self, attempt: int, wait_s: float, failure: Failure) -> None:
        """An attempt failed; the next begins in *wait_s*."""

    def waited(self, on: str, seconds: float) -> None:
        """*seconds* were spent waiting on a slot, a rate, the budget, a warm cache, or a retry."""


class Attempt:
    """What an act is told of itself, and tells. `number` counts from 1, over all calls of the node; `hedge` is 0 for
    the first call of an attempt, then 1, 2 ..."""

    __slots__ = ("_on_words", "deadline", "hedge", "number", "room", "usage")

    def __init__(self, number: int, hedge: int, deadline: Deadline, on_words: Callable[[], None] | None = None) -> None:
        self._on_words = on_words
        self.number = number
        self.hedge = hedge
        self.deadline = deadline
        self.usage: Usage | None = None
        self.room: Room = {}

    def heard(self) -> None:
        """The answer's stream has begun, or a piece of it came."""
        self.deadline.heard()

    def speaks(self) -> None:
        """The model has read what it was asked: the first of its own words came."""
        if self._on_words is not None:
            self._on_words()
            self._on_words = None

    def told(self, usage: Usage, room: Room) -> None:
        """The answer says what it took, and what is left."""
        self.usage, self.room = usage, room


class Claim(NamedTuple):
    """What a call takes of what is limited: of its lane, estimated; of a budget, at the most."""

    need: Need = NO_NEED
    worst: Amount = NOTHING
    prefix: str | None = None
    """The digest of what its prompt shares with others, where one of them is to go first."""


NO_CLAIM = Claim()
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
    spared: int = 0
    """Attempts that used up no retry: they were refused together with others, before that could be known."""


class Ticket:
    """What one call was admitted with, until it is settled: once, whoever comes first."""

    __slots__ = ("_is_open", "permit", "reservation")

    def __init__(self, permit: Permit | None = None, reservation: Reservation | None = None) -> None:
        self.permit = permit
        self.reservation = reservation
        self._is_open = permit is not None or reservation is not None

    def settle(self, turn: Turn, attempt: Attempt | None, failure: Failure | None, now: float, *, ended: bool) -> None:
        """Tell the lane and the budget what became of a call; one that was cut may have been billed."""
        if not self._is_open:
            return
        self._is_open = False
        usage = None if attempt is None else attempt.usage
        if self.reservation is not None:
            if failure is not None and failure.billed == "no":
                self.reservation.release()
            else:
                turn.charged += self.reservation.settle(usage if ended and failure is None else None)
        if self.permit is not None:
            _settle_lane(self.permit, usage, failure, now, answered=ended and failure is None)
            if attempt is not None and attempt.room:
                self.permit.lane.told(self.permit, attempt.room, now)


NO_TICKET = Ticket()
"""Of a call that is not limited."""


def _ticket(seat: Seat, reservation: Reservation | None) -> Ticket:
    """What a call goes out with: what its *seat* has reserved on its lane, and its *reservation* of a budget."""
    permit = seat.sent()
    return NO_TICKET if permit is None and reservation is None else Ticket(permit, reservation)


def _settle_lane(permit: Permit, usage: Usage | None, failure: Failure | None, now: float, *, answered: bool) -> None:
    lane = permit.lane
    if usage is not None:
        lane.correct(permit, Need(usage.input_tokens or 0, usage.output_tokens or 0))
    kind = None if failure is None else failure.kind
    if failure is not None and kind is ErrorKind.RATE_LIMIT:
        permit.is_news = lane.refused(permit, now, after_s=failure.retry_after_s)
    elif failure is not None and kind is ErrorKind.OVERLOADED:
        lane.overloaded(permit, now, after_s=failure.retry_after_s)
    elif answered or (failure is not None and failure.status is not None and kind is not ErrorKind.TIMEOUT):
        lane.answered(permit)
    else:
        lane.ended()


@dataclass
class Governor:
    """Admits calls for one run. *chance* spreads retries; *lanes* are the models that have limits."""

    slots: Slots
    chance: Random = field(default_factory=Random)
    retries: RetryBudget = field(default_factory=lambda: RetryBudget(0))
    shut: dict[str, Failure] = field(default_factory=dict)
    """Lanes (a model on a key) that the provider has closed for the rest of the run, and why."""
    closing: bool = False
    """Whether the run is ending: what fails now is not tried again."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    lanes: Callable[[str | None], Lane | None] = lambda _: None
    warmth: Warmth = field(default_factory=lambda: Warmth(lambda: time.monotonic()))  # noqa: PLW0108 - as of now

    async def call(self, act: Act[T], turn: Turn, lane: str | None = None, claim: Claim = NO_CLAIM) -> Call[T]:
        """Run *act* until it succeeds or the turn's policy gives up; each attempt takes *claim*.

        Failures are values; only cancellation is raised. The slot is given back at the end.
        """
        call: Call[T] = Call()
        turn.doubtful = False
        again = False
        leads = claim.prefix is not None and await self._goes_first(turn, claim.prefix)
        if claim.prefix is not None and not leads:
            claim = claim._replace(prefix=None)
        try:
            while True:
                ticket = await self._admitted(call, turn, lane, claim, again=again)
                if ticket is None:
                    return call
                answer = await self._attempt(act, turn, lane, call, claim, ticket)
                call.latency_s, call.result, call.failure = answer.latency_s, answer.result, answer.failure
                turn.doubtful |= answer.failure is not None and answer.failure.billed != "no"
                call.doubtful = turn.doubtful
                if answer.failure is None:
                    self.retries.succeeded()
                    return call
                call.spared += ticket.permit is not None and not ticket.permit.is_news
                wait_s = self._give_up_or_wait_s(call, answer.failure, lane, turn)
                if wait_s is None:
                    return call
                turn.seat.leave()
                paced = answer.failure.kind in _PACED and turn.seat.lane is not None
                told_s = wait_s
                if paced and turn.seat.lane is not None:  # its lane waits for it
                    told_s = turn.seat.lane.wait_s(claim.need, self.slots.clock())
                turn.retrying(
                    turn.attempts_before + call.attempts, told_s if told_s < math.inf else 0.0, answer.failure
                )
                if not paced:
                    await asyncio.sleep(wait_s)
                    turn.waited("retry", wait_s)
                    turn.allowance.spend(wait_s)
                again = paced
        finally:
            turn.seat.leave()
            if claim.prefix is not None:
                self.warmth.left(claim.prefix, answered=call.failure is None)

    async def _goes_first(self, turn: Turn, prefix: str) -> bool:
        """Whether the turn's call is the first of all that begin alike; else wait until that one has been read."""
        if self.warmth.must_wait(prefix):
            begun, turn.away_for = time.monotonic(), "cache"
            turn.seat.leave()
            await self.warmth.wait(prefix)
            turn.away_for = "retry"
            turn.waited("cache", time.monotonic() - begun)
        return self.warmth.enter(prefix)

    async def _admitted(
        self, call: Call[T], turn: Turn, lane: str | None, claim: Claim, *, again: bool
    ) -> Ticket | None:
        """Wait until an attempt may be made: for the budget, its lane, at last a slot. None where it may not."""
        seat, road = turn.seat, self.lanes(lane)
        if road is not None and road.counts_tokens and (why := road.too_large(claim.need)) is not None:
            call.failure = Failure(ErrorKind.TOO_LONG, f"not asked: {why}", _provider(lane), final=True)
            return None
        seat.patience_s = turn.policy.max_delay_s
        seat.careful = again and call.attempts - call.spared >= turn.policy.retries
        if road is not seat.lane:
            seat.leave()
            seat.move(road, claim.need)
        elif road is not None and road.counts_tokens and not seat.exchange(claim.need):
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
            if self._is_turned_away(call, seat, lane):
                return None
            call.attempts += 1
            if turn.recorded:
                await turn.admit(turn.attempts_before + call.attempts)
            ticket, reservation = _ticket(seat, reservation), None
            return ticket
        finally:
            if reservation is not None:
                reservation.release()

    def _is_turned_away(self, call: Call[T], seat: Seat, lane: str | None) -> bool:
        """Whether whoever has its *seat* is not to ask after all, and why."""
        road = seat.lane
        if road is not None and seat.permit is None:  # let through to be told
            asked_s = road.asked_s(self.slots.clock())
            why = "the provider refuses everything"
            if asked_s > seat.patience_s:
                why = f"the provider wants to be left alone for {asked_s:.0f} s"
            failure = Failure(ErrorKind.RATE_LIMIT, f"not asked: {why}", _provider(lane), final=True)
            call.failure = call.failure or failure
            return True
        if lane is not None and lane in self.shut:
            shut = self.shut[lane]
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
            while reservation is None and turn.purse.may_fit(worst):
                looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                turn.purse.when_settled(partial(_look, looked))
                await looked
                reservation = turn.purse.reserve(worst)
            turn.away_for = "retry"
            turn.waited("budget", time.monotonic() - begun)
        if reservation is None:
            small = turn.purse.too_small(worst) or turn.purse
            why = f"not asked: it may take {worst.text()}, and {small.name} has {small.left_text()} left"
            turn.unfunded = True
            if call.failure is None:
                call.failure = Failure(ErrorKind.BUDGET, why, final=True)
            else:
                message = f"{call.failure.message} (not tried again: the budget has too little left)"
                call.failure = replace(call.failure, message=message)
        return reservation

    async def _attempt(
        self, act: Act[T], turn: Turn, lane: str | None, call: Call[T], claim: Claim, ticket: Ticket
    ) -> _Answer[T]:
        """One attempt, with the hedges beside it."""
        number = turn.attempts_before + call.attempts
        turn.started(number)
        turn.in_flight = True
        if turn.policy.hedge is None:
            answer = await self._ask(act, turn, lane, number, ticket, prefix=claim.prefix)
            if turn.allowance is not UNBOUNDED:
                turn.allowance.spend(answer.latency_s)
        else:
            begun = time.monotonic()
            answer = await _Race(self, act, turn, lane, number, claim).run(turn.policy.hedge, ticket)
            turn.allowance.spend(time.monotonic() - begun)
        turn.in_flight = False
        return answer

    async def _ask(  # noqa: PLR0913 - a call is what these say together
        self,
        act: Act[T],
        turn: Turn,
        lane: str | None,
        number: int,
        ticket: Ticket,
        *,
        hedge: int = 0,
        spent_s: float = 0.0,
        prefix: str | None = None,
    ) -> _Answer[T]:
        """One call within its bounds; *spent_s* of the turn's time are gone already. What it took is settled."""
        policy, left_s = turn.policy, turn.allowance.left_s - spent_s
        result, failure, ended = None, None, False
        begun = time.monotonic()
        if ticket is not NO_TICKET:
            turn.tickets.add(ticket)
        deadline = self.deadlines.enter(min(policy.attempt_s, left_s), policy.timeout.idle_s, turn)
        attempt = Attempt(number, hedge, deadline, None if prefix is None else partial(self.warmth.warmed, prefix))
        try:
            result = await act(attempt)
            ended = True
        except asyncio.CancelledError:
            if not deadline.ran_out():
                raise
            failure, ended = _timeout(policy, deadline, left_s, turn.allowance, lane), True
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
            failure = failure and _timeout(policy, deadline, left_s, turn.allowance, lane)
        return _Answer(time.monotonic() - begun, result, failure)

    def is_open(self, lane: str | None) -> bool:
        """Whether a further call may be made on *lane*."""
        return not self.closing and lane not in self.shut

    def _give_up_or_wait_s(self, call: Call[T], failure: Failure, lane: str | None, turn: Turn) -> float | None:
        """Seconds until the next attempt, or None; what closes a lane for the run is remembered."""
        if lane is not None and failure.kind in _SHUTTING and failure.status != FORBIDDEN:
            self.shut[lane] = failure
        used = call.attempts - call.spared
        wait_s = None if self.closing or turn.let_go else delay_s(failure, used, turn.policy, self.chance)
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


def _look(looked: asyncio.Future[None]) -> None:
    if not looked.done():
        looked.set_result(None)


def _provider(lane: str | None) -> str | None:
    return None if lane is None else lane.partition("/")[0]


def _timeout(policy: Policy, deadline: Deadline, left_s: float, allowance: Allowance, lane: str | None) -> Failure:
    """How an attempt ended that was cut; where the node's whole time is over, there is no other."""
    provider = _provider(lane)
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

    def __init__(
        self, governor: Governor, act: Act[T], turn: Turn, lane: str | None, number: int, claim: Claim
    ) -> None:
        self._governor = governor
        self._act = act
        self._turn = turn
        self._lane = lane
        self._number = number
        self._claim = claim
        self._begun = time.monotonic()
        self._out: set[asyncio.Task[_Answer[T] | None]] = set()
        self._seats: list[Seat] = []
        """Of the hedges."""
        self._in_line: set[asyncio.Task[_Answer[T] | None]] = set()
        """Hedges that wait for an idle slot."""

    async def run(self, hedge: Hedge, ticket: Ticket) -> _Answer[T]:
        """The first good answer, or the failure of whatever was out last."""
        first = asyncio.create_task(self._call(0, ticket))
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

    async def _call(self, hedge: int, ticket: Ticket) -> _Answer[T] | None:
        spent_s = time.monotonic() - self._begun
        prefix = None if hedge else self._claim.prefix
        return await self._governor._ask(  # noqa: SLF001 - a part of it
            self._act, self._turn, self._lane, self._number, ticket, hedge=hedge, spent_s=spent_s, prefix=prefix
        )

    async def _spare(self, number: int) -> _Answer[T] | None:
        """The same call again, as soon as a slot is idle; None where it is not made after all."""
        turn, governor = self._turn, self._governor
        reservation = None
        if turn.purse is not None and self._claim.worst != NOTHING:
            reservation = turn.purse.reserve(self._claim.worst)
            if reservation is None:
                return None
        seat = Seat(governor.slots, IDLE_SLOTS_ONLY, governor.lanes(self._lane), self._claim.need)
        self._seats.append(seat)
        try:
            await seat.take()
            if not governor.is_open(self._lane) or (seat.lane is not None and seat.permit is None):
                return None
            after_s = time.monotonic() - self._begun
            if turn.recorded:
                await turn.admit(self._number, after_s)
                if not governor.is_open(self._lane):
                    return None
            task = asyncio.current_task()
            self._in_line = {each for each in self._in_line if each is not task}
            turn.hedges += 1
            turn.hedged(self._number, after_s)
            ticket, reservation = _ticket(seat, reservation), None
            return await self._call(number, ticket)
        finally:
            if reservation is not None:
                reservation.release()
            seat.leave()

    async def _drop_rest(self) -> None:
        """Cancel what is still out, and remember that it may be billed."""
        self._turn.doubtful |= self._lane is not None and bool(self._out - self._in_line)
        for task in self._out:
            task.cancel()
        if self._out:
            _, stuck = await asyncio.wait(self._out, timeout=LOSERS_S)
            if stuck:  # they do not stop: the answer does not wait for them, and nobody else does
                self._turn.abandon(self._governor.slots.clock())
                for seat in self._seats:
                    seat.leave()

"""What the governor and whoever calls tell each other: whose turn it is, what a call takes, and what became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from agentdag.calls import NO_USAGE, NOTHING, Amount, Exchange, Notice, Room, ToolCall, ToolResult, Usage
from agentdag.errors import ErrorKind, Failure
from agentdag.limits.budget import Budget, Reservation
from agentdag.limits.deadlines import Deadline
from agentdag.limits.policy import UNBOUNDED, Allowance, Policy
from agentdag.limits.rates import Lane, Need, Permit
from agentdag.limits.slots import NO_NEED, Seat

T = TypeVar("T")


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
        "number",
        "policy",
        "purse",
        "recorded",
        "refused",
        "reserved",
        "seat",
        "step",
        "tickets",
        "tools_out",
        "unfunded",
    )

    def __init__(self, policy: Policy, seat: Seat, allowance: Allowance = UNBOUNDED) -> None:
        self.policy = policy
        self.seat = seat
        self.allowance = allowance
        self.attempts_before = 0
        """Attempts that were made before the present call: numbers go on from there."""
        self.number = 0
        """Of the present attempt, or the last one."""
        self.refused = 0
        """How many tool calls of the present conversation could not be made."""
        self.step = 1
        """Which turn of a conversation the present call is."""
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
        self.tools_out = 0
        """How many tools of its conversation are at work."""
        self.unfunded = False
        """Whether a call was not made because the purse has too little left."""

    def pay(self, usage: Usage) -> None:
        """A call for which nothing was set aside has taken *usage*."""
        if self.purse is not None:
            amount = Amount.used(usage)
            self.purse.charge(amount)
            self.charged += amount

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

    async def exchanged(self, exchange: Exchange, usage: Usage) -> None:
        """A turn of a conversation is over that took *usage*; return when it is on record."""

    async def tool_starts(self, call: ToolCall, *, writes: bool) -> None:
        """A tool is called; return when it may be: where it *writes*, when that is on record."""

    def tool_ended(self, call: ToolCall, latency_s: float, result: ToolResult, failure: Failure | None) -> None:
        """A tool call has come to *result*."""

    def warned(self, notice: Notice) -> None:
        """A call was not made, or not answered, quite as the file says."""

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
    """Whom a call asks, and what it takes of what is limited: of its lane, estimated; of a budget, at the most."""

    model: str | None = None
    """The model on its key; None where none is asked."""
    lane: Lane | None = None
    """The limits of that, where it has any."""
    need: Need = NO_NEED
    worst: Amount = NOTHING
    prefix: str | None = None
    """The digest of what its prompt shares with others, where one of them is to go first."""

    @property
    def provider(self) -> str | None:
        """The provider of its model."""
        return None if self.model is None else self.model.partition("/")[0]


NO_CLAIM = Claim()
Act = Callable[[Attempt], Awaitable[T]]


class Answer(NamedTuple, Generic[T]):
    """What one call came to, and how long it took."""

    latency_s: float
    result: T | None
    failure: Failure | None
    usage: Usage | None = None
    """What it took, where that is known."""


@dataclass(slots=True)
class Call(Generic[T]):
    """What became of one call: its last attempt's result or failure, and how long that attempt took."""

    attempts: int = 0
    latency_s: float = 0.0
    result: T | None = None
    failure: Failure | None = None
    doubtful: bool = False
    """Whether an attempt or a hedge that came to nothing may have been billed."""
    spent: Usage = NO_USAGE
    """What its attempts took that failed, where that is known."""
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
                turn.charged += self.reservation.settle(usage if ended else None)
        if self.permit is not None:
            _settle_lane(self.permit, usage, failure, now, answered=ended and failure is None)
            if attempt is not None and attempt.room:
                self.permit.lane.told(self.permit, attempt.room, now)


NO_TICKET = Ticket()
"""Of a call that is not limited."""


def ticket_of(seat: Seat, reservation: Reservation | None) -> Ticket:
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

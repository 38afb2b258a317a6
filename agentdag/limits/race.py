"""One attempt as several identical calls: the first good answer wins, the others are cancelled and booked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from agentdag.calls import NOTHING
from agentdag.limits.policy import Hedge
from agentdag.limits.slots import Seat, Slots
from agentdag.limits.turn import Answer, Claim, Ticket, Turn, ticket_of

T = TypeVar("T")

LOSERS_S = 1.0
"""How long the answer waits for the calls beside it to stop."""
IDLE_SLOTS_ONLY = (9, 0.0)
"""The rank of a hedge: behind everybody who waits for a slot."""


class Ask(Protocol[T]):
    """Makes the call, as which *hedge* of the attempt, with *ticket*; *spent_s* of the turn's time are gone."""

    def __call__(self, ticket: Ticket, *, hedge: int, spent_s: float) -> Awaitable[Answer[T]]: ...


class Race(Generic[T]):
    """The present attempt of *turn*. *ask* makes a call; *is_open* says whether a further one may be made."""

    def __init__(self, ask: Ask[T], turn: Turn, claim: Claim, slots: Slots, is_open: Callable[[], bool]) -> None:
        self._ask = ask
        self._turn = turn
        self._claim = claim
        self._slots = slots
        self._is_open = is_open
        self._begun = time.monotonic()
        self._out: set[asyncio.Task[Answer[T] | None]] = set()
        self._seats: list[Seat] = []
        """Of the hedges."""
        self._in_line: set[asyncio.Task[Answer[T] | None]] = set()
        """Hedges that wait for an idle slot."""

    async def run(self, hedge: Hedge, ticket: Ticket) -> Answer[T]:
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
                    if self._is_open():
                        spare = asyncio.create_task(self._spare(made))
                        self._out.add(spare)
                        self._in_line.add(spare)
        finally:
            await self._drop_rest()

    async def _call(self, hedge: int, ticket: Ticket) -> Answer[T] | None:
        return await self._ask(ticket, hedge=hedge, spent_s=time.monotonic() - self._begun)

    async def _spare(self, number: int) -> Answer[T] | None:
        """The same call again, as soon as a slot is idle; None where it is not made after all."""
        turn = self._turn
        reservation = None
        if turn.purse is not None and self._claim.worst != NOTHING:
            reservation = turn.purse.reserve(self._claim.worst)
            if reservation is None:
                return None
        seat = Seat(self._slots, IDLE_SLOTS_ONLY, self._claim.lane, self._claim.need)
        self._seats.append(seat)
        try:
            await seat.take()
            if not self._is_open() or (seat.lane is not None and seat.permit is None):
                return None
            after_s = time.monotonic() - self._begun
            if turn.recorded:
                await turn.admit(turn.number, after_s)
                if not self._is_open():
                    return None
            task = asyncio.current_task()
            self._in_line = {each for each in self._in_line if each is not task}
            turn.hedges += 1
            turn.hedged(turn.number, after_s)
            ticket, reservation = ticket_of(seat, reservation), None
            return await self._call(number, ticket)
        finally:
            if reservation is not None:
                reservation.release()
            seat.leave()

    async def _drop_rest(self) -> None:
        """Cancel what is still out, and remember that it may be billed."""
        self._turn.doubtful |= self._claim.model is not None and bool(self._out - self._in_line)
        for task in self._out:
            task.cancel()
        if self._out:
            _, stuck = await asyncio.wait(self._out, timeout=LOSERS_S)
            if stuck:  # they do not stop: the answer does not wait for them, and nobody else does
                self._turn.abandon(self._slots.clock())
                for seat in self._seats:
                    seat.leave()

"""What may be spent: every call reserves the most that it can cost before it is made, and is settled after it.

So what is spent and what is reserved together never pass the budget, whatever happens in which order.
Pure arithmetic: no clock, no loop, no prices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal

from agentdag.calls import NOTHING, Amount, Usage


class Reservation:
    """The most that one call can cost, until it is settled."""

    __slots__ = ("_budget", "_worst", "is_open")

    def __init__(self, budget: Budget, worst: Amount) -> None:
        self._budget = budget
        self._worst = worst
        self.is_open = True

    def settle(self, used: Usage | None) -> Amount:
        """The call cost *used*, or, where nobody knows, all that was reserved for it; returns what is charged.

        What a server did not count, but we estimated, is not known either.
        """
        if not self.is_open:
            return NOTHING
        known = used is not None and not used.estimated and (used.cost_usd is not None or not self._budget.bounds_cost)
        return self._close(Amount.used(used) if used is not None and known else self._worst)

    def release(self) -> None:
        """The call was not made, or was not billed."""
        if self.is_open:
            self._close(NOTHING)

    def _close(self, charged: Amount) -> Amount:
        self.is_open = False
        self._budget.settled(self._worst, charged)
        return charged


class Budget:
    """At most so many *tokens* and so much *cost_usd*, None for any; within *parent*, where there is one.

    From the share *low_at* of it on it is low. *spent* is what is gone already.
    """

    def __init__(
        self,
        tokens: int | None = None,
        cost_usd: Decimal | None = None,
        *,
        low_at: float = 1.0,
        spent: Amount = NOTHING,
        parent: Budget | None = None,
        name: str = "the budget",
    ) -> None:
        self.name = name
        self.tokens = tokens
        self.cost_usd = cost_usd
        self.low_at = low_at
        self.spent = spent
        self.reserved = NOTHING
        self.parent = parent
        self.out = 0
        """Reservations that are not settled."""
        self.waiters = 0
        """How many wait for what is out to be settled."""
        self.was_short = False
        """Whether a call was not made because too little was left of it."""
        self.looking: list[Callable[[], None]] = []

    def chain(self) -> Iterator[Budget]:
        """This budget, and those that it is within, from the inside out."""
        each: Budget | None = self
        while each is not None:
            yield each
            each = each.parent

    @property
    def bounds_cost(self) -> bool:
        """Whether prices matter."""
        return any(each.cost_usd is not None for each in self.chain())

    def reserve(self, worst: Amount) -> Reservation | None:
        """Set *worst* aside; None where that does not fit at this moment."""
        if not all(each.holds(each.spent + each.reserved + worst) for each in self.chain()):
            return None
        for each in self.chain():
            each.reserved += worst
            each.out += 1
        return Reservation(self, worst)

    def may_fit(self, worst: Amount) -> bool:
        """Whether *worst*, which does not fit now, may fit once what is out has been settled."""
        is_out = any(each.out for each in self.chain())
        return is_out and all(each.holds(each.spent + worst) for each in self.chain())

    def too_small(self, worst: Amount) -> Budget | None:
        """The innermost budget that can never hold *worst* any more."""
        return next((each for each in self.chain() if not each.holds(each.spent + worst)), None)

    def holds(self, amount: Amount) -> bool:
        """Whether all of *amount* is within this budget alone."""
        tokens_fit = self.tokens is None or amount.tokens <= self.tokens
        return tokens_fit and (self.cost_usd is None or amount.cost_usd <= self.cost_usd)

    def charge(self, amount: Amount) -> None:
        """*amount* was spent that nobody had set aside."""
        for each in self.chain():
            each.spent += amount

    def settled(self, worst: Amount, charged: Amount) -> None:
        """What was reserved as *worst* has cost *charged*; whoever waits may look again."""
        waiting: list[Callable[[], None]] = []
        for each in self.chain():
            each.reserved -= worst
            each.spent += charged
            each.out -= 1
            waiting += each.looking
            each.looking = []
        for look in waiting:
            look()

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """While somebody waits for it."""
        for each in self.chain():
            each.waiters += 1
        try:
            yield
        finally:
            for each in self.chain():
                each.waiters -= 1

    @property
    def holds_up(self) -> bool:
        """Whether it has held up anybody: it is not for more work to begin with."""
        return self.was_short or self.waiters > 0

    def when_settled(self, look: Callable[[], None]) -> None:
        """Call *look* once, as soon as anything is settled that may make room."""
        for each in self.chain():
            each.looking.append(look)

    @property
    def share(self) -> float:
        """The share that is spent, of tokens or of cost, whichever is larger; 1 of a budget of nothing."""
        shares = [0.0]
        if self.tokens is not None:
            shares.append(self.spent.tokens / self.tokens if self.tokens else 1.0)
        if self.cost_usd is not None:
            shares.append(float(self.spent.cost_usd / self.cost_usd) if self.cost_usd else 1.0)
        return max(shares)

    @property
    def is_low(self) -> bool:
        return self.share >= self.low_at

    def left(self) -> tuple[int | None, Decimal | None]:
        """Tokens and USD that are not spent; None where there is no bound. Some of it may be reserved."""
        return self._without(self.spent)

    def _without(self, taken: Amount) -> tuple[int | None, Decimal | None]:
        tokens = None if self.tokens is None else max(0, self.tokens - taken.tokens)
        return tokens, None if self.cost_usd is None else max(Decimal(0), self.cost_usd - taken.cost_usd)

    def left_text(self) -> str:
        """What is left, in words."""
        tokens, cost = self.left()
        parts = [] if tokens is None else [f"{tokens:,} tokens"]
        return " and ".join([*parts, *([] if cost is None else [f"${cost:.4f}"])]) or "nothing"

    @property
    def left_share(self) -> float:
        """What is neither spent nor reserved, as a share of what was when the budget became low: from 1 down to 0."""
        tokens, cost = self._without(self.spent + self.reserved)
        shares = [1.0]
        if tokens is not None:
            shares.append(tokens / self.tokens if self.tokens else 0.0)
        if cost is not None:
            shares.append(float(cost / self.cost_usd) if self.cost_usd else 0.0)
        whole = 1 - self.low_at
        return min(1.0, min(shares) / whole) if whole > 0 else min(shares)

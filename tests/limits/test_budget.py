"""What is spent and what is reserved never pass the budget, whatever happens in which order."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual import run_virtually

from agentdag.calls import NOTHING, Amount, Usage
from agentdag.errors import ErrorKind, Failure, call_error
from agentdag.limits.budget import Budget, Reservation
from agentdag.limits.governor import Governor
from agentdag.limits.policy import Allowance, Hedge, Policy, RetryBudget, Timeout
from agentdag.limits.pool import AgentPool
from agentdag.limits.slots import Seat
from agentdag.limits.turn import Attempt, Claim, Turn


def amount(tokens: int) -> Amount:
    return Amount(tokens, Decimal(tokens) / 1000)


def usage(tokens: int) -> Usage:
    return Usage(tokens, 0, 0, Decimal(tokens) / 1000)


@settings(max_examples=300)
@given(
    st.integers(0, 200),
    st.none() | st.integers(0, 200),
    st.lists(st.tuples(st.sampled_from(["reserve", "settle", "lose", "release"]), st.integers(0, 99)), max_size=80),
)
def test_no_order_of_reservations_spends_more(whole: int, own: int | None, acts: list[tuple[str, int]]) -> None:
    run = Budget(whole, Decimal(whole) / 1000)
    node = run if own is None else Budget(own, parent=run)
    out: list[tuple[Reservation, int]] = []
    for act, number in acts:
        if act == "reserve":
            budget = node if number % 2 else run
            reservation = budget.reserve(amount(number))
            if reservation is not None:
                out.append((reservation, number))
            else:
                assert budget.too_small(amount(number)) or budget.may_fit(amount(number))
        elif out:
            reservation, most = out.pop(number % len(out))
            if act == "settle":
                used = number % (most + 1)
                assert reservation.settle(usage(used)) == amount(used)
                assert reservation.settle(usage(used)) == NOTHING  # once
            elif act == "lose":
                assert reservation.settle(None) == amount(most)
            else:
                reservation.release()
        for budget, most in ((run, whole), (node, whole if own is None else own)):
            assert budget.spent.tokens + budget.reserved.tokens <= most
        assert run.spent.cost_usd + run.reserved.cost_usd <= Decimal(whole) / 1000
    for reservation, _ in out:
        reservation.release()
    assert run.reserved == node.reserved == NOTHING


def test_a_budget_is_low_from_the_share_on_that_is_told() -> None:
    budget = Budget(1000, low_at=0.8)
    for tokens, low, left in ((700, False, 1.0), (100, True, 1.0), (100, True, 0.5), (100, True, 0.0)):
        reservation = budget.reserve(amount(tokens))
        assert reservation is not None
        reservation.settle(usage(tokens))
        assert budget.is_low is low
        assert budget.left_share == pytest.approx(left)
    assert Budget(0).share == 1.0


def test_what_nobody_counted_is_charged_in_full() -> None:
    budget = Budget(cost_usd=Decimal(1))
    for told in (Usage(1, 1, 0, Decimal("0.01"), estimated=True), Usage(1, 1, 0, None), None):
        reservation = budget.reserve(amount(100))
        assert reservation is not None
        assert reservation.settle(told) == amount(100)
    reservation = Budget(1000).reserve(amount(100))  # whose price does not matter
    assert reservation is not None
    assert reservation.settle(Usage(1, 1, 0, None)) == Amount(2)


class Poor(Turn):
    """Whoever calls on a budget."""

    def __init__(self, seat: Seat, purse: Budget, hedge: Hedge | None) -> None:
        kinds = frozenset({ErrorKind.SERVER, ErrorKind.TIMEOUT, ErrorKind.RATE_LIMIT})
        super().__init__(Policy(Timeout(0.5), 2, 0.01, 0.1, kinds, hedge), seat, Allowance(None))
        self.purse = purse


@pytest.mark.parametrize("seed", range(40))
def test_a_thousand_races_for_a_budget_spend_no_more_of_it(seed: int) -> None:
    """Calls that answer, fail, hang, are hedged, and are cancelled at any moment; 25 for each seed."""
    chance = Random(seed)
    whole = chance.choice([0, 150, 500, 2000])
    purse = Budget(whole, Decimal(whole) / 1000)
    billed = 0

    async def act(attempt: Attempt) -> str:
        nonlocal billed
        fate = chance.random()
        assert purse.spent.tokens + purse.reserved.tokens <= whole
        try:
            await asyncio.sleep(chance.random())
        except asyncio.CancelledError:
            billed += 100
            raise
        if fate < 0.1:
            billed += 100
            raise call_error(Failure(ErrorKind.SERVER, "no", status=500, billed="maybe"))
        if fate < 0.2:
            raise call_error(Failure(ErrorKind.SERVER, "no", status=500, billed="no"))
        attempt.told(usage(int(100 * fate)), {})
        billed += int(100 * fate)
        return "done"

    async def main() -> None:
        pool = AgentPool(chance.choice([1, 3, 50]))
        door = Governor(pool.slots, Random(seed), RetryBudget(1000))
        hedge = Hedge(0.3, 1) if seed % 2 else None
        turns = [Poor(Seat(pool.slots, (1, 0.0)), purse, hedge) for _ in range(25)]
        tasks = [asyncio.create_task(door.call(act, turn, Claim("openai/m", worst=amount(100)))) for turn in turns]
        for task in tasks:
            asyncio.get_running_loop().call_later(chance.random() * 8, task.cancel)
        ended: list[Any] = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        poor = [call for call in ended if getattr(getattr(call, "failure", None), "kind", None) is ErrorKind.BUDGET]
        assert bool(poor) <= (whole < 2500)
        assert purse.reserved == NOTHING
        assert purse.spent.tokens == sum(turn.charged.tokens for turn in turns)
        assert billed <= purse.spent.tokens <= whole
        assert (pool.slots.held, pool.slots.waiting) == (0, 0)
        if whole == 0:
            assert not billed

    run_virtually(main())

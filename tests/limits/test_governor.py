"""Calls are bounded, repeated and hedged exactly as the policy says, and the cap stays exact whatever becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual import run_virtually

from agentdag.errors import ErrorKind, Failure, FinalError, call_error
from agentdag.limits.governor import Governor
from agentdag.limits.policy import Allowance, Hedge, Past, Policy, RetryBudget, Timeout, delay_s
from agentdag.limits.slots import Place, Seat, Slots
from agentdag.limits.turn import Attempt, Call, Claim, Turn

SERVER = Failure(ErrorKind.SERVER, "again")


class Heard(Turn):
    """Whoever calls, and remembers what it was told."""

    def __init__(self, rules: Policy, seat: Seat) -> None:
        super().__init__(rules, seat, Allowance(rules.timeout.total_s))
        self.attempts: list[int] = []
        self.hedged_at: list[tuple[int, float]] = []
        self.failures: list[Failure] = []

    def started(self, attempt: int) -> None:
        self.attempts.append(attempt)

    def hedged(self, attempt: int, after_s: float) -> None:
        self.hedged_at.append((attempt, round(after_s, 6)))

    def retrying(self, attempt: int, wait_s: float, failure: Failure) -> None:
        self.failures.append(failure)


def policy(**changes: object) -> Policy:
    whole = {
        "timeout": Timeout(5.0),
        "retries": 2,
        "delay_s": 0.001,
        "max_delay_s": 0.01,
        "on": frozenset({ErrorKind.SERVER, ErrorKind.TIMEOUT, ErrorKind.RATE_LIMIT}),
    }
    return Policy(**{**whole, **changes})  # type: ignore[arg-type]


def governor(cap: int = 8, retries: int = 10_000) -> Governor:
    slots = Slots(cap, wake=lambda: asyncio.get_running_loop().call_soon(slots.hand_out))
    return Governor(slots, Random(1), RetryBudget(retries))


def turn(door: Governor, rules: Policy | None = None) -> Heard:
    return Heard(rules or policy(), Seat(door.slots, (1, 0.0)))


def called(act: Callable[[Attempt], Awaitable[Any]], rules: Policy, cap: int = 8) -> tuple[Call[Any], Heard]:
    """What becomes of *act* in virtual time; nothing is left behind."""

    async def main() -> tuple[Call[Any], Heard]:
        door = governor(cap)
        heard = turn(door, rules)
        call = await door.call(act, heard, Claim("openai/m"))
        assert (door.slots.held, door.slots.waiting) == (0, 0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return call, heard

    return run_virtually(main())


def test_a_cap_of_one_does_not_deadlock_while_retries_wait() -> None:
    async def main() -> None:
        door = governor(1)
        running = 0

        async def act(attempt: Attempt) -> str:
            nonlocal running
            running += 1
            assert running == 1
            await asyncio.sleep(0)
            running -= 1
            if attempt.number < 3:
                raise call_error(SERVER)
            return "done"

        async def one() -> str | None:
            heard = turn(door)
            call = await door.call(act, heard)
            assert heard.attempts == [1, 2, 3]
            return call.result

        assert await asyncio.gather(*(one() for _ in range(20))) == ["done"] * 20
        assert door.slots.held == 0

    asyncio.run(main())


@pytest.mark.parametrize("hedge", [None, Hedge(0.0005, 2)])
def test_cancelling_whoever_waits_or_works_keeps_the_cap_exact(hedge: Hedge | None) -> None:
    async def main() -> None:
        door = governor(2)
        chance = Random(3)
        acting = 0

        async def act(attempt: Attempt) -> None:
            nonlocal acting
            acting += 1
            try:
                assert acting <= door.slots.held <= 2
                await asyncio.sleep(chance.random() / 500)
            finally:
                acting -= 1

        tasks = [asyncio.create_task(door.call(act, turn(door, policy(hedge=hedge)))) for _ in range(300)]
        for task in tasks[::3]:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (door.slots.held, door.slots.waiting) == (0, 0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_functions_own_timeout_error_is_not_taken_for_ours() -> None:
    async def act(attempt: Attempt) -> None:
        raise FinalError(Failure(ErrorKind.FUNCTION, "TimeoutError: mine"))

    call, _ = called(act, policy())
    assert call.failure is not None
    assert call.failure.kind is ErrorKind.FUNCTION


@given(st.integers(1, 9), st.floats(0, 50), st.floats(0.001, 2), st.floats(0.001, 60))
def test_retry_delays_stay_between_what_is_asked_and_what_is_allowed(
    attempt: int, asked: float, delay: float, longest: float
) -> None:
    failure = Failure(ErrorKind.SERVER, "x", retry_after_s=asked)
    found = delay_s(failure, attempt, policy(retries=5, delay_s=delay, max_delay_s=longest), Random(attempt))
    if attempt > 5 or asked > longest:
        assert found is None
    else:
        assert found is not None
        assert asked <= found <= max(asked, longest, delay * 2**attempt)


@pytest.mark.parametrize(
    "failure",
    [Failure(ErrorKind.AUTH, "x"), Failure(ErrorKind.SERVER, "x", final=True), Failure(ErrorKind.FUNCTION, "x")],
)
def test_what_cannot_get_better_is_given_up(failure: Failure) -> None:
    assert delay_s(failure, 1, policy(), Random(0)) is None


def test_functions_are_retried_where_the_file_says_so() -> None:
    asked = policy(on=frozenset({ErrorKind.FUNCTION}))
    assert delay_s(Failure(ErrorKind.FUNCTION, "x"), 1, asked, Random(0)) is not None


def test_the_retry_budget_ends_the_hammering_and_fills_up_with_successes() -> None:
    async def main() -> tuple[int, Call[Any]]:
        door = governor(retries=0)
        calls = 0

        async def fail(attempt: Attempt) -> None:
            nonlocal calls
            calls += 1
            raise call_error(SERVER)

        async def succeed(attempt: Attempt) -> None:
            return None

        for _ in range(30):
            last = await door.call(fail, turn(door))
        assert calls == 30 + RetryBudget.SMALLEST
        for _ in range(10):
            await door.call(succeed, turn(door))
        calls = 0
        await door.call(fail, turn(door))
        return calls, last

    calls, last = run_virtually(main())
    assert calls == 2, "ten successes are worth one retry"
    assert last.failure is not None
    assert last.failure.message == "again (not tried again: the run's retry budget is spent)"


def test_what_follows_a_429_draws_nothing_from_the_retry_budget() -> None:
    budget = RetryBudget(0)
    assert all(budget.allows(Failure(ErrorKind.RATE_LIMIT, "slow down")) for _ in range(1000))
    assert budget.left == RetryBudget.SMALLEST
    assert RetryBudget(1000).left == 200


def test_an_attempt_is_cut_at_its_own_limit_and_tried_again() -> None:

    async def hang(attempt: Attempt) -> None:
        await asyncio.sleep(1000)

    call, heard = called(hang, policy(timeout=Timeout(5.0)))
    assert heard.attempts == [1, 2, 3]
    assert call.failure is not None
    assert call.failure.message == "no answer within 5 s"
    assert call.failure.billed == "maybe"
    assert call.latency_s == pytest.approx(5.0)


def test_the_nodes_whole_time_bounds_attempts_and_the_waits_between_them() -> None:
    async def main() -> tuple[Call[Any], float]:
        door = governor()

        async def hang(attempt: Attempt) -> None:
            await asyncio.sleep(1000)

        begun = time.monotonic()
        rules = policy(timeout=Timeout(5.0, total_s=12.0), retries=9, delay_s=0.0)
        call = await door.call(hang, turn(door, rules))
        return call, time.monotonic() - begun

    call, took_s = run_virtually(main())
    assert took_s == pytest.approx(12.0, abs=0.1)
    assert call.attempts == 3
    assert call.failure is not None
    assert call.failure.message == "no answer within the node's 12 s in all"


def test_a_retry_that_would_outlive_the_nodes_time_is_not_waited_for() -> None:
    async def fail(attempt: Attempt) -> None:
        raise call_error(Failure(ErrorKind.SERVER, "later", retry_after_s=20.0))

    call, _ = called(fail, policy(timeout=Timeout(5.0, total_s=12.0), max_delay_s=60.0))
    assert call.attempts == 1
    assert call.failure is not None
    assert call.failure.message == "later (not tried again: no time is left of the node's 12 s)"


def test_a_stream_that_falls_silent_is_cut_and_one_that_speaks_is_not() -> None:
    async def speak(attempt: Attempt) -> str:
        await asyncio.sleep(3)  # before the stream begins, only the attempt's limit counts
        for _ in range(10):
            attempt.heard()
            await asyncio.sleep(0.9)
        if attempt.number == 1:
            await asyncio.sleep(50)
        return "done"

    call, heard = called(speak, policy(timeout=Timeout(60.0, idle_s=1.0)))
    assert call.result == "done"
    assert heard.attempts == [1, 2]
    assert heard.failures[0].message == "the stream was silent for 1 s"


def test_what_is_left_to_experience_is_filled_in_from_the_past() -> None:
    rules = policy(timeout=Timeout(None), hedge=Hedge(None))
    unknown = rules.settled(None, 8.0)
    assert (unknown.timeout.attempt_s, unknown.hedge) == (60.0, Hedge(16.0))
    assert rules.settled(Past(19, 4.0), 8.0) == unknown, "too few to go by"
    known = rules.settled(Past(20, 4.0), 8.0)
    assert (known.timeout.attempt_s, known.hedge) == (6.0, Hedge(4.0))
    assert policy().settled(Past(99, 1.0), 8.0) == policy(), "what the file says stands"


def late_first(seconds: float) -> Callable[[Attempt], Awaitable[str]]:
    async def act(attempt: Attempt) -> str:
        await asyncio.sleep(seconds if attempt.hedge == 0 else 1.0)
        return f"hedge {attempt.hedge}"

    return act


def test_the_first_answer_wins_and_the_other_is_booked() -> None:
    call, heard = called(late_first(100.0), policy(timeout=Timeout(200.0), hedge=Hedge(10.0)))
    assert (call.result, call.attempts, heard.hedges) == ("hedge 1", 1, 1)
    assert heard.hedged_at == [(1, 10.0)]
    assert call.latency_s == pytest.approx(1.0)
    assert call.doubtful, "the call that lost may be billed"


def test_a_call_in_time_is_not_hedged() -> None:
    call, heard = called(late_first(9.0), policy(timeout=Timeout(200.0), hedge=Hedge(10.0)))
    assert (call.result, heard.hedges, call.doubtful) == ("hedge 0", 0, False)


def test_a_hedge_waits_for_an_idle_slot_behind_everybody() -> None:
    call, heard = called(late_first(30.0), policy(timeout=Timeout(200.0), hedge=Hedge(10.0)), cap=1)
    assert (call.result, heard.hedges, call.doubtful) == ("hedge 0", 0, False)


def test_no_more_hedges_than_the_file_says() -> None:
    calls: list[int] = []

    async def hang(attempt: Attempt) -> None:
        calls.append(attempt.hedge)
        await asyncio.sleep(1000)

    rules = policy(timeout=Timeout(100.0), retries=0, hedge=Hedge(10.0, 2))
    call, heard = called(hang, rules)
    assert calls == [0, 1, 2]
    assert heard.hedged_at == [(1, 10.0), (1, 20.0)]
    assert call.failure is not None
    assert call.failure.kind is ErrorKind.TIMEOUT


@pytest.mark.parametrize("first_fails", [True, False])
def test_a_failure_waits_for_the_call_that_is_still_out(first_fails: bool) -> None:
    async def act(attempt: Attempt) -> str:
        await asyncio.sleep(15.0 if attempt.hedge == 0 else 20.0)
        if first_fails == (attempt.hedge == 0):
            raise call_error(SERVER)
        return "done"

    call, _ = called(act, policy(timeout=Timeout(100.0), hedge=Hedge(10.0)))
    assert (call.result, call.attempts) == ("done", 1)


def test_an_early_failure_is_retried_and_not_hedged() -> None:
    async def act(attempt: Attempt) -> str:
        if attempt.number == 1:
            raise call_error(SERVER)
        return "done"

    call, heard = called(act, policy(timeout=Timeout(100.0), hedge=Hedge(10.0)))
    assert (call.attempts, heard.hedges) == (2, 0)


def test_hedges_are_cancelled_with_their_call() -> None:
    async def main() -> None:
        door = governor()
        out = 0

        async def hang(attempt: Attempt) -> None:
            nonlocal out
            out += 1
            try:
                await asyncio.sleep(1000)
            finally:
                out -= 1

        task = asyncio.create_task(door.call(hang, turn(door, policy(timeout=Timeout(500.0), hedge=Hedge(10.0)))))
        await asyncio.sleep(50)
        assert (out, door.slots.held) == (2, 2)
        task.cancel()
        await asyncio.wait([task])
        assert (out, door.slots.held, door.slots.waiting) == (0, 0, 0)
        assert task.cancelled()

    run_virtually(main())


def test_a_seat_that_is_not_held_is_away_after_the_call() -> None:
    async def main() -> None:
        door = governor()
        asks = turn(door)

        async def act(attempt: Attempt) -> None:
            assert asks.seat.place is Place.HELD
            assert asks.in_flight

        await door.call(act, asks)
        assert asks.seat.place is Place.AWAY
        assert not asks.in_flight

    run_virtually(main())


def test_nothing_more_is_hedged_once_the_run_is_ending_or_the_model_is_shut() -> None:
    async def main(end: Callable[[Governor], None], cap: int) -> list[int]:
        door = governor(cap)
        calls: list[int] = []

        async def hang(attempt: Attempt) -> None:
            calls.append(attempt.hedge)
            await asyncio.sleep(100)

        async def other(attempt: Attempt) -> None:
            await asyncio.sleep(20)

        rules = policy(timeout=Timeout(50.0), retries=0, hedge=Hedge(10.0))
        hedged = asyncio.create_task(door.call(hang, turn(door, rules), Claim("openai/m")))
        await asyncio.sleep(0)
        beside = asyncio.create_task(door.call(other, turn(door, policy(timeout=Timeout(50.0)))))
        await asyncio.sleep(5 if cap > 2 else 15)  # before the hedge is due, or while it waits for a slot
        end(door)
        await asyncio.wait([hedged, beside])
        assert (door.slots.held, door.slots.waiting) == (0, 0)
        return calls

    def close(door: Governor) -> None:
        door.closing = True

    def shut(door: Governor) -> None:
        door.shut["openai/m"] = Failure(ErrorKind.AUTH, "no")

    for end in (close, shut):
        for cap in (8, 2):
            assert run_virtually(main(end, cap)) == [0], (end, cap)


def test_a_hedge_gets_no_more_of_the_nodes_time_than_is_left() -> None:
    async def main() -> float:
        door = governor()

        async def hang(attempt: Attempt) -> None:
            await asyncio.sleep(1000)

        begun = time.monotonic()
        await door.call(hang, turn(door, policy(timeout=Timeout(500.0, total_s=10.0), hedge=Hedge(8.0))))
        return time.monotonic() - begun

    assert run_virtually(main()) == pytest.approx(10.0)


def test_a_call_that_has_ended_gives_its_slot_back_while_its_hedge_is_out() -> None:
    async def main() -> list[int]:
        door = governor()
        asks = turn(door, policy(timeout=Timeout(10.0), retries=0, hedge=Hedge(4.0)))

        async def hang(attempt: Attempt) -> None:
            await asyncio.sleep(1000)

        task = asyncio.create_task(door.call(hang, asks))
        held = []
        for _ in range(4):
            await asyncio.sleep(3.5)
            held.append(door.slots.held)
        await task
        return held

    assert run_virtually(main()) == [1, 2, 1, 0], "at 3.5, 7, 10.5 and 14 s"


def test_an_act_that_swallows_its_timeout_has_timed_out_all_the_same() -> None:
    async def swallow(attempt: Attempt) -> None:
        if attempt.number == 1:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                raise call_error(SERVER) from None
        raise asyncio.CancelledError

    async def main() -> None:
        door, heard = governor(), None
        heard = turn(door, policy(timeout=Timeout(5.0), retries=1))
        task = asyncio.create_task(door.call(swallow, heard))
        await asyncio.wait([task])
        assert task.cancelled()
        assert [failure.kind for failure in heard.failures] == [ErrorKind.TIMEOUT]
        assert not task.cancelling(), "the deadline took its own cancellation back"

    run_virtually(main())

"""The cap is exact, the order is kept, and nothing starves."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdag.errors import ErrorKind, Failure, FinalError, call_error
from agentdag.limits.governor import Governor, Policy, delay_s
from agentdag.limits.slots import MAX_OVERTAKEN, Place, Seat, Slots


def test_the_order_is_priority_then_longest_remaining_path_then_arrival() -> None:
    order: list[str] = []
    slots = Slots(1, wake=lambda: None)
    for name, rank in [
        ("low", (2, -99.0)),
        ("short", (1, -1.0)),
        ("long", (1, -9.0)),
        ("later", (1, -9.0)),
        ("high", (0, -0.5)),
    ]:
        Seat(slots, rank).request(partial(order.append, name))
    while slots.waiting:
        slots.hand_out()
        slots.release()
    assert order == ["high", "long", "later", "short", "low"]


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["request", "leave", "again"]), st.integers(0, 9)), max_size=60),
)
def test_never_more_than_the_cap_and_never_idle_while_somebody_waits(cap: int, acts: list[tuple[str, int]]) -> None:
    slots = Slots(cap, wake=lambda: None)
    granted: list[int] = []
    seats: list[Seat] = []
    for act, number in acts:
        if act == "request":
            seats.append(Seat(slots, (1, -float(number))))
            seats[-1].request(partial(granted.append, len(seats)))
        elif act == "leave" and seats:
            seats[number % len(seats)].leave()
        elif act == "again" and seats and seats[number % len(seats)].place is Place.AWAY:
            seats[number % len(seats)].request(lambda: None)
        slots.hand_out()
        assert slots.held <= cap
        assert slots.held == cap or not slots.waiting
        assert slots.held == sum(seat.held for seat in seats)
        assert slots.waiting == sum(seat.place is Place.WAITING for seat in seats)
    assert len(granted) == len(set(granted))


def test_whoever_is_passed_over_too_often_goes_next() -> None:
    slots = Slots(1, wake=lambda: None)
    waited: list[int] = []
    rounds = 0
    Seat(slots, (2, 0.0)).request(lambda: waited.append(rounds))
    while not waited:
        other = Seat(slots, (0, -1.0))
        other.request(lambda: None)
        slots.hand_out()
        other.leave()
        rounds += 1
        assert rounds < 2 * MAX_OVERTAKEN
    assert waited[0] >= MAX_OVERTAKEN


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.attempts: list[int] = []
        self.waits: list[tuple[str, float]] = []
        self.failures: list[Failure] = []

    def started(self, attempt: int) -> None:
        self.attempts.append(attempt)

    def retrying(self, attempt: int, wait_s: float, failure: Failure) -> None:
        self.failures.append(failure)

    def waited(self, on: str, seconds: float) -> None:
        self.waits.append((on, seconds))


def policy(**changes: object) -> Policy:
    whole = {"timeout_s": 5.0, "retries": 2, "delay_s": 0.001, "max_delay_s": 0.01, "on": frozenset({ErrorKind.SERVER})}
    return Policy(**{**whole, **changes})  # type: ignore[arg-type]


def governor(cap: int) -> Governor:
    slots = Slots(cap, wake=lambda: asyncio.get_running_loop().call_soon(slots.hand_out))
    return Governor(slots, Random(1))


def test_a_cap_of_one_does_not_deadlock_while_retries_wait() -> None:
    async def main() -> None:
        door = governor(1)
        running = 0

        async def act(attempt: int) -> str:
            nonlocal running
            running += 1
            assert running == 1
            await asyncio.sleep(0)
            running -= 1
            if attempt < 3:
                raise call_error(Failure(ErrorKind.SERVER, "again"))
            return "done"

        async def one() -> str | None:
            heard = Heard()
            call = await door.call(act, policy=policy(), seat=Seat(door.slots, (1, 0.0)), lane=None, listener=heard)
            assert heard.attempts == [1, 2, 3]
            return call.result

        assert await asyncio.gather(*(one() for _ in range(20))) == ["done"] * 20
        assert door.slots.held == 0

    asyncio.run(main())


def test_cancelling_whoever_waits_or_works_keeps_the_cap_exact() -> None:
    async def main() -> None:
        door = governor(2)
        chance = Random(3)

        async def act(attempt: int) -> None:
            assert door.slots.held <= 2
            await asyncio.sleep(chance.random() / 500)

        async def one() -> None:
            await door.call(act, policy=policy(), seat=Seat(door.slots, (1, 0.0)), lane=None, listener=Heard())

        tasks = [asyncio.create_task(one()) for _ in range(300)]
        for task in tasks[::3]:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (door.slots.held, door.slots.waiting) == (0, 0)

    asyncio.run(main())


def test_a_functions_own_timeout_error_is_not_taken_for_ours() -> None:
    async def main() -> None:
        door = governor(1)

        async def act(attempt: int) -> None:
            raise FinalError(Failure(ErrorKind.FUNCTION, "TimeoutError: mine"))

        call = await door.call(act, policy=policy(), seat=Seat(door.slots, (1, 0.0)), lane=None, listener=Heard())
        assert call.failure is not None
        assert call.failure.kind is ErrorKind.FUNCTION

    asyncio.run(main())


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

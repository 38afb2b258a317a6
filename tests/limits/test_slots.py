"""The cap is exact, the order is kept, and nothing starves."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

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
        assert slots.held == sum(seat.place is Place.HELD for seat in seats)
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

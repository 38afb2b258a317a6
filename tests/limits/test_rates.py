"""A lane admits no more than was declared, learns what was not, and always lets the next one go in the end."""

from __future__ import annotations

import math
from collections import deque
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limited import Server, drive

from agentdag.calls import Gauge, Usage
from agentdag.limits.estimates import Estimates
from agentdag.limits.rates import HOPELESS, MEASURES, Lane, Need, Permit, Quotas

UNDECLARED: list[tuple[dict[str, Any], int, float, float]] = [
    # the server, calls, and at most: requests a call, times the best time there is
    ({}, 100, 1.5, 1.4),
    ({"retry_after_s": 1.0}, 100, 1.5, 1.4),
    ({"burst": 1}, 100, 1.5, 2.5),
    ({"burst": 20}, 100, 1.5, 1.4),
    ({"burst": 50}, 100, 1.6, 1.4),
    ({"latency_s": 5.0}, 100, 1.2, 1.3),
    ({"rate": 100.0, "burst": 100}, 1000, 1.1, 1.2),
    ({"rate": 100.0}, 1000, 1.1, 1.2),
    ({"window_s": 1.0}, 100, 1.3, 2.5),
    ({"rate": 1000.0, "burst": 1000, "at_once": 8, "latency_s": 1.0}, 100, 1.3, 1.5),
    ({"rate": 1000.0, "burst": 1000, "at_once": 40, "latency_s": 1.0}, 300, 1.3, 1.7),
]


@pytest.mark.parametrize(("said", "calls", "requests", "times"), UNDECLARED, ids=[str(each[0]) for each in UNDECLARED])
def test_a_limit_that_nobody_declared_is_found(said: dict[str, Any], calls: int, requests: float, times: float) -> None:
    server = Server(**said)
    best_s = max(0.0, (calls - server.burst) / server.rate) + server.latency_s
    if server.at_once is not None:
        best_s = calls / server.at_once * server.latency_s
    for seed in range(5):
        came = drive(Server(**said), calls, seed=seed)
        assert came.lost == 0
        assert came.requests <= requests * calls
        assert came.elapsed_s <= times * best_s


def test_a_declared_rate_is_hardly_ever_refused() -> None:
    came = drive(Server(), 100, quotas=Quotas(rpm=600))
    assert came.lost == 0
    assert came.requests <= 105
    assert came.elapsed_s <= 11


def test_a_declared_rate_uses_nearly_all_of_its_quota() -> None:
    quotas = Quotas(rpm=600, headroom=1.0)
    came = drive(Server(rate=10.0, burst=10), 610, quotas=quotas)
    assert 600 / (came.elapsed_s * 10) >= 0.97
    assert came.requests <= 640


def test_a_server_that_refuses_everything_is_given_up() -> None:
    lane = Lane(chance=Random(1))
    now = 0.0
    for _ in range(HOPELESS):
        assert not lane.is_vain(math.inf, now)
        wait_s = lane.wait_s(Need(), now)
        assert wait_s <= 61
        now += wait_s
        permit = lane.take(Need(), now)
        lane.sent(permit, now)
        now += 0.01
        assert lane.refused(permit, now)
    assert lane.is_vain(math.inf, now)
    assert now < 420
    permit = lane.take(Need(), now)
    lane.sent(permit, now)
    lane.answered(permit)
    assert not lane.is_vain(math.inf, now)


QUOTAS = st.builds(
    Quotas,
    rpm=st.none() | st.integers(1, 60),
    tpm=st.none() | st.integers(50, 500),
    input_tpm=st.none() | st.integers(50, 500),
    output_tpm=st.none() | st.integers(50, 500),
    concurrency=st.none() | st.integers(1, 4),
    headroom=st.sampled_from([0.5, 0.9, 1.0]),
    burst=st.none() | st.integers(1, 20),
)
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["go", "go", "go", "answer", "lose", "back", "refuse", "overload", "wait"]),
        st.integers(0, 9),
        st.floats(0, 20),
    ),
    max_size=120,
)


class Trial:
    """A lane, a clock, and what was sent when."""

    def __init__(self, quotas: Quotas) -> None:
        self.lane = Lane(quotas, chance=Random(0))
        self.now = 0.0
        self.sent: deque[tuple[float, Need]] = deque()
        self.out: list[Permit] = []
        told = (quotas.rpm, quotas.tpm, quotas.input_tpm, quotas.output_tpm)
        self.most = {name: quota for name, quota in zip(MEASURES, told, strict=True) if quota is not None}

    def go(self, number: int) -> None:
        need = Need(5 + number, 3 * number)
        assert self.lane.too_large(need) is None
        if self.lane.wait_s(need, self.now) <= 0:
            permit = self.lane.take(need, self.now)
            self.now += number / 10  # the journal takes its time
            self.lane.sent(permit, self.now)
            self.sent.append((self.now, need))
            self.out.append(permit)

    def back(self) -> None:
        if self.lane.wait_s(Need(1, 1), self.now) <= 0:
            self.lane.give_back(self.lane.take(Need(1, 1), self.now))

    def end(self, act: str, number: int, seconds: float) -> None:
        permit = self.out.pop(number % len(self.out))
        match act:
            case "answer":
                self.lane.answered(permit)
            case "refuse":
                self.lane.refused(permit, self.now, after_s=seconds / 4)
            case "overload":
                self.lane.overloaded(permit, self.now)
            case _:
                self.lane.ended()

    def check(self) -> None:
        for name, quota in self.most.items():
            assert sum(MEASURES[name](need) for at, need in self.sent if at > self.now - 60) <= quota


@settings(max_examples=300, deadline=None)
@given(QUOTAS, ACTS)
def test_no_window_of_a_minute_holds_more_than_its_quota(quotas: Quotas, acts: list[tuple[str, int, float]]) -> None:
    trial = Trial(quotas)
    for act, number, seconds in acts:
        if act == "go":
            trial.go(number)
        elif act == "wait":
            trial.now += seconds
        elif act == "back":
            trial.back()
        elif trial.out:
            trial.end(act, number, seconds)
        trial.check()
    lane, now = trial.lane, trial.now
    assert lane.in_flight.out == len(trial.out)
    for permit in trial.out:
        lane.answered(permit)
    for _ in range(200):  # somebody may always go in the end
        wait_s = lane.wait_s(Need(14, 27), now)
        assert wait_s < math.inf
        if wait_s <= 0:
            return
        now += max(wait_s, 1e-6)
    raise AssertionError(lane.wait_s(Need(14, 27), now))


def test_a_burst_may_go_at_once_and_the_rest_is_spread() -> None:
    lane = Lane(Quotas(rpm=60, headroom=1.0))
    went = [0.0]
    now = 0.0
    while now < 61:
        if (wait_s := lane.wait_s(Need(), now)) > 0:
            now += wait_s
            continue
        lane.sent(lane.take(Need(), now), now)
        went.append(now)
        lane.ended()
    assert sum(at == 0 for at in went[1:]) == 10  # ten seconds of one a second
    assert sum(at < 60 for at in went[1:]) == 60
    assert [round(at, 6) for at in went[11:14]] == [1.0, 2.0, 3.0]


def test_tokens_are_put_right_by_what_the_answer_took() -> None:
    lane = Lane(Quotas(tpm=6000, headroom=1.0))
    permit = lane.take(Need(500, 500), 0.0)
    lane.sent(permit, 0.0)
    assert lane.wait_s(Need(100, 0), 0.0) > 0  # ten seconds of quota are reserved
    lane.correct(permit, Need(100, 100))
    lane.answered(permit)
    assert lane.wait_s(Need(100, 0), 0.0) == 0
    lane.correct(permit, Need(3000, 1000))  # it took more than was there: the rest is owed
    assert lane.wait_s(Need(100, 0), 0.0) == pytest.approx(31.0)


def test_what_a_server_tells_of_its_limits_is_believed() -> None:
    lane = Lane(chance=Random(0))
    permit = lane.take(Need(), 0.0)
    lane.sent(permit, 0.0)
    other = lane.take(Need(), 0.1)
    lane.sent(other, 0.1)
    lane.told(permit, {"requests": Gauge(60, 2)}, 0.2)
    lane.answered(permit)
    lane.answered(other)
    permit = lane.take(Need(), 0.2)  # two were left when the first was taken, and one was sent since
    assert lane.wait_s(Need(), 0.2) > 0.5


def test_a_declared_lane_goes_slower_where_somebody_else_uses_its_key() -> None:
    lane = Lane(Quotas(rpm=600))
    permit = lane.take(Need(), 0.0)
    lane.sent(permit, 0.0)
    lane.told(permit, {"requests": Gauge(600, 0)}, 0.01)
    lane.answered(permit)
    assert lane.wait_s(Need(), 0.01) == pytest.approx(0.1, abs=0.02)


def test_an_overload_halves_what_is_out_and_pauses_everybody() -> None:
    lane = Lane(chance=Random(0))
    permits = [lane.take(Need(), 0.0) for _ in range(16)]
    for permit in permits:
        lane.sent(permit, 0.0)
    lane.overloaded(permits.pop(), 0.1)
    pause_s = lane.wait_s(Need(), 0.1)
    assert 0.4 < pause_s <= 1.0
    for permit in permits[:8]:
        lane.answered(permit)
    after_s = 0.2 + pause_s
    assert lane.wait_s(Need(), after_s) > 0  # seven are out, and no more than seven may be
    lane.answered(permits[8])
    assert lane.wait_s(Need(), after_s) == 0


def test_a_call_that_never_fits_is_told_so() -> None:
    lane = Lane(Quotas(tpm=1000))
    assert lane.too_large(Need(900, 100)) is None
    assert lane.too_large(Need(900, 101)) == "it needs about 1,001 tokens, and a minute allows 1,000"


def test_estimates_learn_from_answers() -> None:
    seen = Estimates()
    assert seen.need("a", "m", 3500, 200) == Need(1000, 200)
    for _ in range(20):
        seen.learn("a", "m", 3500, Usage(2000, 50, 0))
    assert seen.need("a", "m", 7000, 200) == Need(4000, 50)
    assert seen.need("b", "m", 7000, 200) == Need(4000, 200)  # the model's tokens, the node's own length
    seen.learn("a", "m", 3500, Usage(1, 1, 0, estimated=True))
    assert seen.need("a", "m", 7000, 200) == Need(4000, 50)
    assert seen.typical("a", "m") == Need(2000, 50)

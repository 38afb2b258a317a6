"""Properties of the schedule: any graph, any barriers, any order of outcomes, any times."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdag.events import FAILURES, Reason, Status
from agentdag.plan.barrier import ALL, Barrier
from agentdag.plan.graph import Graph, build_graph
from agentdag.plan.news import Came, Cut, Ended, Opened, Rested, Terms
from agentdag.plan.schedule import Schedule, State

OUTCOMES = st.sampled_from([Status.SUCCEEDED, Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT])
STEPS_S = st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0])


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(1, 30))
    needs = [draw(st.lists(st.integers(0, node - 1), unique=True, max_size=5)) if node else [] for node in range(size)]
    graph = build_graph(needs)
    assert graph is not None
    return graph


@st.composite
def barriers(draw: st.DrawFn, size: int) -> Barrier:
    if draw(st.booleans()):
        return ALL
    wait_for = draw(st.none() | st.integers(1, size))
    return Barrier(
        timeout_s=draw(st.none() | st.sampled_from([1.0, 5.0])),
        deadline_s=draw(st.none() | st.sampled_from([2.0, 20.0])),
        wait_for=wait_for,
        minimum=draw(st.integers(0, wait_for or size)),
        progressive=draw(st.booleans()),
        keeps=draw(st.booleans()),
    )


@st.composite
def terms_of(draw: st.DrawFn, graph: Graph) -> list[Terms]:
    terms = []
    for needs in graph.needs:
        counted = tuple(needs[: draw(st.integers(1, len(needs)))]) if needs else None
        barrier = draw(barriers(len(counted))) if counted else ALL
        terms.append(Terms(draw(st.booleans()), barrier, counted, draw(st.sampled_from([False, False, True]))))
    return terms


@dataclass
class Drive:
    """Drives a schedule as an engine does, and checks each step against the rules as SPEC words them."""

    graph: Graph
    terms: list[Terms]
    schedule: Schedule
    now: float = 0.0
    status: dict[int, Status] = field(default_factory=dict)
    settled_s: dict[int, float] = field(default_factory=dict)
    launched_s: dict[int, float] = field(default_factory=dict)
    running: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    opened: dict[int, Opened] = field(default_factory=dict)
    seen: dict[int, Opened] = field(default_factory=dict)
    gave_up: set[int] = field(default_factory=set)
    cut: set[int] = field(default_factory=set)
    succeeded_once: set[int] = field(default_factory=set)

    def counted(self, node: int) -> tuple[int, ...]:
        counted = self.terms[node].counted
        return tuple(self.graph.needs[node]) if counted is None else counted

    def has(self, node: int) -> list[int]:
        return [need for need in self.counted(node) if self.status.get(need) is Status.SUCCEEDED]

    def out(self, node: int) -> list[int]:
        return [need for need in self.counted(node) if need not in self.status]

    def time_is_up(self, node: int) -> bool:
        rule = self.terms[node].barrier
        if rule.deadline_s is not None and self.now >= rule.deadline_s:
            return True
        moments = [self.launched_s.get(n, self.settled_s.get(n, math.inf)) for n in self.counted(node)]
        return rule.timeout_s is not None and self.now >= max(moments) + rule.timeout_s

    def may_open(self, node: int) -> set[Reason]:
        """Every reason for which the barrier could open now."""
        rule, arrived, out = self.terms[node].barrier, self.has(node), self.out(node)
        reasons: set[Reason] = set()
        if any(need not in self.status for need in self.graph.needs[node] if need not in self.counted(node)):
            return reasons
        if len(arrived) < rule.minimum:
            return reasons
        soft = rule.wait_for is None or rule.bounded or rule.progressive
        if not out and (soft or len(arrived) >= (rule.wait_for or 0)):
            reasons.add(Reason.ALL)
        if rule.wait_for is not None and len(arrived) >= rule.wait_for:
            reasons.add(Reason.QUORUM)
        if self.time_is_up(node):
            reasons.add(Reason.TIMEOUT)
        if rule.progressive and arrived:
            reasons.add(Reason.ARRIVAL)
        return reasons

    def hear(self) -> None:
        """Take in all that followed from the last step."""
        while news := self.schedule.take_news():
            for each in news:
                match each:
                    case Opened():
                        self.on_opened(each)
                    case Ended():
                        self.on_ended(each)
                    case Cut():
                        assert each.node in self.running
                        self.check_unwanted(each.node)
                        self.cut.add(each.node)
                    case Rested():
                        status = Status.SUCCEEDED if each.node in self.succeeded_once else Status.FAILED
                        self.end(each.node, status)
                        self.schedule.settle(each.node, status, self.now)
        for node in self.schedule.take_ready():
            assert node not in self.ready
            assert node not in self.running
            self.ready.append(node)

    def on_opened(self, seen: Opened) -> None:
        node = seen.node
        progressive = self.terms[node].barrier.progressive
        before = self.seen.get(node)
        assert set(seen.arrived) <= {n for n in self.counted(node) if self.status.get(n) is Status.SUCCEEDED}
        parts = [*seen.arrived, *seen.missing, *seen.pending]
        assert sorted(parts) == sorted(self.counted(node))
        assert set(seen.late) <= set(seen.missing)
        if progressive:
            assert seen.number == (before.number + 1 if before else 1)
            if before:
                assert set(before.arrived) <= set(seen.arrived)
                assert set(before.missing) <= set(seen.missing)
                assert (before.arrived, before.missing, before.pending) != (seen.arrived, seen.missing, seen.pending)
        else:
            assert before is None, "opened twice"
            assert seen.reason in self.may_open(node), "opened early"
            assert not seen.pending
            assert set(seen.late) == set(self.out(node))
        self.seen[node] = seen
        self.opened[node] = seen

    def on_ended(self, ended: Ended) -> None:
        node = ended.node
        assert node not in self.launched_s or self.terms[node].barrier.progressive
        if node in self.ready:
            self.ready.remove(node)
        match ended.status:
            case Status.LATE:
                self.check_unwanted(node)
            case Status.SKIPPED:
                assert self.status[ended.cause] is not Status.SUCCEEDED
                assert self.blocker(node) is not None, "skipped for no reason"
            case Status.FAILED:
                self.check_given_up(node)
                self.gave_up.add(node)
        self.end(node, ended.status)

    def blocker(self, node: int) -> int | None:
        """A dependency without which *node* cannot run."""
        lenient = self.terms[node].barrier.lenient
        for need in self.graph.needs[node]:
            status = self.status.get(need)
            if status in {None, Status.SUCCEEDED, Status.LATE} or self.terms[need].optional:
                continue
            if not (lenient and need in self.counted(node)):
                return need
        return None

    def check_given_up(self, node: int) -> None:
        rule, arrived, out = self.terms[node].barrier, len(self.has(node)), len(self.out(node))
        hard = rule.wait_for is not None and not rule.bounded and not rule.progressive
        least = max(rule.minimum, rule.wait_for or 0) if hard else rule.minimum
        assert arrived + out < least or (self.time_is_up(node) and arrived < rule.minimum)

    def check_unwanted(self, node: int) -> None:
        assert not self.terms[node].wanted, "an output still reads it"
        assert self.graph.dependants[node], "nobody was waiting for it in the first place"
        for dependant in self.graph.dependants[node]:
            gone = dependant in self.status or dependant in self.cut
            seen = self.seen.get(dependant)
            closed = seen is not None and not self.terms[dependant].barrier.progressive
            passed = self.terms[dependant].barrier.progressive and self.closing(dependant)
            assert gone or closed or passed or dependant in self.gave_up, "somebody still wants it"
            if closed and not gone and node in seen.late:
                assert not self.terms[dependant].barrier.keeps, "it was to be kept"

    def closing(self, node: int) -> bool:
        return bool(self.may_open(node) - {Reason.ARRIVAL})

    def end(self, node: int, status: Status) -> None:
        assert node not in self.status, "settled twice"
        self.status[node] = status
        self.settled_s[node] = self.now

    def start(self, node: int) -> None:
        for need in self.graph.needs[node]:
            late = node in self.opened and need in self.opened[node].late
            counted = need in self.counted(node)
            assert need in self.status or late or (counted and self.terms[node].barrier.progressive), "started early"
        assert self.blocker(node) is None or node in self.opened, "started without what it needs"
        if len(self.counted(node)) > 1 and not self.terms[node].barrier.progressive:
            assert node in self.opened
        self.ready.remove(node)
        self.running.append(node)
        self.launched_s.setdefault(node, self.now)
        self.schedule.start(node, self.now)
        self.hear()
        if self.terms[node].barrier.progressive and self.graph.needs[node]:
            assert self.seen[node].arrived or self.terms[node].barrier.minimum == 0

    def finish(self, node: int, status: Status) -> None:
        self.running.remove(node)
        if node in self.cut:
            self.end(node, Status.LATE)
            self.schedule.settle(node, Status.LATE, self.now)
        elif self.terms[node].barrier.progressive:
            if status is Status.SUCCEEDED:
                self.succeeded_once.add(node)
            self.schedule.rest(node, self.now)
        else:
            self.end(node, status)
            self.schedule.settle(node, status, self.now)
        self.hear()

    def run(self, data: st.DataObject) -> None:
        self.hear()
        while not self.schedule.done:
            wakes = self.schedule.wakes_at_s
            assert self.ready or self.running or wakes is not None, "nothing can happen, and yet it is not done"
            self.now += data.draw(STEPS_S)
            if wakes is not None and (wakes <= self.now or not (self.ready or self.running)):
                self.now = max(self.now, wakes)
                self.schedule.tick(self.now)
                self.hear()
            elif self.ready and (not self.running or data.draw(st.booleans())):
                self.start(self.ready[data.draw(st.integers(0, len(self.ready) - 1))])
            else:
                self.finish(self.running[data.draw(st.integers(0, len(self.running) - 1))], data.draw(OUTCOMES))

    def check_end(self) -> None:
        assert set(self.status) == set(range(len(self.terms)))
        assert not self.running
        for node, status in self.status.items():
            if status is Status.SKIPPED:
                assert self.blocker(node) is not None
            elif status is not Status.LATE and node not in self.gave_up:
                assert node in self.launched_s, "its barrier opened and it was forgotten"
            if (
                self.terms[node].barrier.progressive
                and self.graph.needs[node]
                and node in self.seen
                and status in FAILURES | {Status.SUCCEEDED}
            ):
                assert not self.seen[node].pending, "the last pass did not see the end"
        assert set(self.schedule.fatal) == self.fatal()

    @property
    def order(self) -> list[int]:
        return list(self.status)

    def fatal(self) -> set[int]:
        """The failures of required nodes that some dependant could not do without, or that nobody could excuse."""
        found = set()
        for node, status in self.status.items():
            if status not in FAILURES or self.terms[node].optional:
                continue
            dependants = self.graph.dependants[node]
            lost = [
                d
                for d in dependants
                if d in self.gave_up and node in self.counted(d) and self.order.index(d) > self.order.index(node)
            ]
            strict = [
                d
                for d in dependants
                if not (self.terms[d].barrier.lenient and node in self.counted(d))
                and not (d in self.opened and node in self.opened[d].late)
            ]
            if not dependants or strict or lost:
                found.add(node)
        return found


@settings(max_examples=400)
@given(graphs(), st.data(), st.booleans(), st.none() | st.sampled_from([1.0, 8.0]))
def test_each_node_settles_once_none_starts_early_none_is_forgotten(
    graph: Graph, data: st.DataObject, waves: bool, wave_timeout_s: float | None
) -> None:
    terms = data.draw(terms_of(graph))
    drive = Drive(graph, terms, Schedule(graph, terms, waves=waves, wave_timeout_s=wave_timeout_s))
    drive.run(data)
    drive.check_end()


@settings(max_examples=200)
@given(graphs(), st.data(), st.booleans(), st.integers(0, 40))
def test_after_it_is_abandoned_nothing_starts_and_everything_settles(
    graph: Graph, data: st.DataObject, waves: bool, steps: int
) -> None:
    terms = data.draw(terms_of(graph))
    schedule = Schedule(graph, terms, waves=waves)
    drive = Drive(graph, terms, schedule)
    drive.hear()
    for _ in range(steps):
        if drive.ready and (not drive.running or data.draw(st.booleans())):
            drive.start(drive.ready[0])
        elif drive.running:
            drive.now += data.draw(STEPS_S)
            drive.finish(drive.running[0], data.draw(OUTCOMES))
    for node in schedule.abandon():
        assert node not in drive.launched_s
        drive.end(node, Status.SKIPPED)
    drive.ready.clear()
    assert schedule.take_ready() == []
    for each in schedule.take_news():
        assert isinstance(each, Rested)
        drive.end(each.node, Status.CANCELLED)
        schedule.settle(each.node, Status.CANCELLED, drive.now)
    while drive.running:
        drive.finish(drive.running[0], Status.SUCCEEDED)
        assert not drive.ready
    assert schedule.done
    assert set(drive.status) == set(range(len(terms)))


def chain(optional: list[bool]) -> Schedule:
    graph = build_graph([[], [0], [1]])
    assert graph is not None
    return Schedule(graph, [Terms(each) for each in optional])


def test_a_failure_skips_what_needs_it_and_names_the_cause() -> None:
    graph = build_graph([[], [0], [1], []])
    assert graph is not None
    schedule = Schedule(graph, [Terms()] * 4)
    assert schedule.take_ready() == [0, 3]
    schedule.start(0, 0)
    schedule.settle(0, Status.FAILED, 1)
    assert schedule.take_news() == [Ended(1, Status.SKIPPED, 0), Ended(2, Status.SKIPPED, 0)]
    assert schedule.state(3) is State.READY
    assert list(schedule.fatal) == [0]


def test_an_optional_failure_lets_others_go_on() -> None:
    schedule = chain([True, False, False])
    schedule.start(schedule.take_ready()[0], 0)
    schedule.settle(0, Status.TIMED_OUT, 1)
    assert schedule.take_news() == [Opened(1, Reason.ALL, (), (0,))]
    assert schedule.take_ready() == [1]
    assert not schedule.fatal


def test_a_skipped_node_that_is_optional_does_not_stop_its_dependants() -> None:
    schedule = chain([False, True, False])
    schedule.start(schedule.take_ready()[0], 0)
    schedule.settle(0, Status.FAILED, 1)
    assert schedule.take_news() == [Ended(1, Status.SKIPPED, 0), Opened(2, Reason.ALL, (), (1,))]
    assert schedule.take_ready() == [2]
    assert list(schedule.fatal) == [0]


def test_an_illegal_move_is_a_bug_that_shows() -> None:
    with pytest.raises(AssertionError, match="cannot go from WAITING to RUNNING"):
        chain([False] * 3).start(2, 0)


def test_a_join_that_nobody_wants_any_more_does_not_open_again() -> None:
    graph = build_graph([[], [], [0, 1], [0, 2]])
    assert graph is not None
    schedule = Schedule(graph, [Terms(), Terms(wanted=True), Terms(), Terms(barrier=Barrier(wait_for=1))])
    schedule.resume({
        2: Came(Opened(2, Reason.ALL, (0, 1), ())),
        3: Came(Opened(3, Reason.QUORUM, (0,), (2,), (2,))),
    })  # fmt: skip
    for node in (0, 1):
        schedule.start(node, 0.0)
        schedule.settle(node, Status.SUCCEEDED, 0.0)
    assert schedule.take_ready() == [3], "and not 2"
    assert (schedule.state(2), schedule.state(3)) == (State.SETTLED, State.READY)

"""Which node may run now, which never can, and which nobody wants any more.

Everything that changes a node's state stands here. This file knows no clock, no provider and no I/O: it is told what
happened and when, in seconds from the beginning of the run, and answers with what follows from it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import IntEnum

from agentdag.events import FAILURES, Reason, Status
from agentdag.plan.barrier import ALL, Join, Never, Open, Passes
from agentdag.plan.frozen import Frozen
from agentdag.plan.graph import Graph
from agentdag.plan.news import Came, Cut, Ended, News, Opened, Rested, Terms


class State(IntEnum):
    """Where a node is in its life."""

    WAITING = 0
    OPEN = 1
    """Its barrier has opened; in lock-step its wave has not begun."""
    READY = 2
    RUNNING = 3
    RESTING = 4
    """A progressive join between two passes."""
    SETTLED = 5


_LEGAL = {
    State.WAITING: {State.OPEN, State.READY, State.SETTLED},
    State.OPEN: {State.READY, State.SETTLED},
    State.READY: {State.RUNNING, State.SETTLED},
    State.RUNNING: {State.RESTING, State.SETTLED},
    State.RESTING: {State.READY, State.SETTLED},
    State.SETTLED: set[State](),
}


_NO_STREAMS: Mapping[int, int] = {}


class Schedule:
    """Drives a graph: `take_ready`, `start`, `settle`, and `tick` where time opens a barrier; nodes are numbers.

    After each of these, `take_news` tells what followed. With *waves* a node is ready only when all nodes of the
    waves before have settled, or *wave_timeout_s* after the last of these waves began. *streams* names for a node
    that needs nothing whole of one dependency, but its parts one by one, that dependency: `flow` makes it ready.
    """

    def __init__(
        self,
        graph: Graph,
        terms: Sequence[Terms],
        *,
        waves: bool = False,
        wave_timeout_s: float | None = None,
        streams: Mapping[int, int] = _NO_STREAMS,
    ) -> None:
        size = len(graph.needs)
        self._graph = graph
        self._terms = terms
        self._state = [State.WAITING] * size
        self._status: list[Status | None] = [None] * size
        self._launched = bytearray(size)
        self._opened = bytearray(size)
        self._awaited = [len(needs) for needs in graph.needs]
        self._joins: dict[int, Join] = {}
        self._counted: dict[int, frozenset[int]] = {}
        self._passes: dict[int, Passes] = {}
        self._frozen = Frozen()
        self._streams = streams
        self._fed: set[int] = set()
        """Those whose dependency flows."""
        self._waived: set[int] = set()
        self._left_out: set[int] = set()
        self._cause: dict[int, int] = {}
        self._late_for: dict[int, int] = {}
        self._absent = False
        """Whether anything has settled without a result."""
        self._kept: set[int] = set()
        self._unwanted: set[int] = set()
        self._ready: list[int] = []
        self._news: list[News] = []
        self._told: list[int] = []
        self._timers: list[tuple[float, int]] = []
        self._timed: dict[int, float] = {}
        self._unsettled = size
        self._abandoned = False
        self._lock_step = waves
        self._wave_timeout_s = wave_timeout_s
        self._wave = 0
        self._wave_began_s = 0.0
        self._left_in_wave = [len(wave) for wave in graph.waves]
        self.fatal: dict[int, None] = {}
        """The required nodes that failed and that somebody could not do without, the first first."""
        for node, each in enumerate(terms):
            if each.barrier is not ALL:
                self._add_join(node, each)
        for node in graph.waves[0] if graph.waves else ():
            self._open(node, Reason.ALL)

    def _add_join(self, node: int, terms: Terms) -> None:
        counted = self._needs(node)
        self._joins[node] = Join(terms.barrier, len(counted))
        self._counted[node] = frozenset(counted)
        if terms.barrier.progressive:
            self._passes[node] = Passes(self._joins[node])
        self._set_timer(node)

    @property
    def done(self) -> bool:
        """Whether every node has settled."""
        return not self._unsettled

    @property
    def wakes_at_s(self) -> float | None:
        """When `tick` is due, if nothing happens before."""
        if not self._timers and self._wave_timeout_s is None:
            return None
        while self._timers and self._state[self._timers[0][1]] is State.SETTLED:
            heapq.heappop(self._timers)
        ends = [self._timers[0][0]] if self._timers else []
        if self._lock_step and self._wave_timeout_s is not None and self._wave < len(self._left_in_wave) - 1:
            ends.append(self._wave_began_s + self._wave_timeout_s)
        return min(ends, default=None) if not self._abandoned else None

    def state(self, node: int) -> State:
        return self._state[node]

    def is_frozen(self, node: int) -> bool:
        """Whether *node* sees what it saw in an earlier life of the run."""
        return node in self._frozen

    def is_vital(self, node: int) -> bool:
        """Whether somebody cannot do without *node*, as far as can be told while it has not settled."""
        if self._terms[node].optional or node in self._waived:
            return False
        dependants = self._graph.dependants[node]
        return not dependants or any(
            not (each in self._joins and node in self._counted[each] and self._joins[each].rule.lenient)
            and self._state[each] is not State.SETTLED
            for each in dependants
        )

    def is_progressive(self, node: int) -> bool:
        return node in self._passes

    def take_ready(self) -> list[int]:
        """The nodes that became ready since the last call, each once, in the order in which they did."""
        ready = [node for node in self._ready if self._state[node] is State.READY]
        self._ready = []
        return ready

    def take_news(self) -> list[News]:
        """What has followed since the last call, in order."""
        news, self._news = self._news, []
        return news

    def resume(self, came: Mapping[int, Came], *, done: bool = False) -> list[int]:
        """Take up a run that came so far; returns the nodes that stay as they ended, because all went on without them.

        What a join saw when it opened, it sees again; where all was *done*, so do the outputs. To be called once,
        before anything else.
        """
        for node, each in came.items():
            if each.seen is not None and not self._may_flow(node, each.seen) and self._holds(node, each.seen):
                self._freeze(node, each.seen._replace(node=node), each.passes)
            elif each.passes:
                self._passes[node].restore(each.passes, each.arrived, each.missing)
        ended = {node: each.ended for node, each in came.items() if each.ended is not None}
        stay = self._frozen.staying(self._graph, ended, lambda node: self._terms[node].wanted, done=done)
        for node, status in stay.items():
            self._frozen.drop(node)
            self._end(node, status)
        self._follow(0.0)
        return list(stay)

    def waive(self, node: int) -> None:
        """*node* is not to run, and nobody is to suffer from it."""
        self._waived.add(node)
        self._frozen.drop(node)
        self._end(node, Status.SKIPPED)
        self._follow(0.0)

    def leave_out(self, node: int) -> None:
        """*node* is not to run, and that is no failure: whoever has nothing else to go by is left out as well."""
        self._left_out.add(node)
        self.waive(node)

    def _holds(self, node: int, seen: Opened) -> bool:
        """Whether *node* still has the needs of which it saw so much, and waits for no more."""
        return not seen.pending and {*seen.arrived, *seen.missing} == set(self._needs(node))

    def _may_flow(self, node: int, seen: Opened) -> bool:
        """Whether *node*, which saw that before, had nothing missing and takes its parts anew as they come."""
        return node in self._streams and not seen.missing

    def _freeze(self, node: int, seen: Opened, passes: int) -> None:
        counted = set(self._needs(node))
        self._frozen.add(seen, {*seen.arrived, *(need for need in self._graph.needs[node] if need not in counted)})
        if node in self._passes:
            self._passes[node].closed, self._passes[node].late = seen.reason, frozenset(seen.late)
            self._passes[node].restore(passes, 0, 0)

    def start(self, node: int, now: float) -> None:
        """*node* begins, or begins its next pass."""
        self._move(node, State.RUNNING)
        if not self._launched[node]:
            self._launch(node, now)
        if node in self._passes:
            self._begin_pass(node)

    def flow(self, node: int) -> None:
        """The parts of *node*, which runs, are told one by one from now on: whoever takes them so may begin."""
        for dependant in self._graph.dependants[node]:
            if self._streams.get(dependant) == node and dependant not in self._frozen:
                self._fed.add(dependant)
                self._awaited[dependant] -= 1
                if not self._awaited[dependant] and self._state[dependant] is State.WAITING and not self._abandoned:
                    self._open(dependant, Reason.ALL)

    def rest(self, node: int, now: float) -> None:
        """A pass of the progressive join *node* has ended; it is settled once `Rested` says so."""
        self._move(node, State.RESTING)
        if self._abandoned or node in self._unwanted or node in self._frozen:
            complete = node in self._frozen or self._passes[node].complete
            self._news.append(Rested(node, complete=complete))
        else:
            self._go_on(node, now)

    def settle(self, node: int, status: Status, now: float) -> None:
        """*node* has ended with *status*."""
        self._end(node, status)
        self._follow(now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        while self._timers and self._timers[0][0] <= now:
            _, node = heapq.heappop(self._timers)
            self._consider(node, now)
        timeout_s = self._wave_timeout_s
        while timeout_s is not None and self._wave + 1 < len(self._left_in_wave):
            if not self._lock_step or self._wave_began_s + timeout_s > now:
                break
            self._begin_wave(self._wave_began_s + timeout_s)
        self._next_wave(now)
        self._follow(now)

    def abandon(self, ending: Collection[int] = ()) -> list[int]:
        """Nothing more is to start: every node that has not begun, and is not *ending*, is skipped; returns them."""
        self._abandoned = True
        waiting = (node for node, state in enumerate(self._state) if state < State.RUNNING and not self._launched[node])
        left = [node for node in waiting if node not in ending]
        for node in left:
            self._end(node, Status.SKIPPED)
        self._told.clear()
        for node in self._passes:
            if self._launched[node] and self._state[node] in {State.READY, State.RESTING}:
                self._state[node] = State.RESTING
                self._news.append(Rested(node, complete=self._passes[node].complete))
        return left

    def _needs(self, node: int) -> Sequence[int]:
        counted = self._terms[node].counted
        return self._graph.needs[node] if counted is None else counted

    def _launch(self, node: int, now: float) -> None:
        self._launched[node] = True
        for dependant in self._graph.dependants[node] if self._joins else ():
            if dependant in self._joins and node in self._counted[dependant]:
                self._joins[dependant].launch(now)
                self._set_timer(dependant)

    def _set_timer(self, node: int) -> None:
        """Remember when time opens the join *node*, once that is known."""
        until_s = self._joins[node].until_s()
        if until_s is not None and until_s < self._timed.get(node, math.inf):
            self._timed[node] = until_s
            heapq.heappush(self._timers, (until_s, node))

    def _end(self, node: int, status: Status) -> None:
        """*node* has settled; its dependants are told by `_follow`."""
        self._move(node, State.SETTLED)
        self._status[node] = status
        if status is not Status.SUCCEEDED:
            self._absent = True
        self._unsettled -= 1
        self._left_in_wave[self._graph.wave_of[node]] -= 1
        self._told.append(node)

    def _follow(self, now: float) -> None:
        """Tell the dependants of what has settled, and theirs, until nothing more follows."""
        while self._told:
            ended, self._told = self._told, []
            for node in ended:
                self._tell_dependants(node, now)
            if not self._told:
                self._next_wave(now)

    def _tell_dependants(self, node: int, now: float) -> None:
        status, optional = self._status[node], self._terms[node].optional or node in self._waived
        succeeded = status is Status.SUCCEEDED
        blocks = not (succeeded or optional or status is Status.LATE)
        failed = status in FAILURES and not optional
        dependants = self._tell_fed(node, blocks=blocks, failed=failed)
        if failed and not self._graph.dependants[node]:
            self.fatal[node] = None
        if self._joins and not self._launched[node]:
            self._launch(node, now)
        awaited, joins, frozen = self._awaited, self._joins, self._frozen
        for dependant in dependants:
            awaited[dependant] -= 1
            join = joins.get(dependant) if joins else None
            if frozen and dependant in frozen and self._arrives_again(dependant, node, succeeded=succeeded):
                continue
            if join is None and not blocks:  # by far the most
                if not awaited[dependant] and self._state[dependant] is State.WAITING and not self._abandoned:
                    self._open(dependant, Reason.ALL)
                continue
            lenient = False
            if join is not None and node in self._counted[dependant]:
                lenient = join.rule.lenient
                if not self._is_closed(dependant):
                    join.settle(succeeded=succeeded)
            if blocks and not lenient and not self._opened[dependant]:
                if failed:
                    self.fatal[node] = None
                self._skip(dependant, node)
            elif join is not None:
                self._consider(dependant, now)

    def _is_fed(self, dependant: int, node: int) -> bool:
        """Whether *dependant* takes the parts of *node* one by one."""
        return dependant in self._fed and self._streams[dependant] == node

    def _tell_fed(self, node: int, *, blocks: bool, failed: bool) -> Sequence[int]:
        """Tell those that take the parts of *node* how it ended: they have counted it already. Returns all others."""
        if not self._fed:
            return self._graph.dependants[node]
        others = []
        for dependant in self._graph.dependants[node]:
            if not self._is_fed(dependant, node):
                others.append(dependant)
            elif blocks and self._state[dependant] is not State.SETTLED:
                if failed:
                    self.fatal[node] = None
                if self._state[dependant] is State.RUNNING:  # whoever runs it lets it end
                    self._cause[dependant] = self._cause.get(node, node)
                else:
                    self._skip(dependant, node)
        return others

    def _arrives_again(self, join: int, node: int, *, succeeded: bool) -> bool:
        """Whether what the frozen *join* saw still holds, now that *node* has settled; it opens when all are there."""
        if not self._frozen.arrived(join, node, succeeded=succeeded):
            if join in self._passes:  # it looks anew
                self._passes[join].closed, self._passes[join].late = None, frozenset()
            return False
        if join in self._joins and node in self._counted[join]:
            self._joins[join].settle(succeeded=succeeded)
        if self._frozen.is_due(join) and self._state[join] is State.WAITING and not self._abandoned:
            self._open_again(join)
        return True

    def _open_again(self, join: int) -> None:
        seen = self._frozen.seen(join)
        self._opened[join] = True
        self._news.append(seen)
        self._leave_behind(join, [need for need in seen.late if self._status[need] is None])
        if join in self._passes and self._passes[join].number >= seen.number:
            self._news.append(Rested(join, complete=True))
        else:
            self._make_ready(join)

    def _skip(self, node: int, absent: int) -> None:
        """*node* cannot run without *absent*."""
        if self._state[node] is State.SETTLED:
            return
        cause = self._cause[node] = self._cause.get(absent, absent)
        self._end(node, Status.SKIPPED)
        self._news.append(Ended(node, Status.SKIPPED, cause))
        late = [need for need in self._graph.needs[node] if need in self._late_for]
        self._release(late, self._late_for[late[0]] if late else node)

    def _consider(self, node: int, now: float) -> None:
        """Open the barrier of the join *node*, if it is time."""
        if self._abandoned or node in self._frozen:
            return
        if node in self._passes:
            self._go_on(node, now)
        elif self._state[node] is State.WAITING and (reason := self._decide(node, self._joins[node], now)) is not None:
            self._open(node, reason)

    def _decide(self, node: int, join: Join, now: float) -> Reason | None:
        """Why *node* opens now, if it does: what its barrier does not count must be there too."""
        match join.decide(now):
            case Never(why):
                if not self._was_left_out(node):
                    self._give_up(node, why)
            case Open(reason) if self._awaited[node] == join.out:
                return reason
        return None

    def _is_closed(self, node: int) -> bool:
        """Whether *node* is a progressive join that waits for nothing more."""
        return node in self._passes and self._passes[node].closed is not None

    def _give_up(self, node: int, why: str) -> None:
        """The barrier of *node* can never open."""
        for need in self._needs(node):
            if self._status[need] in FAILURES and not self._terms[need].optional:
                self.fatal[need] = None
        self._end(node, Status.FAILED)
        self._news.append(Ended(node, Status.FAILED, node, why))
        feeders = self._graph.needs[node]
        if self._terms[node].barrier.keeps:
            self._kept.update(need for need in feeders if self._state[need] is not State.SETTLED)
        self._release(feeders, node)

    def _open(self, node: int, reason: Reason) -> None:
        """*node* is frozen on what is there; what it goes without is late."""
        needs = self._needs(node)
        if self._left_out and reason is Reason.ALL and self._was_left_out(node):
            return
        self._opened[node] = True
        if len(needs) > 1 or node in self._joins or (needs and not self._is_there(needs[0], node)):
            seen = self._sight(node, reason)
            self._news.append(seen)
            if seen.late:
                self._leave_behind(node, seen.late)
        self._make_ready(node)

    def _was_left_out(self, node: int) -> bool:
        """Whether *node* has nothing to go by because what it needs was not to run; it is skipped then."""
        needs = self._needs(node)
        gone = self._left_out.intersection(needs)
        if not gone or any(self._status[need] in {None, Status.SUCCEEDED} for need in needs):
            return False
        self._left_out.add(node)
        self._waived.add(node)
        self._skip(node, min(gone))
        return True

    def _is_there(self, need: int, node: int) -> bool:
        """Whether *node* has *need*, or is given its parts."""
        return self._status[need] is Status.SUCCEEDED or bool(self._fed and self._is_fed(node, need))

    def _sight(self, node: int, reason: Reason, late: frozenset[int] | None = None, number: int = 1) -> Opened:
        """What *node* sees of its needs. *late* are those out for good: all that are out, where None."""
        needs = self._needs(node)
        if not self._absent and reason is Reason.ALL:
            return Opened(node, reason, tuple(needs), (), (), (), number)
        arrived, missing, out, pending = [], [], [], []
        for need in needs:
            status, there = self._status[need], self._is_there(need, node)
            is_late = not there and status is None if late is None else need in late
            if there and not is_late:
                arrived.append(need)
            elif is_late:
                missing.append(need)
                out.append(need)
            elif status is None:
                pending.append(need)
            else:
                missing.append(need)
        return Opened(node, reason, tuple(arrived), tuple(missing), tuple(out), tuple(pending), number)

    def _leave_behind(self, node: int, late: Sequence[int]) -> None:
        if self._terms[node].barrier.keeps:
            self._kept.update(late)
        else:
            self._late_for.update(dict.fromkeys(late, node))
            self._release(late, node)

    def _release(self, feeders: Iterable[int], cause: int) -> None:
        """Those of *feeders* that nobody wants any more are late, and upstream of them whatever nobody else wants."""
        looked_at = list(feeders)
        for node in looked_at:  # grows while it is walked
            if self._state[node] is State.SETTLED or node in self._unwanted or self._is_wanted(node):
                continue
            self._unwanted.add(node)
            if self._state[node] is State.RUNNING:
                self._news.append(Cut(node, cause))
            else:
                self._cause[node] = cause
                self._end(node, Status.LATE)
                self._news.append(Ended(node, Status.LATE, cause))
            looked_at += self._graph.needs[node]

    def _is_wanted(self, node: int) -> bool:
        """Whether anybody may still read *node*."""
        if self._terms[node].wanted or node in self._kept:
            return True
        return any(self._may_read(dependant, node) for dependant in self._graph.dependants[node])

    def _may_read(self, dependant: int, node: int) -> bool:
        """Whether *dependant* may still read *node*, which has not settled."""
        if dependant in self._unwanted or self._state[dependant] is State.SETTLED:
            return False
        if self._fed and self._is_fed(dependant, node):
            return True
        if dependant in self._frozen and not self._opened[dependant]:
            return self._frozen.awaits(dependant, node)
        if dependant in self._passes:
            return not self._is_closed(dependant)
        return not self._opened[dependant]

    def _go_on(self, node: int, now: float) -> None:
        """The next pass of a progressive join, or its end."""
        passes, join = self._passes[node], self._joins[node]
        if self._state[node] is State.SETTLED or node in self._unwanted:
            return
        if passes.closed is None:
            reason = self._decide(node, join, now)
            if reason is None and not passes.number:
                return
            if reason not in {None, Reason.ARRIVAL}:
                late = [need for need in self._needs(node) if self._status[need] is None]
                passes.closed, passes.late = reason, frozenset(late)
                self._leave_behind(node, late)
        if self._state[node] not in {State.WAITING, State.RESTING}:
            return
        if passes.number and passes.complete:
            self._news.append(Rested(node, complete=True))
        elif passes.due or not passes.number:
            self._opened[node] = True
            self._make_ready(node)

    def _begin_pass(self, node: int) -> None:
        passes = self._passes[node]
        if node in self._frozen:  # it is told what it sees already
            return
        seen = self._sight(node, passes.closed or Reason.ARRIVAL, passes.late, passes.number + 1)
        passes.begin(len(seen.arrived), len(seen.missing))
        self._news.append(seen)

    def _make_ready(self, node: int) -> None:
        """*node* may run; in lock-step it still waits for its wave."""
        if self._lock_step and self._graph.wave_of[node] > self._wave:
            self._move(node, State.OPEN)
        else:
            self._move(node, State.READY)
            self._ready.append(node)

    def _next_wave(self, now: float) -> None:
        while self._lock_step and self._wave < len(self._left_in_wave) and not self._left_in_wave[self._wave]:
            self._begin_wave(now)

    def _begin_wave(self, began_s: float) -> None:
        self._wave += 1
        self._wave_began_s = began_s
        for node in self._graph.waves[self._wave] if self._wave < len(self._graph.waves) else ():
            if self._state[node] is State.OPEN:
                self._make_ready(node)

    def _move(self, node: int, state: State) -> None:
        if state not in _LEGAL[self._state[node]]:
            raise AssertionError(f"node {node} cannot go from {self._state[node].name} to {state.name}")
        self._state[node] = state

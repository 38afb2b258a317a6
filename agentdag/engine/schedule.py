"""Which node may run now, and which never can.

Everything that changes a node's state stands here. This file knows no clock, no provider and no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from agentdag.events import Status
from agentdag.plan.graph import Graph


class State(IntEnum):
    """Where a node is in its life."""

    WAITING = 0
    READY = 1
    RUNNING = 2
    SETTLED = 3


_LEGAL = {
    State.WAITING: {State.READY, State.SETTLED},
    State.READY: {State.RUNNING, State.SETTLED},
    State.RUNNING: {State.SETTLED},
    State.SETTLED: set[State](),
}


class Schedule:
    """Drives a graph in three verbs: `take_ready`, `start`, `settle`; nodes are numbers.

    *optional* says of each node whether others go on without its result. With *waves* a node is ready
    only when all nodes of the waves before have settled.
    """

    def __init__(self, graph: Graph, optional: Sequence[bool], *, waves: bool = False) -> None:
        self._graph = graph
        self._optional = optional
        self._state = [State.WAITING] * len(graph.needs)
        self._awaited = [len(needs) for needs in graph.needs]
        self._cause: dict[int, int] = {}
        self._ready: list[int] = []
        self._unsettled = len(graph.needs)
        self._lock_step = waves
        self._wave = 0
        self._left_in_wave = [len(wave) for wave in graph.waves]
        for node in graph.waves[0] if graph.waves else ():
            self._make_ready(node)

    @property
    def done(self) -> bool:
        """Whether every node has settled."""
        return not self._unsettled

    def state(self, node: int) -> State:
        return self._state[node]

    def cause(self, node: int) -> int:
        """The node whose failure made *node* impossible; itself where it was its own."""
        return self._cause.get(node, node)

    def take_ready(self) -> list[int]:
        """The nodes that became ready since the last call, each once, in the order in which they did."""
        ready = [node for node in self._ready if self._state[node] is State.READY]
        self._ready = []
        return ready

    def start(self, node: int) -> None:
        """*node* begins."""
        self._move(node, State.RUNNING)

    def settle(self, node: int, status: Status) -> list[int]:
        """*node* has ended with *status*; returns the nodes that can therefore never run, now skipped."""
        skipped: list[int] = []
        ended = [(node, status)]
        for each, how in ended:  # grows while it is walked
            self._end(each)
            blocks = how is not Status.SUCCEEDED and not self._optional[each]
            for dependant in self._graph.dependants[each]:
                self._awaited[dependant] -= 1
                if self._state[dependant] is not State.WAITING:
                    continue
                if blocks:
                    self._cause[dependant] = self.cause(each)
                    self._move(dependant, State.SETTLED)
                    skipped.append(dependant)
                    ended.append((dependant, Status.SKIPPED))
                elif not self._awaited[dependant]:
                    self._make_ready(dependant)
        self._next_wave()
        return skipped

    def abandon(self) -> list[int]:
        """Nothing more is to start: every node that has not begun is skipped; returns them."""
        left = [node for node, state in enumerate(self._state) if state in {State.WAITING, State.READY}]
        for node in left:
            self._end(node)
        return left

    def _end(self, node: int) -> None:
        if self._state[node] is not State.SETTLED:
            self._move(node, State.SETTLED)
        self._unsettled -= 1
        self._left_in_wave[self._graph.wave_of[node]] -= 1

    def _make_ready(self, node: int) -> None:
        """*node* has all that it waits for; in lock-step it still waits for its wave."""
        if not self._lock_step or self._graph.wave_of[node] == self._wave:
            self._move(node, State.READY)
            self._ready.append(node)

    def _next_wave(self) -> None:
        while self._lock_step and self._wave < len(self._left_in_wave) and not self._left_in_wave[self._wave]:
            self._wave += 1
            for node in self._graph.waves[self._wave] if self._wave < len(self._graph.waves) else ():
                if self._state[node] is State.WAITING and not self._awaited[node]:
                    self._make_ready(node)

    def _move(self, node: int, state: State) -> None:
        if state not in _LEGAL[self._state[node]]:
            raise AssertionError(f"node {node} cannot go from {self._state[node].name} to {state.name}")
        self._state[node] = state

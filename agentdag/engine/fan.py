"""The items of one `foreach`: which are to begin now, what they have come to, and when the node has what it needs.

It knows no loop: it is told what became of its instances, and answers.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

from agentdag.calls import NO_USAGE
from agentdag.engine.items import Items
from agentdag.engine.scope import Instance
from agentdag.errors import ErrorKind, Failure
from agentdag.events import FAILURES, OUT_OF_BUDGET, NodeSettled, Reason, Status
from agentdag.plan.barrier import Join, Never, Open
from agentdag.plan.work import Foreach

MOST_TOLD = 3
"""Failed items that the error of the node names."""


class End(NamedTuple):
    """How a node ends that is made of others."""

    status: Status
    output: Any = None
    failure: Failure | None = None
    reason: str | None = None


def cut_off(status: Status, why: str) -> End:
    """How a node ends that was cut off."""
    if status is Status.TIMED_OUT:
        return End(status, failure=Failure(ErrorKind.TIMEOUT, why))
    return End(status, reason=why)


class Fan:
    """The instances of *whole*, one for each of *items*, of which *window* may be under way at once."""

    def __init__(self, whole: Instance, rule: Foreach, items: Items, window: int, now: float) -> None:
        self.whole = whole
        self.items = items
        self.began_s = now
        self.usage = NO_USAGE
        self.path_s = 0.0
        """What the longest of them took."""
        self.live: dict[int, Instance] = {}
        """Those that have begun, or wait for a slot, by their index."""
        self.late: list[int] = []
        """Those without which it went on, of those that had begun."""
        self.reason: Reason | None = None
        """Why it waits for no more, once that is so."""
        self.stopped: tuple[Status, str] | None = None
        """How it ends, and why, where it was cut off."""
        self.rule = rule
        self._window = min(window, rule.concurrency or window)
        self._lanes = [0.0] * min(rule.concurrency or 0, len(items))
        """When each of those ended that its own concurrency lets run at once."""
        self._join = Join(rule.barrier, len(items))
        self._skip: frozenset[int] = frozenset()
        self._outputs: list[Any] = [None] * len(items)
        self._succeeded = bytearray(len(items))
        self._failed: dict[int, NodeSettled] = {}
        self._failures = 0
        self._lacks_money = False
        self._never: str | None = None
        self._begun: set[Instance] = set()
        """Of those that are live."""
        self._is_stirred = False

    @property
    def is_closed(self) -> bool:
        """Whether no more of them are to begin."""
        return self.reason is not None or self.stopped is not None or self._never is not None

    @property
    def is_over(self) -> bool:
        """Whether all is told that it waits for."""
        return self.is_closed and not self.live

    def leave_out(self, missing: frozenset[int]) -> None:
        """An earlier life of the run went on without these."""
        self._skip = missing

    def due(self, now: float) -> Iterator[Instance]:
        """Those that are to begin now; as many as there is room for."""
        while not self.is_closed and len(self.live) < self._window and (index := self.items.take()) is not None:
            if index in self._skip:
                self._join.launch(now)
                self._join.settle(succeeded=False)
                self._is_stirred = True
                continue
            scope, number = self.whole.scope, self.whole.number
            instance = Instance(scope, number, self.whole.rank, index, self.items[index])
            self.live[index] = instance
            yield instance

    def launched(self, instance: Instance, now: float) -> None:
        """*instance* began."""
        self._begun.add(instance)
        self._join.launch(now)

    def take_stir(self) -> bool:
        """Whether something has happened in here since the last call."""
        stirred, self._is_stirred = self._is_stirred, False
        return stirred

    @property
    def waiting(self) -> list[Instance]:
        """Those that are live and have not begun."""
        return [instance for instance in self.live.values() if instance not in self._begun]

    @property
    def is_doomed(self) -> bool:
        """Whether the node cannot succeed any more."""
        return self.stopped is not None or self._never is not None or self.has_failed

    @property
    def has_failed(self) -> bool:
        """Whether so many items have failed that the node will."""
        return bool(self._failures) and not (self.rule.null or self.rule.barrier.lenient)

    @property
    def lacks(self) -> bool:
        """Whether items failed that the node goes on without."""
        return self._failures > 0 and self.rule.null

    def given(self) -> Iterator[tuple[int, Any]]:
        """What its items have come to so far that have succeeded, with their places."""
        return ((index, self._outputs[index]) for index, succeeded in enumerate(self._succeeded) if succeeded)

    def settle(self, instance: Instance, settled: NodeSettled, *, path_s: float) -> float | None:
        """*instance* has ended, and took *path_s* with a slot for each of its parts.

        Where it succeeded in time, returns how long that took since the first item could have begun.
        """
        assert instance.index is not None
        del self.live[instance.index]
        if instance in self._begun:
            self._begun.discard(instance)
        else:
            self._join.launch(settled.at)
        if settled.usage is not NO_USAGE:
            self.usage += settled.usage
        since_s = self._began_s(instance.index) + path_s
        if self._lanes:
            heapq.heapreplace(self._lanes, since_s)
        self.path_s = max(self.path_s, since_s)
        if instance.index in self.late:
            return None
        succeeded = settled.status is Status.SUCCEEDED
        self._join.settle(succeeded=succeeded)
        if succeeded:
            self._outputs[instance.index] = settled.output
            self._succeeded[instance.index] = True
            return since_s
        if settled.status in FAILURES:
            self._failures += 1
            if len(self._failed) < MOST_TOLD:
                self._failed[instance.index] = settled
        elif settled.reason == OUT_OF_BUDGET:
            self._lacks_money = True
        return None

    def _began_s(self, index: int) -> float:
        """When the item *index* could have begun, with a slot for each that its own concurrency allows."""
        lead_s = self.items.lead_s(index)
        return max(lead_s, self._lanes[0]) if self._lanes else lead_s

    def consider(self, now: float) -> list[Instance] | None:
        """Decide whether it has what it needs; returns those that are late now, once that is so."""
        if self.is_closed or not self.items.is_complete:
            return None
        if not len(self.items):
            self.reason = Reason.ALL
            return []
        match self._join.decide(now):
            case Never(why):
                self._never = why
            case Open(reason):
                self.reason = reason
            case None:
                return None
        self.late = list(self.live)
        return list(self.live.values())

    def stop(self, status: Status, reason: str) -> None:
        """No more of them are to begin, and the node ends so."""
        if not self.is_closed:
            self.stopped = status, reason

    def until_s(self) -> float | None:
        """When time decides."""
        return self._join.until_s() if self.items.is_complete and not self.is_closed else None

    @property
    def arrived(self) -> list[int]:
        """The indices of those that succeeded in time."""
        return [index for index, succeeded in enumerate(self._succeeded) if succeeded]

    @property
    def missing(self) -> list[int]:
        """The indices of those without which it went on, or is to."""
        return [index for index, succeeded in enumerate(self._succeeded) if not succeeded]

    def verdict(self) -> End:
        """How the node ends."""
        if self.stopped is not None and not (self.has_failed and self.stopped[0] is Status.CANCELLED):
            return cut_off(*self.stopped)
        if self.has_failed:
            return End(Status.FAILED, failure=self._failure())
        if self._lacks_money and not self.rule.barrier.lenient:
            return End(Status.SKIPPED, reason=OUT_OF_BUDGET)
        if self._never is not None:
            return End(Status.FAILED, failure=Failure(ErrorKind.BARRIER, self._never))
        return End(Status.SUCCEEDED, self._outputs)

    def _failure(self) -> Failure:
        """What became of the items that failed."""
        kinds = [each.error for each in self._failed.values() if each.error is not None]
        told = "; ".join(
            f"{self.whole.node.id}[{index}]: {each.error.message if each.error else each.status.value}"
            for index, each in sorted(self._failed.items())
        )
        more = "; ..." if self._failures > len(self._failed) else ""
        of = f"{self._failures} of {len(self.items)} items failed"
        return Failure(kinds[0].kind if kinds else ErrorKind.UPSTREAM, f"{of}: {told}{more}", final=True)

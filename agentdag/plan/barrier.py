"""When a join opens, when it never can, and until when it waits.

A join is told what becomes of the dependencies that its barrier counts; asked, it decides. It knows no clock, no
graph and no I/O; seconds count from the beginning of the run.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentdag.events import Reason
from agentdag.language.rules import BarrierSpec
from agentdag.language.scalars import seconds_text


@dataclass(frozen=True, slots=True)
class Barrier:
    """The rule of a join; as it stands here, plain `all`, which has no `minimum`."""

    timeout_s: float | None = None
    """How long after every dependency has been launched once, or has settled, it opens at the latest."""
    deadline_s: float | None = None
    """When it opens at the latest, from the run's beginning."""
    wait_for: int | None = None
    minimum: int = 0
    progressive: bool = False
    keeps: bool = False
    """Whether dependencies that came too late may finish all the same."""

    @property
    def plain(self) -> bool:
        """Whether it waits for every dependency and demands nothing of them by itself."""
        return not (self.bounded or self.lenient or self.minimum)

    @property
    def bounded(self) -> bool:
        """Whether time opens it."""
        return self.timeout_s is not None or self.deadline_s is not None

    @property
    def lenient(self) -> bool:
        """Whether it goes on without dependencies that failed, required ones among them."""
        return self.progressive or self.wait_for is not None

    def demands(self) -> int:
        """With how many successes it opens at the least. A quorum is a wish where time opens the join too."""
        if self.wait_for is None or self.bounded or self.progressive:
            return self.minimum
        return max(self.minimum, self.wait_for)

    def may_lack(self, size: int) -> bool:
        """Whether a join of *size* dependencies may open without one that its pipeline requires."""
        lacks = self.bounded or self.progressive or (self.wait_for is not None and self.wait_for < size)
        return lacks and self.minimum < size

    def scaled(self, factor: float) -> Barrier:
        """The same with every duration times *factor*."""
        if not self.bounded:
            return self
        timeout_s = None if self.timeout_s is None else self.timeout_s * factor
        deadline_s = None if self.deadline_s is None else self.deadline_s * factor
        return Barrier(timeout_s, deadline_s, self.wait_for, self.minimum, self.progressive, self.keeps)

    def told(self, size: int) -> str:
        """The rule of a join of *size* dependencies in a few words: `8 of 10, or after 45 s`."""
        words = ["progressive"] if self.progressive else []
        if self.wait_for is not None:
            words.append(f"{self.wait_for} of {size}")
        elif not self.progressive:
            words.append("all")
        if self.timeout_s is not None:
            words.append(f"or after {seconds_text(self.timeout_s)}")
        if self.deadline_s is not None:
            words.append(f"or at {seconds_text(self.deadline_s)}")
        if self.minimum > 1 and self.minimum != self.wait_for:
            words.append(f"at least {self.minimum}")
        return ", ".join(words)


ALL = Barrier()


def barrier_of(spec: BarrierSpec | None) -> Barrier:
    """The rule that *spec* writes down."""
    if spec is None or spec.plain:
        return ALL
    minimum = 1 if spec.min is None else spec.min
    keeps = spec.stragglers == "keep"
    return Barrier(spec.timeout, spec.deadline, spec.wait_for, minimum, spec.progressive, keeps)


@dataclass(frozen=True, slots=True)
class Open:
    """The join opens now."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Never:
    """The join can never open any more."""

    why: str


Decision = Open | Never | None
"""None: it waits, for news or until the time that `Join.until_s` tells."""


class Join:
    """One join on its way to being decided; *size* dependencies count."""

    __slots__ = ("_launched_s", "_unlaunched", "arrived", "out", "rule", "size")

    def __init__(self, rule: Barrier, size: int) -> None:
        self.rule = rule
        self.size = size
        self.out = size
        """How many have not settled."""
        self.arrived = 0
        """How many have succeeded."""
        self._unlaunched = size
        self._launched_s = 0.0

    def launch(self, now: float) -> None:
        """One more has been launched for the first time, or has settled without that."""
        self._unlaunched -= 1
        self._launched_s = now

    def settle(self, *, succeeded: bool) -> None:
        """One more has settled."""
        self.out -= 1
        self.arrived += succeeded

    def decide(self, now: float) -> Decision:
        """Whether it opens now. A progressive join opens at an arrival too, and stays open to more."""
        rule = self.rule
        demanded = rule.demands()
        if self.arrived + self.out < demanded:
            return Never(self._short(demanded))
        if not self.out:
            return Open(Reason.ALL)
        if rule.wait_for is not None and self.arrived >= max(rule.wait_for, rule.minimum):
            return Open(Reason.QUORUM)
        until_s = self.until_s()
        if until_s is not None and now >= until_s:
            return Open(Reason.TIMEOUT) if self.arrived >= rule.minimum else Never(self._late(now))
        if rule.progressive and self.arrived >= max(1, rule.minimum):
            return Open(Reason.ARRIVAL)
        return None

    def until_s(self) -> float | None:
        """When time opens it; None where it never does, or where some dependency is still to be launched."""
        rule = self.rule
        ends = [] if rule.deadline_s is None else [rule.deadline_s]
        if rule.timeout_s is not None and not self._unlaunched:
            ends.append(self._launched_s + rule.timeout_s)
        return min(ends, default=None)

    def _short(self, demanded: int) -> str:
        can = f"{self.arrived + self.out} of {self.size}" if self.arrived + self.out else f"none of {self.size}"
        return f"{demanded} must succeed, and {can} can"

    def _late(self, now: float) -> str:
        few = f"{self.arrived} of {self.size}" if self.arrived else f"none of {self.size}"
        return f"{self.rule.minimum} must succeed, and {few} had when its time was up at {seconds_text(now)}"


class Passes:
    """The passes of the progressive *join*, and how much the last one saw."""

    __slots__ = ("_arrived", "_join", "_missing", "closed", "late", "number")

    def __init__(self, join: Join) -> None:
        self._join = join
        self._arrived = 0
        self._missing = 0
        self.number = 0
        """How many have begun."""
        self.closed: Reason | None = None
        """Why nothing more is waited for, once that is so."""
        self.late: frozenset[int] = frozenset()
        """Those that were still out then."""

    def restore(self, number: int, arrived: int, missing: int) -> None:
        """*number* passes ended in an earlier life of the run, the last of which saw so many."""
        self.number = number
        self._arrived, self._missing = arrived, missing

    def begin(self, arrived: int, missing: int) -> None:
        """A pass begins that sees so many."""
        self.number += 1
        self._arrived, self._missing = arrived, missing

    @property
    def complete(self) -> bool:
        """Whether the last pass has seen everything that there is to see."""
        if self.closed is None or not self.number:
            return False
        return (self._arrived, self._missing) == (self._join.arrived, self._join.size - self._join.arrived)

    @property
    def due(self) -> bool:
        """Whether another pass would see more than the last."""
        return self._join.arrived > self._arrived or (self.closed is not None and not self.complete)

"""How one call is bounded, repeated and hedged: pure arithmetic, no clock and no loop.

What a file leaves to experience (`auto`, `p95`) is filled in from what is known of the node's past.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from agentdag.errors import ErrorKind, Failure

AUTO_SHARE = 1.5
"""`timeout: auto` is so many times the p95 of the recorded latencies."""
AUTO_TIMEOUT_S = 60.0
"""What `timeout: auto` is until enough is recorded."""
ENOUGH_RECORDED = 20
"""Latencies of which a p95 is worth something."""
HEDGE_SHARE = 2.0
"""`hedge: {after: p95}` is so many times what the node is expected to take, until enough is recorded."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is recorded of a node: how many latencies, and their p95 in seconds. Calls that were cut count as well."""

    count: int
    p95_s: float

    @property
    def enough(self) -> bool:
        return self.count >= ENOUGH_RECORDED


Recall = Callable[[str], Past | None]
"""Given a node's id: its past, where there is any."""


def no_past(_node: str) -> None:
    """Nothing is recorded of any node."""


@dataclass(frozen=True, slots=True)
class Timeout:
    """Bounds of a node's work, in seconds. `attempt_s` is None for `auto`: `unknown_s` until enough is recorded.

    `idle_s` bounds the silence of a stream, from its beginning and between tokens; `total_s` all of the node's
    attempts and the waits between them, without its time in queues.
    """

    attempt_s: float | None
    idle_s: float | None = None
    total_s: float | None = None
    unknown_s: float = AUTO_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Hedge:
    """At most `most` further calls beside one that is not answered `after_s` after it began; None for p95."""

    after_s: float | None
    most: int = 1


@dataclass(frozen=True, slots=True)
class Policy:
    """How one call is bounded and repeated. `on` are the kinds of failure that are repeated."""

    timeout: Timeout
    retries: int
    delay_s: float
    max_delay_s: float
    on: frozenset[ErrorKind]
    hedge: Hedge | None = None

    @property
    def attempt_s(self) -> float:
        """The bound of one attempt; where it is `auto`, as nothing is recorded."""
        return self.timeout.unknown_s if self.timeout.attempt_s is None else self.timeout.attempt_s

    @property
    def is_open(self) -> bool:
        """Whether anything is left to experience."""
        return self.timeout.attempt_s is None or (self.hedge is not None and self.hedge.after_s is None)

    def settled(self, past: Past | None, expected_s: float) -> Policy:
        """The policy with nothing left to experience."""
        timeout, hedge = self.timeout, self.hedge
        known = past.p95_s if past is not None and past.enough else None
        if timeout.attempt_s is None:
            timeout = replace(timeout, attempt_s=timeout.unknown_s if known is None else AUTO_SHARE * known)
        if hedge is not None and hedge.after_s is None:
            hedge = replace(hedge, after_s=HEDGE_SHARE * expected_s if known is None else known)
        return replace(self, timeout=timeout, hedge=hedge)

    def scaled(self, factor: float) -> Policy:
        """The same with every duration times *factor*."""
        timeout, hedge = self.timeout, self.hedge
        return replace(
            self,
            timeout=Timeout(
                _times(timeout.attempt_s, factor),
                _times(timeout.idle_s, factor),
                _times(timeout.total_s, factor),
                timeout.unknown_s * factor,
            ),
            delay_s=self.delay_s * factor,
            max_delay_s=self.max_delay_s * factor,
            hedge=None if hedge is None else replace(hedge, after_s=_times(hedge.after_s, factor)),
        )


def _times(seconds: float | None, factor: float) -> float | None:
    return None if seconds is None else seconds * factor


def delay_s(failure: Failure, attempt: int, policy: Policy, chance: Random) -> float | None:
    """Seconds to wait after the failed 1-based *attempt*; None means give up.

    Exponential with full jitter, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/,
    but never less than the provider asked for; it gives up where that is more than the policy's longest delay.
    """
    if attempt > policy.retries or failure.final or failure.kind not in policy.on:
        return None
    asked = failure.retry_after_s or 0.0
    if asked > policy.max_delay_s:
        return None
    return max(asked, chance.uniform(0, min(policy.max_delay_s, policy.delay_s * 2.0 ** (attempt - 1))))


class RetryBudget:
    """What all retries of one run draw from, so that a broken provider is not hammered.

    A token bucket of max(10, a fifth of the nodes), refilled by a tenth for each success. What follows a 429 is
    paced by the provider and draws nothing.
    """

    SMALLEST = 10
    SHARE = 5
    REFILL = 10

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._full = self.REFILL * max(self.SMALLEST, nodes // self.SHARE)
        self._parts = self._full
        """So many make a retry as successes do: whole numbers, which add up."""

    def grow(self, nodes: int) -> None:
        """There are so many more nodes."""
        self._nodes += nodes
        full = self.REFILL * max(self.SMALLEST, self._nodes // self.SHARE)
        self._parts += full - self._full
        self._full = full

    @property
    def left(self) -> int:
        """How many retries there are."""
        return self._parts // self.REFILL

    def allows(self, failure: Failure) -> bool:
        """Draw one retry after *failure*, if there is one left."""
        if failure.kind is ErrorKind.RATE_LIMIT:
            return True
        if self._parts < self.REFILL:
            return False
        self._parts -= self.REFILL
        return True

    def succeeded(self) -> None:
        """A call went well."""
        if self._parts < self._full:
            self._parts += 1


class Allowance:
    """What is left of a node's `total`, in seconds: spent by its attempts and the waits between them."""

    __slots__ = ("left_s", "total_s")

    def __init__(self, total_s: float | None) -> None:
        self.total_s = total_s
        self.left_s = float("inf") if total_s is None else total_s

    def spend(self, seconds: float) -> None:
        self.left_s -= seconds


UNBOUNDED = Allowance(None)
"""Of every node without a `total`: nothing ever takes from it."""

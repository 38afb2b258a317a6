"""What every kind of node is to the engine: something that performs a task.

An agent reaches the world only through the task's governor; its failure is a value.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from agentdag.calls import NO_USAGE, OnDelta, Usage
from agentdag.errors import Failure
from agentdag.limits.governor import Call, Governor, Listener, Policy
from agentdag.limits.slots import Seat

T = TypeVar("T")


@dataclass(slots=True)
class Task:
    """One node's turn: its place in the queue, its limits, and who listens."""

    node: str
    governor: Governor
    seat: Seat
    policy: Policy
    listener: Listener
    on_delta: OnDelta

    def call(self, act: Callable[[int], Awaitable[T]], lane: str | None = None) -> Awaitable[Call[T]]:
        """*act*, with the attempt's number, through the governor's door."""
        return self.governor.call(act, policy=self.policy, seat=self.seat, lane=lane, listener=self.listener)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a node came to: an output, or a failure. `latency_s` is of the last attempt."""

    attempts: int
    latency_s: float
    output: Any = None
    failure: Failure | None = None
    usage: Usage = NO_USAGE
    ttft_s: float | None = None
    finish_reason: str | None = None


class Agent(Protocol):
    """One kind of node."""

    async def perform(self, task: Task) -> Outcome: ...

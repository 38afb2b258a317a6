"""What every kind of node is to the engine: something that performs a task.

An agent reaches the world only through the task's governor; its failure is a value.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from agentdag.calls import NO_USAGE, OnDelta, Usage
from agentdag.errors import Failure
from agentdag.limits.governor import Governor
from agentdag.limits.turn import NO_CLAIM, Act, Call, Claim, Turn

T = TypeVar("T")


@dataclass(slots=True)
class Task:
    """One node's turn at the governor, and who hears what streams."""

    node: str
    governor: Governor
    turn: Turn
    on_delta: OnDelta

    def call(self, act: Act[T], claim: Claim = NO_CLAIM) -> Awaitable[Call[T]]:
        """*act* through the governor's door; *claim* says whom each attempt asks, and what it takes."""
        return self.governor.call(act, self.turn, claim)

    def again(self, failure: Failure, tries: int, claim: Claim) -> Awaitable[Failure | None]:
        """Wait until everything may be done anew that came to *failure*, *tries* times so far; or why it may not."""
        return self.governor.again(failure, tries, self.turn, claim)


class Outcome(NamedTuple):
    """What a node came to: an output, or a failure. `latency_s` is of the last attempt."""

    attempts: int
    latency_s: float
    output: Any = None
    failure: Failure | None = None
    usage: Usage = NO_USAGE
    ttft_s: float | None = None
    finish_reason: str | None = None
    truncated: bool = False
    """Whether the answer was cut at its token limit."""
    partial: str | None = None
    """What had come of an answer that is not to pass for a whole one."""
    reasoning: str | None = None
    service_tier: str | None = None
    stderr: str | None = None
    """What a program said besides its output, at its end."""


class Agent(Protocol):
    """One kind of node."""

    async def perform(self, task: Task) -> Outcome: ...

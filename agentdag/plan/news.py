"""What a schedule is told of its nodes, and what it tells; nodes are numbers."""

from __future__ import annotations

from typing import NamedTuple

from agentdag.events import Reason, Status
from agentdag.plan.barrier import ALL, Barrier


class Terms(NamedTuple):
    """On what terms a node takes part. *counted* are the dependencies that its barrier counts: all, where None."""

    optional: bool = False
    """Whether others go on without its result."""
    barrier: Barrier = ALL
    counted: tuple[int, ...] | None = None
    wanted: bool = False
    """Whether an output of the run reads it."""


class Opened(NamedTuple):
    """The barrier of *node* opened, or a pass of it begins: what it sees, in the order of its needs.

    `late` are those of `missing` that are still out; `pending` those that a later pass may see.
    """

    node: int
    reason: Reason
    arrived: tuple[int, ...]
    missing: tuple[int, ...]
    late: tuple[int, ...] = ()
    pending: tuple[int, ...] = ()
    number: int = 1


class Came(NamedTuple):
    """How far a node had come in an earlier life of the run: its sight, if it had opened; how it ended without a
    success, if it did; and how many passes had finished, the last on *arrived* and *missing* of its needs."""

    seen: Opened | None = None
    ended: Status | None = None
    passes: int = 0
    arrived: int = 0
    missing: int = 0


class Ended(NamedTuple):
    """*node* has settled without having run, because of *cause*: skipped, late, or failed at its barrier."""

    node: int
    status: Status
    cause: int
    why: str = ""


class Cut(NamedTuple):
    """*node* runs, and the join *cause* was the last to want it: it is to be cancelled and settles as late."""

    node: int
    cause: int


class Rested(NamedTuple):
    """The progressive join *node* runs no more: it is to be settled. *complete* says whether it has seen everything."""

    node: int
    complete: bool


News = Opened | Ended | Cut | Rested

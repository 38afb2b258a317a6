"""What all nodes at work have in common that are made of others: who drives them, and how they end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, Protocol

from agentdag.calls import Usage
from agentdag.engine.fan import End
from agentdag.engine.run import Run
from agentdag.engine.scope import Instance, Scope, Shape
from agentdag.errors import Failure
from agentdag.events import NodeSettled, Status
from agentdag.plan.plan import Plan
from agentdag.plan.streams import streams


class Host(Protocol):
    """Who drives the nodes."""

    def begin(self, scope: Scope) -> None:
        """The nodes of *scope* may run from now on."""

    def arrive(self, instances: Iterable[Instance]) -> None:
        """These are ready."""

    def end(self, instance: Instance, settled: NodeSettled) -> None:
        """*instance*, which is made of others, has ended."""

    def flow(self, instance: Instance) -> None:
        """The parts of *instance* are told one by one from now on, to those that take them so."""

    def fall_back(self, instance: Instance, failure: Failure, usage: Usage) -> None:
        """The pipeline of *instance* has failed, and it has fallbacks."""

    def cut(self, instance: Instance, status: Status, why: str) -> None:
        """Nobody wants *instance* any more."""


class Limit(NamedTuple):
    """When something is over, at the latest, and after how long that is."""

    at_s: float
    after_s: float


class Ground:
    """Of one run, driven by *host*."""

    def __init__(self, run: Run, host: Host) -> None:
        self.run = run
        self.host = host
        self.stirred: dict[Instance, None] = {}
        """Those of which something is to be followed up."""
        self.paths_s: dict[Instance, float] = {}
        """What those that ended would have taken with a slot for each of their parts."""
        self._shapes: dict[int, Shape] = {}

    def shape(self, plan: Plan) -> Shape:
        """What all scopes of *plan* have in common."""
        found = self._shapes.get(id(plan))
        if found is None:
            found = self._shapes[id(plan)] = Shape(plan, {} if self.run.plan.schedule == "waves" else streams(plan))
        return found

    def end(self, instance: Instance, end: End, took_s: float, usage: Usage, size: int, passes: int = 1) -> None:
        """*instance*, made of *size* others, has ended."""
        run, name = self.run, instance.name
        status, output, failure, reason = end
        settled = NodeSettled(
            run.id, run.now(), name, status, took_s, 0, None, usage, output, failure, reason, {}, parts=size
        )
        self.host.end(instance, replace(settled, passes=passes) if passes > 1 else settled)

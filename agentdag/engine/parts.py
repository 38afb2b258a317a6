"""The nodes at work that are made of others: the instances of a `foreach`, the nodes of a pipeline, pass after pass.

It decides nothing about slots and writes nothing: whoever drives it, the host, does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from agentdag.calls import Usage
from agentdag.engine.bodies import Bodies
from agentdag.engine.fan import End
from agentdag.engine.fans import Fans
from agentdag.engine.ground import Ground, Host
from agentdag.engine.run import Run
from agentdag.engine.scope import Instance, Scope, Shape
from agentdag.errors import ErrorKind, Failure, UsageError
from agentdag.events import NodeSettled, Status
from agentdag.language.templates import TemplateError
from agentdag.plan.plan import Plan
from agentdag.plan.work import PipelineWork

FANNED_PER_SLOT = 4
"""So many instances of a node are under way for each slot, at the most: those that wait for a retry hold none."""


class Parts:
    """All nodes that are made of others, from their beginning to their end."""

    def __init__(self, run: Run, host: Host, cap: int) -> None:
        self._ground = Ground(run, host)
        self._fans = Fans(self._ground, FANNED_PER_SLOT * cap)
        self._bodies = Bodies(self._ground)

    def __contains__(self, instance: Instance) -> bool:
        return instance in self._fans or instance in self._bodies

    @property
    def is_busy(self) -> bool:
        """Whether there are any."""
        return bool(self._fans) or bool(self._bodies)

    @property
    def scopes(self) -> Iterator[Scope]:
        """The scopes of all pipelines at work."""
        return self._bodies.scopes

    @property
    def is_stirred(self) -> bool:
        """Whether something is to be followed up."""
        return bool(self._ground.stirred)

    def shape(self, plan: Plan) -> Shape:
        """What all scopes of *plan* have in common."""
        return self._ground.shape(plan)

    def take_path_s(self, instance: Instance, latency_s: float) -> float:
        """What *instance*, which took *latency_s*, would have taken with a slot for each of its parts."""
        return self._ground.paths_s.pop(instance, latency_s)

    def open(self, instance: Instance) -> None:
        """*instance* begins."""
        self._or_fail(instance, partial((self._fans if instance.is_whole else self._bodies).open, instance))

    def _or_fail(self, instance: Instance, act: Callable[[], None]) -> None:
        """Do *act*; *instance* fails where its templates do, or where its inputs do not fit."""
        try:
            act()
        except TemplateError as error:
            failure = Failure(ErrorKind.TEMPLATE, str(error))
        except UsageError as error:
            failure = Failure(ErrorKind.TEMPLATE, f"its inputs: {error.message}")
        else:
            return
        self._ground.end(instance, End(Status.FAILED, failure=failure), 0.0, self._bodies.forget(instance), 0)

    def launched(self, instance: Instance) -> None:
        """*instance* of a `foreach` begins."""
        self._fans.launched(instance)

    def is_live(self, instance: Instance) -> bool:
        """Whether *instance* of a `foreach` is still to run."""
        return self._fans.is_live(instance)

    def settled(self, instance: Instance, settled: NodeSettled) -> None:
        """*instance* of a `foreach` has ended."""
        self._fans.settled(instance, settled, self.take_path_s(instance, settled.latency_s))

    def ended(self, whole: Instance, settled: NodeSettled) -> None:
        """The end of the node *whole* with a `foreach` is on record."""
        self._fans.ended(whole, settled)

    def used(self, scope: Scope, usage: Usage) -> None:
        """A node of *scope*, which is the work of another, has used that."""
        self._bodies.used(scope, usage)

    def finished(self, scope: Scope) -> None:
        """All nodes of *scope* have settled."""
        if scope.parent is not None:
            self._ground.stirred[scope.parent] = None

    def go_on(self) -> None:
        """Follow up what has happened."""
        instance = next(iter(self._ground.stirred))
        del self._ground.stirred[instance]
        if instance in self._fans:
            self._fans.go_on(instance)
        elif instance in self._bodies:
            self._or_fail(instance, partial(self._bodies.go_on, instance))

    def cut(self, instance: Instance, status: Status, why: str, *, softly: bool = False) -> Sequence[Instance]:
        """*instance* is to end so; returns those of its instances that are under way. Only its caller cuts these."""
        if instance in self._fans:
            return self._fans.stop(instance, status, why)
        if not softly:
            self._bodies.stop(instance, status, why)
        return []

    def doomed(self) -> str | None:
        """The first node at work that has failed as certainly as what it is a part of."""
        for scope in self.scopes:
            for number in scope.schedule.fatal:
                if scope.parent is None or self._dooms(scope.parent):
                    return scope[number].name
        return next((whole.name for whole in self._fans.failed if self._dooms(whole)), None)

    def _dooms(self, instance: Instance) -> bool:
        """Whether the run has failed where *instance* has."""
        node, scope = instance.node, instance.scope
        if len(node.choices) > 1 and isinstance(node.work, PipelineWork):
            return False
        if instance.index is not None:
            rule = node.foreach
            if rule is None or rule.null or rule.barrier.lenient:
                return False
        return scope.schedule.is_vital(instance.number) and (scope.parent is None or self._dooms(scope.parent))

    def scope_of(self, instance: Instance) -> Scope | None:
        """The scope whose nodes do the work of *instance*, if any."""
        return self._bodies.scope_of(instance)

    def wholes(self) -> list[Instance]:
        """All that are at work."""
        return [*self._fans, *self._bodies]

    @property
    def wakes_at_s(self) -> float | None:
        """When `tick` is due."""
        return min([*self._fans.wakes_s, *self._bodies.wakes_s], default=None)

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._fans.tick(now)
        self._bodies.tick(now)

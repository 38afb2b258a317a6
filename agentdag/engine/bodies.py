"""Every pipeline at work that a node runs: its nodes in a scope of their own, pass after pass."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from agentdag.calls import NO_USAGE, Usage
from agentdag.engine.account import path_s
from agentdag.engine.afford import purse_of
from agentdag.engine.fan import End, cut_off
from agentdag.engine.ground import Ground, Limit
from agentdag.engine.outputs import is_lost_by_failure, outputs_of
from agentdag.engine.scope import Instance, Scope
from agentdag.errors import ErrorKind, Failure
from agentdag.events import FAILURES, OUT_OF_BUDGET, NodeExpanded, PassFinished, Status, unmet
from agentdag.language.templates import TemplateError
from agentdag.plan.values import resolve_given
from agentdag.plan.work import PipelineWork
from agentdag.store.schema import digest


class _Ran(NamedTuple):
    """A pipeline at work: its present scope, which pass that is, and what those before came to."""

    scope: Scope
    number: int
    began_s: float
    end: Limit | None
    previous: Any
    usage: Usage
    path_s: float


class Bodies:
    """The pipelines at work, by the instances whose work they are."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._ran: dict[Instance, _Ran] = {}
        self._used: dict[Scope, Usage] = {}
        self._stopped: dict[Instance, tuple[Status, str]] = {}
        """How those end, and why, that were cut off."""

    def __contains__(self, instance: Instance) -> bool:
        return instance in self._ran

    def __iter__(self) -> Iterator[Instance]:
        """Those at work."""
        return iter(self._ran)

    def __bool__(self) -> bool:
        return bool(self._ran)

    @property
    def scopes(self) -> Iterator[Scope]:
        """Their scopes."""
        return (ran.scope for ran in self._ran.values())

    def open(self, instance: Instance) -> None:
        """The first pass of a pipeline, or the one after those that an earlier life of the run has finished; raises
        TemplateError, or UsageError where its inputs do not fit."""
        number, previous, before_s = 1, None, 0.0
        for each in self._passes_before(instance):
            if each.asked != self._asked(instance, self._inputs(instance, previous)):
                break
            number, previous, before_s = number + 1, each.output, each.latency_s
        self._open_pass(instance, number, previous, NO_USAGE, before_s)

    def _passes_before(self, instance: Instance) -> Sequence[PassFinished]:
        """The passes of a pipeline that repeats which are on record, unless they are to be repeated."""
        reuse = self._ground.run.reuse
        before = None if reuse is None else reuse.recorded(instance.name)
        if reuse is None or before is None or instance.node.repeat is None or reuse.is_repeated(instance.name):
            return ()
        return before.passes

    def _inputs(self, instance: Instance, previous: Any) -> dict[str, Any]:
        """What a pass of a pipeline is given; raises TemplateError, or UsageError where that does not fit."""
        body, work = instance.node.body, instance.node.work
        assert body is not None
        assert isinstance(work, PipelineWork)
        names = instance.names(previous)
        return resolve_given(body, {name: value.evaluate(names) for name, value in work.arguments.items()})

    @staticmethod
    def _asked(instance: Instance, inputs: Mapping[str, Any]) -> str:
        """The digest of what a pass of a pipeline is to do."""
        body = instance.node.body
        assert body is not None
        texts = [body.source, *(node.body.source for _, _, node in body.walk() if node.body is not None)]
        return digest((json.dumps(inputs, sort_keys=True, default=str), *texts))

    def _open_pass(self, instance: Instance, number: int, previous: Any, usage: Usage, before_s: float) -> None:
        """A pass of a pipeline begins; raises TemplateError, or UsageError where its inputs do not fit."""
        run, node = self._ground.run, instance.node
        assert node.body is not None
        scope = Scope(run, self._ground.shape(node.body), self._inputs(instance, previous), parent=instance)
        scope.purse = purse_of(instance)
        now, known = run.now(), self._ran.get(instance)
        began_s = now if known is None else known.began_s
        timeout = node.policy.timeout
        ends = [] if timeout.total_s is None else [Limit(began_s + timeout.total_s, timeout.total_s)]
        if node.bounded and timeout.attempt_s is not None:
            ends.append(Limit(now + timeout.attempt_s, timeout.attempt_s))
        self._ran[instance] = _Ran(scope, number, began_s, min(ends, default=None), previous, usage, before_s)
        self._used[scope] = NO_USAGE
        run.tell(NodeExpanded(run.id, now, instance.name, instance.wave, None, number))
        self._ground.host.begin(scope)

    def forget(self, instance: Instance) -> Usage:
        """*instance* could not begin, or go on; returns what it used."""
        ran = self._ran.pop(instance, None)
        return NO_USAGE if ran is None else ran.usage

    def used(self, scope: Scope, usage: Usage) -> None:
        """A node of *scope*, which is the work of another, has used that."""
        self._used[scope] += usage

    def go_on(self, instance: Instance) -> None:
        """Follow up what has happened in the scope of *instance*; raises as `open` does."""
        ran = self._ran[instance]
        if ran.scope.schedule.done:
            self._pass_done(instance, ran)

    def _pass_done(self, instance: Instance, ran: _Ran) -> None:
        """Every node of a pipeline has settled."""
        scope = ran.scope
        usage, path = ran.usage + self._used.pop(scope), ran.path_s + path_s(scope)
        outputs, errors = outputs_of(scope)
        end = self._stopped_or_failed(instance, scope, errors) or self._round_done(instance, ran, outputs, path)
        if end is None:
            self._open_pass(instance, ran.number + 1, outputs, usage, path)
            return
        del self._ran[instance]
        self._ground.paths_s[instance] = path
        took_s, size = self._ground.run.now() - ran.began_s, len(scope.plan.nodes)
        total_s = instance.node.policy.timeout.total_s
        is_over = len(instance.node.choices) == 1 or (total_s is not None and took_s >= total_s)
        if end.status in FAILURES and end.failure is not None and not is_over:
            self._ground.host.fall_back(instance, end.failure, usage)
        else:
            self._ground.end(instance, end, took_s, usage, size, ran.number)

    def _stopped_or_failed(self, instance: Instance, scope: Scope, errors: Iterable[str]) -> End | None:
        """How a pipeline ends whose last pass came to no good."""
        stopped = self._stopped.pop(instance, None)
        if stopped is None and not scope.schedule.fatal:
            stopped = self._was_cut(scope)
        if stopped is None:
            failure = self._failure(scope, errors)
            return None if failure is None else End(Status.FAILED, failure=failure)
        return cut_off(*stopped)

    def _round_done(self, instance: Instance, ran: _Ran, outputs: Any, path: float) -> End | None:
        """How a pipeline ends that has given *outputs*; None where it is to run again, and that pass is told."""
        run, repeat = self._ground.run, instance.node.repeat
        if repeat is None:
            return End(Status.SUCCEEDED, outputs)
        try:
            held = repeat.until.holds({**instance.names(ran.previous), "output": outputs})
        except TemplateError as error:
            return End(Status.FAILED, failure=Failure(ErrorKind.TEMPLATE, f"until: {error}"))
        if held or ran.number >= repeat.most:
            return End(Status.SUCCEEDED, outputs, reason=None if held else unmet(ran.number))
        asked = self._asked(instance, ran.scope.inputs)
        run.tell(PassFinished(run.id, run.now(), instance.name, ran.number, path, outputs, None, asked))
        if run.stopping is None:
            return None
        run.governor.denied = True
        return End(Status.CANCELLED, reason=run.stopping)

    @staticmethod
    def _failure(scope: Scope, errors: Iterable[str]) -> Failure | None:
        """Why a pipeline has failed, if it has."""
        fatal = next(iter(scope.schedule.fatal), None)
        if fatal is None and is_lost_by_failure(scope, errors):
            return Failure(ErrorKind.UPSTREAM, f"its outputs {', '.join(errors)} could not be rendered", final=True)
        if fatal is None:
            return None
        failed = scope.settled[scope.plan.nodes[fatal].id]
        kind = ErrorKind.UPSTREAM if failed.error is None else failed.error.kind
        why = failed.reason or failed.status.value if failed.error is None else failed.error.message
        return Failure(kind, f"{scope.plan.nodes[fatal].id} failed: {why}", final=True)

    def _was_cut(self, scope: Scope) -> tuple[Status, str] | None:
        """How a pipeline ends of which something was cut off, or not paid for."""
        stopping = self._ground.run.stopping
        for each in scope.settled.values():
            if each.status is Status.CANCELLED or (stopping is not None and each.reason == stopping):
                return Status.CANCELLED, each.reason or ""
        if any(each.status is Status.SKIPPED and each.reason == OUT_OF_BUDGET for each in scope.settled.values()):
            return Status.SKIPPED, OUT_OF_BUDGET
        return None

    def stop(self, instance: Instance, status: Status, why: str) -> None:
        """*instance* ends so, once all of its nodes have settled."""
        self._stopped[instance] = status, why

    def scope_of(self, instance: Instance) -> Scope | None:
        """The scope whose nodes do the work of *instance*, if any."""
        ran = self._ran.get(instance)
        return None if ran is None else ran.scope

    @property
    def wakes_s(self) -> list[float]:
        """When `tick` is due."""
        return [ran.end.at_s for ran in self._ran.values() if ran.end is not None]

    def tick(self, now: float) -> None:
        """Time has passed."""
        for instance, ran in list(self._ran.items()):
            if ran.end is not None and ran.end.at_s <= now:
                self._ran[instance] = ran._replace(end=None)
                self._ground.host.cut(instance, Status.TIMED_OUT, f"no end within {ran.end.after_s:g} s")

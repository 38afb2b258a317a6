"""The nodes at work that are made of others: the instances of a `foreach`, the nodes of a pipeline, pass after pass.

It decides nothing about slots and writes nothing: whoever drives it, the host, does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from agentdag.calls import NO_USAGE, Usage
from agentdag.engine.account import path_s
from agentdag.engine.afford import purse_of
from agentdag.engine.fan import End, Fan, cut_off
from agentdag.engine.items import Coming, Items, Listed
from agentdag.engine.outputs import is_lost_by_failure, outputs_of
from agentdag.engine.run import Run
from agentdag.engine.scope import Instance, Scope, Shape
from agentdag.errors import ErrorKind, Failure, UsageError
from agentdag.events import (
    ALL_ITEMS,
    FAILURES,
    OUT_OF_BUDGET,
    BarrierOpened,
    NodeExpanded,
    NodeSettled,
    PassFinished,
    Status,
    unmet,
)
from agentdag.language.scalars import describe
from agentdag.language.templates import TemplateError
from agentdag.plan.plan import Plan
from agentdag.plan.streams import streams
from agentdag.plan.values import FileText, resolve_inputs
from agentdag.plan.work import Foreach, PipelineWork
from agentdag.store.schema import digest

FANNED_PER_SLOT = 4
"""So many instances of a node are under way for each slot, at the most: those that wait for a retry hold none."""


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


class _End(NamedTuple):
    """When something is over, at the latest, and after how long that is."""

    at_s: float
    after_s: float


class _Ran(NamedTuple):
    """A pipeline at work: its present scope, which pass that is, and what those before came to."""

    scope: Scope
    number: int
    began_s: float
    end: _End | None
    previous: Any
    usage: Usage
    path_s: float


class Parts:
    """All nodes that are made of others, from their beginning to their end."""

    def __init__(self, run: Run, host: Host, cap: int) -> None:
        self._run = run
        self._host = host
        self._window = FANNED_PER_SLOT * cap
        self._fans: dict[Instance, Fan] = {}
        self._feeding: dict[Instance, Fan] = {}
        """Those from which others take the items one by one, until their end is on record."""
        self._ends: dict[Instance, _End] = {}
        """When a node with a `foreach` is to be over, where its file says so."""
        self._ran: dict[Instance, _Ran] = {}
        self._used: dict[Scope, Usage] = {}
        self._stopped: dict[Instance, tuple[Status, str]] = {}
        """How those pipelines end, and why, that were cut off."""
        self._shapes: dict[int, Shape] = {}
        self._paths: dict[Instance, float] = {}
        self._stirred: dict[Instance, None] = {}

    def __contains__(self, instance: Instance) -> bool:
        return instance in self._fans or instance in self._ran

    @property
    def is_busy(self) -> bool:
        """Whether there are any."""
        return bool(self._fans or self._ran)

    @property
    def scopes(self) -> Iterator[Scope]:
        """The scopes of all pipelines at work."""
        return (ran.scope for ran in self._ran.values())

    @property
    def is_stirred(self) -> bool:
        """Whether something is to be followed up."""
        return bool(self._stirred)

    def shape(self, plan: Plan) -> Shape:
        """What all scopes of *plan* have in common."""
        found = self._shapes.get(id(plan))
        if found is None:
            found = self._shapes[id(plan)] = Shape(plan, {} if self._run.plan.schedule == "waves" else streams(plan))
        return found

    def take_path_s(self, instance: Instance, latency_s: float) -> float:
        """What *instance*, which took *latency_s*, would have taken with a slot for each of its parts."""
        return self._paths.pop(instance, latency_s)

    def open(self, instance: Instance) -> None:
        """*instance* begins."""
        if instance.is_whole:
            self._or_fail(instance, partial(self._open_fan, instance))
        else:
            self._or_fail(instance, partial(self._open_first, instance))

    def _or_fail(self, instance: Instance, act: Callable[[], None]) -> None:
        """Do *act*; *instance* fails where its templates do, or where its inputs do not fit."""
        try:
            act()
        except TemplateError as error:
            self._fail(instance, Failure(ErrorKind.TEMPLATE, str(error)))
        except UsageError as error:
            self._fail(instance, Failure(ErrorKind.TEMPLATE, f"its inputs: {error.message}"))

    def _open_fan(self, whole: Instance) -> None:
        run, rule = self._run, whole.node.foreach
        assert rule is not None
        items = self._items(whole, rule)
        run.tell(NodeExpanded(run.id, run.now(), whole.name, whole.wave, len(items)))
        run.governor.retries.grow(len(items))
        fan = self._fans[whole] = Fan(whole, rule, items, self._window, run.now())
        fan.leave_out(self._left_out_before(whole))
        if (total_s := whole.node.policy.timeout.total_s) is not None:
            self._ends[whole] = _End(run.now() + total_s, total_s)
        self._stirred[whole] = None
        if whole.number in whole.scope.shape.feeds:
            self._feeding[whole] = fan
            self._host.flow(whole)

    def _items(self, whole: Instance, rule: Foreach) -> Items:
        scope = whole.scope
        feeder = scope.shape.streams.get(whole.number)
        feeding = None if feeder is None else self._feeding.get(scope[feeder])
        if feeder is None or feeding is None:
            values = rule.items.evaluate(whole.names())
            if not isinstance(values, list):
                raise TemplateError(f"foreach: this gives {describe(values)}, and a list is due")
            return Listed(values)
        items = Coming(len(feeding.items))
        for index, value in feeding.given():
            items.add(index, value, 0.0)
        scope.spent_s[feeder, whole.number] = 0.0
        return items

    def _followers(self, whole: Instance) -> Iterator[tuple[Fan, Coming]]:
        """Those at work that take the items of *whole* one by one."""
        for number in whole.scope.shape.feeds.get(whole.number, ()):
            fan = self._fans.get(whole.scope[number])
            if fan is not None and isinstance(fan.items, Coming) and not fan.items.is_complete:
                yield fan, fan.items

    def ended(self, whole: Instance, settled: NodeSettled) -> None:
        """The end of the node *whole* with a `foreach` is on record."""
        if self._feeding.pop(whole, None) is None:
            return
        for fan, items in self._followers(whole):
            if settled.status is Status.SUCCEEDED:
                items.complete(settled.output)
            else:
                why = f"{whole.name} failed" if settled.status in FAILURES else settled.reason or settled.status.value
                fan.stop(Status.SKIPPED, why)
                for instance in fan.waiting:
                    self._host.cut(instance, Status.LATE, why)
            self._stirred[fan.whole] = None

    def _left_out_before(self, whole: Instance) -> frozenset[int]:
        """Of a node that had ended with what its barrier gave it: the items without which it had gone on."""
        reuse = self._run.reuse
        before = None if reuse is None else reuse.recorded(whole.name)
        saw = None if reuse is None else reuse.recorded(whole.name + ALL_ITEMS)
        if before is None or before.ended is None or before.ended.status is not Status.SUCCEEDED:
            return frozenset()
        if saw is None or saw.opened is None:
            return frozenset()
        names = (name.rpartition("[")[2].rstrip("]") for name in saw.opened.missing)
        return frozenset(int(index) for index in names if index.isdigit())

    def _open_first(self, instance: Instance) -> None:
        """The first pass of a pipeline, or the one after those that an earlier life of the run has finished."""
        number, previous, before_s = 1, None, 0.0
        for each in self._passes_before(instance):
            if each.asked != self._asked(instance, self._inputs(instance, previous)):
                break
            number, previous, before_s = number + 1, each.output, each.latency_s
        self._open_pass(instance, number, previous, NO_USAGE, before_s)

    def _passes_before(self, instance: Instance) -> Sequence[PassFinished]:
        """The passes of a pipeline that repeats which are on record, unless they are to be repeated."""
        reuse = self._run.reuse
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
        given = {name: value.evaluate(names) for name, value in work.arguments.items()}
        for name, value in given.items():
            if body.inputs[name].type == "file" and isinstance(value, str):
                given[name] = FileText(value)
        return resolve_inputs(body, given)

    @staticmethod
    def _asked(instance: Instance, inputs: Mapping[str, Any]) -> str:
        """The digest of what a pass of a pipeline is to do."""
        body = instance.node.body
        assert body is not None
        texts = [body.source, *(node.body.source for _, _, node in body.walk() if node.body is not None)]
        return digest((json.dumps(inputs, sort_keys=True, default=str), *texts))

    def _open_pass(self, instance: Instance, number: int, previous: Any, usage: Usage, before_s: float) -> None:
        """A pass of a pipeline begins; raises TemplateError, or UsageError where its inputs do not fit."""
        run, node = self._run, instance.node
        assert node.body is not None
        scope = Scope(run, self.shape(node.body), self._inputs(instance, previous), parent=instance)
        scope.purse = purse_of(instance)
        now, known = run.now(), self._ran.get(instance)
        began_s = now if known is None else known.began_s
        timeout = node.policy.timeout
        ends = [] if timeout.total_s is None else [_End(began_s + timeout.total_s, timeout.total_s)]
        if node.bounded and timeout.attempt_s is not None:
            ends.append(_End(now + timeout.attempt_s, timeout.attempt_s))
        self._ran[instance] = _Ran(scope, number, began_s, min(ends, default=None), previous, usage, before_s)
        self._used[scope] = NO_USAGE
        run.tell(NodeExpanded(run.id, now, instance.name, instance.wave, None, number))
        self._host.begin(scope)

    def _fail(self, instance: Instance, failure: Failure) -> None:
        """*instance* cannot begin, or cannot go on."""
        ran = self._ran.pop(instance, None)
        usage = NO_USAGE if ran is None else ran.usage
        self._end(instance, End(Status.FAILED, failure=failure), 0.0, usage, 0)

    def launched(self, instance: Instance) -> None:
        """*instance* of a `foreach` begins."""
        self._fans[instance.scope[instance.number]].launched(instance, self._run.now())

    def is_live(self, instance: Instance) -> bool:
        """Whether *instance* of a `foreach` is still to run."""
        fan = self._fans.get(instance.scope[instance.number])
        return fan is not None and instance.index in fan.live and not fan.is_closed

    def settled(self, instance: Instance, settled: NodeSettled) -> None:
        """*instance* of a `foreach` has ended."""
        whole = instance.scope[instance.number]
        fan = self._fans[whole]
        since_s = fan.settle(instance, settled, path_s=self.take_path_s(instance, settled.latency_s))
        self._stirred[whole] = None
        if since_s is not None and whole in self._feeding and not fan.is_doomed:
            assert instance.index is not None
            for follower, items in self._followers(whole):
                items.add(instance.index, settled.output, since_s)
                self._stirred[follower.whole] = None

    def used(self, scope: Scope, usage: Usage) -> None:
        """A node of *scope*, which is the work of another, has used that."""
        self._used[scope] += usage

    def finished(self, scope: Scope) -> None:
        """All nodes of *scope* have settled."""
        if scope.parent is not None:
            self._stirred[scope.parent] = None

    def go_on(self) -> None:
        """Follow up what has happened."""
        instance = next(iter(self._stirred))
        del self._stirred[instance]
        if instance in self._fans:
            self._go_on_with(self._fans[instance])
        elif instance in self._ran and self._ran[instance].scope.schedule.done:
            self._pass_done(instance, self._ran[instance])

    def _go_on_with(self, fan: Fan) -> None:
        now, whole = self._run.now(), fan.whole
        late = fan.consider(now)
        if late is not None and fan.reason is not None and (not fan.rule.barrier.plain or fan.lacks):
            self._tell_sight(fan)
        for instance in late or ():
            self._host.cut(instance, Status.LATE, f"{whole.name} went on without it")
        due = list(fan.due(now))
        if due:
            self._host.arrive(due)
        if fan.take_stir():
            self._stirred[whole] = None
        if fan.is_over and whole in self._fans:
            del self._fans[whole]
            self._ends.pop(whole, None)
            self._paths[whole] = fan.path_s
            self._end(whole, fan.verdict(), now - fan.began_s, fan.usage, len(fan.items))

    def _tell_sight(self, fan: Fan) -> None:
        """What of its items the node has, kept for a run that goes on."""
        run, name = self._run, fan.whole.name
        assert fan.reason is not None
        arrived, missing, late = (
            tuple(f"{name}[{index}]" for index in indices) for indices in (fan.arrived, fan.missing, fan.late)
        )
        run.tell(BarrierOpened(run.id, run.now(), name + ALL_ITEMS, fan.reason, arrived, missing, late))

    def _pass_done(self, instance: Instance, ran: _Ran) -> None:
        """Every node of a pipeline has settled."""
        scope = ran.scope
        usage, path = ran.usage + self._used.pop(scope), ran.path_s + path_s(scope)
        outputs, errors = outputs_of(scope)
        end = self._stopped_or_failed(instance, scope, errors) or self._round_done(instance, ran, outputs, path)
        if end is None:
            self._or_fail(instance, partial(self._open_pass, instance, ran.number + 1, outputs, usage, path))
            return
        del self._ran[instance]
        self._paths[instance] = path
        took_s, size = self._run.now() - ran.began_s, len(scope.plan.nodes)
        total_s = instance.node.policy.timeout.total_s
        is_over = len(instance.node.choices) == 1 or (total_s is not None and took_s >= total_s)
        if end.status in FAILURES and end.failure is not None and not is_over:
            self._host.fall_back(instance, end.failure, usage)
        else:
            self._end(instance, end, took_s, usage, size, ran.number)

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
        run, repeat = self._run, instance.node.repeat
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
        stopping = self._run.stopping
        for each in scope.settled.values():
            if each.status is Status.CANCELLED or (stopping is not None and each.reason == stopping):
                return Status.CANCELLED, each.reason or ""
        if any(each.status is Status.SKIPPED and each.reason == OUT_OF_BUDGET for each in scope.settled.values()):
            return Status.SKIPPED, OUT_OF_BUDGET
        return None

    def cut(self, instance: Instance, status: Status, why: str, *, softly: bool = False) -> Sequence[Instance]:
        """*instance* is to end so; returns those of its instances that are under way. Only its caller cuts these."""
        if instance in self._fans:
            fan = self._fans[instance]
            fan.stop(status, why)
            self._stirred[instance] = None
            return list(fan.live.values())
        if not softly:
            self._stopped[instance] = status, why
        return []

    def doomed(self) -> str | None:
        """The first node at work that has failed as certainly as what it is a part of."""
        for scope in self.scopes:
            for number in scope.schedule.fatal:
                if scope.parent is None or self._dooms(scope.parent):
                    return scope[number].name
        for whole, fan in self._fans.items():
            if fan.has_failed and self._dooms(whole):
                return whole.name
        return None

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
        ran = self._ran.get(instance)
        return None if ran is None else ran.scope

    def wholes(self) -> list[Instance]:
        """All that are at work."""
        return [*self._fans, *self._ran]

    @property
    def wakes_at_s(self) -> float | None:
        """When `tick` is due."""
        ends = [until for fan in self._fans.values() if (until := fan.until_s()) is not None]
        ends += [ran.end.at_s for ran in self._ran.values() if ran.end is not None]
        ends += [end.at_s for end in self._ends.values()]
        return min(ends, default=None)

    def tick(self, now: float) -> None:
        """Time has passed."""
        for whole, fan in self._fans.items():
            until = fan.until_s()
            if until is not None and until <= now:
                self._stirred[whole] = None
        for instance, ran in list(self._ran.items()):
            if ran.end is not None and ran.end.at_s <= now:
                self._ran[instance] = ran._replace(end=None)
                self._host.cut(instance, Status.TIMED_OUT, f"no end within {ran.end.after_s:g} s")
        for whole, end in list(self._ends.items()):
            if end.at_s <= now:
                del self._ends[whole]
                self._host.cut(whole, Status.TIMED_OUT, f"no end within {end.after_s:g} s")

    def _end(self, instance: Instance, end: End, took_s: float, usage: Usage, size: int, passes: int = 1) -> None:
        """*instance*, made of *size* others, has ended."""
        run, name = self._run, instance.name
        status, output, failure, reason = end
        settled = NodeSettled(
            run.id, run.now(), name, status, took_s, 0, None, usage, output, failure, reason, {}, parts=size
        )
        self._host.end(instance, replace(settled, passes=passes) if passes > 1 else settled)

"""A plan driven through time: the only file that knows both time and order.

Nodes start when the schedule says that they may and a slot is theirs; whatever ends is told as an event
before anything that depends on it starts. Nothing is left running when `run` returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from agentdag.calls import NO_USAGE, Usage
from agentdag.engine.account import Account, RunEnd
from agentdag.engine.afford import budget_left
from agentdag.engine.asks import Question
from agentdag.engine.attempts import NodeLife
from agentdag.engine.outputs import is_lost_by_failure, outputs_of
from agentdag.engine.parts import Parts
from agentdag.engine.queue import Queue
from agentdag.engine.resumption import ask, came_of, late_before, passes_before, stayed
from agentdag.engine.reuse import SKIPPED, Reuse, Verdict
from agentdag.engine.run import Run
from agentdag.engine.saving import saved
from agentdag.engine.scope import Instance, Scope
from agentdag.engine.shelf import shelved
from agentdag.engine.sights import sighted
from agentdag.errors import ErrorKind, Failure, UsageError
from agentdag.events import (
    FAILURES,
    INTERRUPTED,
    OUT_OF_BUDGET,
    UNMET,
    BudgetLow,
    Exit,
    NodeResumed,
    NodeSettled,
    RunFinished,
    RunProgress,
    RunStarted,
    RunStatus,
    Status,
    base_name,
    later,
)
from agentdag.language.scalars import LOW_PRIORITY
from agentdag.language.templates import TemplateError
from agentdag.limits.deadlines import LET_GO_S
from agentdag.limits.slots import Place, Seat, Slots
from agentdag.plan.flat import flat
from agentdag.plan.forecast import critical_path_s, remaining_s
from agentdag.plan.news import Cut, Ended, News, Opened, Rested
from agentdag.plan.schedule import State
from agentdag.plan.work import PipelineWork
from agentdag.store.fold import RunRecord

_LOG = logging.getLogger("agentdag")
GRACE_S = 10.0
"""How long what is in flight may still finish after the first interrupt."""
AT_ONCE_S = 0.4
"""How long what is cut by a second interrupt may take to stop."""
PROGRESS_EVERY_S = 1.0
SHORTEST_COUNTED_WAIT_S = 0.001
"""A shorter wait for a slot is no more than the engine's own work."""


def _was_done(scope: Scope, reuse: Reuse) -> bool:
    """Whether *scope* is of a pipeline that had succeeded in an earlier life of the run, and stays so."""
    parent = scope.parent
    before = None if parent is None else reuse.recorded(parent.name)
    if parent is None or before is None or before.ended is None or reuse.is_repeated(parent.name):
        return False
    return before.ended.status is Status.SUCCEEDED


class Runner:
    """One run of one plan. *startup_s* is what came before it and is only told.

    Of several that share *slots*, the nodes of one with a smaller *order* go before all of one with a larger.
    """

    def __init__(self, run: Run, slots: Slots, *, startup_s: float = 0.0, order: int = 0) -> None:
        plan = run.plan
        self._run = run
        self._slots = slots
        self._parts = Parts(run, self, slots.cap)
        shape = self._parts.shape(plan)
        remaining = shape.remaining_s
        whole = flat(plan)
        left = remaining if whole is plan else remaining_s(whole.graph, whole.durations_s)
        self._expected_path_s = critical_path_s(whole.graph, whole.durations_s, left, whole.rules)
        self._expected_work_s = sum(whole.durations_s)
        self._root = Scope(run, shape, run.inputs, after_s=order * max(remaining, default=0.0))
        self._lives: dict[Instance, NodeLife] = {}
        """Of those that have begun and not settled."""
        self._tasks: dict[Instance, asyncio.Task[None]] = {}
        """Of those that run at this moment."""
        self._queue = Queue(run, slots, self._launch, self._safely)
        self._is_low = False
        """Whether it was told that the budget is low."""
        self._stirred: dict[Scope, None] = {self._root: None}
        """The scopes in which something has happened."""
        self._due: list[Instance] = []
        """Those that are ready, and whose work is not there already."""
        self._ending: set[Instance] = set()
        """Those whose end is being written."""
        self._account = Account(run, startup_s)
        self._timed_out = False
        self._store_broke = False
        self._signal: int | None = None
        self._was_cut_short = False
        """Whether the interrupt has cost anything: a node that was cut, or not begun."""
        self._stop_reason: str | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._alarm_s: float | None = None
        self._going_on = False
        self._over = False
        self._ended = asyncio.Event()
        self._bug: Exception | None = None

    async def run(self) -> RunFinished:
        """Run to the end; the last event is returned as well as told."""
        self._loop = asyncio.get_running_loop()
        self._tell_start()
        if (timeout_s := self._run.plan.timeout_s) is not None:
            self._later("timeout", timeout_s, partial(self._time_out, timeout_s))
        self._later("progress", PROGRESS_EVERY_S, self._tell_progress)
        self._run.governor.deadlines.on_stuck = self._stuck
        try:
            record = None if self._run.reuse is None else self._run.reuse.record
            if record is not None:
                self._account.add_usage(None, record.spent)
                self._late_before = late_before(record)
                self._take_up(self._root, record)
            self._go_on()
            await self._ended.wait()
        finally:
            self._over = True
            self._queue.clear()
            self._run.governor.deadlines.close()
            for timer in self._timers.values():
                timer.cancel()
            await self._end_tasks()
        if self._bug is not None:
            self._give_up(self._bug)
            raise self._bug
        return await self._tell_end()

    async def _end_tasks(self) -> None:
        """Nothing is left running where the run itself was cancelled, or ended by a bug."""
        left = set(self._tasks.values())
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=LET_GO_S)

    def interrupt(self, signal: int) -> None:
        """The first time nothing new is launched and what is in flight may finish; the second time it is cut."""
        if self._signal is None:
            self._signal = signal
            self._stop(INTERRUPTED)
            self._later("grace", GRACE_S, partial(self._cut, INTERRUPTED))
        else:
            self._cut(INTERRUPTED)

    def store_broke(self) -> None:
        """Nothing can be written any more: nothing more is begun, and what is in flight may finish."""
        if not self._store_broke:
            self._store_broke = True
            self._stop("the store could not be written")
            self._later("grace", GRACE_S, partial(self._cut, "the store could not be written"))

    def _go_on(self) -> None:
        """Do what follows from what happened, launch what became ready, and wake when time alone opens a barrier.

        What is done here makes more happen: that is taken in before anything is launched.
        """
        if self._going_on or self._over:
            return
        self._going_on = True
        while not self._ended.is_set():
            if self._stirred:
                scope = next(iter(self._stirred))
                del self._stirred[scope]
                self._follow(scope)
            elif self._parts.is_stirred:
                self._parts.go_on()
            elif not (self._run.plan.fail_fast and self._fails_fast()):
                break
        self._going_on = False
        if self._root.schedule.done:
            self._ended.set()
        else:
            self._launch_ready()
            self._set_alarm()

    def _follow(self, scope: Scope) -> None:
        """Take in what has followed in *scope*."""
        schedule = scope.schedule
        while news := schedule.take_news():
            for each in news:
                self._take_in(scope, each)
        if ready := schedule.take_ready():
            self.arrive([scope[number] for number in ready])
        if schedule.done:
            self._parts.finished(scope)

    def _take_in(self, scope: Scope, news: News) -> None:
        match news:
            case Opened():
                self._opened(scope, news)
            case Ended():
                self._ended_without_running(scope, news)
            case Cut(node, cause) if scope[node] not in self._ending:
                self.cut(scope[node], Status.LATE, self._late_reason(scope, cause))
            case Rested(node, complete) if scope[node] not in self._ending:
                self._rested(scope[node], complete=complete)

    def _fails_fast(self) -> bool:
        """Stop at the first required failure; whether that is now."""
        if self._stop_reason is not None:
            return False
        fatal = next(iter(self._root.schedule.fatal), None)
        first = self._parts.doomed() if fatal is None else self._root[fatal].name
        if first is None:
            return False
        self._stop(f"fail_fast: {first} failed")
        return True

    def begin(self, scope: Scope) -> None:
        """The nodes of *scope* may run from now on."""
        self._stirred[scope] = None
        record = None if self._run.reuse is None else self._run.reuse.record
        if record is not None:
            self._take_up(scope, record)
        if self._stop_reason is not None:
            self._abandon(scope, self._stop_reason)

    def _take_up(self, scope: Scope, record: RunRecord) -> None:
        """Go on where the run was: what joins saw holds, and what they went on without stays as it ended."""
        run, reuse, schedule = self._run, self._run.reuse, scope.schedule
        assert reuse is not None
        came = came_of(scope, record, self._late_before, reuse)
        for number in schedule.resume(came, done=_was_done(scope, reuse)):
            instance, ended = scope[number], came[number].ended
            assert ended is not None
            before = reuse.recorded(instance.name)
            settled = stayed(instance, ended, before)
            if run.log is not None and (before is None or before.ended is None):
                run.log.commit(settled)
            self._keep(instance, settled, "all that read it went on without it")
        for number, each in came.items():
            instance = scope[number]
            before = reuse.recorded(instance.name)
            if each.passes and before is not None and schedule.state(number) is not State.SETTLED:
                life = self._lives[instance] = NodeLife(instance, Seat(self._slots, instance.rank))
                life.go_on(passes_before(before), None if instance.node.model is None else str(instance.node.model))
        for number in range(len(scope.plan.nodes)) if reuse.skips else ():
            instance = scope[number]
            if reuse.is_skipped(instance.name) and schedule.state(number) is not State.SETTLED:
                schedule.waive(number)
                self._put_down(instance, self._unstarted(instance, Status.SKIPPED, reason=SKIPPED))

    def arrive(self, instances: Iterable[Instance]) -> None:
        """These are ready: what is made of others begins, what is there already is kept, the rest is due."""
        asked = []
        for instance in instances:
            if not self._is_to_run(instance):
                continue
            if instance.is_whole or isinstance(instance.node.work, PipelineWork):
                self._begin_whole(instance)
            elif self._run.reuse is None:
                self._due.append(instance)
            else:
                frozen = instance.index is None and instance.scope.schedule.is_frozen(instance.number)
                asked.append((instance, ask(instance, frozen=frozen)))
        for instance, asks in asked:  # all of them have said what they ask: an answer goes to whom it belongs
            if self._is_ready(instance):  # else what was kept before it has made it late
                self._keep_or_do(instance, asks)

    def _is_to_run(self, instance: Instance) -> bool:
        """Whether *instance*, which could run, is to; else it settles."""
        when, scope = instance.node.when, instance.scope
        if instance.index is not None:
            reuse = self._run.reuse
            if reuse is not None and reuse.skips and reuse.is_skipped(instance.name):
                self._put_down(instance, self._unstarted(instance, Status.SKIPPED, reason=SKIPPED))
                return False
            return True
        if when is None:
            return True
        try:
            holds = when.holds(instance.names())
        except TemplateError as error:
            failure = Failure(ErrorKind.TEMPLATE, f"when: {error}")
            scope.schedule.start(instance.number, self._run.now())
            self._settle(instance, self._unstarted(instance, Status.FAILED, failure=failure))
            return False
        if not holds:
            scope.schedule.leave_out(instance.number)
            self._put_down(instance, self._unstarted(instance, Status.SKIPPED, reason=UNMET))
            self._stirred[scope] = None
        return holds

    def _begin_whole(self, instance: Instance) -> None:
        """Begin a node that is made of others: it needs no slot."""
        self._start(instance)
        self._parts.open(instance)

    def _start(self, instance: Instance) -> None:
        """*instance* begins, or begins its next pass."""
        if instance.index is None:
            instance.scope.schedule.start(instance.number, self._run.now())
        elif instance not in self._lives:
            self._parts.launched(instance)

    def _is_ready(self, instance: Instance) -> bool:
        """Whether *instance*, which was ready, still is."""
        if instance.index is not None:
            return self._parts.is_live(instance)
        return instance.scope.schedule.state(instance.number) is State.READY

    def _keep_or_do(self, instance: Instance, asks: Question | str | None) -> None:
        """Settle *instance* where its work is there already, or cannot be had; else it is due."""
        run, reuse = self._run, self._run.reuse
        assert reuse is not None
        if isinstance(asks, str):
            verdict: Verdict | None = Verdict(None, asks)
        else:
            verdict = None if asks is None else reuse.look(instance.node, instance.name, asks)
        if verdict is None or verdict.settled is None:
            if verdict is not None and reuse.resumes:
                run.tell(NodeResumed(run.id, run.now(), instance.name, kept=False, why=verdict.why))
            self._due.append(instance)
            return
        found = verdict.settled
        if found.status is not Status.SUCCEEDED and not self._lives:
            hint = f"select +{base_name(instance.name).partition('.')[0]} to run it too"
            self._bug = UsageError(f"`{instance.name}` is needed: {verdict.why}", hint=hint)
            self._ended.set()
        self._start(instance)
        settled = saved(instance, replace(found, run=run.id, node=instance.name, kept=not found.cached))
        if found.run == run.id and found.node == instance.name and settled.status is found.status:
            self._keep(instance, settled, verdict.why, verdict.fingerprint)
            self._release(instance, settled)
        else:
            self._settle(instance, settled, verdict.fingerprint)

    def _keep(self, instance: Instance, settled: NodeSettled, why: str, fingerprint: str | None = None) -> None:
        """Tell an end that is on record already, and that it holds."""
        run = self._run
        told = NodeResumed(run.id, run.now(), settled.node, kept=True, why=why)
        if run.log is not None:
            run.log.commit(told, fingerprint=fingerprint)
        run.emit(told)
        self._record(instance, later(settled, run.now()))

    def _launch_ready(self) -> None:
        """Queue every node that became ready, then give out the slots, best first."""
        due, self._due = self._due, []
        if due:
            self._queue.add(instance for instance in due if self._is_ready(instance))
        self._queue.hand_out()
        self._queue.ahead.go_on_soon()

    def _launch(self, instance: Instance, seat: Seat, ready_at: float) -> None:
        """*instance* holds its slot: begin, or begin the next pass."""
        now = self._run.now()
        if instance.rank[0] == LOW_PRIORITY and instance not in self._lives and self._run.low("shed"):
            self._shed(instance, seat)
            return
        self._start(instance)
        life = self._lives.get(instance)
        if life is None:
            life = self._queue.ahead.take(instance) or NodeLife(instance, seat)
            self._lives[instance] = life
            self._queue.ahead.go_on_soon()
        else:
            life.sit(seat)
        if life.node.barrier.progressive:
            for each in instance.scope.schedule.take_news():  # what this pass sees
                assert isinstance(each, Opened)
                self._opened(instance.scope, each)
        if (waited := now - ready_at - seat.rate_s) > SHORTEST_COUNTED_WAIT_S:
            life.waited("slot", waited)
        if seat.rate_s > SHORTEST_COUNTED_WAIT_S:
            life.waited("rate", seat.rate_s)
        self._tasks[instance] = self._loop.create_task(self._live(instance, life))

    def _shed(self, instance: Instance, seat: Seat) -> None:
        """The budget is low, and *instance* can be done without."""
        seat.leave()
        self._queue.ahead.take(instance)
        if instance.index is None:
            instance.scope.schedule.leave_out(instance.number)
            self._stirred[instance.scope] = None
        self._put_down(instance, self._unstarted(instance, Status.SKIPPED, reason=OUT_OF_BUDGET))
        asyncio.get_running_loop().call_soon(self._safely, self._go_on)

    def flow(self, instance: Instance) -> None:
        """The parts of *instance* are told one by one from now on, to those that take them so."""
        instance.scope.schedule.flow(instance.number)
        self._stirred[instance.scope] = None

    def fall_back(self, instance: Instance, failure: Failure, usage: Usage) -> None:
        """The pipeline of *instance* has failed: its fallbacks are asked, as soon as there is a slot."""
        life = self._lives[instance] = NodeLife(instance, Seat(self._slots, instance.rank))
        life.fall_back(failure, usage)
        self._tasks[instance] = self._loop.create_task(self._live(instance, life))

    async def _live(self, instance: Instance, life: NodeLife) -> None:
        life.begun = True
        settled: NodeSettled | None = None
        try:
            await life.live()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if life.unwanted is not None or self._stop_reason is not None:
                settled = self._cut_off(life)
            elif task is not None and task.cancelling():
                raise
            else:
                life.fail(ErrorKind.INTERNAL, "the agent cancelled itself")
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - a bug must not hurt the node's siblings
            life.fail(ErrorKind.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            life.seat.leave()
            if not life.let_go:
                del self._tasks[instance]
        if life.let_go:
            return
        try:
            if settled is None and life.node.barrier.progressive and life.unwanted is None:
                self._run.tell(life.pass_finished())
                instance.scope.schedule.rest(instance.number, self._run.now())
                self._stirred[instance.scope] = None
                self._go_on()
            else:
                self._settle(instance, settled or self._end_of(life), life.fingerprint)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends the run, and not in silence
            self._bug = error
            self._ended.set()

    def _end_of(self, life: NodeLife) -> NodeSettled:
        """How a node ends by what its work came to; what nobody wants any more is late, unless it is there."""
        settled = life.settled()
        there = settled.status is Status.SUCCEEDED and not life.node.barrier.progressive
        return settled if life.unwanted is None or there else self._cut_off(life)

    def end(self, instance: Instance, settled: NodeSettled) -> None:
        """*instance*, which is made of others, has ended."""
        self._settle(instance, settled if instance.is_whole else saved(instance, settled))

    def _settle(self, instance: Instance, settled: NodeSettled, fingerprint: str | None = None) -> None:
        """The end of a node: written first, then told, then its dependants are released."""
        if self._run.log is None:
            self._settled(instance, settled)
            self._go_on()
        else:
            self._ending.add(instance)
            written = partial(self._safely, partial(self._written, instance, settled))
            self._run.log.commit(settled, written, fingerprint=fingerprint)

    def _written(self, instance: Instance, settled: NodeSettled) -> None:
        self._ending.discard(instance)
        self._settled(instance, later(settled, self._run.now()))
        self._go_on()

    def _safely(self, act: Callable[[], None]) -> None:
        """A bug of ours ends the run, and not in silence."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is
            self._bug = error
            self._ended.set()

    def _settled(self, instance: Instance, settled: NodeSettled) -> None:
        self._record(instance, settled)
        self._watch_budget()
        self._release(instance, settled)

    def _release(self, instance: Instance, settled: NodeSettled) -> None:
        """Tell whoever waits for *instance*."""
        if instance.index is None:
            instance.scope.schedule.settle(instance.number, settled.status, settled.at)
            self._stirred[instance.scope] = None
            if instance.is_whole:
                self._parts.ended(instance, settled)
        else:
            self._parts.settled(instance, settled)

    def _watch_budget(self) -> None:
        """Say once that the budget is low, and stop where that is what is to be done."""
        run, terms = self._run, self._run.plan.budget
        if self._is_low or run.budget is None or terms is None or not terms.actions or not run.budget.is_low:
            return
        self._is_low = True
        run.tell(BudgetLow(run.id, run.now(), run.budget.share, tuple(sorted(terms.actions))))
        if "stop" in terms.actions and self._stop_reason is None:
            run.out_of_budget = f"{run.budget.share:.0%} of the budget is spent, and `when_low` says stop"
            asyncio.get_running_loop().call_soon(self._safely, self._stop_spending)

    def _stop_spending(self) -> None:
        if self._stop_reason is None and not self._root.schedule.done:
            self._stop(OUT_OF_BUDGET)
            self._cut(OUT_OF_BUDGET)

    def _rested(self, instance: Instance, *, complete: bool) -> None:
        """A progressive join runs no more."""
        life = self._lives[instance]
        ends = life.unwanted is None and (complete or self._stop_reason is None)
        self._was_cut_short |= self._signal is not None and not ends and life.unwanted is None
        self._queue.leave(instance)
        self._settle(instance, life.settled() if ends else self._cut_off(life), life.fingerprint)

    def _opened(self, scope: Scope, seen: Opened) -> None:
        """A join goes on, or begins a pass."""
        for need in seen.late:
            life = self._lives.get(scope[need])
            scope.spent_s.setdefault((need, seen.node), 0.0 if life is None else life.acting_s)
        self._run.tell(sighted(scope, seen, frozen=scope.schedule.is_frozen(seen.node)))

    def _ended_without_running(self, scope: Scope, ended: Ended) -> None:
        instance = scope[ended.node]
        self._queue.leave(instance)
        match ended.status:
            case Status.SKIPPED:
                settled = self._unstarted(instance, Status.SKIPPED, reason=self._skip_reason(scope, ended.cause))
            case Status.LATE:
                settled = self._unstarted(instance, Status.LATE, reason=self._late_reason(scope, ended.cause))
            case _:
                settled = self._unstarted(instance, Status.FAILED, failure=Failure(ErrorKind.BARRIER, ended.why))
        self._put_down(instance, settled)

    @staticmethod
    def _skip_reason(scope: Scope, cause: int) -> str:
        before = scope.settled.get(scope.plan.nodes[cause].id)
        if before is not None and before.reason in {OUT_OF_BUDGET, UNMET}:
            return OUT_OF_BUDGET if before.reason == OUT_OF_BUDGET else f"{scope[cause].name} was skipped"
        return f"{scope[cause].name} failed"

    def _put_down(self, instance: Instance, settled: NodeSettled) -> None:
        """The end of a node that did not run, which follows from what is written already."""
        if self._run.log is not None:
            self._run.log.commit(settled)
        self._record(instance, settled)
        if instance.index is not None:
            self._parts.settled(instance, settled)

    @staticmethod
    def _late_reason(scope: Scope, join: int) -> str:
        before = scope.settled.get(scope.plan.nodes[join].id)
        given_up = before is not None and before.status in FAILURES
        return f"{scope[join].name} gave up" if given_up else f"{scope[join].name} went on without it"

    def _record(self, instance: Instance, settled: NodeSettled) -> None:
        """Tell the end of a node, and keep what its dependants read."""
        scope = instance.scope
        self._lives.pop(instance, None)
        self._account.add(settled)
        if scope.parent is not None and settled.parts is None and settled.usage is not NO_USAGE:
            self._parts.used(scope, settled.usage)
        if instance.index is None:
            scope.latencies[instance.number] = self._parts.take_path_s(instance, settled.latency_s)
            kept = shelved(self._run, settled)
            scope.take_in(instance, kept)
            if "[" not in settled.node:
                self._run.results[settled.node] = kept
        self._run.emit(settled)

    def _unstarted(
        self, instance: Instance, status: Status, *, reason: str | None = None, failure: Failure | None = None
    ) -> NodeSettled:
        """The end of a node whose work is not going on: it never began, or it rests between two passes."""
        life = self._lives.get(instance)
        if life is not None:
            return life.cut_off(status, reason or "")
        run, node, name = self._run, instance.node, instance.name
        model = None if node.model is None else str(node.model)
        return NodeSettled(run.id, run.now(), name, status, 0.0, 0, model, NO_USAGE, None, failure, reason, {})

    def _stop(self, reason: str) -> None:
        """Launch nothing more: what has not begun is skipped, what waits for a retry is cut."""
        self._stop_reason = self._run.stopping = self._stop_reason or reason
        self._run.governor.closing = True
        self._queue.clear()
        for scope in (self._root, *self._parts.scopes):
            self._abandon(scope, reason)
        for whole in self._parts.wholes():
            for instance in self._parts.cut(whole, Status.CANCELLED, reason, softly=True):
                if not (instance in self._lives or instance in self._ending or instance in self._parts):
                    self._skip(instance, reason)
        resting = [instance for instance in self._tasks if self._lives[instance].rests]
        self._was_cut_short |= self._signal is not None and bool(resting)
        self._cancel(resting)
        self._go_on()

    def _abandon(self, scope: Scope, reason: str) -> None:
        """Nothing more of *scope* is to begin."""
        ending = {each.number for each in self._ending if each.scope is scope and each.index is None}
        for number in scope.schedule.abandon(ending):
            self._skip(scope[number], reason)
        self._stirred[scope] = None

    def _skip(self, instance: Instance, reason: str) -> None:
        self._was_cut_short |= self._signal is not None
        self._put_down(instance, self._unstarted(instance, Status.SKIPPED, reason=reason))

    def cut(self, instance: Instance, status: Status, why: str) -> None:
        """Nobody wants *instance* any more."""
        if instance in self._parts:
            for each in self._parts.cut(instance, status, why):
                self.cut(each, Status.LATE, why)
            scope = self._parts.scope_of(instance)
            if scope is not None:
                self._abandon(scope, why)
                for number in range(len(scope.plan.nodes)):
                    if scope.schedule.state(number) is State.RUNNING:
                        self.cut(scope[number], Status.LATE, why)
        elif instance in self._lives:
            self._lives[instance].unwanted = why
            if instance in self._tasks:
                self._cancel([instance])
        elif instance.index is not None and instance not in self._ending:
            self._queue.leave(instance)
            self._put_down(instance, self._unstarted(instance, Status.LATE, reason=why))

    def _cut(self, reason: str) -> None:
        """Cancel whatever still runs."""
        self._stop_reason = reason
        self._was_cut_short |= self._signal is not None and bool(self._tasks)
        self._cancel(list(self._tasks), AT_ONCE_S)

    def _cancel(self, instances: list[Instance], let_go_s: float = LET_GO_S) -> None:
        """Cut these nodes; a task that has not taken its first step would never tell its end by itself."""
        loop = asyncio.get_running_loop()
        for instance in instances:
            life, task = self._lives[instance], self._tasks[instance]
            task.cancel()
            if not life.begun:
                del self._tasks[instance]
                life.seat.leave()
                self._settle(instance, self._cut_off(life))
            else:
                loop.call_later(let_go_s, self._let_go, instance, life)

    def _cut_off(self, life: NodeLife) -> NodeSettled:
        if life.unwanted is not None:
            return life.cut_off(Status.LATE, life.unwanted)
        return life.cut_off(Status.CANCELLED, self._stop_reason or "")

    def _stuck(self, life: object) -> None:
        """An attempt goes on although it was cut at its timeout."""
        assert isinstance(life, NodeLife)
        self._let_go(life.instance, life)

    def _let_go(self, instance: Instance, life: NodeLife) -> None:
        """What was cancelled and does not stop is left behind: nobody waits for it any more."""
        if self._lives.get(instance) is not life or instance not in self._tasks:
            return
        _LOG.warning("node %s does not stop although it was cancelled: it is left behind", instance.name)
        life.let_go = True
        del self._tasks[instance]
        life.abandon(self._slots.clock())
        life.seat.leave()
        if life.unwanted is not None or self._stop_reason is not None:
            self._settle(instance, self._cut_off(life))
        else:
            life.fail(ErrorKind.TIMEOUT, "it did not stop when its time was up")
            self._settle(instance, life.settled())

    def _set_alarm(self) -> None:
        """Wake when time opens a barrier or begins a wave."""
        wakes_at_s = self._root.schedule.wakes_at_s
        if self._parts.is_busy:
            ends = [wakes_at_s, self._parts.wakes_at_s, *(scope.schedule.wakes_at_s for scope in self._parts.scopes)]
            wakes_at_s = min((end for end in ends if end is not None), default=None)
        if wakes_at_s == self._alarm_s:
            return
        if "alarm" in self._timers:
            self._timers.pop("alarm").cancel()
        self._alarm_s = wakes_at_s
        if wakes_at_s is not None:
            self._later("alarm", max(0.0, wakes_at_s - self._run.now()), partial(self._ring_soon, wakes_at_s))

    def _ring_soon(self, due_s: float) -> None:
        """What is due at the same moment comes first."""
        asyncio.get_running_loop().call_soon(self._ring, due_s)

    def _ring(self, due_s: float) -> None:
        """It is *due_s*, although the clock, read through floats, may be a hair behind."""
        if self._alarm_s == due_s:
            self._alarm_s = None
        if self._ending and self._run.log is not None:
            self._run.log.fence(partial(self._tick, due_s))  # what is being written came in time
        else:
            self._tick(due_s)

    def _tick(self, due_s: float) -> None:
        if self._root.schedule.done:
            return
        now = max(due_s, self._run.now())
        for scope in (self._root, *self._parts.scopes):
            scope.schedule.tick(now)
            self._stirred[scope] = None
        self._parts.tick(now)
        self._safely(self._go_on)

    def _time_out(self, timeout_s: float) -> None:
        self._timed_out = True
        reason = f"the run's timeout of {timeout_s:g} s"
        self._stop(reason)
        self._cut(reason)

    def _later(self, name: str, delay_s: float, act: Callable[[], None]) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, act)

    def _tell_start(self) -> None:
        run, plan = self._run, self._run.plan
        run.tell(
            RunStarted(
                run=run.id,
                at=run.now(),
                pipeline=plan.name,
                nodes=len(plan.nodes),
                concurrency=plan.concurrency,
                schedule=plan.schedule,
                time=run.started,
                critical_path_s=self._expected_path_s,
                sequential_s=self._expected_work_s,
            )
        )

    def _tell_progress(self) -> None:
        run, slots = self._run, self._slots
        waiting = self._waiting()
        queued = waiting["slot"] + waiting["rate"]
        usage, left = self._account.usage, budget_left(run.budget)
        run.emit(RunProgress(run.id, run.now(), slots.held, queued, waiting, usage, left))
        self._later("progress", PROGRESS_EVERY_S, self._tell_progress)

    def _waiting(self) -> dict[str, int]:
        """How many nodes wait for what."""
        waiting = dict.fromkeys(("slot", "rate", "budget", "cache", "retry"), 0)
        waiting["slot"] = self._queue.held_back
        idle = [life for instance in self._tasks if not (life := self._lives[instance]).in_flight]
        for seat in (*self._queue.seats, *(life.seat for life in idle if life.seat.place is Place.WAITING)):
            waiting["slot" if seat.line.blocked_at is None else "rate"] += 1
        for life in idle:
            if life.seat.place is Place.AWAY:
                waiting[life.away_for] += 1
        return waiting

    def _give_up(self, bug: Exception) -> None:
        """Where nothing was called yet, the run has failed: on record it does not look as if it were cut off."""
        if isinstance(bug, UsageError) and self._run.log is not None:
            self._run.log.commit(self._account.closed(self._root, RunEnd(RunStatus.FAILED, Exit.USAGE, bug.message)))

    async def _tell_end(self) -> RunFinished:
        run = self._run
        outputs, errors = outputs_of(self._root)
        status, code = self._verdict(errors)
        reason = None if status is RunStatus.SUCCEEDED else self._stop_reason
        if status is RunStatus.OUT_OF_BUDGET:
            reason = run.out_of_budget
        elif status is RunStatus.INTERRUPTED:
            reason = INTERRUPTED
        end = RunEnd(status, code, reason)
        finished = self._account.closed(self._root, end, outputs, errors, most_queued=self._queue.deepest)
        if run.log is not None:
            await run.log.recorded(finished)
            if run.log.journal.broken is not None:
                status, reason = RunStatus.FAILED, "the store could not be written"
                finished = replace(finished, status=status, exit_code=Exit.STORE, reason=reason)
        run.emit(finished)
        return finished

    def _verdict(self, lost: Iterable[str]) -> tuple[RunStatus, int]:
        """How the run ended; *lost* are the outputs that could not be rendered."""
        if self._store_broke:
            return RunStatus.FAILED, Exit.STORE
        if self._signal is not None and (self._was_cut_short or self._run.governor.denied):
            return RunStatus.INTERRUPTED, 128 + self._signal
        if self._run.out_of_budget is not None:
            return RunStatus.OUT_OF_BUDGET, Exit.BUDGET
        if self._timed_out or self._root.schedule.fatal or is_lost_by_failure(self._root, lost):
            return RunStatus.FAILED, Exit.FAILED
        return RunStatus.SUCCEEDED, Exit.SUCCEEDED

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

from agentdag.calls import NO_USAGE
from agentdag.engine.account import Account
from agentdag.engine.afford import budget_left
from agentdag.engine.asks import Question
from agentdag.engine.attempts import NodeLife
from agentdag.engine.outputs import is_lost_by_failure, outputs_of
from agentdag.engine.queue import Queue
from agentdag.engine.resumption import ask, came_of, passes_before, stayed
from agentdag.engine.reuse import SKIPPED, Reuse, Verdict
from agentdag.engine.run import Run
from agentdag.engine.sights import sighted
from agentdag.errors import ErrorKind, Failure, UsageError
from agentdag.events import (
    FAILURES,
    INTERRUPTED,
    OUT_OF_BUDGET,
    BudgetLow,
    Exit,
    NodeResumed,
    NodeSettled,
    RunFinished,
    RunProgress,
    RunStarted,
    RunStatus,
    Status,
    later,
)
from agentdag.language.scalars import LOW_PRIORITY
from agentdag.limits.deadlines import LET_GO_S
from agentdag.limits.slots import Place, Seat, Slots
from agentdag.plan.forecast import critical_path_s, remaining_s
from agentdag.plan.news import Cut, Ended, News, Opened, Rested
from agentdag.plan.schedule import Schedule, State

_LOG = logging.getLogger("agentdag")
GRACE_S = 10.0
"""How long what is in flight may still finish after the first interrupt."""
AT_ONCE_S = 0.4
"""How long what is cut by a second interrupt may take to stop."""
PROGRESS_EVERY_S = 1.0
SHORTEST_COUNTED_WAIT_S = 0.001
"""A shorter wait for a slot is no more than the engine's own work."""


class Runner:
    """One run of one plan. *startup_s* is what came before it and is only told.

    Of several that share *slots*, the nodes of one with a smaller *order* go before all of one with a larger.
    """

    def __init__(self, run: Run, slots: Slots, *, startup_s: float = 0.0, order: int = 0) -> None:
        plan = run.plan
        self._run = run
        self._slots = slots
        self._schedule = Schedule(
            plan.graph, plan.terms(), waves=plan.schedule == "waves", wave_timeout_s=plan.wave_timeout_s
        )
        remaining = remaining_s(plan.graph, plan.durations_s)
        self._expected_path_s = critical_path_s(plan.graph, plan.durations_s, remaining, plan.rules)
        self._numbers = {node.id: number for number, node in enumerate(plan.nodes)}
        after_s = order * max(remaining, default=0.0)
        self._ranks = [(node.priority, after_s - left) for node, left in zip(plan.nodes, remaining, strict=True)]
        self._lives: dict[int, NodeLife] = {}
        """Of the nodes that have begun and not settled."""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        """Of those that run at this moment."""
        self._queue = Queue(run, slots, self._ranks, self._launch, self._safely)
        self._is_low = False
        """Whether it was told that the budget is low."""
        self._due: list[int] = []
        """Those that are ready, and whose work is not there already."""
        self._ending: set[int] = set()
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
            if self._run.reuse is not None and self._run.reuse.resumes:
                self._take_up(self._run.reuse)
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
        schedule, reuses = self._schedule, self._run.reuse is not None
        while (
            (news := schedule.take_news()) or (schedule.fatal and self._fails_fast()) or (reuses and self._keep_ready())
        ):
            for each in news:
                self._take_in(each)
        self._going_on = False
        if self._schedule.done:
            self._ended.set()
        else:
            self._launch_ready()
            self._set_alarm()

    def _take_in(self, news: News) -> None:
        match news:
            case Opened():
                self._opened(news)
            case Ended():
                self._ended_without_running(news)
            case Cut(node, cause) if node not in self._ending:
                self._lives[node].unwanted = self._late_reason(cause)
                self._cancel([node])
            case Rested(node, complete) if node not in self._ending:
                self._rested(node, complete=complete)

    def _fails_fast(self) -> bool:
        """Stop at the first required failure, where the file says so; whether that is now."""
        if not self._run.plan.fail_fast or self._stop_reason is not None:
            return False
        first = next(iter(self._schedule.fatal))
        self._stop(f"fail_fast: {self._run.plan.nodes[first].id} failed")
        return True

    def _take_up(self, reuse: Reuse) -> None:
        """Go on where the run was: what joins saw holds, and what they went on without stays as it ended."""
        run, record = self._run, reuse.record
        assert record is not None
        self._account.add_usage(None, record.spent)
        came = came_of(record, self._numbers, reuse.repeat)
        for number in self._schedule.resume(came):
            node, ended = run.plan.nodes[number], came[number].ended
            assert ended is not None
            before = reuse.recorded(node.id)
            settled = stayed(run, node, ended, before)
            if run.log is not None and (before is None or before.ended is None):
                run.log.commit(settled)
            self._keep(number, settled, "all that read it went on without it")
        for number, each in came.items():
            node, before = run.plan.nodes[number], reuse.recorded(run.plan.nodes[number].id)
            if each.passes and before is not None and self._schedule.state(number) is not State.SETTLED:
                life = self._lives[number] = NodeLife(run, node, Seat(self._slots, self._ranks[number]))
                life.go_on(passes_before(before), None if node.model is None else str(node.model))
        for number in [self._numbers[name] for name in reuse.skipped() if name in self._numbers]:
            if self._schedule.state(number) is not State.SETTLED:
                self._schedule.waive(number)
                self._put_down(number, self._unstarted(number, Status.SKIPPED, reason=SKIPPED))

    def _keep_ready(self) -> bool:
        """Settle what became ready and is there already; whether there was any."""
        assert self._run.reuse is not None
        asked = [
            (number, ask(self._run, self._run.plan.nodes[number], frozen=self._schedule.is_frozen(number)))
            for number in self._schedule.take_ready()
        ]
        kept = False
        for number, asks in asked:  # all of them have said what they ask: an answer goes to whom it belongs
            if self._schedule.state(number) is State.READY:  # else what was kept before it has made it late
                kept |= self._kept(number, asks, self._run.reuse)
        return kept

    def _kept(self, number: int, asks: Question | str | None, reuse: Reuse) -> bool:
        """Whether *number* is there already, or cannot be had; else it is due."""
        run, node = self._run, self._run.plan.nodes[number]
        verdict = Verdict(None, asks) if isinstance(asks, str) else None if asks is None else reuse.look(node, asks)
        if verdict is None or verdict.settled is None:
            if verdict is not None and reuse.resumes:
                run.tell(NodeResumed(run.id, run.now(), node.id, kept=False, why=verdict.why))
            self._due.append(number)
            return False
        found = verdict.settled
        if found.status is not Status.SUCCEEDED and not self._lives:
            hint = f"select +{node.id} to run it too"
            self._bug = UsageError(f"`{node.id}` is needed: {verdict.why}", hint=hint)
            self._ended.set()
        self._schedule.start(number, run.now())
        settled = replace(found, run=run.id, node=node.id, kept=not found.cached)
        if found.run == run.id and found.node == node.id:
            self._keep(number, settled, verdict.why, verdict.fingerprint)
            self._schedule.settle(number, settled.status, run.now())
        else:
            self._settle(number, settled, verdict.fingerprint)
        return True

    def _keep(self, number: int, settled: NodeSettled, why: str, fingerprint: str | None = None) -> None:
        """Tell an end that is on record already, and that it holds."""
        run = self._run
        told = NodeResumed(run.id, run.now(), settled.node, kept=True, why=why)
        if run.log is not None:
            run.log.commit(told, fingerprint=fingerprint)
        run.emit(told)
        self._record(number, later(settled, run.now()))

    def _launch_ready(self) -> None:
        """Queue every node that became ready, then give out the slots, best first."""
        due, self._due = self._due, []
        if self._run.reuse is None:
            self._queue.add(self._schedule.take_ready())
        else:
            self._queue.add(number for number in due if self._schedule.state(number) is State.READY)
        self._queue.hand_out()
        self._queue.ahead.go_on_soon()

    def _launch(self, number: int, seat: Seat, ready_at: float) -> None:
        """*number* holds its slot: begin, or begin the next pass."""
        now = self._run.now()
        if self._ranks[number][0] == LOW_PRIORITY and number not in self._lives and self._run.low("shed"):
            self._shed(number, seat)
            return
        self._schedule.start(number, now)
        life = self._lives.get(number)
        if life is None:
            life = self._queue.ahead.take(number) or NodeLife(self._run, self._run.plan.nodes[number], seat)
            self._lives[number] = life
            self._queue.ahead.go_on_soon()
        else:
            life.sit(seat)
        if life.node.barrier.progressive:
            for each in self._schedule.take_news():  # what this pass sees
                assert isinstance(each, Opened)
                self._opened(each)
        if (waited := now - ready_at - seat.rate_s) > SHORTEST_COUNTED_WAIT_S:
            life.waited("slot", waited)
        if seat.rate_s > SHORTEST_COUNTED_WAIT_S:
            life.waited("rate", seat.rate_s)
        self._tasks[number] = self._loop.create_task(self._live(number, life))

    def _shed(self, number: int, seat: Seat) -> None:
        """The budget is low, and *number* can be done without."""
        seat.leave()
        self._queue.ahead.take(number)
        self._schedule.leave_out(number)
        self._put_down(number, self._unstarted(number, Status.SKIPPED, reason=OUT_OF_BUDGET))
        asyncio.get_running_loop().call_soon(self._safely, self._go_on)

    async def _live(self, number: int, life: NodeLife) -> None:
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
        except Exception as error:  # noqa: BLE001 - a bug of ours must not hurt the node's siblings either
            life.fail(ErrorKind.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            life.seat.leave()
            if not life.let_go:
                del self._tasks[number]
        if life.let_go:
            return
        try:
            if settled is None and life.node.barrier.progressive and life.unwanted is None:
                self._run.tell(life.pass_finished())
                self._schedule.rest(number, self._run.now())
                self._go_on()
            else:
                self._settle(number, settled or self._end_of(life), life.fingerprint)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends the run, and not in silence
            self._bug = error
            self._ended.set()

    def _end_of(self, life: NodeLife) -> NodeSettled:
        """How a node ends by what its work came to; what nobody wants any more is late, unless it is there."""
        settled = life.settled()
        there = settled.status is Status.SUCCEEDED and not life.node.barrier.progressive
        return settled if life.unwanted is None or there else self._cut_off(life)

    def _settle(self, number: int, settled: NodeSettled, fingerprint: str | None = None) -> None:
        """The end of a node: written first, then told, then its dependants are released."""
        if self._run.log is None:
            self._settled(number, settled)
            self._go_on()
        else:
            self._ending.add(number)
            written = partial(self._safely, partial(self._written, number, settled))
            self._run.log.commit(settled, written, fingerprint=fingerprint)

    def _written(self, number: int, settled: NodeSettled) -> None:
        self._ending.discard(number)
        self._settled(number, later(settled, self._run.now()))
        self._go_on()

    def _safely(self, act: Callable[[], None]) -> None:
        """A bug of ours ends the run, and not in silence."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is
            self._bug = error
            self._ended.set()

    def _settled(self, number: int, settled: NodeSettled) -> None:
        self._record(number, settled)
        self._watch_budget()
        self._schedule.settle(number, settled.status, settled.at)

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
        if self._stop_reason is None and not self._schedule.done:
            self._stop(OUT_OF_BUDGET)
            self._cut(OUT_OF_BUDGET)

    def _rested(self, number: int, *, complete: bool) -> None:
        """A progressive join runs no more."""
        life = self._lives[number]
        ends = life.unwanted is None and (complete or self._stop_reason is None)
        self._was_cut_short |= self._signal is not None and not ends and life.unwanted is None
        self._queue.leave(number)
        self._settle(number, life.settled() if ends else self._cut_off(life), life.fingerprint)

    def _opened(self, seen: Opened) -> None:
        """A join goes on, or begins a pass."""
        for need in seen.late:
            life = self._lives.get(need)
            self._account.late(need, seen.node, 0.0 if life is None else life.acting_s)
        self._run.tell(sighted(self._run, seen, frozen=self._schedule.is_frozen(seen.node)))

    def _ended_without_running(self, ended: Ended) -> None:
        number, plan = ended.node, self._run.plan
        self._queue.leave(number)
        match ended.status:
            case Status.SKIPPED:
                settled = self._unstarted(number, Status.SKIPPED, reason=self._skip_reason(plan.nodes[ended.cause].id))
            case Status.LATE:
                settled = self._unstarted(number, Status.LATE, reason=self._late_reason(ended.cause))
            case _:
                settled = self._unstarted(number, Status.FAILED, failure=Failure(ErrorKind.BARRIER, ended.why))
        self._put_down(number, settled)

    def _skip_reason(self, cause: str) -> str:
        before = self._run.settled.get(cause)
        return OUT_OF_BUDGET if before is not None and before.reason == OUT_OF_BUDGET else f"{cause} failed"

    def _put_down(self, number: int, settled: NodeSettled) -> None:
        """The end of a node that did not run, which follows from what is written already."""
        if self._run.log is not None:
            self._run.log.commit(settled)
        self._record(number, settled)

    def _late_reason(self, join: int) -> str:
        name = self._run.plan.nodes[join].id
        given_up = name in self._run.settled and self._run.settled[name].status in FAILURES
        return f"{name} gave up" if given_up else f"{name} went on without it"

    def _record(self, number: int, settled: NodeSettled) -> None:
        """Tell the end of a node, and keep what its dependants read."""
        self._lives.pop(number, None)
        self._account.add(number, settled)
        self._run.settled[settled.node] = settled
        if settled.status is not Status.SUCCEEDED:
            self._run.absent.add(settled.node)
        self._run.emit(settled)

    def _unstarted(
        self, number: int, status: Status, *, reason: str | None = None, failure: Failure | None = None
    ) -> NodeSettled:
        """The end of a node whose work is not going on: it never began, or it rests between two passes."""
        life = self._lives.get(number)
        if life is not None:
            return life.cut_off(status, reason or "")
        node = self._run.plan.nodes[number]
        model = None if node.model is None else str(node.model)
        return NodeSettled(
            self._run.id, self._run.now(), node.id, status, 0.0, 0, model, NO_USAGE, None, failure, reason, {}
        )

    def _stop(self, reason: str) -> None:
        """Launch nothing more: what has not begun is skipped, what waits for a retry is cut."""
        self._stop_reason = self._stop_reason or reason
        self._run.governor.closing = True
        self._queue.clear()
        left = self._schedule.abandon(self._ending)
        for number in left:
            self._put_down(number, self._unstarted(number, Status.SKIPPED, reason=reason))
        resting = [number for number in self._tasks if self._lives[number].rests]
        self._was_cut_short |= self._signal is not None and bool(left or resting)
        self._cancel(resting)
        self._go_on()

    def _cut(self, reason: str) -> None:
        """Cancel whatever still runs."""
        self._stop_reason = reason
        self._was_cut_short |= self._signal is not None and bool(self._tasks)
        self._cancel(list(self._tasks), AT_ONCE_S)

    def _cancel(self, numbers: list[int], let_go_s: float = LET_GO_S) -> None:
        """Cut these nodes; a task that has not taken its first step would never tell its end by itself."""
        loop = asyncio.get_running_loop()
        for number in numbers:
            life, task = self._lives[number], self._tasks[number]
            task.cancel()
            if not life.begun:
                del self._tasks[number]
                life.seat.leave()
                self._settle(number, self._cut_off(life))
            else:
                loop.call_later(let_go_s, self._let_go, number, life)

    def _cut_off(self, life: NodeLife) -> NodeSettled:
        if life.unwanted is not None:
            return life.cut_off(Status.LATE, life.unwanted)
        return life.cut_off(Status.CANCELLED, self._stop_reason or "")

    def _stuck(self, life: object) -> None:
        """An attempt goes on although it was cut at its timeout."""
        assert isinstance(life, NodeLife)
        self._let_go(self._numbers[life.node.id], life)

    def _let_go(self, number: int, life: NodeLife) -> None:
        """What was cancelled and does not stop is left behind: nobody waits for it any more."""
        if self._lives.get(number) is not life or number not in self._tasks:
            return
        _LOG.warning("node %s does not stop although it was cancelled: it is left behind", life.node.id)
        life.let_go = True
        del self._tasks[number]
        life.abandon(self._slots.clock())
        life.seat.leave()
        if life.unwanted is not None or self._stop_reason is not None:
            self._settle(number, self._cut_off(life))
        else:
            life.fail(ErrorKind.TIMEOUT, "it did not stop when its time was up")
            self._settle(number, life.settled())

    def _set_alarm(self) -> None:
        """Wake when time opens a barrier or begins a wave."""
        wakes_at_s = self._schedule.wakes_at_s
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
        if not self._schedule.done:
            self._schedule.tick(max(due_s, self._run.now()))
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
                sequential_s=sum(plan.durations_s),
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
        idle = [life for number in self._tasks if not (life := self._lives[number]).in_flight]
        for seat in (*self._queue.seats, *(life.seat for life in idle if life.seat.place is Place.WAITING)):
            waiting["slot" if seat.line.blocked_at is None else "rate"] += 1
        for life in idle:
            if life.seat.place is Place.AWAY:
                waiting[life.away_for] += 1
        return waiting

    def _give_up(self, bug: Exception) -> None:
        """Where nothing was called yet, the run has failed: on record it does not look as if it were cut off."""
        if isinstance(bug, UsageError) and self._run.log is not None:
            self._run.log.commit(self._account.closed(RunStatus.FAILED, Exit.USAGE, bug.message))

    async def _tell_end(self) -> RunFinished:
        run = self._run
        outputs, errors = outputs_of(run)
        verdict = self._verdict(errors)
        reason = None if verdict[0] is RunStatus.SUCCEEDED else self._stop_reason
        if verdict[0] is RunStatus.OUT_OF_BUDGET:
            reason = run.out_of_budget
        elif verdict[0] is RunStatus.INTERRUPTED:
            reason = INTERRUPTED
        finished = self._account.closed(*verdict, reason, outputs, errors, most_queued=self._queue.deepest)
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
        if self._timed_out or self._schedule.fatal or is_lost_by_failure(self._run, lost):
            return RunStatus.FAILED, Exit.FAILED
        return RunStatus.SUCCEEDED, Exit.SUCCEEDED

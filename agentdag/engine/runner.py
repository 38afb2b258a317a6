"""A plan driven through time: the only file that knows both time and order.

Nodes start when the schedule says that they may and a slot is theirs; whatever ends is told as an event
before anything that depends on it starts. Nothing is left running when `run` returns.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

from agentdag.calls import NO_USAGE
from agentdag.engine.attempts import NodeLife, Run
from agentdag.engine.schedule import Schedule
from agentdag.errors import ErrorKind
from agentdag.events import (
    BarrierOpened,
    Exit,
    NodeSettled,
    RunFinished,
    RunProgress,
    RunStarted,
    RunStatus,
    Status,
)
from agentdag.language.templates import TemplateError
from agentdag.limits.slots import Seat, Slots
from agentdag.plan.forecast import remaining_s

GRACE_S = 10.0
"""How long what is in flight may still finish after the first interrupt."""
PROGRESS_EVERY_S = 1.0
SHORTEST_COUNTED_WAIT_S = 0.001
"""A shorter wait for a slot is no more than the engine's own work."""
_FAILURES = frozenset({Status.FAILED, Status.TIMED_OUT})


class Runner:
    """One run of one plan. *startup_s* is what came before it and is only told."""

    def __init__(self, run: Run, slots: Slots, *, startup_s: float = 0.0) -> None:
        plan = run.plan
        self._run = run
        self._slots = slots
        self._startup_s = startup_s
        self._schedule = Schedule(plan.graph, [node.optional for node in plan.nodes], waves=plan.schedule == "waves")
        remaining = remaining_s(plan.graph, plan.durations_s)
        self._expected_path_s = max(remaining, default=0.0)
        self._ranks = [(node.priority, -left) for node, left in zip(plan.nodes, remaining, strict=True)]
        self._lives: dict[int, tuple[NodeLife, asyncio.Task[None]]] = {}
        self._queued: dict[int, Seat] = {}
        self._latencies = [0.0] * len(plan.nodes)
        self._counts: Counter[Status] = Counter()
        self._usage = NO_USAGE
        self._failed = False
        self._signal: int | None = None
        self._stop_reason: str | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._waking = False
        self._ended = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def run(self) -> RunFinished:
        """Run to the end; the last event is returned as well as told."""
        self._tell_start()
        if (timeout_s := self._run.plan.timeout_s) is not None:
            self._later("timeout", timeout_s, partial(self._time_out, timeout_s))
        self._later("progress", PROGRESS_EVERY_S, self._tell_progress)
        try:
            async with self._group:
                self._launch_ready()
                if self._schedule.done:
                    self._ended.set()
                try:
                    await self._ended.wait()
                finally:
                    self._leave_queue()
        finally:
            self._run.governor.deadlines.close()
            for timer in self._timers.values():
                timer.cancel()
        return self._tell_end()

    def interrupt(self, signal: int) -> None:
        """The first time nothing new is launched and what is in flight may finish; the second time it is cut."""
        if self._signal is None:
            self._signal = signal
            self._stop("interrupted")
            self._later("grace", GRACE_S, partial(self._cut, "interrupted"))
        else:
            self._cut("interrupted")

    def wake(self) -> None:
        """A slot came back while somebody waits for one."""
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._waking = False
        self._slots.hand_out()

    def _launch_ready(self) -> None:
        """Queue every node that became ready, then give out the slots, best first."""
        for number in self._schedule.take_ready():
            node = self._run.plan.nodes[number]
            if len(node.needs) > 1:
                self._tell_barrier(number)
            seat = Seat(self._slots, self._ranks[number])
            self._queued[number] = seat
            seat.request(partial(self._launch, number, seat, self._run.now()))
        self._slots.hand_out()

    def _launch(self, number: int, seat: Seat, ready_at: float) -> None:
        """*number* holds its slot: begin."""
        del self._queued[number]
        self._schedule.start(number)
        life = NodeLife(self._run, self._run.plan.nodes[number], seat)
        if (waited := self._run.now() - ready_at) > SHORTEST_COUNTED_WAIT_S:
            life.waited("slot", waited)
        self._lives[number] = life, self._group.create_task(self._live(number, life))

    async def _live(self, number: int, life: NodeLife) -> None:
        life.begun = True
        try:
            settled = await life.live()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stop_reason is not None:
                settled = life.cancelled(self._stop_reason)
            elif task is not None and task.cancelling():
                raise
            else:
                settled = life.failed(ErrorKind.INTERNAL, "the agent cancelled itself")
        except Exception as error:  # noqa: BLE001 - a bug of ours must not hurt the node's siblings either
            settled = life.failed(ErrorKind.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            life.seat.leave()
            del self._lives[number]
        self._settle(number, settled)

    def _settle(self, number: int, settled: NodeSettled) -> None:
        self._record(number, settled)
        for skipped in self._schedule.settle(number, settled.status):
            cause = self._run.plan.nodes[self._schedule.cause(skipped)].id
            self._record(skipped, self._skipped(skipped, f"{cause} failed"))
        plan = self._run.plan
        if settled.status in _FAILURES and not plan.nodes[number].optional:
            self._failed = True
            if plan.fail_fast and self._stop_reason is None:
                self._stop(f"fail_fast: {settled.node} failed")
        if self._schedule.done:
            self._ended.set()
        else:
            self._launch_ready()

    def _record(self, number: int, settled: NodeSettled) -> None:
        """Tell the end of a node, and keep what its dependants read."""
        self._latencies[number] = settled.latency_s
        self._counts[settled.status] += 1
        if settled.usage is not NO_USAGE:
            self._usage += settled.usage
        self._run.settled[settled.node] = settled
        if settled.status is not Status.SUCCEEDED:
            self._run.absent.add(settled.node)
        self._run.emit(settled)

    def _skipped(self, number: int, reason: str) -> NodeSettled:
        node = self._run.plan.nodes[number]
        model = None if node.model is None else str(node.model)
        return NodeSettled(
            self._run.id, self._run.now(), node.id, Status.SKIPPED, 0.0, 0, model, NO_USAGE, None, None, reason, {}
        )

    def _stop(self, reason: str) -> None:
        """Launch nothing more: what has not begun is skipped, what waits for a retry is cut."""
        self._stop_reason = reason
        self._run.governor.closing = True
        self._leave_queue()
        for number in self._schedule.abandon():
            self._record(number, self._skipped(number, reason))
        self._cancel([number for number, (life, _) in self._lives.items() if life.resting], reason)
        if self._schedule.done:
            self._ended.set()

    def _cut(self, reason: str) -> None:
        """Cancel whatever still runs."""
        self._stop_reason = reason
        self._cancel(list(self._lives), reason)

    def _cancel(self, numbers: list[int], reason: str) -> None:
        """Cut these nodes; a task that has not taken its first step would never tell its end by itself."""
        for number in numbers:
            life, task = self._lives[number]
            task.cancel()
            if not life.begun:
                del self._lives[number]
                life.seat.leave()
                self._settle(number, life.cancelled(reason))

    def _leave_queue(self) -> None:
        for seat in self._queued.values():
            seat.leave()
        self._queued.clear()

    def _time_out(self, timeout_s: float) -> None:
        self._failed = True
        reason = f"the run's timeout of {timeout_s:g} s"
        self._stop(reason)
        self._cut(reason)

    def _later(self, name: str, delay_s: float, act: Callable[[], None]) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, act)

    def _tell_start(self) -> None:
        run, plan = self._run, self._run.plan
        run.emit(
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

    def _tell_barrier(self, number: int) -> None:
        run = self._run
        node = run.plan.nodes[number]
        missing = run.missing(node)
        arrived = tuple(name for name in node.needs if name not in missing) if missing else node.needs
        run.emit(BarrierOpened(run.id, run.now(), node.id, "all", arrived, missing))

    def _tell_progress(self) -> None:
        run, slots = self._run, self._slots
        resting = sum(life.resting for life, _ in self._lives.values())
        waiting = {"slot": slots.waiting, "retry": resting - (slots.waiting - len(self._queued))}
        run.emit(RunProgress(run.id, run.now(), slots.held, slots.waiting, waiting, self._usage))
        self._later("progress", PROGRESS_EVERY_S, self._tell_progress)

    def _tell_end(self) -> RunFinished:
        run, plan = self._run, self._run.plan
        elapsed_s = run.now()
        outputs, errors = self._outputs()
        status, code = self._verdict()
        left = remaining_s(plan.graph, self._latencies)
        finished = RunFinished(
            run=run.id,
            at=elapsed_s,
            status=status,
            elapsed_s=elapsed_s,
            startup_s=self._startup_s,
            sequential_s=sum(self._latencies),
            critical_path_s=max(left, default=0.0),
            usage=self._usage,
            outputs=outputs,
            output_errors=errors,
            nodes={status: self._counts[status] for status in Status if self._counts[status]},
            exit_code=code,
            reason=self._stop_reason,
        )
        run.emit(finished)
        return finished

    def _verdict(self) -> tuple[RunStatus, int]:
        if self._signal is not None:
            return RunStatus.INTERRUPTED, 128 + self._signal
        return (RunStatus.FAILED, Exit.FAILED) if self._failed else (RunStatus.SUCCEEDED, Exit.SUCCEEDED)

    def _outputs(self) -> tuple[dict[str, object], dict[str, str]]:
        """What the run gives: `outputs`, or the answers of the nodes that nobody needs."""
        plan = self._run.plan
        outputs: dict[str, object] = {}
        errors: dict[str, str] = {}
        names = self._run.output_names() if plan.outputs else {}
        for name, template in plan.outputs.items():
            try:
                outputs[name] = template.evaluate(names)
            except TemplateError as error:
                outputs[name], errors[name] = None, self._run.redact(str(error))
        if not plan.outputs:
            for number, node in enumerate(plan.nodes):
                if not plan.graph.dependants[number]:
                    view = self._run.view(node.id)
                    outputs[node.id] = view.get("output")
        return outputs, errors

"""One node's life: its templates rendered, its agents performed one after another, and every step told.

Whatever goes wrong in here is this node's failure and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from agentdag.agents.agent import Agent, Outcome, Task
from agentdag.agents.llm import ModelAgent
from agentdag.calls import MAYBE_BILLED, NO_USAGE, Exchange, Notice, ToolCall, ToolResult, Usage
from agentdag.engine.afford import Bound, purse_of, too_little
from agentdag.engine.agents import Means, agent_for
from agentdag.engine.asks import Asked, Question, rendered
from agentdag.engine.deltas import Deltas
from agentdag.engine.resumption import good_passes
from agentdag.engine.saving import save, target_of
from agentdag.engine.scope import Instance
from agentdag.errors import ErrorKind, Failure
from agentdag.events import (
    OUT_OF_BUDGET,
    NodeFallback,
    NodeHedged,
    NodeRetrying,
    NodeSettled,
    NodeStarted,
    NodeWaiting,
    NodeWarned,
    PassFinished,
    Status,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    base_name,
    unmet,
)
from agentdag.language.templates import Template, TemplateError
from agentdag.limits.policy import UNBOUNDED, Allowance
from agentdag.limits.slots import Place, Seat
from agentdag.limits.turn import Turn
from agentdag.plan.plan import Choice
from agentdag.plan.work import CallWork, PipelineWork, Repeat
from agentdag.store.log import asks_json

SHORTEST_TOLD_WAIT_S = 0.05
"""A shorter wait for a slot is told in `waits`, but not as an event of its own."""


class _Author(NamedTuple):
    """Who did a node's work: which fallback, and why it had to."""

    model: str | None
    fallback: int = 0
    error: Failure | None = None


_NOBODY = _Author(None)
_NOTHING = Outcome(0, 0.0)


class NodeLife(Turn):
    """One node on its way from its first slot to being settled; it is told of its own calls."""

    __slots__ = (
        "_announced",
        "_asked",
        "_asks",
        "_attempts",
        "_attempts_before",
        "_before_s",
        "_begun_s",
        "_billed",
        "_bound",
        "_by",
        "_degraded",
        "_deltas",
        "_good",
        "_good_by",
        "_outcome",
        "_previous",
        "_question",
        "_run",
        "_turned",
        "_usage",
        "_waits",
        "admitting",
        "begun",
        "fingerprint",
        "instance",
        "name",
        "node",
        "passes",
        "until_held",
        "unwanted",
    )

    def __init__(self, instance: Instance, seat: Seat) -> None:  # noqa: PLR0915 - a field a line
        run, node = instance.scope.run, instance.node
        policy = node.choices[0].policy
        total_s = policy.timeout.total_s
        super().__init__(policy, seat, UNBOUNDED if total_s is None else Allowance(total_s))
        self._run = run
        self.recorded = run.log is not None
        self.purse = purse_of(instance)
        self._degraded: tuple[str, ...] = ()
        self.instance = instance
        self.node = node
        self.name = instance.name
        self.fingerprint: str | None = None
        """Of what its own work asked last, where that is on record."""
        self._asks: str | None = None
        """What is to be written of the present choice before its first attempt."""
        self._asked: Asked | None = None
        """What it asks first, where that was rendered before its slot came."""
        self._announced: asyncio.Future[None] | None = None
        """Done once its first attempt is on record, where that was written before its slot came."""
        self.admitting = False
        """Whether an attempt waits to be written before it is made."""
        self.begun = False
        """Whether the task of its present pass has taken its first step."""
        self.unwanted: str | None = None
        """Why nobody wants it any more."""
        self.passes = 0
        self.until_held = True
        """Whether what a node repeats for has come to hold."""
        self._previous: Any = None
        """The output of the pass before, of one that repeats."""
        self._before_s = 0.0
        """What the passes before took, of one that repeats."""
        self._outcome = _NOTHING
        self._good: Outcome | None = None
        """The last that succeeded."""
        self._by = self._good_by = _NOBODY
        self._usage = NO_USAGE
        self._turned = NO_USAGE
        """What the turns took of the conversation that goes on."""
        self._question: Question | None = None
        """What its own work asks, where that is on record."""
        self._attempts = 0
        """Of the present pass."""
        self._attempts_before = 0
        """Of the passes before."""
        self._waits: dict[str, float] = {}
        self._billed = False
        self._bound: Bound | None = None
        """The longest answer of the present choice, where a budget sets it."""
        self._begun_s = 0.0
        self._deltas = Deltas(run, self.name)

    def sit(self, seat: Seat) -> None:
        """The next pass has a slot of its own."""
        self.seat = seat
        self.begun = False

    def go_on(self, passes: Sequence[PassFinished], model: str | None) -> None:
        """Take up a progressive join after these *passes* of an earlier life of the run."""
        self.passes = len(passes)
        self._by = _Author(model)
        for each in passes:
            self._book(Outcome(0, each.latency_s, each.output, each.error))

    @property
    def previous(self) -> Any:
        """The output of the pass before, or of the last good one of a progressive join."""
        if self.node.repeat is not None:
            return self._previous
        return None if self._good is None else self._good.output

    @property
    def rests(self) -> bool:
        """Whether it waits for a slot, a retry or the journal, and nothing of it is out."""
        return (self.seat.place is not Place.HELD or self.admitting) and not (self.in_flight or self.tools_out)

    @property
    def acting_s(self) -> float:
        """How long the call has taken that is out, if one is."""
        return self._run.now() - self._begun_s if self.in_flight else 0.0

    async def live(self) -> None:
        """The node's work, and its passes where it repeats. Raises nothing but cancellation."""
        repeat = self.node.repeat
        if repeat is not None and not self.passes:
            self._take_up_passes()
        await self._pass()
        while repeat is not None and self._goes_round(repeat):
            await self._tell_pass()
            self._previous = self._outcome.output
            self._before_s += self._outcome.latency_s
            self._run.governor.go_on()
            await self._pass()
        if self.node.save is not None and self._outcome.failure is None and not (self.let_go or self._is_played):
            await self._save(self.node.save)
        if self.unfunded and not self._is_own_budget_spent:
            self._run.out_of_budget = self._run.out_of_budget or too_little(self._run, self.name, self.reserved)
        elif self._is_cut_by_the_run:
            self._run.out_of_budget = self._run.out_of_budget or f"the answer of {self.name} was cut for its sake"

    @property
    def _is_cut_by_the_run(self) -> bool:
        """Whether the last answer was cut where the run's budget, or that of its batch, had set the limit."""
        failure, bound, budget = self._outcome.failure, self._bound, self._run.budget
        if failure is None or failure.kind is not ErrorKind.BUDGET or bound is None or budget is None:
            return False
        return self._outcome.truncated and any(bound.budget is each for each in budget.chain())

    @property
    def _is_played(self) -> bool:
        """Whether the simulator stands in for it: a rehearsal changes no files."""
        return self._run.simulator is not None and self._run.simulates(self.node)

    def _goes_round(self, repeat: Repeat) -> bool:
        """Whether the node is to be done again; a condition that cannot be told fails it."""
        if self._outcome.failure is not None or self.let_go:
            return False
        try:
            held = repeat.until.holds({**self.instance.names(self._previous), "output": self._outcome.output})
        except TemplateError as error:
            self._book(self._outcome._replace(failure=Failure(ErrorKind.TEMPLATE, f"until: {error}"), usage=NO_USAGE))
            return False
        self.until_held = held
        return not held and self.passes < repeat.most

    async def _tell_pass(self) -> None:
        """A pass is over, and another follows: on record before that."""
        await self._run.record(self.pass_finished())

    def _take_up_passes(self) -> None:
        """Go on after the passes of an earlier life of the run."""
        run, work = self._run, self.node.work
        before = None if run.reuse is None else run.reuse.recorded(self.name)
        if before is None or not before.passes or isinstance(work, PipelineWork):
            return
        try:
            good = good_passes(self.instance, work, before)
        except TemplateError:
            return
        if good:
            self.passes, self._previous = len(good), good[-1].output
            self._before_s = sum(each.latency_s for each in good)

    async def _save(self, path: Template) -> None:
        """Write the output to its file; where that fails the node has failed, and its answer stays on record."""
        target = target_of(self.instance, path)
        failure: Failure | None
        if isinstance(target, Failure):
            failure = target
        else:
            failure = await asyncio.to_thread(save, target, self._outcome.output)
        if failure is None:
            return
        self._good = None
        self._outcome = self._outcome._replace(failure=failure)

    async def _pass(self) -> None:
        """The node's own work, then its fallbacks until one succeeds."""
        self.passes += 1
        self._attempts_before, self._attempts = self._attempts_before + self._attempts, 0
        for number, choice in enumerate(self.node.choices):
            if not number:
                self._by = _NOBODY if choice.model is None else _Author(str(choice.model))
            elif not self._falls_back(number, choice):
                break
            if isinstance(choice.work, PipelineWork):
                continue  # it was tried already
            outcome = await self._performed(number, choice)
            if outcome is not None and not (self.unfunded and number and not outcome.attempts):
                self._book(outcome)  # of a fallback, what cannot be paid is passed over
            if self._outcome.failure is None:
                break

    def fall_back(self, failure: Failure, usage: Usage) -> None:
        """The pipeline that was to do the node's work has failed, and what it used is told: the fallbacks are next."""
        self._outcome = Outcome(0, 0.0, failure=failure)
        self._usage = usage

    async def _performed(self, number: int, choice: Choice) -> Outcome | None:
        """What *choice* came to; None where its templates failed. One that was bounded by what was left of the budget,
        and comes when less is left, asks for less."""
        agent = self._prepare(number, choice)
        while agent is not None:
            self.unfunded, worst = False, self.reserved
            outcome = await agent.perform(Task(self.name, self._run.governor, self, self._deltas))
            if not self.unfunded or outcome.attempts:
                return outcome
            agent = self._prepare(number, choice)
            if self.reserved == worst:
                return outcome
        return None

    @property
    def _is_own_budget_spent(self) -> bool:
        """Of one that was not paid for: whether it is the node's own budget that is too small, or that of a node
        which it is a part of."""
        if self.purse is None or self.reserved is None:
            return False
        short = self.purse.too_small(self.reserved)
        return short is not None and short is not self._run.budget

    def _falls_back(self, number: int, choice: Choice) -> bool:
        """Turn to the next choice, unless the run or the node's time is over."""
        run, failure = self._run, self._outcome.failure
        assert failure is not None
        if self.let_go or self.allowance.left_s <= 0:
            return False
        if run.governor.closing:
            run.governor.denied = True
            return False
        model, error = None if choice.model is None else str(choice.model), self._clean(failure)
        self._by = _Author(model, number, error)
        run.tell(NodeFallback(run.id, run.now(), self.name, number, model, error))
        return True

    def _prepare(self, number: int, choice: Choice) -> Agent | None:
        """Who does it, with everything rendered; None where that failed."""
        run, node = self._run, self.node
        self.policy = policy = choice.policy
        if policy.is_open:
            self.policy = policy.settled(run.recall(base_name(self.name)), node.expected_s)
        self.attempts_before, self.step, self.refused = self._attempts, 1, 0
        try:
            agent = self._agent(number, choice)
        except TemplateError as error:
            self._book(Outcome(0, 0.0, failure=Failure(ErrorKind.TEMPLATE, str(error))))
            return None
        self._billed = isinstance(agent, ModelAgent) and agent.billed
        return agent

    def _book(self, outcome: Outcome) -> None:
        self._outcome, self._turned = outcome, NO_USAGE
        if outcome.usage is not NO_USAGE:
            self._usage += outcome.usage
        if outcome.failure is None:
            self._good, self._good_by = outcome, self._by

    def _agent(self, number: int, choice: Choice) -> Agent:
        """The agent with everything rendered; raises TemplateError."""
        run = self._run
        asked, self._asked = self._asked, None
        if asked is None:
            asked = self._rendered(number, choice)
        assert not isinstance(choice.work, PipelineWork)
        past = (
            () if number or run.reuse is None or self._question is None else run.reuse.turns(self.name, self._question)
        )
        made = agent_for(self.instance, choice.work, asked, Means(self.policy, self.purse, past))
        self.reserved, self._bound = made.worst, made.bound
        if run.budget is not None and made.model is not None:
            self._degraded, self._by = made.degraded, self._by._replace(model=made.model)
        return made.agent

    def _rendered(self, number: int, choice: Choice) -> Asked:
        """What *choice* asks, and what is to be written of it before the first attempt; raises TemplateError."""
        run, work = self._run, choice.work
        assert not isinstance(work, PipelineWork)
        reads = not isinstance(work, CallWork) or work.arguments
        asked = rendered(work, self.instance.names(self.previous) if reads else {}, run.codes)
        if self.recorded:
            question = run.question_of(self.node, asked)
            if not number:
                self._question, self.fingerprint = question, question.fingerprint
            self._asks = asks_json(number, max(1, self.passes), question.text)
        return asked

    def announce(self) -> None:
        """Write the first attempt ahead, while the node waits for its slot; only of what may be repeated."""
        try:
            self._asked = self._rendered(0, self.node.choices[0])
        except TemplateError:
            return  # told when it is its turn
        model = None if self.node.model is None else str(self.node.model)
        self._announced = self._write_start(1, 1, model)

    async def admit(self, attempt: int, hedge_after_s: float | None = None) -> None:
        """Return once it is on record that the attempt, or a hedge of it, is about to be made."""
        run = self._run
        safe, self._announced = self._announced, None
        if safe is None and hedge_after_s is None:
            safe = self._write_start(attempt, self.passes, self._by.model)
        elif safe is None:
            after_s = hedge_after_s or 0.0
            safe = self._write(NodeHedged(run.id, run.now(), self.name, attempt, after_s, self.reserved))
        self.admitting = True
        try:
            await safe
        finally:
            self.admitting = False
        if run.log is not None and run.log.journal.broken is not None:
            raise asyncio.CancelledError  # it is not on record: no call is made

    def _write_start(self, attempt: int, passes: int, model: str | None) -> asyncio.Future[None]:
        at, wave, name = self._run.now(), self.instance.wave, self.name
        return self._write(NodeStarted(self._run.id, at, name, wave, attempt, model, passes, self.reserved, self.step))

    def _write(self, event: NodeStarted | NodeHedged) -> asyncio.Future[None]:
        """Done once *event* is on record."""
        assert self._run.log is not None
        asks, self._asks = self._asks, None
        return self._run.log.recorded(event, asks=asks)

    def started(self, attempt: int) -> None:
        run = self._run
        self._attempts = attempt
        self._begun_s = run.now()
        self._deltas.begin(self._begun_s)
        at, model, turn = self._begun_s, self._by.model, self.step
        run.emit(NodeStarted(run.id, at, self.name, self.instance.wave, attempt, model, self.passes, turn=turn))

    def hedged(self, attempt: int, after_s: float) -> None:
        run = self._run
        run.emit(NodeHedged(run.id, run.now(), self.name, attempt, after_s))

    def retrying(self, attempt: int, wait_s: float, failure: Failure) -> None:
        run = self._run
        run.tell(NodeRetrying(run.id, run.now(), self.name, attempt, wait_s, self._clean(failure)))

    def warned(self, notice: Notice) -> None:
        run = self._run
        hint = None if notice.hint is None else run.redact(notice.hint)
        run.tell(NodeWarned(run.id, run.now(), self.name, run.redact(notice.message), hint))

    async def exchanged(self, exchange: Exchange, usage: Usage) -> None:
        """A turn of the conversation is over; return when it is on record."""
        run = self._run
        self._turned += usage
        at, passes, fallback = run.now(), max(1, self.passes), self._by.fallback
        shown = exchange.redacted(run.redact)
        await run.record(TurnFinished(run.id, at, self.name, self.step, passes, fallback, shown, usage))

    async def tool_starts(self, call: ToolCall, *, writes: bool) -> None:
        """A tool is called; return when it may be: where it *writes*, when that is on record."""
        run = self._run
        told = ToolStarted(run.id, run.now(), self.name, call.name, call.id, writes)
        if writes:
            await run.record(told)
        else:
            run.tell(told)

    def tool_ended(self, call: ToolCall, latency_s: float, result: ToolResult, failure: Failure | None) -> None:
        """A tool call has come to *result*."""
        run = self._run
        error = None if failure is None else self._clean(failure)
        told = (call.name, call.id, latency_s, error, result.text, result.value)
        run.tell(ToolFinished(run.id, run.now(), self.name, *told))

    def waited(self, on: str, seconds: float) -> None:
        """*seconds* were spent waiting on a slot, a rate, the budget, or a retry."""
        self._waits[on] = self._waits.get(on, 0.0) + seconds
        if seconds >= SHORTEST_TOLD_WAIT_S:
            run = self._run
            run.tell(NodeWaiting(run.id, run.now(), self.name, on, seconds))

    def pass_finished(self) -> PassFinished:
        """What the pass came to that has just ended."""
        run, outcome = self._run, self._outcome
        error = None if outcome.failure is None else self._clean(outcome.failure)
        at, asked = run.now(), self.fingerprint if self.node.repeat is not None else None
        return PassFinished(run.id, at, self.name, self.passes, outcome.latency_s, outcome.output, error, asked)

    def settled(self) -> NodeSettled:
        """The node's end, by what its work came to; a pass that failed does not lose the one before."""
        outcome = self._outcome if self.node.repeat is not None else self._good or self._outcome
        if outcome.failure is None:
            return self._told(Status.SUCCEEDED, outcome, None if self.until_held else unmet(self.passes))
        if self.unfunded and not self._attempts_before + self._attempts and not self._is_own_budget_spent:
            return self._told(Status.SKIPPED, _NOTHING, OUT_OF_BUDGET)
        timed_out = outcome.failure.kind is ErrorKind.TIMEOUT
        return self._told(Status.TIMED_OUT if timed_out else Status.FAILED, outcome)

    def fail(self, kind: ErrorKind, message: str) -> None:
        """The work ended outside of any call, or in one that does not end."""
        self._book(Outcome(0, self.acting_s, failure=Failure(kind, message)))

    def cut_off(self, status: Status, reason: str) -> NodeSettled:
        """The end of a node that was cancelled; what was in flight may have been billed. A good pass is kept."""
        self._usage += self._turned
        if self._billed and (self.in_flight or self.doubtful):
            self._usage += MAYBE_BILLED
        output = None if self._good is None else self._good.output
        return self._told(status, Outcome(0, self.acting_s, output), reason)

    def _told(self, status: Status, outcome: Outcome, reason: str | None = None) -> NodeSettled:
        run = self._run
        by = self._by if outcome.failure is not None or self._good is None else self._good_by
        return NodeSettled(
            run=run.id,
            at=run.now(),
            node=self.name,
            status=status,
            latency_s=self._before_s + outcome.latency_s,
            attempts=self._attempts_before + self._attempts,
            model=by.model,
            usage=self._usage,
            output=outcome.output,
            error=None if outcome.failure is None else self._clean(outcome.failure),
            reason=reason,
            waits=self._waits,
            ttft_s=outcome.ttft_s,
            finish_reason=outcome.finish_reason,
            fallback=by.fallback,
            fallback_error=by.error,
            hedges=self.hedges,
            passes=max(1, self.passes),
            degraded=self._degraded if self._attempts_before + self._attempts else (),
            charged=None if self.purse is None else self.charged,
            stderr=None if outcome.stderr is None else run.redact(outcome.stderr),
            turns=self.step,
            truncated=outcome.truncated,
            partial=outcome.partial,
            reasoning=outcome.reasoning,
            service_tier=outcome.service_tier,
        )

    def _clean(self, failure: Failure) -> Failure:
        redact = self._run.redact
        request_id = None if failure.request_id is None else redact(failure.request_id)
        return replace(failure, message=redact(failure.message), request_id=request_id)

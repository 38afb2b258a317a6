"""One node's life: its templates rendered, its agent performed, and every step told.

Whatever goes wrong in here is this node's failure and nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentdag.agents.agent import Agent, Outcome, Task
from agentdag.agents.function import FunctionAgent, StandInAgent
from agentdag.agents.llm import ModelAgent
from agentdag.calls import BYTES_PER_TOKEN, NO_USAGE, Provider, Request
from agentdag.errors import ErrorKind, Failure
from agentdag.events import (
    Event,
    NodeProgress,
    NodeRetrying,
    NodeSettled,
    NodeStarted,
    NodeWaiting,
    Status,
    usage_json,
)
from agentdag.language.sandbox import View
from agentdag.language.templates import TemplateError
from agentdag.limits.governor import Governor
from agentdag.limits.slots import Seat
from agentdag.plan.plan import Plan, PlanNode, PromptWork

TOKENS_EVERY_S = 0.2
SHORTEST_TOLD_WAIT_S = 0.05
"""A shorter wait for a slot is told in `waits`, but not as an event of its own."""


@dataclass(slots=True)
class Run:
    """What all nodes of one run share. *now* gives seconds since the run began."""

    id: str
    plan: Plan
    inputs: Mapping[str, Any]
    providers: Mapping[str, Provider]
    functions: Mapping[str, Callable[..., Any]]
    simulator: Provider | None
    """Stands in for everything that would leave the machine, where it is given."""
    governor: Governor
    emit: Callable[[Event], None]
    redact: Callable[[str], str]
    now: Callable[[], float]
    started: str
    """UTC, ISO 8601."""
    stream: bool = False
    settled: dict[str, NodeSettled] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    """The ids of what has settled without a result."""
    _views: dict[str, View] = field(default_factory=dict)
    _shared_names: dict[str, View] = field(init=False)

    def __post_init__(self) -> None:
        run = {"id": self.id, "started": self.started}
        self._shared_names = {"inputs": View("inputs", self.inputs), "run": View("run", run)}

    def view(self, name: str) -> View:
        """What templates see of the settled node *name*."""
        if name not in self._views:
            self._views[name] = view_of(self.settled[name])
        return self._views[name]

    def missing(self, node: PlanNode) -> tuple[str, ...]:
        """Those of the node's needs that have settled without a result."""
        return tuple(name for name in node.needs if name in self.absent) if self.absent else ()

    def names(self, node: PlanNode) -> dict[str, Any]:
        """What the templates of *node* see."""
        read = View("nodes", {name: self.view(name) for name in node.edges})
        needs = View("needs", {name: read[name] for name in node.needs})
        return {**self._shared_names, "nodes": read, "needs": needs, "missing": list(self.missing(node))}

    def output_names(self) -> dict[str, Any]:
        """What the templates under `outputs` see."""
        return {**self._shared_names, "nodes": View("nodes", {name: self.view(name) for name in self.settled})}


class NodeLife:
    """One node on its way from holding a slot to being settled; listens to its own calls."""

    def __init__(self, run: Run, node: PlanNode, seat: Seat) -> None:
        self._run = run
        self.node = node
        self.seat = seat
        self.waits: dict[str, float] = {}
        self.attempts = 0
        self.begun = False
        """Whether its task has taken its first step."""
        self._model = None if node.model is None else str(node.model)
        self._begun = 0.0
        self._streamed_bytes = 0
        self._ttft_s: float | None = None
        self._told_at = 0.0

    @property
    def resting(self) -> bool:
        """Whether it waits for a slot or a retry rather than acts."""
        return not self.seat.held

    async def live(self) -> NodeSettled:
        """The node's end. Raises nothing but cancellation."""
        run, node = self._run, self.node
        try:
            agent = self._agent()
        except TemplateError as error:
            self.seat.leave()
            return self.failed(ErrorKind.TEMPLATE, str(error))
        outcome = await agent.perform(Task(node.id, run.governor, self.seat, node.policy, self, self.on_delta))
        if outcome.failure is None:
            return self.settled(Status.SUCCEEDED, outcome)
        timed_out = outcome.failure.kind is ErrorKind.TIMEOUT
        return self.settled(Status.TIMED_OUT if timed_out else Status.FAILED, outcome)

    def _agent(self) -> Agent:
        """The agent with everything rendered; raises TemplateError."""
        run, node, work = self._run, self.node, self.node.work
        names = run.names(node) if isinstance(work, PromptWork) or work.arguments else {}
        simulated = run.simulator is not None and node.simulated is not False
        if isinstance(work, PromptWork):
            request = Request(
                node=node.id,
                attempt=1,
                model=work.model.name,
                prompt=work.prompt.render(names),
                system=None if work.system is None else work.system.render(names),
                sampling=work.sampling,
                stream=run.stream,
                timeout_s=node.policy.timeout_s,
                rehearsal=node.rehearsal,
            )
            provider = run.simulator if simulated and run.simulator else run.providers[work.model.provider]
            return ModelAgent(provider, request, str(work.model), run.redact)
        arguments = {name: value.evaluate(names) for name, value in work.arguments.items()}
        if simulated and node.simulated and run.simulator is not None:
            return StandInAgent(run.simulator, node.rehearsal)
        return FunctionAgent(run.functions[node.id], arguments)

    def started(self, attempt: int) -> None:
        run, node = self._run, self.node
        self.attempts = attempt
        self._streamed_bytes, self._ttft_s = 0, None
        self._begun = run.now()
        run.emit(NodeStarted(run.id, self._begun, node.id, node.wave, attempt, self._model))

    def retrying(self, attempt: int, wait_s: float, failure: Failure) -> None:
        run = self._run
        run.emit(NodeRetrying(run.id, run.now(), self.node.id, attempt, wait_s, self._clean(failure)))

    def waited(self, on: str, seconds: float) -> None:
        """*seconds* were spent waiting on a slot or a retry."""
        self.waits[on] = self.waits.get(on, 0.0) + seconds
        if seconds >= SHORTEST_TOLD_WAIT_S:
            run = self._run
            run.emit(NodeWaiting(run.id, run.now(), self.node.id, on, seconds))

    def on_delta(self, piece: str) -> None:
        """A piece of text came; told at the first and then a few times a second."""
        now = self._run.now()
        if self._ttft_s is None:
            self._ttft_s = now - self._begun
        elif now - self._told_at < TOKENS_EVERY_S:
            self._streamed_bytes += len(piece.encode("utf-8", "replace"))
            return
        self._told_at = now
        self._streamed_bytes += len(piece.encode("utf-8", "replace"))
        tokens = round(self._streamed_bytes / BYTES_PER_TOKEN)
        self._run.emit(NodeProgress(self._run.id, now, self.node.id, tokens, self._ttft_s))

    def settled(self, status: Status, outcome: Outcome, reason: str | None = None) -> NodeSettled:
        run, node = self._run, self.node
        return NodeSettled(
            run=run.id,
            at=run.now(),
            node=node.id,
            status=status,
            latency_s=outcome.latency_s,
            attempts=outcome.attempts,
            model=self._model,
            usage=outcome.usage,
            output=outcome.output,
            error=None if outcome.failure is None else self._clean(outcome.failure),
            reason=reason,
            waits=self.waits,
            ttft_s=outcome.ttft_s,
            finish_reason=outcome.finish_reason,
        )

    def failed(self, kind: ErrorKind, message: str) -> NodeSettled:
        """The end of a node that failed outside of any call."""
        return self.settled(Status.FAILED, Outcome(self.attempts, 0.0, failure=Failure(kind, message)))

    def cancelled(self, reason: str) -> NodeSettled:
        """The end of a node that was cut off while it was at work."""
        spent = self._run.now() - self._begun if self.attempts else 0.0
        return self.settled(Status.CANCELLED, Outcome(self.attempts, spent, usage=NO_USAGE), reason)

    def _clean(self, failure: Failure) -> Failure:
        redact = self._run.redact
        request_id = None if failure.request_id is None else redact(failure.request_id)
        return replace(failure, message=redact(failure.message), request_id=request_id)


def view_of(settled: NodeSettled) -> View:
    """What templates see of a node that has settled."""
    error = settled.error
    present: dict[str, Any] = {
        "ok": settled.status is Status.SUCCEEDED,
        "status": settled.status.value,
        "error": None if error is None else {"kind": error.kind.value, "message": error.message},
        "latency": settled.latency_s,
        "usage": usage_json(settled.usage),
    }
    if settled.status is Status.SUCCEEDED:
        present["output"] = settled.output
        return View(f"nodes.{settled.node}", present)
    why = error.message if error is not None else settled.reason or settled.status.value
    absent = {"output": f"`{settled.node}` has no output: {settled.status.replace('_', ' ')}, {why}"}
    return View(f"nodes.{settled.node}", present, absent)

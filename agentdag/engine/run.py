"""What all nodes of one run share: its plan and inputs, how its nodes have settled, and what templates see of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentdag.agents.answers import Reader
from agentdag.agents.command import Programs
from agentdag.agents.http import HttpClient
from agentdag.calls import NO_USAGE, Provider
from agentdag.engine.asks import Asked, Prompted, Question, question_of
from agentdag.engine.reuse import Reuse
from agentdag.events import Event, NodeSettled, Status
from agentdag.language.sandbox import View
from agentdag.limits.budget import Budget
from agentdag.limits.estimates import Estimates
from agentdag.limits.governor import Governor
from agentdag.limits.policy import Recall, no_past
from agentdag.limits.rates import Lane
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.work import Answer, CallWork, ModelRef
from agentdag.providers.prices import Prices
from agentdag.store.log import Log


@dataclass(frozen=True, slots=True)
class Sight:
    """What a join saw of its needs when it opened, or when its pass began, where some of them were still out."""

    missing: tuple[str, ...]
    late: frozenset[str]
    pending: tuple[str, ...]
    then: Mapping[str, NodeSettled] = field(default_factory=dict)
    """In a run that goes on: how those were that were missing when it opened before."""


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
    lanes: Callable[[ModelRef], Lane | None]
    """The limits of a model, where it has any."""
    emit: Callable[[Event], None]
    redact: Callable[[str], str]
    now: Callable[[], float]
    started: str
    """UTC, ISO 8601."""
    stream: bool = False
    recall: Recall = no_past
    """What is recorded of a node's past."""
    log: Log | None = None
    """Where it is written before anything follows from it, if anywhere."""
    reuse: Reuse | None = None
    """What is there already, if anything can be."""
    readers: Mapping[Answer, Reader] = field(default_factory=dict)
    """How answers are read that are more than text."""
    environment: Callable[[str], str] = str
    """Fills `${NAME}` in a text of the file in, from the environment."""
    http: HttpClient = field(default_factory=lambda: HttpClient(1))
    programs: Programs = field(default_factory=Programs)
    replays: bool = False
    """Whether its models' answers are recordings."""
    codes: Mapping[str, str] = field(default_factory=dict)
    """Digests of what the functions do."""
    prices: Callable[[ModelRef], Prices | None] = lambda _: None
    """What a model costs, or would if it were asked for real; None where nobody knows."""
    estimates: Estimates = field(default_factory=Estimates)
    budget: Budget | None = None
    """What the run may spend, over all its lives."""
    out_of_budget: str | None = None
    """Why the budget did not do, once something was not done for its sake."""
    settled: dict[str, NodeSettled] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    """The ids of what has settled without a result."""
    sights: dict[str, Sight] = field(default_factory=dict)
    _views: dict[str, View] = field(default_factory=dict)
    _shared_names: dict[str, View] = field(init=False)
    _first_names: dict[str, Any] = field(init=False)
    """What the templates of a node see that needs no other."""

    def __post_init__(self) -> None:
        run = {"id": self.id, "started": self.started}
        self._shared_names = {"inputs": View("inputs", self.inputs), "run": View("run", run)}
        self._first_names = {
            **self._shared_names,
            "nodes": View("nodes", {}),
            "needs": View("needs", {}),
            "missing": [],
        }

    def low(self, action: str) -> bool:
        """Whether so much of the budget is spent that *action* is to be taken."""
        terms = self.plan.budget
        return self.budget is not None and terms is not None and action in terms.actions and self.budget.is_low

    def tell(self, event: Event) -> None:
        """Write *event*, and show it."""
        if self.log is not None:
            self.log.tell(event)
        self.emit(event)

    def simulates(self, node: PlanNode) -> bool:
        """Whether the simulator stands in for *node*."""
        if isinstance(node.work, CallWork):  # it is the user's own, and costs nothing
            return self.simulator is not None and bool(node.simulated)
        return self.simulator is not None and node.simulated is not False

    def question_of(self, node: PlanNode, asked: Asked) -> Question:
        """By what the request of *node* is known again."""
        played: Any = {"output": node.rehearsal.output} if self.simulates(node) else None
        if self.replays and isinstance(asked, Prompted):
            played = "recordings"
        return question_of(asked, node.answer, played)

    def reader(self, answer: Answer) -> Reader | None:
        """How what is to be *answer* is read; None where it is taken as it comes."""
        return self.readers.get(answer)

    def fill(self, written: str, rendered: str) -> str:
        """*rendered*, or where the file has *written* `${NAME}` in it, what the environment holds."""
        return self.environment(written) if "${" in written else rendered

    def view(self, name: str) -> View:
        """What templates see of the settled node *name*."""
        if name not in self._views:
            self._views[name] = view_of(self.settled[name])
        return self._views[name]

    def names(self, node: PlanNode, previous: Any = None) -> Mapping[str, Any]:
        """What the templates of *node* see."""
        if not node.edges:
            return self._first_names
        sight = self.sights.get(node.id)
        if sight is None:
            read = View("nodes", {name: self.view(name) for name in node.edges})
            missing = [name for name in node.needs if name in self.absent] if self.absent else []
            seen: dict[str, Any] = {"missing": missing}
        else:
            read = View("nodes", {name: self._sighted(name, sight) for name in node.edges})
            seen = {"missing": list(sight.missing)}
        if node.barrier.progressive:
            seen |= {"pending": list(sight.pending) if sight else [], "previous": previous}
        needs = View("needs", {name: read[name] for name in node.needs})
        return {**self._shared_names, "nodes": read, "needs": needs, **seen}

    def _sighted(self, name: str, sight: Sight) -> View:
        """What was to be seen of *name* then."""
        if name in sight.late:
            return _unsettled_view(name, Status.LATE.value)
        if name in sight.then:
            return view_of(sight.then[name])
        out = name in sight.pending or name not in self.settled
        return _unsettled_view(name, "pending") if out else self.view(name)

    def output_names(self) -> dict[str, Any]:
        """What the templates under `outputs` see."""
        return {**self._shared_names, "nodes": View("nodes", {name: self.view(name) for name in self.settled})}


def view_of(settled: NodeSettled) -> View:
    """What templates see of a node that has settled."""
    error = settled.error
    present: dict[str, Any] = {
        "ok": settled.status is Status.SUCCEEDED,
        "status": settled.status.value,
        "error": None if error is None else {"kind": error.kind.value, "message": error.message},
        "latency": settled.latency_s,
        "usage": settled.usage.plain(),
    }
    if settled.status is Status.SUCCEEDED:
        present["output"] = settled.output
        return View(f"nodes.{settled.node}", present)
    why = error.message if error is not None else settled.reason or settled.status.value
    absent = {"output": f"`{settled.node}` has no output: {settled.status.replace('_', ' ')}, {why}"}
    return View(f"nodes.{settled.node}", present, absent)


def _unsettled_view(name: str, status: str) -> View:
    """What a join sees of a node that was still out when it opened, or when its pass began."""
    present = {"ok": False, "status": status, "error": None, "latency": 0.0, "usage": NO_USAGE.plain()}
    return View(f"nodes.{name}", present, {"output": f"`{name}` has no output: it is {status}"})

"""What all nodes of one run share: its plan and inputs, and all that acts for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentdag.agents.answers import Reader
from agentdag.agents.command import Programs
from agentdag.agents.http import HttpClient
from agentdag.agents.toolbox import Toolbox
from agentdag.calls import Provider
from agentdag.engine.asks import Asked, Prompted, Question, question_of
from agentdag.engine.reuse import Reuse
from agentdag.events import Event, NodeSettled
from agentdag.limits.budget import Budget
from agentdag.limits.estimates import Estimates
from agentdag.limits.governor import Governor
from agentdag.limits.policy import Recall, no_past
from agentdag.limits.rates import Lane
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.work import Answer, ModelRef, Tooling
from agentdag.providers.prices import Prices
from agentdag.store.log import Log


async def no_toolbox(_tooling: Tooling, _plays: bool) -> Toolbox:  # noqa: FBT001 - as it is called
    """Of a run without tools."""
    raise AssertionError("this run has no tools")


@dataclass(slots=True)
class Run:
    """What all nodes of one run share. *now* gives seconds since the run began."""

    id: str
    plan: Plan
    inputs: Mapping[str, Any]
    providers: Mapping[str, Provider]
    functions: Mapping[tuple[str, str], Callable[..., Any]]
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
    toolbox: Callable[[Tooling, bool], Awaitable[Toolbox]] = no_toolbox
    """What a node may work with; played by the simulator where the second argument says so."""
    http: HttpClient = field(default_factory=lambda: HttpClient(1))
    programs: Programs = field(default_factory=Programs)
    replays: bool = False
    """Whether its models' answers are recordings."""
    codes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Digests of what the functions do."""
    prices: Callable[[ModelRef], Prices | None] = lambda _: None
    """What a model costs, or would if it were asked for real; None where nobody knows."""
    estimates: Estimates = field(default_factory=Estimates)
    budget: Budget | None = None
    """What the run may spend, over all its lives."""
    stopping: str | None = None
    """Why nothing new is begun any more, once that is so."""
    out_of_budget: str | None = None
    """Why the budget did not do, once something was not done for its sake."""
    results: dict[str, NodeSettled] = field(default_factory=dict)
    """How its nodes have settled, by their whole names; of a node with a `foreach`, not each instance."""

    def low(self, action: str) -> bool:
        """Whether so much of the budget is spent that *action* is to be taken."""
        terms = self.plan.budget
        return self.budget is not None and terms is not None and action in terms.actions and self.budget.is_low

    def tell(self, event: Event) -> None:
        """Write *event*, and show it."""
        if self.log is not None:
            self.log.tell(event)
        self.emit(event)

    async def record(self, event: Event) -> None:
        """Show *event* once it is on record."""
        if self.log is not None:
            await self.log.recorded(event)
        self.emit(event)

    def simulates(self, node: PlanNode) -> bool:
        """Whether the simulator stands in for *node*."""
        return self.simulator is not None and node.is_played

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

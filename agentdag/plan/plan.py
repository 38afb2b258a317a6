"""The compiled pipeline: frozen values that the engine drives through time.

Every template is parsed, every reference resolved, every default filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agentdag.calls import Rehearsal, Sampling
from agentdag.language.spec import InputSpec, ProviderSpec
from agentdag.language.templates import Template, ValueTemplate
from agentdag.limits.governor import Policy
from agentdag.plan.forecast import Forecast, forecast
from agentdag.plan.graph import Graph

DEFAULT_LATENCY_S = 1.0
"""What a node is taken to last where neither history nor `expect` says."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model at a provider."""

    provider: str
    name: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.name}"


@dataclass(frozen=True, slots=True)
class PromptWork:
    """Ask a model."""

    prompt: Template
    system: Template | None
    model: ModelRef
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class CallWork:
    """Call the Python function `module:function` with keyword arguments."""

    module: str
    function: str
    arguments: Mapping[str, ValueTemplate]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanNode:
    """One node. `edges` are all its dependencies; `needs` those that a join sees."""

    id: str
    work: PromptWork | CallWork
    edges: tuple[str, ...]
    needs: tuple[str, ...]
    wave: int
    optional: bool
    priority: int
    """0 high, 1 normal, 2 low."""
    policy: Policy
    expected_s: float
    assumed: bool
    """Whether `expected_s` is no more than the default."""
    rehearsal: Rehearsal
    tokens: int | None
    """How many tokens its answer is expected to have, where the file says."""
    simulated: bool | None
    """Whether the simulator stands in for it: True or False where the file says so, else by its kind."""
    description: str | None

    @property
    def model(self) -> ModelRef | None:
        return self.work.model if isinstance(self.work, PromptWork) else None

    @property
    def templates(self) -> tuple[Template, ...]:
        """Every template that is rendered when the node starts."""
        work = self.work
        if isinstance(work, PromptWork):
            return (work.prompt,) if work.system is None else (work.prompt, work.system)
        return tuple(template for value in work.arguments.values() for _, template in value.leaves)

    def reads(self) -> frozenset[str]:
        """The nodes that its templates read; all of its needs where one loops over them or asks who is missing."""
        read: set[str] = set()
        for template in self.templates:
            if template.loops is not None or template.dynamic is not None:
                read.update(self.needs)
            for each in template.reads:
                if each.root == "missing":
                    read.update(self.needs)
                elif each.root in {"nodes", "needs"} and each.path:
                    read.add(each.path[0])
        return frozenset(read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole pipeline, ready to run. `nodes` are in file order; `graph` numbers them likewise."""

    name: str
    description: str | None
    path: Path
    inputs: Mapping[str, InputSpec]
    providers: Mapping[str, ProviderSpec]
    nodes: tuple[PlanNode, ...]
    graph: Graph
    outputs: Mapping[str, ValueTemplate]
    concurrency: int
    timeout_s: float | None
    fail_fast: bool
    schedule: str
    allowed: tuple[Path, ...] = ()
    """Folders besides the pipeline's own from which files may be read."""

    @property
    def durations_s(self) -> Sequence[float]:
        """What each node is expected to last, in node order."""
        return [node.expected_s for node in self.nodes]

    @property
    def priorities(self) -> Sequence[int]:
        """The priority of each node, in node order."""
        return [node.priority for node in self.nodes]

    def forecast(self) -> Forecast:
        """How long it takes, under its own cap and schedule."""
        return forecast(
            self.graph, self.durations_s, cap=self.concurrency, schedule=self.schedule, priorities=self.priorities
        )

    def lasting(self, seconds: Mapping[str, float]) -> Plan:
        """The plan if the nodes in *seconds* took that long."""
        nodes = (
            replace(node, expected_s=seconds[node.id], assumed=False) if node.id in seconds else node
            for node in self.nodes
        )
        return replace(self, nodes=tuple(nodes))

    def scaled(self, factor: float) -> Plan:
        """The plan with every duration in the file times *factor*."""
        if factor == 1:
            return self
        timeout_s = None if self.timeout_s is None else self.timeout_s * factor
        return replace(self, nodes=tuple(_scaled(node, factor) for node in self.nodes), timeout_s=timeout_s)


def _scaled(node: PlanNode, factor: float) -> PlanNode:
    policy, rehearsal = node.policy, node.rehearsal
    return replace(
        node,
        policy=replace(
            policy,
            timeout_s=policy.timeout_s * factor,
            delay_s=policy.delay_s * factor,
            max_delay_s=policy.max_delay_s * factor,
        ),
        expected_s=node.expected_s * factor,
        rehearsal=replace(rehearsal, latency_s=rehearsal.latency_s * factor),
    )

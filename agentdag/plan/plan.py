"""The compiled pipeline: frozen values that the engine drives through time.

Every template is parsed, every reference resolved, every default filled in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from agentdag.calls import Rehearsal, Sampling
from agentdag.language.spec import InputSpec, ProviderSpec
from agentdag.language.templates import Template, ValueTemplate
from agentdag.language.tools import ToolSpec
from agentdag.limits.policy import Policy
from agentdag.plan.barrier import ALL, Barrier
from agentdag.plan.forecast import Forecast, forecast, makespan_s
from agentdag.plan.graph import Graph
from agentdag.plan.news import Terms
from agentdag.plan.play import Rules
from agentdag.plan.work import AS_TEXT, Answer, CallWork, Foreach, ModelRef, PromptWork, Repeat, Work, may_repeat

DEFAULT_LATENCY_S = 1.0
"""What a node is taken to last where neither history nor `expect` says."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A named model. `said` are the model parameters that the file gives it."""

    name: str
    model: ModelRef
    said: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to do a node's work, and under which rules."""

    work: Work
    policy: Policy

    @property
    def model(self) -> ModelRef | None:
        return self.work.model if isinstance(self.work, PromptWork) else None


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """What may be spent; None for any amount. From the share `low_at` on, `actions` are taken."""

    tokens: int | None = None
    cost_usd: Decimal | None = None
    low_at: float = 1.0
    actions: frozenset[str] = frozenset()


class Made(NamedTuple):
    """What a node is made of: *parts*, which wait for *edges*; of a `foreach`, so many *items*."""

    parts: tuple[str, ...]
    edges: tuple[str, ...]
    items: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanNode:
    """One node. `edges` are all its dependencies; `needs` those that a join sees, and its barrier counts."""

    id: str
    choices: tuple[Choice, ...]
    """The node's own work, then its fallbacks."""
    edges: tuple[str, ...]
    needs: tuple[str, ...]
    wave: int
    optional: bool
    barrier: Barrier
    idempotent: bool
    priority: int
    """0 high, 1 normal, 2 low."""
    expected_s: float
    assumed: bool
    """Whether `expected_s` is no more than the default."""
    rehearsal: Rehearsal
    tokens: int | None
    """How many tokens its answer is expected to have, where the file says."""
    simulated: bool | None
    """Whether the simulator stands in for it: True or False where the file says so, else by its kind."""
    description: str | None
    cache_s: float | None = None
    """How old an answer out of the cache may be, in seconds; None where the node asks for none."""
    budget: BudgetTerms | None = None
    bounded: bool = False
    """Whether the file itself bounds how long it may take."""
    answer: Answer = AS_TEXT
    """What its output is to be, whoever gives it."""
    when: Template | None = None
    """Whether it runs at all."""
    foreach: Foreach | None = None
    repeat: Repeat | None = None
    body: Plan | None = None
    """The pipeline that it runs, where that is what it does."""
    save: Template | None = None
    """The file that its output is written to."""
    writes: frozenset[str] = frozenset()
    reads_resources: frozenset[str] = frozenset()
    feeder: str | None = None
    """In a flat plan: the node whose items it takes one by one."""
    made: Made | None = None
    """In a flat plan: what it is the end of."""

    @property
    def cacheable(self) -> bool:
        """Whether its answer may serve other runs: not where it reads `run`, or how long others took."""
        return not any(template.is_of_the_run for template in self.templates)

    @property
    def may_repeat(self) -> bool:
        """Whether a call of which nobody knows the end may simply be made again, and reads what is there already."""
        return (self.idempotent or may_repeat(self.work)) and not self.barrier.progressive

    @property
    def work(self) -> Work:
        """What the node does while nothing fails."""
        return self.choices[0].work

    @property
    def policy(self) -> Policy:
        return self.choices[0].policy

    @property
    def model(self) -> ModelRef | None:
        return self.choices[0].model

    @property
    def is_played(self) -> bool:
        """Whether the simulator, where there is one, stands in for it: a function is the user's own, and free."""
        return bool(self.simulated) if isinstance(self.work, CallWork) else self.simulated is not False

    @property
    def templates(self) -> tuple[Template, ...]:
        """Every template that is rendered when the node starts, or when a fallback does."""
        return (*self._rules(), *(template for choice in self.choices for template in choice.work.templates))

    def _rules(self) -> Iterator[Template]:
        """The templates that tell whether, how often and where to, and not what."""
        yield from (each for each in (self.when, self.save) if each is not None)
        if self.foreach is not None:
            yield from self.foreach.items.templates
        if self.repeat is not None:
            yield self.repeat.until

    @property
    def may_lack(self) -> bool:
        """Whether its barrier may open without a dependency that the pipeline requires."""
        return self.barrier.may_lack(len(self.needs))

    def reads(self, *, items: bool = True) -> frozenset[str]:
        """The nodes that its templates read; all of its needs where one loops over them or asks who is missing.

        Without *items*, what only gives the list of its `foreach` is left out.
        """
        read: set[str] = set()
        lists = () if items or self.foreach is None else tuple(self.foreach.items.templates)
        for template in self.templates:
            if any(template is each for each in lists):
                continue
            if template.loops is not None or template.dynamic is not None:
                read.update(self.needs)
            for each in template.reads:
                if each.root in {"missing", "pending"}:
                    read.update(self.needs)
                elif each.root in {"nodes", "needs"} and each.path:
                    read.add(each.path[0])
        return frozenset(read)


def merged_sampling(*layers: Mapping[str, Any]) -> Sampling:
    """The model parameters of *layers*, later ones winning, null too; `params` are merged."""
    merged: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            merged[key] = value
            if key == "params":
                params = {**params, **value} if value is not None else {}
    merged["stop"] = tuple(merged.get("stop") or ())
    return Sampling(**{**merged, "params": params})


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
    tools: Mapping[str, ToolSpec]
    outputs: Mapping[str, ValueTemplate]
    concurrency: int
    timeout_s: float | None
    fail_fast: bool
    schedule: str
    wave_timeout_s: float | None = None
    """In lock-step: the next wave's ready nodes start that long after a wave began, at the latest."""
    tiers: tuple[Tier, ...] = ()
    """Cheapest first."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The model parameters that every prompt has that does not say otherwise."""
    budget: BudgetTerms | None = None
    queue: int | None = None
    """How many may wait for a slot."""
    cache_warm: bool = False
    allowed: tuple[Path, ...] = ()
    """Folders besides the pipeline's own from which files may be read."""
    source: str = field(default="", compare=False, repr=False)
    """The text that it was compiled from, without what looks like a key."""

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Plan, PlanNode]]:
        """Every node, those of the pipelines that nodes run among them, by its whole name and with its own pipeline."""
        for node in self.nodes:
            yield f"{prefix}{node.id}", self, node
            if node.body is not None:
                yield from node.body.walk(f"{prefix}{node.id}.")

    def terms(self) -> list[Terms]:
        """On what terms each node takes part in a schedule, in node order."""
        numbers = {node.id: number for number, node in enumerate(self.nodes)}
        wanted = self.wanted()
        return [
            Terms(
                node.optional,
                node.barrier,
                None if node.needs == node.edges else tuple(numbers[need] for need in node.needs),
                node.id in wanted,
            )
            for node in self.nodes
        ]

    @property
    def output_names(self) -> list[str]:
        """What it gives, by name: its outputs, or the nodes that nobody needs."""
        if self.outputs:
            return list(self.outputs)
        return [self.nodes[number].id for number in self.graph.last]

    def wanted(self) -> frozenset[str]:
        """The nodes that `outputs` read."""
        return frozenset[str]().union(*(value.nodes for value in self.outputs.values()))

    @property
    def degrades(self) -> bool:
        """Whether a low budget moves nodes to a lower tier."""
        return self.budget is not None and "downgrade" in self.budget.actions

    def models_of(self, node: PlanNode, *, degrades: bool) -> Iterator[ModelRef]:
        """Every model that *node* may ask, those of lower tiers among them where it *degrades*."""
        for choice in node.choices:
            if isinstance(choice.work, PromptWork):
                yield choice.work.model
                lower = self.one_tier_down(choice.work) if degrades else None
                if lower is not None:
                    yield lower.model

    def bounded(self) -> Iterator[tuple[PlanNode, ModelRef]]:
        """Every node whose cost is bounded, with each model that it may ask: their prices must be known."""
        whole = self.budget is not None and self.budget.cost_usd is not None
        for _, within, node in self.walk():
            if whole or (node.budget is not None and node.budget.cost_usd is not None):
                yield from ((node, model) for model in within.models_of(node, degrades=self.degrades))

    def one_tier_down(self, work: PromptWork) -> PromptWork | None:
        """*work* by the next cheaper tier; None where there is none."""
        names = [tier.name for tier in self.tiers]
        place = names.index(work.tier) if work.tier in names else 0
        if not place:
            return None
        lower = self.tiers[place - 1]
        sampling = merged_sampling(self.defaults, lower.said, work.own)
        return replace(work, model=lower.model, tier=lower.name, sampling=sampling)

    def on_models(self, models: Mapping[str, ModelRef]) -> Plan:
        """The plan with other models for the tiers in *models*; `*` stands for every tier and every model."""
        every = models.get("*")

        def asked(work: Work) -> Work:
            if not isinstance(work, PromptWork):
                return work
            model = models.get(work.tier or "") or every
            return work if model is None else replace(work, model=model)

        nodes = (
            replace(
                node,
                choices=tuple(replace(choice, work=asked(choice.work)) for choice in node.choices),
                body=None if node.body is None else node.body.on_models(models),
            )
            for node in self.nodes
        )
        tiers = (replace(tier, model=models.get(tier.name) or every or tier.model) for tier in self.tiers)
        return replace(self, nodes=tuple(nodes), tiers=tuple(tiers))

    @property
    def durations_s(self) -> Sequence[float]:
        """What each node is expected to last, in node order."""
        return [node.expected_s for node in self.nodes]

    @property
    def priorities(self) -> Sequence[int]:
        """The priority of each node, in node order."""
        return [node.priority for node in self.nodes]

    @property
    def rules(self) -> Rules:
        """How a run of it proceeds, for forecasts."""
        decide = self.wave_timeout_s is not None or any(node.barrier is not ALL for node in self.nodes)
        terms = (
            [each._replace(counted=None) if each.barrier is ALL else each for each in self.terms()] if decide else None
        )
        return Rules(self.concurrency, self.schedule, self.priorities, terms, self.wave_timeout_s)

    def forecast(self) -> Forecast:
        """How long it takes, under its own cap, schedule and barriers."""
        return forecast(self.graph, self.durations_s, self.rules)

    def takes_s(self) -> float:
        """How long a run of it takes: no more than that of the forecast."""
        return makespan_s(self.graph, self.durations_s, self.rules)

    def lasting(self, seconds: Mapping[str, float]) -> Plan:
        """The plan if the nodes in *seconds* took that long."""
        if not seconds:
            return self

        def lasting(node: PlanNode) -> PlanNode:
            if node.body is not None:
                prefix = f"{node.id}."
                inner = {name.removeprefix(prefix): s for name, s in seconds.items() if name.startswith(prefix)}
                node = replace(node, body=node.body.lasting(inner))
            return replace(node, expected_s=seconds[node.id], assumed=False) if node.id in seconds else node

        return replace(self, nodes=tuple(map(lasting, self.nodes)))

    def scaled(self, factor: float) -> Plan:
        """The plan with every duration in the file times *factor*."""
        if factor == 1:
            return self
        return replace(
            self,
            nodes=tuple(_scaled(node, factor) for node in self.nodes),
            timeout_s=None if self.timeout_s is None else self.timeout_s * factor,
            wave_timeout_s=None if self.wave_timeout_s is None else self.wave_timeout_s * factor,
        )


def _scaled(node: PlanNode, factor: float) -> PlanNode:
    rehearsal = node.rehearsal
    return replace(
        node,
        choices=tuple(Choice(_with_time(choice.work, factor), choice.policy.scaled(factor)) for choice in node.choices),
        barrier=node.barrier.scaled(factor),
        expected_s=node.expected_s * factor,
        rehearsal=replace(rehearsal, latency_s=rehearsal.latency_s * factor),
        foreach=None if node.foreach is None else replace(node.foreach, barrier=node.foreach.barrier.scaled(factor)),
        body=None if node.body is None else node.body.scaled(factor),
    )


def _with_time(work: Work, factor: float) -> Work:
    """*work* with the time that its tools have times *factor*."""
    if not isinstance(work, PromptWork) or work.tooling is None:
        return work
    return replace(work, tooling=replace(work.tooling, timeout_s=work.tooling.timeout_s * factor))

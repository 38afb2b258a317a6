"""One graph of nodes at work: the pipeline itself, or one that a node of another runs, and what its templates see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentdag.calls import NO_USAGE
from agentdag.engine.run import Run
from agentdag.engine.shelf import unshelved
from agentdag.events import NodeSettled, Status
from agentdag.language.sandbox import View
from agentdag.limits.budget import Budget
from agentdag.limits.slots import Rank
from agentdag.plan.forecast import remaining_s
from agentdag.plan.news import Terms
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Sight:
    """What a join saw of its needs when it opened, or when its pass began, where some of them were still out."""

    missing: tuple[str, ...]
    late: frozenset[str]
    pending: tuple[str, ...]
    then: Mapping[str, NodeSettled] = field(default_factory=dict)
    """In a run that goes on: how those were that were missing when it opened before."""


class Shape:
    """What all scopes of one pipeline have in common."""

    def __init__(self, plan: Plan, streams: Mapping[int, int]) -> None:
        self.plan = plan
        self.streams = streams
        """For each node that takes the items of another one by one, that other."""
        self.feeds = {feeder: [node for node in streams if streams[node] == feeder] for feeder in streams.values()}
        self.terms: Sequence[Terms] = plan.terms()
        self.numbers = {node.id: number for number, node in enumerate(plan.nodes)}
        self.remaining_s = remaining_s(plan.graph, plan.durations_s)


class Instance:
    """One node in one scope, or one instance of it under `foreach`: what waits for a slot, begins, and settles.

    `item` is what it is for, `index` its place in the list; both say nothing of a node without a `foreach`.
    """

    __slots__ = ("index", "item", "name", "node", "number", "rank", "scope")

    def __init__(self, scope: Scope, number: int, rank: Rank, index: int | None = None, item: Any = None) -> None:
        self.scope = scope
        self.number = number
        self.rank = rank
        self.index = index
        self.item = item
        self.node: PlanNode = scope.plan.nodes[number]
        self.name = scope.prefix + self.node.id if index is None else f"{scope.prefix}{self.node.id}[{index}]"

    @property
    def wave(self) -> int:
        return self.scope.wave + self.node.wave

    @property
    def is_whole(self) -> bool:
        """Whether it stands for all instances of a node with a `foreach`."""
        return self.node.foreach is not None and self.index is None

    def names(self, previous: Any = None) -> Mapping[str, Any]:
        """What its templates see."""
        node = self.node
        names = self.scope.names(node, previous)
        if self.index is not None and node.foreach is not None:
            names = {**names, node.foreach.name: self.item, "index": self.index}
        return names if node.repeat is None else {**names, "previous": previous}


class Scope:
    """Its nodes are named with *prefix* before their ids; *parent* is the instance whose work it is, if any."""

    def __init__(
        self,
        run: Run,
        shape: Shape,
        inputs: Mapping[str, Any],
        *,
        parent: Instance | None = None,
        after_s: float = 0.0,
    ) -> None:
        plan = shape.plan
        self.run = run
        self.shape = shape
        self.plan = plan
        self.inputs = inputs
        self.parent = parent
        self.prefix: str = "" if parent is None else f"{parent.name}."
        self.wave = 0 if parent is None else parent.wave
        self.schedule = Schedule(
            plan.graph,
            shape.terms,
            waves=run.plan.schedule == "waves",
            wave_timeout_s=run.plan.wave_timeout_s,
            streams=shape.streams,
        )
        self.settled: dict[str, NodeSettled] = {}
        """How its nodes have settled, by their ids."""
        self.absent: set[str] = set()
        """The ids of what has settled without a result."""
        self.sights: dict[str, Sight] = {}
        self.latencies = [0.0] * len(plan.nodes)
        """What each took, alone."""
        self.spent_s: dict[tuple[int, int], float] = {}
        """Of a need that a join went on without, how long it had taken then."""
        self.purse: Budget | None = None
        """What its calls are paid from, where that is not the budget of the run alone."""
        self.purses: dict[int, Budget] = {}
        """The own budgets of its nodes, which all instances and passes of one share."""
        self._instances: list[Instance | None] = [None] * len(plan.nodes)
        self._after_s = after_s
        self._views: dict[str, View] = {}
        shared = {"inputs": View("inputs", inputs), "run": View("run", {"id": run.id, "started": run.started})}
        self._shared_names: Mapping[str, View] = shared
        self._first_names: Mapping[str, Any] = {
            **shared,
            "nodes": View("nodes", {}),
            "needs": View("needs", {}),
            "missing": [],
        }
        """What the templates of a node see that needs no other."""

    def __getitem__(self, number: int) -> Instance:
        """The node *number*."""
        found = self._instances[number]
        if found is None:
            found = self._instances[number] = Instance(self, number, self.rank(number))
        return found

    def rank(self, number: int) -> Rank:
        """Who goes first: by priority, then by what is still to be done after it; within a node, as that node."""
        node, left_s = self.plan.nodes[number], self.shape.remaining_s[number]
        if self.parent is None:
            return node.priority, self._after_s - left_s
        priority, own = self.parent.rank
        return (max(priority, node.priority) if node.priority else priority), own - left_s

    def take_in(self, instance: Instance, settled: NodeSettled) -> None:
        """Keep how one of its nodes has settled: its templates may read it now."""
        self.settled[instance.node.id] = settled
        if settled.status is not Status.SUCCEEDED:
            self.absent.add(instance.node.id)

    def ids(self, names: Iterable[str]) -> list[str]:
        """The ids of those of its nodes that have these whole *names*."""
        return [name.removeprefix(self.prefix) for name in names]

    def view(self, name: str) -> View:
        """What templates see of the node *name*, which has settled, or whose items are taken one by one."""
        if name not in self._views:
            if name not in self.settled:
                return _unsettled_view(name, "pending")
            whole = unshelved(self.settled[name])
            if whole is not self.settled[name]:  # large: whoever reads it has it for as long as that takes
                return view_of(name, whole)
            self._views[name] = view_of(name, self.settled[name])
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
            return view_of(name, sight.then[name])
        out = name in sight.pending or name not in self.settled
        return _unsettled_view(name, "pending") if out else self.view(name)

    def output_names(self) -> dict[str, Any]:
        """What the templates under `outputs` see."""
        read = self.plan.wanted() & self.settled.keys()
        return {**self._shared_names, "nodes": View("nodes", {name: self.view(name) for name in read})}


def view_of(name: str, settled: NodeSettled) -> View:
    """What templates see of a node that has settled, and that they know as *name*."""
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
        return View(f"nodes.{name}", present)
    why = error.message if error is not None else settled.reason or settled.status.value
    absent = {"output": f"`{name}` has no output: {settled.status.replace('_', ' ')}, {why}"}
    return View(f"nodes.{name}", present, absent)


def _unsettled_view(name: str, status: str) -> View:
    """What a join sees of a node that was still out when it opened, or when its pass began."""
    present = {"ok": False, "status": status, "error": None, "latency": 0.0, "usage": NO_USAGE.plain()}
    return View(f"nodes.{name}", present, {"output": f"`{name}` has no output: it is {status}"})

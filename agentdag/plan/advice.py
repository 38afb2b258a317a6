"""What would make a run shorter, each piece with the seconds that it saves.

Every figure is a forecast of the changed graph under the plan's own cap and schedule: what is promised here,
a run delivers. Advice that saves nothing is not given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from agentdag.language.scalars import seconds_text
from agentdag.plan.flat import flat
from agentdag.plan.forecast import DUST_S, earliest_s, forecast, gains_s, makespan_s, remaining_s, waves_s
from agentdag.plan.graph import Edges, Graph, build_graph, width
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.work import PromptWork

Edge = tuple[int, int]
"""A node, and the node that it needs."""

MAX_WORK = 1_000_000
"""Nodes and edges that all forecasts together may walk: large graphs are looked at less often, never longer."""
MAX_COST = 1.2
"""How much longer than its critical path a run may take under a cap before that is told."""
NEAR = 1.02
MIN_SHARE = 0.01
"""What saves less than this share of the run is not worth a word."""
MIN_SHARE_FASTER = 0.05
MAX_FASTER = 3
MAX_NAMED = 5
MOSTLY_ASSUMED = 0.2


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How much shorter the run gets for each second taken off a node, and by how much in all."""

    node: str
    per_second_s: float
    up_to_s: float


@dataclass(frozen=True, slots=True)
class Advice:
    """One change and what it saves. *path* is the place in the file that it is about."""

    code: str
    message: str
    hint: str
    saves_s: float
    path: tuple[str | int, ...]
    edges: tuple[tuple[str, str], ...] = ()
    """The dependencies to remove, as (node, need)."""


def advise(plan: Plan) -> list[Advice]:
    """Everything that would make a run of *plan* shorter, what saves most first."""
    adviser = _Adviser(flat(plan))
    found = [*adviser.waits(), *adviser.cap(), *adviser.lock_step(), *adviser.faster()]
    return sorted(found, key=lambda advice: -advice.saves_s)


def lints(plan: Plan) -> list[Advice]:
    """The part of the advice that points at a mistake in the file, in no order."""
    adviser = _Adviser(flat(plan))
    return [*adviser.waits(), *adviser.cap()]


def mostly_assumed(plan: Plan) -> bool:
    """Whether the file does not say how long the nodes take, so that figures would be guesses."""
    assumed_s = sum(node.expected_s for node in plan.nodes if node.assumed)
    return assumed_s > MOSTLY_ASSUMED * sum(plan.durations_s)


def sensitivity(plan: Plan) -> list[Sensitivity]:
    """What a second off each node is worth, where it is worth anything; the most first."""
    found = (each for each in _Adviser(flat(plan)).sensitivity() if each.up_to_s > DUST_S)
    return sorted(found, key=lambda each: -each.up_to_s)


class _Adviser:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._graph = plan.graph
        self._seconds = plan.durations_s
        self._rules = plan.rules
        self._numbers = {node.id: number for number, node in enumerate(plan.nodes)}
        size = len(plan.nodes) + sum(map(len, plan.graph.needs))
        self._left = max(8, MAX_WORK // max(1, size))

    @cached_property
    def _makespan_s(self) -> float:
        return self._takes()

    def _takes(self, graph: Graph | None = None, seconds: Sequence[float] | None = None, cap: int = 0) -> float:
        """The makespan with another graph, other durations or another cap."""
        self._left -= 1
        rules = replace(self._rules, cap=cap) if cap else self._rules
        return makespan_s(graph or self._graph, self._seconds if seconds is None else seconds, rules)

    def _is_worth(self, saved: float, share: float = MIN_SHARE) -> bool:
        return saved > max(DUST_S, share * self._makespan_s)

    def waits(self) -> Iterator[Advice]:
        """Prompts that wait for what they do not read."""
        unread = [edge for number, node in enumerate(self._plan.nodes) for edge in self._unread(number, node)]
        groups = [group for group in _connected(unread) if self._may_matter(group)]
        told = False
        for group in groups:
            if self._left <= 0:
                return
            if advice := self._wait(group):
                told = True
                yield advice
        if not told and len(groups) > 1 and (advice := self._wait([edge for group in groups for edge in group])):
            yield advice

    def _unread(self, number: int, node: PlanNode) -> list[Edge]:
        """The needs of *node* that only make it wait. A function may count on the order; a prompt cannot."""
        if not isinstance(node.work, PromptWork) or not node.needs or not node.barrier.plain:
            return []
        if set(node.needs) <= (read := node.reads()):
            return []
        needs = (self._numbers[need] for need in node.needs if need not in read)
        return [(number, need) for need in needs if isinstance(self._plan.nodes[need].work, PromptWork)]

    def _may_matter(self, group: Sequence[Edge]) -> bool:
        """Whether an edge of *group* lies on a critical path."""
        if self._plan.schedule == "waves" or self._rules.terms is not None:
            return True
        early, left, length = self._ways
        return any(early[need] + self._seconds[need] + left[node] >= length - DUST_S for node, need in group)

    @cached_property
    def _ways(self) -> tuple[Sequence[float], Sequence[float], float]:
        left = remaining_s(self._graph, self._seconds)
        return earliest_s(self._graph, self._seconds), left, max(left, default=0.0)

    def _wait(self, group: Sequence[Edge]) -> Advice | None:
        """Advice to remove *group*, or as few of its edges as save the same."""
        saved = self._saved_without(group)
        if not self._is_worth(saved):
            return None
        removed = list(group)
        for edge in group:
            if len(removed) == 1 or self._left <= 0:
                break
            fewer = [each for each in removed if each != edge]
            if (kept := self._saved_without(fewer)) >= saved - DUST_S:
                removed, saved = fewer, kept
        return self._told(removed, saved)

    def _saved_without(self, edges: Sequence[Edge]) -> float:
        return self._makespan_s - self._takes(_without(self._graph.needs, edges))

    def _told(self, edges: Sequence[Edge], saved: float) -> Advice:
        plan = self._plan
        named = tuple((plan.nodes[node].id, plan.nodes[need].id) for node, need in edges)
        waiting = list(dict.fromkeys(node for node, _ in named))
        awaited = list(dict.fromkeys(need for _, need in named))
        first, need = named[0]
        path = ("nodes", first, "needs", plan.nodes[edges[0][0]].needs.index(need))
        figure = (
            f"without that the run takes {seconds_text(self._makespan_s - saved)}, not {seconds_text(self._makespan_s)}"
        )
        if self._is_assumed([node for edge in edges for node in edge]):
            figure += " (a node without `expect` counts 1 s)"
        several = len(waiting) > 1
        if several and set(waiting) & set(awaited):
            message = f"{_listed(waiting)} wait in a row and read nothing of the one before: {figure}"
            return Advice("AD503", message, _removal(named), saved, path, named)
        instead = self._reads_behind(edges[0]) if len(edges) == 1 else None
        if instead:
            message = f"`{first}` waits for the join `{need}` but reads only {_listed(instead)}: {figure}"
            return Advice("AD502", message, _removal(named), saved, path, named)
        wait, read = ("wait", "read") if several else ("waits", "reads")
        never = f"never {read} it" if len(awaited) == 1 else f"{read} none of them"
        message = f"{_listed(waiting)} {wait} for {_listed(awaited)} but {never}: {figure}"
        return Advice("AD501", message, _removal(named), saved, path, named)

    def _reads_behind(self, edge: Edge) -> list[str] | None:
        """What the node of *edge* reads of the branches of a join that it waits for."""
        node, need = (self._plan.nodes[number] for number in edge)
        if len(need.edges) < 2:
            return None
        behind, waiting = set(need.edges), list(need.edges)
        for name in waiting:  # grows while it is walked
            further = set(self._plan.nodes[self._numbers[name]].edges) - behind
            behind |= further
            waiting += further
        reads = node.reads()
        return sorted(reads, key=self._numbers.__getitem__) if reads and reads <= behind else None

    def _is_assumed(self, nodes: Sequence[int]) -> bool:
        return any(self._plan.nodes[number].assumed for number in nodes)

    def cap(self) -> Iterator[Advice]:
        """The cap, where it costs much more than the critical path."""
        plan = self._plan
        floor_s = self._floor_s()
        if mostly_assumed(plan) or self._makespan_s <= MAX_COST * floor_s:
            return
        work_s = sum(self._seconds) if self._rules.terms is None else 0.0  # joins may not wait for all of it
        least = math.ceil(work_s / (NEAR * floor_s))  # fewer could not get through the work
        low, step = max(plan.concurrency, least - 1), 1
        while True:
            high = min(low + step, len(plan.nodes))
            taken = self._takes(cap=high)
            if taken <= NEAR * floor_s or high == len(plan.nodes):
                break
            low, step = high, 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            seconds = self._takes(cap=middle)
            if seconds <= NEAR * floor_s:
                high, taken = middle, seconds
            else:
                low = middle
        saved = self._makespan_s - taken
        if self._is_worth(saved):
            floor = f"{'critical path' if plan.schedule == 'eager' else 'waves'} of {seconds_text(floor_s)}"
            message = f"with {plan.concurrency} at once the run takes {seconds_text(self._makespan_s)}, "
            times = self._makespan_s / floor_s
            over = f"{times - 1:.0%} over" if times < 2 else f"{times:.1f}".removesuffix(".0") + " times"
            message += f"{over} its {floor}: with {high} at once {seconds_text(taken)}"
            hint = f"write `limits: {{concurrency: {high}}}` if your providers allow it"
            yield Advice("AD504", message, hint, saved, ("limits", "concurrency"))

    def _floor_s(self) -> float:
        """What the run takes under no cap."""
        if self._rules.terms is not None:
            return self._takes(cap=len(self._plan.nodes))
        return self._ways[2] if self._plan.schedule == "eager" else waves_s(self._graph, self._seconds)

    def lock_step(self) -> Iterator[Advice]:
        """The schedule, where waves cost time."""
        if self._plan.schedule == "eager":
            return
        eager_s = makespan_s(self._graph, self._seconds, replace(self._rules, schedule="eager"))
        saved = self._makespan_s - eager_s
        if self._is_worth(saved):
            message = f"in lock-step waves the run takes {seconds_text(self._makespan_s)}"
            message += f", with `eager` {seconds_text(eager_s)}"
            yield Advice("AD508", message, "write `schedule: eager`", saved, ("schedule",))

    def faster(self) -> Iterator[Advice]:
        """The nodes that are most worth making faster."""
        critical = [number for number in self._critical() if not self._is_assumed([number])]
        found: list[tuple[float, int]] = []
        for number in sorted(critical, key=lambda n: -self._seconds[n])[: 2 * MAX_FASTER]:
            halved = list(self._seconds)
            halved[number] /= 2
            found.append((self._makespan_s - self._takes(seconds=halved), number))
        for saved, number in sorted(found, key=lambda each: -each[0])[:MAX_FASTER]:
            node = self._plan.nodes[number]
            if self._is_worth(saved, MIN_SHARE_FASTER):
                message = f"`{node.id}` is on the critical path: at half its {seconds_text(node.expected_s)}"
                message += f" the run takes {seconds_text(self._makespan_s - saved)}"
                hint = "a faster model, a shorter answer, or two nodes that run at once"
                yield Advice("AD509", message, hint, saved, ("nodes", node.id))

    def _critical(self) -> Sequence[int]:
        """The nodes of all critical paths; of one, where barriers decide."""
        if self._rules.terms is not None:
            return forecast(self._graph, self._seconds, self._rules).critical_path
        early, left, length = self._ways
        return [node for node in range(len(left)) if early[node] + left[node] >= length - DUST_S]

    def sensitivity(self) -> Iterator[Sensitivity]:
        """What each node is worth; under a cap that may bind, of as many of the longest as there is time for."""
        plan = self._plan
        if plan.schedule == "eager" and self._rules.terms is None and width(self._graph) <= plan.concurrency:
            for node, gain in zip(plan.nodes, gains_s(self._graph, self._seconds), strict=True):
                yield Sensitivity(node.id, 1.0 if gain else 0.0, gain)
            return
        for number in sorted(range(len(plan.nodes)), key=lambda n: -self._seconds[n]):
            if self._left < 2:
                return
            lasts = self._seconds[number]
            step = min(1.0, lasts)
            shorter, none = list(self._seconds), list(self._seconds)
            shorter[number], none[number] = lasts - step, 0.0
            saved = self._makespan_s - self._takes(seconds=shorter)
            up_to = self._makespan_s - self._takes(seconds=none)
            yield Sensitivity(plan.nodes[number].id, saved / step if step else 0.0, max(0.0, up_to))


def _connected(edges: Sequence[Edge]) -> list[list[Edge]]:
    """*edges* in groups that share nodes."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while (up := parent.setdefault(node, node)) != node:
            parent[node] = node = parent[up]
        return node

    for node, need in edges:
        parent[root(node)] = root(need)
    groups: dict[int, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(root(edge[0]), []).append(edge)
    return list(groups.values())


def _without(needs: Edges, edges: Sequence[Edge]) -> Graph:
    """The graph without *edges*."""
    gone: dict[int, set[int]] = {}
    for node, need in edges:
        gone.setdefault(node, set()).add(need)
    fewer = [
        [n for n in before if n not in gone[node]] if node in gone else before for node, before in enumerate(needs)
    ]
    graph = build_graph(fewer)
    assert graph is not None
    return graph


def _removal(edges: Sequence[tuple[str, str]]) -> str:
    """What to take out of which `needs`."""
    needs_of: dict[str, list[str]] = {}
    for node, need in edges:
        needs_of.setdefault(node, []).append(need)
    nodes_of: dict[tuple[str, ...], list[str]] = {}
    for node, needs in needs_of.items():
        nodes_of.setdefault(tuple(needs), []).append(node)
    told = [f"{_listed(needs)} from the `needs` of {_listed(nodes)}" for needs, nodes in nodes_of.items()]
    more = f", and {len(told) - MAX_NAMED} more" if len(told) > MAX_NAMED else ""
    return f"remove {', '.join(told[:MAX_NAMED])}{more}"


def _listed(names: Sequence[str]) -> str:
    """`a`, `b` and `c`."""
    told = [f"`{name}`" for name in names[:MAX_NAMED]]
    if len(names) > MAX_NAMED:
        told.append(f"{len(names) - MAX_NAMED} more")
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def what_if(plan: Plan, seconds: Mapping[str, float]) -> str:
    """What becomes of *plan* if the nodes in *seconds* took that long, in one sentence."""
    changed = flat(plan.lasting(seconds))
    told = changed.forecast()
    before = flat(plan).forecast()
    named = [f"{name} at {seconds_text(value)}" for name, value in seconds.items()]
    path = ", ".join(changed.nodes[number].id for number in told.critical_path if changed.nodes[number].made is None)
    becomes = "becomes" if list(told.critical_path) != list(before.critical_path) else "stays"
    text = f"with {' and '.join(named)} the critical path {becomes} {path}: {seconds_text(told.critical_path_s)}"
    if told.makespan_s > told.critical_path_s + DUST_S:
        text += f", and with {plan.concurrency} at once the run takes {seconds_text(told.makespan_s)}"
    return text

"""A plan with everything in sight: for forecasts and pictures, never to be run.

In place of a node that runs a pipeline stand the nodes of that pipeline, as `node.child`; in place of a `foreach` over
a list that stands in the file its items, as `node[0]`. The node itself is their end: it takes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil

from agentdag.plan.barrier import ALL, Barrier
from agentdag.plan.graph import build_graph
from agentdag.plan.plan import Made, Plan, PlanNode
from agentdag.plan.streams import streams

MOST_ITEMS = 100
"""Of a longer list, several items in a row are one node."""


def flat(plan: Plan, *, items: bool = True) -> Plan:
    """*plan* with all its nodes in one graph; in lock-step as it is, for there a pipeline is part of one wave.

    Without *items* a `foreach` stays one node, as long as one of its items.
    """
    if plan.schedule == "waves" or not any(node.body is not None or node.foreach is not None for node in plan.nodes):
        return plan
    unfolding = _Unfolding(counts_of if items else lambda _: {})
    unfolding.add(plan)
    nodes = unfolding.nodes
    numbers = {node.id: number for number, node in enumerate(nodes)}
    graph = build_graph([[numbers[edge] for edge in node.edges] for node in nodes])
    assert graph is not None
    waves = (replace(node, wave=graph.wave_of[number]) for number, node in enumerate(nodes))
    return replace(plan, nodes=tuple(waves), graph=graph)


def counts_of(plan: Plan) -> Mapping[str, int]:
    """For how many items nodes run, so far as the file tells: by a list that stands in it."""
    followed, counts = streams(plan), dict[str, int]()
    for number in plan.graph.order:
        node, feeder = plan.nodes[number], followed.get(number)
        if feeder is not None and plan.nodes[feeder].id in counts:
            counts[node.id] = counts[plan.nodes[feeder].id]
        elif node.foreach is not None and isinstance(node.foreach.items.value, list):
            counts[node.id] = len(node.foreach.items.value)
    return counts


def owner_of(name: str) -> str:
    """The node that the node *name* of a flat plan is a part of; empty where it is part of none."""
    return name[: name.rindex("[")] if name.endswith("]") else name.rpartition(".")[0]


class _Unfolding:
    """The nodes so far, each with the whole names of its dependencies."""

    def __init__(self, counts: Callable[[Plan], Mapping[str, int]]) -> None:
        self._counts = counts
        self.nodes: list[PlanNode] = []

    def add(self, plan: Plan, within: PlanNode | None = None) -> None:
        """The nodes of *plan*, which the node *within* runs."""
        counts = self._counts(plan)
        feeders = {node: plan.nodes[feeder].id for node, feeder in streams(plan).items()}
        prefix = "" if within is None else f"{within.id}."
        for number, node in enumerate(plan.nodes):
            whole = node if within is None else _renamed(node, prefix, within)
            if number in feeders:
                whole = replace(whole, feeder=prefix + feeders[number])
            if node.id in counts:
                self._items(whole, counts[node.id])
            else:
                self._single(whole)

    def _single(self, node: PlanNode) -> None:
        """*node*, or all that it is made of."""
        if node.body is None:
            self.nodes.append(node)
            return
        self.add(node.body, node)
        last = tuple(f"{node.id}.{node.body.nodes[number].id}" for number in node.body.graph.last)
        self._end(node, Made(last, node.edges))

    def _items(self, node: PlanNode, count: int) -> None:
        """The items of *node*, or a few of them at a time."""
        rule, feeder = node.foreach, node.feeder
        assert rule is not None
        size = max(1, ceil(count / MOST_ITEMS))
        names: list[str] = []
        for first in range(0, count, size):
            edges = tuple(f"{feeder}[{first}]" if edge == feeder else edge for edge in node.edges)
            if rule.concurrency is not None and len(names) >= rule.concurrency:
                edges += (names[-rule.concurrency],)
            needs = () if node.barrier is ALL else node.needs
            name = f"{node.id}[{first}]"
            item = replace(node, id=name, edges=edges, needs=needs, foreach=None, feeder=None)
            self._single(_times(item, min(size, count - first)))
            names.append(name)
        self._end(node, Made(tuple(names), node.edges, count), rule.barrier if size == 1 else ALL)

    def _end(self, node: PlanNode, made: Made, barrier: Barrier = ALL) -> None:
        """*node* as the end of what it is made of."""
        self.nodes.append(
            replace(
                node,
                edges=made.parts or node.edges,
                needs=() if barrier is ALL else made.parts,
                barrier=barrier,
                made=made,
                foreach=None,
                body=None,
                expected_s=0.0,
                assumed=False,
            )
        )


def _renamed(node: PlanNode, prefix: str, within: PlanNode) -> PlanNode:
    """*node* by its whole name. What comes first waits for what *within*, which runs it, waits for.

    Only a join keeps its needs: what else one of them reads, it reads by another name.
    """
    if not node.edges:
        needs = () if within.barrier is ALL else within.needs
        return replace(node, id=prefix + node.id, edges=within.edges, needs=needs, barrier=within.barrier)
    needs = () if node.barrier is ALL else tuple(prefix + need for need in node.needs)
    return replace(node, id=prefix + node.id, edges=tuple(prefix + edge for edge in node.edges), needs=needs)


def _times(node: PlanNode, items: int) -> PlanNode:
    """*node* as long as that many *items* one after another."""
    if items == 1:
        return node
    body = node.body
    if body is not None:
        body = body.lasting({name: each.expected_s * items for name, _, each in body.walk()})
    return replace(node, expected_s=node.expected_s * items, body=body)

"""The bare graph: nodes are numbers, edges point from a dependency to its dependant.

Waves and cycles, in linear time and without recursion. This file knows no pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXACT_WIDTH = 200
MAX_CYCLES = 100
"""How many cycles are looked at; a tangle of more is told by one of these."""

Edges = Sequence[Sequence[int]]
"""needs[i] holds the numbers of the nodes that node i depends on."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph without cycles.

    `waves[w]` holds the nodes whose longest path from a root has w edges, in their own order;
    `order` is a topological order.
    """

    needs: Edges
    dependants: Edges
    wave_of: Sequence[int]
    waves: Sequence[Sequence[int]]
    order: Sequence[int]

    @property
    def last(self) -> list[int]:
        """The nodes that nobody depends on."""
        return [node for node, dependants in enumerate(self.dependants) if not dependants]


def build_graph(needs: Edges) -> Graph | None:
    """The graph of *needs*, or None where it has a cycle."""
    dependants: list[list[int]] = [[] for _ in needs]
    for node, before in enumerate(needs):
        for dependency in before:
            dependants[dependency].append(node)
    missing = [len(before) for before in needs]
    wave_of = [0] * len(needs)
    order = [node for node, count in enumerate(missing) if not count]
    for node in order:  # grows while it is walked
        for dependant in dependants[node]:
            wave_of[dependant] = max(wave_of[dependant], wave_of[node] + 1)
            missing[dependant] -= 1
            if not missing[dependant]:
                order.append(dependant)
    if len(order) < len(needs):
        return None
    waves: list[list[int]] = [[] for _ in range(max(wave_of, default=-1) + 1)]
    for node, wave in enumerate(wave_of):
        waves[wave].append(node)
    return Graph(needs, dependants, wave_of, waves, order)


def find_cycles(needs: Edges) -> list[list[int]]:
    """One cycle out of each tangle of *needs*, as the nodes along it, each depending on the next."""
    cycles: list[list[int]] = []
    state = [0] * len(needs)  # 0 not seen, 1 on the way, 2 done
    for root in range(len(needs)):
        if state[root]:
            continue
        way, iterators = [root], [iter(needs[root])]
        state[root] = 1
        while way:
            for dependency in iterators[-1]:
                if state[dependency] == 1 and len(cycles) < MAX_CYCLES:
                    cycles.append(way[way.index(dependency) :])
                elif not state[dependency]:
                    state[dependency] = 1
                    way.append(dependency)
                    iterators.append(iter(needs[dependency]))
                    break
            else:
                iterators.pop()
                state[way.pop()] = 2
    return _one_per_tangle(cycles)


def _one_per_tangle(cycles: list[list[int]]) -> list[list[int]]:
    """The shortest of those cycles that share nodes."""
    kept: list[list[int]] = []
    seen: set[int] = set()
    for cycle in sorted(cycles, key=len):
        if seen.isdisjoint(cycle):
            kept.append(cycle)
        seen.update(cycle)
    return sorted(kept, key=min)


def width(graph: Graph) -> int:
    """How many nodes can run at once at the most, however long they take; above EXACT_WIDTH nodes, no fewer.

    The least number of chains that cover the graph: of a chain's nodes only one runs at a time. Dilworth,
    "A Decomposition Theorem for Partially Ordered Sets", 1950.
    """
    size = len(graph.needs)
    exact = size <= EXACT_WIDTH
    before = _ancestors(graph) if exact else graph.needs
    follower: dict[int, int] = {}  # the node that continues the chain of another
    joined = sum(_continue(node, before, follower, set(), deep=exact) for node in graph.order)
    return size - joined


def _ancestors(graph: Graph) -> list[Sequence[int]]:
    """For each node all that must have settled before it."""
    found: list[Sequence[int]] = [()] * len(graph.needs)
    for node in graph.order:
        found[node] = sorted({each for need in graph.needs[node] for each in (need, *found[need])})
    return found


def _continue(node: int, before: Edges, follower: dict[int, int], seen: set[int], *, deep: bool) -> bool:
    """Let *node* continue a chain, with *deep* by moving others to other chains; Kuhn's augmenting paths, 1955."""
    free = next((each for each in before[node] if each not in follower), None)
    if free is not None:
        follower[free] = node
        return True
    for each in before[node] if deep else ():
        if each not in seen:
            seen.add(each)
            if _continue(follower[each], before, follower, seen, deep=True):
                follower[each] = node
                return True
    return False

"""Joins that see, in a run that goes on, what they saw when they opened before; nodes are numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentdag.events import Status
from agentdag.plan.graph import Graph
from agentdag.plan.news import Opened


class Frozen:
    """The joins of a schedule whose sight holds, each with those that are still to come again before it opens."""

    def __init__(self) -> None:
        self._seen: dict[int, Opened] = {}
        self._left: dict[int, set[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._seen)

    def __contains__(self, join: int) -> bool:
        return join in self._seen

    def add(self, seen: Opened, awaited: set[int]) -> None:
        """The join of *seen* is to see that again, once all of *awaited* are there."""
        self._seen[seen.node] = seen
        self._left[seen.node] = awaited

    def drop(self, join: int) -> None:
        """*join* looks anew, if it ever does."""
        self._seen.pop(join, None)

    def seen(self, join: int) -> Opened:
        return self._seen[join]

    def awaits(self, join: int, node: int) -> bool:
        """Whether *node* is still to come before *join* opens."""
        return node in self._left[join]

    def is_due(self, join: int) -> bool:
        """Whether all are there that *join* saw."""
        return not self._left[join]

    def arrived(self, join: int, node: int, *, succeeded: bool) -> bool:
        """*node* has settled: whether what *join* saw of it still holds; else it is frozen no more."""
        if self.awaits(join, node) and not succeeded:
            self.drop(join)
            return False
        self._left[join].discard(node)
        return True

    def staying(
        self, graph: Graph, ended: Mapping[int, Status], is_wanted: Callable[[int], bool], *, done: bool = False
    ) -> dict[int, Status]:
        """Those of *ended* without which every join went on that reads them, and what was late for the sake of those.

        What kept another node from running is run again with it, though a join did without both; so is what an output
        reads, as *is_wanted* says, unless all is *done*, and the outputs were read without it.
        """
        without: dict[int, Status] = {}
        for node in (node for wave in reversed(graph.waves) for node in wave if node in ended):
            dependants = graph.dependants[node]
            if done or (dependants and not is_wanted(node)):
                lost = (without.get(each) is Status.LATE or self._did_without(each, node) for each in dependants)
                if all(lost):
                    without[node] = ended[node]
        stay: dict[int, Status] = {}
        for node in (node for wave in graph.waves for node in wave if node in without):
            if without[node] is not Status.SKIPPED or any(need in stay for need in graph.needs[node]):
                stay[node] = without[node]
        return stay

    def _did_without(self, join: int, node: int) -> bool:
        return join in self._seen and node not in self._left[join]

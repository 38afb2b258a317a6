"""What nodes change outside of the run: two that touch the same thing must be ordered by the graph.

Resources go by names of the user's own; files that are saved go by their paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from posixpath import normpath

from agentdag.language.check import Report
from agentdag.language.templates import Template
from agentdag.plan.drafts import Draft
from agentdag.plan.graph import Graph

_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)


def check_effects(drafts: Mapping[str, Draft], graph: Graph, report: Report) -> None:
    """Tell of nodes that conflict and may run in either order, or at once."""
    nodes = list(drafts.values())
    numbers = {draft.id: number for number, draft in enumerate(nodes)}
    for one, other, resource in _conflicts(nodes):
        if not _is_ordered(graph, numbers[one.id], numbers[other.id]):
            path = ("nodes", other.id, "writes" if resource in other.spec.writes else "reads")
            message = f"`{one.id}` and `{other.id}` both touch `{resource}`, and nothing orders them"
            hint = f"write `needs: [{one.id}]` in `{other.id}`, or the other way round"
            report.at(path, "AD405", message, hint)
    for draft in nodes:
        foreach = draft.spec.foreach
        if draft.spec.writes and foreach is not None and foreach.concurrency != 1:
            path = ("nodes", draft.id, "writes")
            message = f"the instances of `{draft.id}` touch `{draft.spec.writes[0]}` at once"
            report.at(path, "AD405", message, "write `foreach: {items: ..., concurrency: 1}`")
    saving = [(draft, draft.save) for draft in nodes if draft.save is not None]
    for (one, path_one), (other, path_other) in combinations(saving, 2):
        if _may_meet(_pieces(path_one), _pieces(path_other)):
            message = f"`{one.id}` and `{other.id}` may write the same file"
            report.at(("nodes", other.id, "save"), "AD405", message, "give each a path of its own")


def _conflicts(nodes: Sequence[Draft]) -> Iterator[tuple[Draft, Draft, str]]:
    """Pairs of nodes of which one writes what the other touches, each once."""
    touching: dict[str, list[Draft]] = {}
    for draft in nodes:
        for resource in dict.fromkeys((*draft.spec.writes, *draft.spec.reads)):
            touching.setdefault(resource, []).append(draft)
    for resource, drafts in touching.items():
        for one, other in combinations(drafts, 2):
            if resource in one.spec.writes or resource in other.spec.writes:
                yield one, other, resource


def _is_ordered(graph: Graph, one: int, other: int) -> bool:
    """Whether a path leads from one of the two to the other."""
    first, last = sorted((one, other), key=lambda node: graph.wave_of[node])
    seen, left = {last}, [last]
    while left:
        for need in graph.needs[left.pop()]:
            if need == first:
                return True
            if need not in seen and graph.wave_of[need] > graph.wave_of[first]:
                seen.add(need)
                left.append(need)
    return False


def _pieces(path: Template) -> list[str | None]:
    """The characters of a path, with None for what only the run can tell."""
    texts = _EXPRESSION.split(path.text)
    pieces: list[str | None] = []
    for number, text in enumerate(texts):
        pieces += [None] if number else []
        pieces += list(normpath(text) if len(texts) == 1 and text else text)
    return pieces


def _may_meet(one: Sequence[str | None], other: Sequence[str | None]) -> bool:
    """Whether two patterns, in which None stands for any text, may be the same text."""
    reached = {0}
    reached |= _over_any(other, reached)
    for piece in one:
        if piece is None:
            reached = set(range(min(reached), len(other) + 1)) if reached else set()
        else:
            stepped = {at + 1 for at in reached if at < len(other) and other[at] == piece}
            stepped |= {at for at in reached if at < len(other) and other[at] is None}
            reached = stepped | _over_any(other, stepped)
    return len(other) in reached


def _over_any(pattern: Sequence[str | None], places: set[int]) -> set[int]:
    """The places that are reached from *places* by letting what stands for any text stand for none."""
    found: set[int] = set()
    for place in places:
        at = place
        while at < len(pattern) and pattern[at] is None:
            at += 1
            found.add(at)
    return found

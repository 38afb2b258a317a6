"""What nodes change outside of the run: two that touch the same thing must be ordered by the graph.

Resources go by names of the user's own; files that are saved go by their paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations
from pathlib import Path
from posixpath import normpath

from agentdag.language.check import Report
from agentdag.language.templates import Template
from agentdag.plan.drafts import Draft
from agentdag.plan.graph import Graph

_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)


def check_effects(drafts: Mapping[str, Draft], graph: Graph, report: Report, folder: Path) -> None:
    """Tell of nodes of the pipeline in *folder* that conflict and may run in either order, or at once."""
    nodes = list(drafts.values())
    numbers = {draft.id: number for number, draft in enumerate(nodes)}
    for one, other, resource in _conflicts(nodes):
        if not _is_ordered(graph, numbers[one.id], numbers[other.id]):
            path = ("nodes", other.id, _place(other, resource))
            message = f"`{one.id}` and `{other.id}` both touch `{resource}`, and nothing orders them"
            hint = f"write `needs: [{one.id}]` in `{other.id}`, or the other way round"
            report.at(path, "AD405", message, hint)
    for draft in nodes:
        foreach, writes = draft.spec.foreach, sorted(_writes(draft))
        if writes and foreach is not None and foreach.concurrency != 1:
            path = ("nodes", draft.id, _place(draft, writes[0]))
            message = f"the instances of `{draft.id}` touch `{writes[0]}` at once"
            report.at(path, "AD405", message, "write `foreach: {items: ..., concurrency: 1}`")
        if foreach is not None and (inner := _saved_within(draft, folder)):
            message = f"every instance of `{draft.id}` would write {inner[0]}"
            report.at(("nodes", draft.id, "pipeline"), "AD405", message, "let the path in there read an input")
    saving: list[tuple[Draft, str, Sequence[str | None]]] = []
    for draft in nodes:
        saving += [] if draft.save is None else [(draft, "save", _pieces(draft.save))]
        saving += [(draft, "pipeline", path) for path in _saved_within(draft, folder)]
    for (one, _, path_one), (other, key, path_other) in combinations(saving, 2):
        if one is not other and _may_meet(path_one, path_other):
            message = f"`{one.id}` and `{other.id}` may write the same file"
            report.at(("nodes", other.id, key), "AD405", message, "give each a path of its own")


def _writes(draft: Draft) -> AbstractSet[str]:
    """What *draft* changes, or a node of the pipeline that it runs."""
    inner = () if draft.body is None else draft.body.walk()
    return {*draft.spec.writes, *(resource for _, _, node in inner for resource in node.writes)}


def _reads(draft: Draft) -> AbstractSet[str]:
    inner = () if draft.body is None else draft.body.walk()
    return {*draft.spec.reads, *(resource for _, _, node in inner for resource in node.reads_resources)}


def _place(draft: Draft, resource: str) -> str:
    """The key of *draft* that says that it touches *resource*."""
    if resource in draft.spec.writes:
        return "writes"
    return "reads" if resource in draft.spec.reads else "pipeline"


def _saved_within(draft: Draft, folder: Path) -> list[str]:
    """The files, seen from *folder*, that the pipeline which *draft* runs writes each time, whatever its inputs are."""
    found = []
    for _, within, node in draft.body.walk() if draft.body is not None else ():
        if node.save is not None and not _EXPRESSION.search(node.save.text) and node.foreach is None:
            found.append(normpath(os.path.relpath(within.path.parent / node.save.text, folder)))
    return found


def _conflicts(nodes: Sequence[Draft]) -> Iterator[tuple[Draft, Draft, str]]:
    """Pairs of nodes of which one writes what the other touches, each once."""
    touching: dict[str, list[Draft]] = {}
    for draft in nodes:
        for resource in sorted(_writes(draft) | _reads(draft)):
            touching.setdefault(resource, []).append(draft)
    for resource, drafts in touching.items():
        for one, other in combinations(drafts, 2):
            if resource in _writes(one) or resource in _writes(other):
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

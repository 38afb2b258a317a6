"""A part of a plan: the nodes that are to run, and those whose answers they read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from agentdag.errors import UsageError
from agentdag.language.findings import did_you_mean
from agentdag.plan.graph import build_graph
from agentdag.plan.plan import Plan


def selected(plan: Plan, selectors: Sequence[str]) -> tuple[Plan, frozenset[str]]:
    """The part of *plan* that *selectors* name, and which of its nodes are only to be read, not run.

    `summary` is the node, `+summary` with all it needs, `parser+` with all that needs it. Outputs that read anything
    else are left out. Raises UsageError where a selector names no node.
    """
    numbers = {node.id: number for number, node in enumerate(plan.nodes)}
    chosen: set[int] = set()
    for text in (part.strip() for selector in selectors for part in selector.split(",")):
        name = text.removeprefix("+").removesuffix("+")
        if name not in numbers:
            hint = did_you_mean(name, numbers) or "write a node's id, +id with all it needs, id+ with all that needs it"
            raise UsageError(f"--select {text}: there is no node `{name}`", hint=hint)
        number = numbers[name]
        chosen.add(number)
        chosen |= _reached([number], plan.graph.needs) if text.startswith("+") else set()
        chosen |= _reached([number], plan.graph.dependants) if text.endswith("+") else set()
    part = sorted(chosen | _reached(chosen, plan.graph.needs))
    place = {number: index for index, number in enumerate(part)}
    graph = build_graph([[place[need] for need in plan.graph.needs[number]] for number in part])
    assert graph is not None
    nodes = tuple(replace(plan.nodes[number], wave=graph.wave_of[index]) for index, number in enumerate(part))
    known = {node.id for node in nodes}
    outputs = {name: value for name, value in plan.outputs.items() if value.nodes <= known}
    borrowed = frozenset(plan.nodes[number].id for number in part if number not in chosen)
    return replace(plan, nodes=nodes, graph=graph, outputs=outputs), borrowed


def _reached(start: Iterable[int], edges: Sequence[Sequence[int]]) -> set[int]:
    """All that can be reached along *edges*."""
    seen: set[int] = set()
    left = list(start)
    while left:
        for each in edges[left.pop()]:
            if each not in seen:
                seen.add(each)
                left.append(each)
    return seen

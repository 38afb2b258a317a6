"""A plan as a picture in the words of Mermaid and Graphviz: waves from left to right, the critical path marked.

Mermaid: https://mermaid.js.org/syntax/flowchart.html; Graphviz: https://graphviz.org/doc/info/lang.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

from agentdag.language.findings import inert
from agentdag.language.scalars import seconds_text
from agentdag.plan.plan import Plan

MERMAID_EDGES = 500
"""Mermaid's own limit, which only the page around it can raise."""
_RED = "#d1242f"


def title(plan: Plan) -> str:
    """What a picture is called: the pipeline and its totals."""
    told = plan.forecast()
    parts = [f"critical path {seconds_text(told.critical_path_s)}"]
    parts += [f"one after another {seconds_text(told.sequential_s)}"]
    return f"{inert(plan.name)}: {', '.join(parts)}"


def to_mermaid(plan: Plan) -> str:
    """A flowchart; its nodes are numbered, for `end` and others are words of Mermaid's own."""
    critical = list(plan.forecast().critical_path)
    steps = set(pairwise(critical))
    numbers = {node.id: number for number, node in enumerate(plan.nodes)}
    lines = ["---", f"title: {json.dumps(title(plan), ensure_ascii=False)}", "---", "flowchart LR"]
    for number, node in enumerate(plan.nodes):
        lines.append(f'  n{number}["{node.id}<br/>{_lasts(plan, number)}"]')
    for number, node in enumerate(plan.nodes):
        for need in node.edges:
            arrow = "==>" if (numbers[need], number) in steps else "-->"
            lines.append(f"  n{numbers[need]} {arrow} n{number}")
    lines.append(f"  classDef critical stroke:{_RED},stroke-width:3px")
    lines.append(f"  class {','.join(f'n{number}' for number in critical)} critical")
    return "\n".join(lines)


def to_dot(plan: Plan) -> str:
    """A digraph with a rank for each wave."""
    critical = list(plan.forecast().critical_path)
    steps = set(pairwise(critical))
    return "\n".join(_dot_lines(plan, set(critical), steps))


def _dot_lines(plan: Plan, critical: set[int], steps: set[tuple[int, int]]) -> Iterator[str]:
    numbers = {node.id: number for number, node in enumerate(plan.nodes)}
    yield f"digraph {_quoted(plan.name)} {{"
    yield f"  rankdir=LR; label={_quoted(title(plan))}; labelloc=t;"
    yield '  node [shape=box, style=rounded, fontname="sans-serif"]; edge [arrowsize=0.7];'
    for number, node in enumerate(plan.nodes):
        marked = f', color="{_RED}", penwidth=2' if number in critical else ""
        yield f'  {_quoted(node.id)} [label="{node.id}\\n{_lasts(plan, number)}"{marked}];'
    for wave in plan.graph.waves:
        yield f"  {{rank=same; {'; '.join(_quoted(plan.nodes[number].id) for number in wave)}}}"
    for number, node in enumerate(plan.nodes):
        for need in node.edges:
            marked = f' [color="{_RED}", penwidth=2]' if (numbers[need], number) in steps else ""
            yield f"  {_quoted(need)} -> {_quoted(node.id)}{marked};"
    yield "}"


def _quoted(text: str) -> str:
    escaped = inert(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _lasts(plan: Plan, number: int) -> str:
    node = plan.nodes[number]
    barrier = "" if node.barrier.plain else f", {node.barrier.told(len(node.needs))}"
    return seconds_text(node.expected_s) + ("?" if node.assumed else "") + barrier

"""A plan as a picture in the words of Mermaid and Graphviz: waves from left to right, the critical path marked.

Mermaid: https://mermaid.js.org/syntax/flowchart.html; Graphviz: https://graphviz.org/doc/info/lang.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise

from agentdag.language.findings import inert
from agentdag.language.scalars import seconds_text
from agentdag.plan.flat import flat, owner_of
from agentdag.plan.plan import Plan

MERMAID_EDGES = 500
"""Mermaid's own limit, which only the page around it can raise."""
_RED = "#d1242f"


def title(plan: Plan) -> str:
    """What a picture is called: the pipeline and its totals."""
    told = flat(plan).forecast()
    parts = [f"critical path {seconds_text(told.critical_path_s)}"]
    parts += [f"one after another {seconds_text(told.sequential_s)}"]
    return f"{inert(plan.name)}: {', '.join(parts)}"


def to_mermaid(plan: Plan) -> str:
    """A flowchart; its nodes are numbered, for `end` and others are words of Mermaid's own."""
    lines = ["---", f"title: {json.dumps(title(plan), ensure_ascii=False)}", "---", "flowchart LR"]
    plan = flat(plan, items=False)
    critical = list(plan.forecast().critical_path)
    steps = set(pairwise(critical))
    numbers = {node.id: number for number, node in enumerate(plan.nodes)}
    lines += _boxes(
        plan, "", lambda number: f'n{number}["{plan.nodes[number].id}<br/>{_lasts(plan, number)}"]', _MERMAID
    )
    for number, node in enumerate(plan.nodes):
        for need in node.edges:
            arrow = "==>" if (numbers[need], number) in steps else "-->"
            lines.append(f"  n{numbers[need]} {arrow} n{number}")
    lines.append(f"  classDef critical stroke:{_RED},stroke-width:3px")
    lines.append(f"  class {','.join(f'n{number}' for number in critical)} critical")
    return "\n".join(lines)


_MERMAID = ('subgraph s{number}["{name}"]', "end")
_DOT = ('subgraph "cluster_{name}" {{ label="{name}"; style="rounded,dashed";', "}")


def _boxes(
    plan: Plan, owner: str, box: Callable[[int], str], around: tuple[str, str], indent: str = "  "
) -> Iterator[str]:
    """A line for each node that *owner* is made of, with what it is itself made of *around* it."""
    for number, node in enumerate(plan.nodes):
        if owner_of(node.id) != owner:
            continue
        if node.made is None:
            yield indent + box(number)
            continue
        yield indent + around[0].format(number=number, name=node.id)
        yield from _boxes(plan, node.id, box, around, indent + "  ")
        yield f"{indent}  {box(number)}"
        yield indent + around[1]


def to_dot(plan: Plan) -> str:
    """A digraph with a rank for each wave."""
    return "\n".join(_dot_lines(flat(plan, items=False), title(plan)))


def _dot_lines(plan: Plan, label: str) -> Iterator[str]:
    critical = list(plan.forecast().critical_path)
    steps = set(pairwise(critical))
    numbers = {node.id: number for number, node in enumerate(plan.nodes)}

    def box(number: int) -> str:
        marked = f', color="{_RED}", penwidth=2' if number in critical else ""
        name = plan.nodes[number].id
        return f'{_quoted(name)} [label="{name}\\n{_lasts(plan, number)}"{marked}];'

    yield f"digraph {_quoted(plan.name)} {{"
    yield f"  rankdir=LR; label={_quoted(label)}; labelloc=t;"
    yield '  node [shape=box, style=rounded, fontname="sans-serif"]; edge [arrowsize=0.7];'
    yield from _boxes(plan, "", box, _DOT)
    for wave in plan.graph.waves:
        alike = [plan.nodes[number].id for number in wave if "." not in plan.nodes[number].id]  # boxes keep their own
        yield f"  {{rank=same; {'; '.join(map(_quoted, alike))}}}"
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
    if node.made is not None:
        return "ends"
    barrier = "" if node.barrier.plain else f", {node.barrier.told(len(node.needs))}"
    return seconds_text(node.expected_s) + ("?" if node.assumed else "") + barrier

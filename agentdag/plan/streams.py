"""Which nodes with a `foreach` take the items of another one by one, as they end, instead of the whole list.

That is so where nothing of a node needs the list as a whole: its `foreach` is the other's output and nothing else, no
other template of it reads the other, and it waits for all of its dependencies. The list is the same in the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agentdag.language.templates import Template
from agentdag.plan.barrier import ALL
from agentdag.plan.plan import Plan, PlanNode

_WHOLE_OUTPUT = re.compile(r"\s*\{\{-?\s*nodes\.(\w+)\.output\s*-?\}\}\s*")


def streams(plan: Plan) -> Mapping[int, int]:
    """For each node that takes its items one by one, by its number, the node whose items they are."""
    if plan.schedule == "waves":
        return {}
    numbers = {node.id: number for number, node in enumerate(plan.nodes)}
    found = {}
    for number, node in enumerate(plan.nodes):
        feeder = None if node.foreach is None else _feeder(node, plan.nodes, numbers)
        if feeder is not None:
            found[number] = feeder
    return found


def _feeder(node: PlanNode, nodes: Sequence[PlanNode], numbers: Mapping[str, int]) -> int | None:
    """The node whose items *node* takes one by one, if any."""
    assert node.foreach is not None
    items = node.foreach.items.value
    told = _WHOLE_OUTPUT.fullmatch(items.text) if isinstance(items, Template) else None
    if told is None or node.barrier is not ALL:
        return None
    feeder = nodes[numbers[told[1]]]
    if feeder.foreach is None or feeder.optional:
        return None
    if any(template.dynamic is not None for template in node.templates) or feeder.id in node.reads(items=False):
        return None
    return numbers[feeder.id]

"""What a run gives at its end, from how its nodes have settled."""

from __future__ import annotations

from collections.abc import Iterable

from agentdag.engine.run import Run
from agentdag.events import FAILURES, Status
from agentdag.language.templates import TemplateError


def outputs_of(run: Run) -> tuple[dict[str, object], dict[str, str]]:
    """`outputs`, or the answers of the nodes that nobody needs; and why each that is null could not be rendered."""
    plan = run.plan
    outputs: dict[str, object] = {}
    errors: dict[str, str] = {}
    names = run.output_names() if plan.outputs else {}
    for name, template in plan.outputs.items():
        try:
            outputs[name] = template.evaluate(names)
        except TemplateError as error:
            outputs[name], errors[name] = None, run.redact(str(error))
    if not plan.outputs:
        for number, node in enumerate(plan.nodes):
            if not plan.graph.dependants[number]:
                settled = run.settled[node.id]
                outputs[node.id] = settled.output if settled.status is Status.SUCCEEDED else None
    return outputs, errors


def is_lost_by_failure(run: Run, lost: Iterable[str]) -> bool:
    """Whether a *lost* output reads a required node that failed: joins did without it, the output could not."""
    read = frozenset[str]().union(*(run.plan.outputs[name].nodes for name in lost))
    return any(
        node.id in read and not node.optional and run.settled[node.id].status in FAILURES for node in run.plan.nodes
    )

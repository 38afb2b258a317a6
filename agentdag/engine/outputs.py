"""What a pipeline gives at its end, from how its nodes have settled."""

from __future__ import annotations

from collections.abc import Iterable

from agentdag.engine.scope import Scope
from agentdag.engine.shelf import unshelved
from agentdag.events import FAILURES, Status
from agentdag.language.templates import TemplateError


def outputs_of(scope: Scope) -> tuple[dict[str, object], dict[str, str]]:
    """`outputs`, or the answers of the nodes that nobody needs; and why each that is null could not be rendered."""
    plan = scope.plan
    outputs: dict[str, object] = {}
    errors: dict[str, str] = {}
    names = scope.output_names() if plan.outputs else {}
    for name, template in plan.outputs.items():
        try:
            outputs[name] = template.evaluate(names)
        except TemplateError as error:
            outputs[name], errors[name] = None, scope.run.redact(str(error))
    if not plan.outputs:
        for number, node in enumerate(plan.nodes):
            if not plan.graph.dependants[number]:
                settled = scope.settled[node.id]
                outputs[node.id] = unshelved(settled).output if settled.status is Status.SUCCEEDED else None
    return outputs, errors


def is_lost_by_failure(scope: Scope, lost: Iterable[str]) -> bool:
    """Whether a *lost* output reads a required node that failed: joins did without it, the output could not."""
    read = frozenset[str]().union(*(scope.plan.outputs[name].nodes for name in lost))
    return any(
        node.id in read and not node.optional and scope.settled[node.id].status in FAILURES for node in scope.plan.nodes
    )

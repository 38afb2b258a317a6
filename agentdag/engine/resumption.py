"""How far each node of a run had come, in the terms of the schedule; and what was there already is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agentdag.calls import NO_USAGE, NOTHING
from agentdag.engine.asks import Question, rendered
from agentdag.engine.run import Run
from agentdag.events import OUT_OF_BUDGET, BarrierOpened, NodeSettled, PassFinished, Reason, Status
from agentdag.language.templates import TemplateError
from agentdag.plan.news import Came, Opened
from agentdag.plan.plan import PlanNode
from agentdag.store.fold import NodeRecord, RunRecord

_WITHOUT = frozenset({Status.FAILED, Status.TIMED_OUT, Status.SKIPPED, Status.LATE})
"""Ends that a join may have gone on without."""


def came_of(record: RunRecord, numbers: Mapping[str, int], repeat: frozenset[str]) -> dict[int, Came]:
    """How far each node had come; whoever saw that a node was missing which is to be repeated looks anew."""
    late = {
        name
        for node in record.nodes.values()
        if node.opened is not None and node.opened.reason is not Reason.ARRIVAL
        for name in node.opened.late
    }
    came: dict[int, Came] = {}
    for name, number in numbers.items():
        before = record.nodes.get(name)
        ended = None if before is None or before.ended is None else before.ended.status
        ended = ended if ended in _WITHOUT else Status.LATE if name in late and ended is not Status.SUCCEEDED else None
        if name in repeat:
            ended = None
        seen = None if before is None or _lacked_money(before, record) else _seen(before.opened, numbers, repeat)
        passes = [] if before is None else passes_before(before)
        if seen is not None or ended is not None or passes:
            opened = before.opened if before is not None else None
            counts = (len(opened.arrived), len(opened.missing)) if opened is not None else (0, 0)
            same = opened is not None and opened.pass_number == len(passes)
            came[number] = Came(seen, ended, len(passes), *(counts if same else (0, 0)))
    return came


def _lacked_money(before: NodeRecord, record: RunRecord) -> bool:
    """Whether a join that has not asked anything yet saw nodes missing for no other reason than the budget."""
    if before.opened is None or before.out is not None or before.answers or before.taken != NOTHING:
        return False
    missing = (record.nodes[name].ended for name in before.opened.missing if name in record.nodes)
    return any(ended is not None and ended.reason == OUT_OF_BUDGET for ended in missing)


def passes_before(before: NodeRecord) -> Sequence[PassFinished]:
    """The finished passes of a progressive join after which it goes on; where it succeeded, all but the last."""
    done = before.ended is not None and before.ended.status is Status.SUCCEEDED
    return before.passes[:-1] if done else before.passes


def _seen(opened: BarrierOpened | None, numbers: Mapping[str, int], repeat: frozenset[str]) -> Opened | None:
    """What a join saw, if all that it saw still exists and is to stay as it was."""
    if opened is None or opened.pending or opened.reason is Reason.ARRIVAL:
        return None
    if any(name not in numbers for name in (*opened.arrived, *opened.missing)) or repeat.intersection(opened.missing):
        return None
    arrived, missing, late = (
        tuple(numbers[name] for name in names) for names in (opened.arrived, opened.missing, opened.late)
    )
    return Opened(0, opened.reason, arrived, missing, late, (), opened.pass_number)


def stayed(run: Run, node: PlanNode, status: Status, before: NodeRecord | None) -> NodeSettled:
    """The end of a node that stays as it was, because all that read it went on without it."""
    if before is not None and before.ended is not None and before.ended.status is status:
        return replace(before.ended, kept=True)
    model = None if node.model is None else str(node.model)
    reason = "a join went on without it"
    return NodeSettled(run.id, run.now(), node.id, status, 0.0, 0, model, NO_USAGE, None, None, reason, {}, kept=True)


def ask(run: Run, node: PlanNode, *, frozen: bool) -> Question | str | None:
    """What a *node* that is ready is about to ask; or why there is nothing to look for, if it matters.

    *frozen* says whether it sees what it saw in an earlier life of the run. Else what a progressive join asks is known
    only when its pass begins.
    """
    reuse = run.reuse
    if reuse is None or not reuse.concerns(node):
        return None
    before = reuse.recorded(node.id)
    passes = [] if before is None else passes_before(before)
    outputs = [each.output for each in passes if each.error is None]
    if node.barrier.progressive and not (frozen and before is not None and before.answers):
        return f"{len(outputs)} of its passes had succeeded" if outputs else "it had not ended"
    try:
        asked = rendered(node.work, run.names(node, outputs[-1] if outputs else None), run.codes)
    except TemplateError:
        return "its templates fail on what is there"
    question = run.question_of(node, asked)
    reuse.hear(node.id, question)
    return question

"""How far each node of a run had come, in the terms of the schedule; and what was there already is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentdag.calls import NO_USAGE, NOTHING
from agentdag.engine.asks import Question, rendered
from agentdag.engine.reuse import Reuse
from agentdag.engine.scope import Instance, Scope
from agentdag.events import OUT_OF_BUDGET, BarrierOpened, NodeSettled, PassFinished, Reason, Status
from agentdag.language.templates import TemplateError
from agentdag.plan.news import Came, Opened
from agentdag.plan.work import Act, PipelineWork
from agentdag.store.fold import NodeRecord, RunRecord

_WITHOUT = frozenset({Status.FAILED, Status.TIMED_OUT, Status.SKIPPED, Status.LATE})
"""Ends that a join may have gone on without."""


def late_before(record: RunRecord) -> frozenset[str]:
    """The whole names of those that a join of an earlier life went on without while they were out."""
    return frozenset(
        name
        for node in record.nodes.values()
        if node.opened is not None and node.opened.reason is not Reason.ARRIVAL
        for name in node.opened.late
    )


def came_of(scope: Scope, record: RunRecord, late: frozenset[str], reuse: Reuse) -> dict[int, Came]:
    """How far each node had come; whoever saw that a node was missing which is to be repeated looks anew."""
    came: dict[int, Came] = {}
    for id_, number in scope.shape.numbers.items():
        name = scope.prefix + id_
        before = record.nodes.get(name)
        ended = None if before is None or before.ended is None else before.ended.status
        ended = ended if ended in _WITHOUT else Status.LATE if name in late and ended is not Status.SUCCEEDED else None
        if reuse.is_repeated(name):
            ended = None
        seen = None if before is None or _lacked_money(before, record) else _seen(before.opened, scope, reuse)
        progressive = scope.plan.nodes[number].barrier.progressive
        passes = [] if before is None or not progressive else passes_before(before)
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


def _seen(opened: BarrierOpened | None, scope: Scope, reuse: Reuse) -> Opened | None:
    """What a join saw, if all that it saw still exists and is to stay as it was."""
    if opened is None or opened.pending or opened.reason is Reason.ARRIVAL:
        return None
    numbers = scope.shape.numbers
    arrived, missing, late = (scope.ids(names) for names in (opened.arrived, opened.missing, opened.late))
    if any(name not in numbers for name in (*arrived, *missing)) or any(map(reuse.is_repeated, opened.missing)):
        return None
    here, gone, out = (tuple(numbers[name] for name in names) for names in (arrived, missing, late))
    return Opened(0, opened.reason, here, gone, out, (), opened.pass_number)


def stayed(instance: Instance, status: Status, before: NodeRecord | None) -> NodeSettled:
    """The end of a node that stays as it was, because all that read it went on without it."""
    if before is not None and before.ended is not None and before.ended.status is status:
        return replace(before.ended, kept=True)
    run, node = instance.scope.run, instance.node
    model = None if node.model is None else str(node.model)
    reason, name = "a join went on without it", instance.name
    return NodeSettled(run.id, run.now(), name, status, 0.0, 0, model, NO_USAGE, None, None, reason, {}, kept=True)


def ask(instance: Instance, *, frozen: bool) -> Question | str | None:
    """What an *instance* that is ready is about to ask; or why there is nothing to look for, if it matters.

    *frozen* says whether it sees what it saw in an earlier life of the run. Else what a progressive join asks is known
    only when its pass begins.
    """
    run, node = instance.scope.run, instance.node
    reuse, work = run.reuse, node.work
    if reuse is None or isinstance(work, PipelineWork) or not reuse.concerns(node, instance.name):
        return None
    before = reuse.recorded(instance.name)
    passes = [] if before is None or not node.barrier.progressive else passes_before(before)
    outputs = [each.output for each in passes if each.error is None]
    if node.barrier.progressive and not (frozen and before is not None and before.answers):
        return f"{len(outputs)} of its passes had succeeded" if outputs else "it had not ended"
    try:
        if node.repeat is not None and before is not None:
            outputs = [each.output for each in good_passes(instance, work, before)]
        asked = rendered(work, instance.names(outputs[-1] if outputs else None), run.codes)
    except TemplateError:
        return "its templates fail on what is there"
    question = run.question_of(node, asked)
    reuse.hear(instance.name, question)
    return question


def good_passes(instance: Instance, work: Act, before: NodeRecord) -> list[PassFinished]:
    """The passes of a node that repeats, as far as they asked what it would ask now, but for the one that ended it."""
    run, previous = instance.scope.run, None
    good: list[PassFinished] = []
    done = before.ended is not None and before.ended.status is Status.SUCCEEDED
    for each in before.passes:
        asked = rendered(work, instance.names(previous), run.codes)
        if each.asked != run.question_of(instance.node, asked).fingerprint or each.error is not None:
            break
        if done and before.ended is not None and each.pass_number == before.ended.passes:
            break
        good.append(each)
        previous = each.output
    return good

"""`resume`: a run that goes on where it stopped; what must not be repeated blindly is asked about first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentdag.cli.check import report
from agentdag.cli.run import given_inputs
from agentdag.cli.watch import Shown, watch
from agentdag.errors import SpecError, UsageError
from agentdag.events import Exit, RunStatus, base_name
from agentdag.language.findings import did_you_mean
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.work import may_repeat
from agentdag.session import (
    BatchSession,
    BatchTakenUp,
    Options,
    Session,
    TakenUp,
    kept_inputs,
    take_up,
    take_up_batch,
    unfinished,
)
from agentdag.store.fold import RunRecord
from agentdag.store.history import History
from agentdag.store.keeper import Keeper, find_run, stores_around
from agentdag.views.lines import writer
from agentdag.views.words import count, inert, names


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeArguments:
    """What was typed. *changes* are the options that differ from those of the run."""

    run: str
    inputs: Sequence[str]
    inputs_file: str | None
    changes: Mapping[str, Any]
    max_failures: int | None
    repeat: frozenset[str]
    skip: frozenset[str]
    shown: Shown
    allowed: tuple[Path, ...]
    store: Path | None


def resume_run(arguments: ResumeArguments, *, began: float) -> int:
    """Go on with the run, or the batch, and print what it gave; the exit code."""
    history, run = find_run(stores_around(arguments.store, os.environ, Path()), arguments.run)
    with closing(history):
        try:
            batch = take_up_batch(history, run, allowed=arguments.allowed)
            if batch is not None:
                return _resume_batch(batch, history, run, arguments)
            return _resume_one(take_up(history, run, allowed=arguments.allowed), history, arguments, began)
        except SpecError as error:
            report(error.findings, arguments.shown.color)
            return Exit.USAGE


def _resume_one(taken: TakenUp, history: History, arguments: ResumeArguments, began: float) -> int:
    plan = taken.plan
    if arguments.max_failures is not None:
        raise UsageError("--max-failures counts the rows of a batch", hint=f"{taken.record.id} is a single run")
    inputs = taken.with_inputs(given_inputs(plan, arguments.inputs, arguments.inputs_file))
    options = _decided(plan, [taken.record], arguments, taken.options)
    if not arguments.shown.quiet and arguments.shown.view != "json":
        writer(sys.stderr)(_told(taken))
    keeper = Keeper(history, taken.record.pipeline, taken.record)
    session = Session(plan, inputs, options=arguments.shown.options(options), keeper=keeper)
    return watch(session, arguments.shown, began)


def _resume_batch(taken: BatchTakenUp, history: History, run: str, arguments: ResumeArguments) -> int:
    from agentdag.cli.batch import check_shown, watch_batch

    plan = taken.plan
    common = kept_inputs(plan, taken.spec.common, given_inputs(plan, arguments.inputs, arguments.inputs_file))
    shown = replace(arguments.shown, output=arguments.shown.output or taken.spec.output)
    check_shown(shown)
    options = _decided(plan, list(unfinished(history, run)), arguments, taken.options)
    most = taken.spec.max_failures if arguments.max_failures is None else arguments.max_failures
    session = BatchSession(
        plan,
        replace(taken.spec, common=common, output=shown.output, max_failures=most),
        options=options,
        keeper=Keeper(history, taken.pipeline),
        print_line=writer(sys.stdout),
        batch_id=run,
    )
    return watch_batch(session, shown)


def _decided(plan: Plan, records: Sequence[RunRecord], arguments: ResumeArguments, options: Options) -> Options:
    """*options* with what is changed, to be repeated, or to be skipped; asks where nothing says it."""
    known = {name: node for name, _, node in plan.walk()}
    for option, given in (("--repeat", arguments.repeat), ("--skip", arguments.skip)):
        for name in sorted(name for name in given if base_name(name) not in known):
            raise UsageError(f"{option} {name}: there is no node `{name}`", hint=did_you_mean(name, known))
    both = arguments.repeat & arguments.skip
    if both:
        raise UsageError(f"{names(sorted(both))} cannot be repeated and skipped")
    out = {name for record in records for name, each in record.nodes.items() if each.in_doubt}
    at_work = {name: known[base_name(name)] for name in sorted(out) if base_name(name) in known}
    wrote = {name for record in records for name, each in record.nodes.items() if each.wrote}
    acting = {name: node for name, node in at_work.items() if name in wrote or not may_repeat(node.work)}
    doubtful = {name: node for name, node in acting.items() if not node.idempotent}
    said = arguments.repeat | arguments.skip
    open_ = {name: node for name, node in doubtful.items() if not {name, base_name(name)} & said}
    repeat, skip = set(arguments.repeat), set(arguments.skip)
    if open_ and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise _blindly(list(open_))
    for name, node in open_.items():
        (repeat if _asked(name, node) else skip).add(name)
    return replace(
        options,
        repeat=frozenset(repeat),
        skip=frozenset(skip),
        doubtful=frozenset(doubtful),
        **{**arguments.changes, "budget": {**options.budget, **arguments.changes.get("budget", {})}},
    )


def _blindly(nodes: Sequence[str]) -> UsageError:
    named = names(nodes)
    were = "was" if len(nodes) == 1 else "were"
    repeat, skip = (" ".join(f"{option} {name}" for name in nodes) for option in ("--repeat", "--skip"))
    again = "it" if len(nodes) == 1 else "them"
    hint = (
        f"say {repeat} to call {again} again, {skip} to go on without, or write `idempotent: true` where it is harmless"
    )
    return UsageError(f"{named} {were} at work when the run was cut off, and may have had an effect", hint=hint)


def _asked(name: str, node: PlanNode) -> bool:
    """Whether the person at the terminal wants *node* repeated; else it is skipped."""
    told = f"`{name}`, which {inert(node.work.title)}, was at work when the run was cut off."
    while True:
        sys.stderr.write(f"{told} It may have had an effect.\nDo it again? [y]es, [s]kip it, [q]uit: ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
        if answer in {"y", "yes"}:
            return True
        if answer in {"s", "skip"}:
            return False
        if answer in {"q", "quit", ""}:
            raise UsageError("nothing was done", hint=f"--repeat {name} or --skip {name} answers the question")


def _told(taken: TakenUp) -> str:
    """How far the run had come, and what of it nobody knows."""
    record, plan = taken.record, taken.plan
    answered = sum(bool(record.nodes[node.id].answers) for node in plan.nodes if node.id in record.nodes)
    how = "was cut off" if record.finished is None else _ended(record.finished.status)
    has = "has" if 1 in {answered, len(plan.nodes)} else "have"
    far = f"{answered} of {count(len(plan.nodes), 'node')} {has} an answer"
    lines = [f"resuming {record.id} of {inert(plan.name)}, which {how}: {far}"]
    doubtful = (name for name, each in record.nodes.items() if each.in_doubt)
    lines += _doubts(taken.plan, doubtful, real=taken.options.real)
    return "\n".join(lines) + "\n"


def _ended(status: RunStatus) -> str:
    words = {RunStatus.INTERRUPTED: "was interrupted", RunStatus.OUT_OF_BUDGET: "ran out of budget"}
    return words.get(status, status.value)


def _doubts(plan: Plan, doubtful: Iterable[str], *, real: bool) -> list[str]:
    """The calls that were out when the run was cut off."""
    known = {name: node for name, _, node in plan.walk()}
    at_work = ((name, known.get(base_name(name))) for name in doubtful)
    asked = [name for name, node in at_work if node is not None and may_repeat(node.work)]
    if not asked:
        return []
    were, are = ("was", "is") if len(asked) == 1 else ("were", "are")
    billed = ", maybe billed," if real else ""
    return [f"in doubt: {names(asked)} {were} in mid-call{billed} and {are} asked again"]

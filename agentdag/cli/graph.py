"""`graph`: how long a pipeline takes and why, and what would make it shorter."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentdag.cli.check import report
from agentdag.errors import UsageError
from agentdag.events import Exit
from agentdag.language.findings import did_you_mean
from agentdag.language.scalars import DURATION_FORMS, duration_s
from agentdag.plan.plan import Plan
from agentdag.session import Options, compile_pipeline, lasting, planned
from agentdag.store.history import History, Pace
from agentdag.store.keeper import key_of, store_of
from agentdag.store.schema import FILE
from agentdag.views.lines import writer
from agentdag.views.words import count, speaks


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphArguments:
    """What was typed."""

    pipeline: Path
    format: str
    options: Options
    what_if: Sequence[str]
    sensitivity: bool
    color: str
    allowed: tuple[Path, ...]
    store: Path | None
    no_store: bool


def show_graph(arguments: GraphArguments) -> int:
    """Print the graph of the pipeline; the exit code."""
    compiled = compile_pipeline(arguments.pipeline, allowed=arguments.allowed)
    report(compiled.findings, arguments.color)
    if compiled.plan is None:
        return Exit.USAGE
    recorded = {} if arguments.no_store else _recorded(compiled.plan, arguments)
    plan = planned(lasting(compiled.plan, recorded), arguments.options)
    changes = _changes(arguments.what_if, plan)
    if (changes or arguments.sensitivity) and arguments.format not in {"text", "json"}:
        raise UsageError("--what-if and --sensitivity are for --format text and json")
    writer(sys.stdout)(_drawn(arguments, plan, changes) + "\n")
    if arguments.format == "text" and (known := sum(name in recorded for name, _, _ in plan.walk())):
        told = f"  {count(known, 'node')} as long as the median of recorded runs; --no-store goes by the file alone\n"
        writer(sys.stdout)(told)
    return Exit.SUCCEEDED


def _recorded(plan: Plan, arguments: GraphArguments) -> Mapping[str, Pace]:
    """How long the nodes of *plan* took, if any run of it is on record."""
    folder = store_of(plan.path, arguments.store, os.environ)
    if not (folder / FILE).is_file():
        return {}
    history = History(folder)
    try:
        return history.paces(key_of(folder, plan.path, plan.name), len(plan.nodes))
    finally:
        history.close()


def _drawn(arguments: GraphArguments, plan: Plan, changes: Mapping[str, float]) -> str:
    match arguments.format:
        case "mermaid":
            from agentdag.plan.pictures import MERMAID_EDGES, to_mermaid

            if sum(len(node.edges) for node in plan.nodes) > MERMAID_EDGES:
                note = f"note: Mermaid draws {MERMAID_EDGES} edges, unless its page says otherwise; svg draws all\n"
                writer(sys.stderr)(note)
            return to_mermaid(plan)
        case "dot":
            from agentdag.plan.pictures import to_dot

            return to_dot(plan)
        case "svg":
            from agentdag.plan.svg import to_svg

            return to_svg(plan)
    from agentdag.plan.advice import sensitivity
    from agentdag.plan.draw import ASCII, Signs, to_json, to_text

    found = sensitivity(plan) if arguments.sensitivity else None
    if arguments.format == "json":
        return to_json(plan, changes=changes, sensitivity=found)
    signs = Signs()
    spoken = speaks(sys.stdout, f"{signs.critical}{signs.arrow}{signs.bar}{signs.slack}{signs.more}")
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return to_text(plan, changes=changes, sensitivity=found, signs=signs if spoken else ASCII, columns=columns)


def _changes(given: Sequence[str], plan: Plan) -> dict[str, float]:
    """Seconds by node from `node=10s`; raises UsageError where that is something else."""
    changes: dict[str, float] = {}
    nodes = {name: node for name, _, node in plan.walk()}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--what-if {text} has no `=`", hint="write --what-if NODE=10s")
        if name not in nodes:
            raise UsageError(f"there is no node `{name}`", hint=did_you_mean(name, nodes))
        if (body := nodes[name].body) is not None:
            hint = f"name one of its nodes: {', '.join(f'{name}.{node.id}' for node in body.nodes)}"
            raise UsageError(f"`{name}` takes as long as the pipeline that it runs", hint=hint)
        try:
            changes[name] = duration_s(value)
        except ValueError:
            raise UsageError(f"--what-if {text} names no duration", hint=f"write {DURATION_FORMS}") from None
    return changes
